"""The driver of a stream: statistics that come batch by batch, and a pass for an iteration."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgmm._estep.data import Data
from jaxgmm._estep.rows import Rows
from jaxgmm._estep.stats import Stats, merge
from jaxgmm._fit.driver import Driver, Limits
from jaxgmm._fit.loop import finish
from jaxgmm._fit.progress import Progress, RowsBar
from jaxgmm._lane.degenerate import is_degenerate
from jaxgmm._lane.state import State
from jaxgmm._lane.status import Status
from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.programs import Effort, program
from jaxgmm._numerics.pytree import replace, select
from jaxgmm._stream.batches import Batches
from jaxgmm._stream.processes import from_first, of_everyone
from jaxgmm._stream.survey import Survey


@program()
def gather(algorithm: Any, states: State, data: Data) -> Stats:
    """The statistics of a batch, lane by lane."""
    return jax.vmap(lambda state: algorithm.expect(state, data))(states)


@program()
def merged(a: Stats, b: Stats) -> Stats:
    return jax.vmap(merge)(a, b)


@program()
def _maximised(algorithm: Any, states: State, stats: Stats) -> State:
    return jax.vmap(algorithm.maximise)(states, stats)


@program()
def _judged(
    algorithm: Any,
    states: State,
    new: State,
    total: Array,
    row_per_weight: Array | None,
    max_iter: Array,
    tol: Array,
) -> tuple[State, Array, Array]:
    """The states after a pass, the objectives of those that ran, and which are degenerate."""
    active = (states.status == Status.RUNNING) & (states.n_iter < max_iter)
    new = jax.vmap(lambda old, new: algorithm.judged(old, new, total, tol))(states, new)
    states = select(active, new, states)
    row = jnp.where(active, states.objective, jnp.nan)[None]
    share = 1.0 if row_per_weight is None else row_per_weight
    degenerate = jax.vmap(is_degenerate, (0, None))(states, share)
    return finish(states, max_iter, degenerate), row, degenerate


class Total:
    """The statistics of batches, added up in pairs: rounding grows with the log of their number."""

    def __init__(self) -> None:
        self.parts: list[tuple[int, Stats]] = []

    def add(self, stats: Stats, level: int = 0) -> None:
        while self.parts and self.parts[-1][0] == level:
            stats, level = merged(self.parts.pop()[1], stats), level + 1
        self.parts.append((level, stats))

    def stats(self) -> Stats | None:
        """Of all batches; None without any."""
        if not self.parts:
            return None
        _, stats = self.parts.pop()
        while self.parts:
            stats = merged(self.parts.pop()[1], stats)
        return stats


def merged_shares(own: Callable[[], Stats | None]) -> Stats:
    """The statistics of the rows of all processes, merged in their order.

    Args:
        own: makes those of this process; None if it has no rows.
    """
    if jax.process_count() == 1:
        shares = [own()]
    else:
        shares = of_everyone(lambda: jax.tree.map(np.asarray, own()))
    total = Total()
    for stats in shares:
        if stats is not None:
            total.add(stats)
    stats = total.stats()
    assert stats is not None  # some process has rows
    return stats


class StreamedDriver(Driver):
    """Runs lanes on a stream: a pass for an iteration; of SVI a batch for some iterations.

    Args:
        algorithm: of all lanes.
        batches: of the stream, in the coordinates of the fit.
        limits: where lanes end; ``max_iter`` counts passes, and of SVI minibatches.
        n_lanes: of the fit.
        history: whether every objective is recorded.
        bar: of the rows of a pass.
    """

    def __init__(
        self,
        algorithm: Any,
        batches: Batches,
        limits: Limits,
        n_lanes: int,
        *,
        history: bool,
        bar: RowsBar,
    ):
        data = _data_of(batches.survey, algorithm.prior.dtype)
        super().__init__(algorithm, data, limits, n_lanes, shrinks=True, history=history)
        self.batches, self.bar = batches, bar
        self._batch, self._left, self._pass = iter(()), 0, 0

    def _call(self, progress: Progress, n_steps: int) -> Progress:
        if self.algorithm.ascends:
            return self._one_pass(progress)
        # SVI: minibatches of a batch, and then of the next one
        while self._left == 0:
            if (batch := next(self._batch, None)) is None:
                self._pass += 1
                self._batch = self.batches.one_pass(self._pass)
                continue
            rows = self.batches.on_device(batch)
            scale = as_array(self.batches.survey.n_samples / batch.n_rows, rows.x.dtype)
            self.data = replace(self.data, rows=rows, scale=scale)
            self._left = -(-rows.n_samples // self.algorithm.batch_size)
        progress = super()._call(progress, min(n_steps, self._left))
        self._left -= max(1, int(progress.did))
        return progress

    def _one_pass(self, progress: Progress) -> Progress:
        number, states = progress.n_iter + 1, progress.batch
        self.bar.begin(number, progress.n_running, progress.n_lanes)

        def own() -> Stats | None:
            total = Total()
            for batch in self.batches.one_pass(number):
                data = replace(self.data, rows=self.batches.on_device(batch))
                part = gather.on(Effort.FULL, self.algorithm, states, data)()
                total.add(jax.block_until_ready(part))  # no more than two batches at a time
                self.bar.update(batch.n_rows)
            return total.stats()

        stats = merged_shares(own)
        new = _maximised(self.algorithm, states, stats)
        return self._ended(progress, *self._judge_pass(states, new))

    def _judge_pass(self, states: State, new: State) -> tuple[State, Array, Array]:
        """What came of a pass from ``states`` to ``new``: states, objectives, the degenerate."""
        max_iter = np.asarray(self.limits.max_iter, np.int32)
        tol = np.asarray(self.limits.tol, self.data.total.dtype)
        weights = self.data.total, self.data.row_per_weight
        return from_first(_judged(self.algorithm, states, new, *weights, max_iter, tol))

    def _ended(self, progress: Progress, states: State, row: Array, degenerate: Array) -> Progress:
        chunks = (*progress.chunks, (row, 1, progress.lanes)) if self.length else ()
        done = progress.n_iter
        return replace(
            progress, batch=states, degenerate=degenerate, done=done, did=1, chunks=chunks
        )


def _data_of(survey: Survey, dtype: Any) -> Data:
    """Of a stream all but the rows, of which the shape stands for them."""
    n, d = survey.n_samples, survey.n_features
    weighted = survey.squares != survey.total
    return Data(
        Rows(jax.ShapeDtypeStruct((n, d), dtype)),
        as_array(np.zeros(d), dtype),
        as_array(survey.total, dtype),
        as_array(1, dtype),
        as_array(survey.total / survey.squares, dtype) if weighted else None,
    )
