"""The driver of memoized algorithms: what each batch adds is kept, and replaced when it comes."""

from typing import Any

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxgmm._estep.data import Data
from jaxgmm._estep.stats import Stats, reorder
from jaxgmm._fit.progress import Progress
from jaxgmm._fit.stream_driver import StreamedDriver, gather, merged
from jaxgmm._lane.state import State
from jaxgmm._lane.status import Status
from jaxgmm._model.prior import best_order
from jaxgmm._numerics.programs import Effort, program
from jaxgmm._numerics.pytree import replace, select
from jaxgmm._stream.batches import Batch
from jaxgmm._stream.errors import StreamError
from jaxgmm._stream.items import checksum


@program()
def _updated(algorithm: Any, states: State, stats: Stats) -> State:
    """The states of running lanes at the best posterior for the statistics, in the order they have.

    Another order of the components would not be that of the statistics that are kept.
    """

    def one(state: State, own: Stats) -> State:
        q = algorithm.view.update(state.prior, own, state.posterior)
        return replace(state, posterior=q, objective=algorithm.bound(own, q))

    return select(states.status == Status.RUNNING, jax.vmap(one)(states, stats), states)


@program()
def _orders(states: State, stats: Stats) -> Array:
    """The order of the components that each lane should have, ``(R, K)``."""
    point = states.view.point
    return jax.vmap(lambda prior, own: best_order(prior, own.count, point=point))(
        states.prior, stats
    )


@program()
def _reordered(stats: Stats, order: Array) -> Stats:
    return jax.vmap(reorder)(stats, order)


@program()
def _with_components(states: State, order: Array) -> State:
    q = jax.vmap(lambda c, own: c.reorder(own))(states.posterior.components, order)
    return replace(states, posterior=replace(states.posterior, components=q))


class Sums:
    """Statistics of batches and their sum, as a tree: a batch is replaced by a few merges."""

    def __init__(self, n_batches: int):
        self.size = 1 << max(n_batches - 1, 0).bit_length()
        self.nodes: list[Stats | None] = [None] * (2 * self.size)

    def put(self, number: int, stats: Stats) -> None:
        """The statistics of one batch, in the place of those it had."""
        at = self.size + number
        self.nodes[at] = stats
        while at > 1:
            at //= 2
            left, right = self.nodes[2 * at], self.nodes[2 * at + 1]
            if left is None or right is None:
                self.nodes[at] = right if left is None else left
            else:
                self.nodes[at] = merged(left, right)

    @property
    def total(self) -> Stats:
        assert self.nodes[1] is not None
        return self.nodes[1]

    def reorder(self, order: ArrayLike) -> None:
        """The same with the components of every lane in another order, ``(R, K)``."""
        self.nodes = [None if node is None else _reordered(node, order) for node in self.nodes]


class MemoizedDriver(StreamedDriver):
    """Runs lanes on a stream, with an update after every batch; see `StreamedDriver`."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # what is kept of a batch is of all lanes
        self.shrinks = False
        self.sums: Sums | None = None
        self.checksums: list[int] = []

    def _one_pass(self, progress: Progress) -> Progress:
        number, states = progress.n_iter + 1, progress.batch
        self.bar.begin(number, progress.n_running, progress.n_lanes)
        first = self.sums is None
        sums = self.sums = Sums(self.batches.n_batches) if self.sums is None else self.sums
        for i, batch in enumerate(self.batches.one_pass(number)):
            self._check_order(i, batch, number)
            data: Data = replace(self.data, rows=self.batches.on_device(batch))
            part = gather.on(Effort.FULL, self.algorithm, states, data)()
            sums.put(i, jax.block_until_ready(part))
            if not first:
                states = self._update(states, sums.total)
            self.bar.update(batch.n_rows)
        states = self._update(states, sums.total) if first else states
        if self.algorithm.prior.weights.ordered:
            order = np.asarray(_orders(states, sums.total))
            if (order != np.arange(order.shape[1])).any():
                sums.reorder(order)
                states = self._update(_with_components(states, order), sums.total)
        return self._ended(progress, *self._judge_pass(progress.batch, states))

    def _update(self, states: State, stats: Stats) -> State:
        return _updated(self.algorithm, states, stats)

    def _check_order(self, i: int, batch: Batch, number: int) -> None:
        own = checksum(batch.rows)
        if len(self.checksums) <= i:
            self.checksums.append(own)
        if self.checksums[i] != own:
            raise StreamError(
                f"batch {i + 1} of pass {number} holds other rows than in the first pass: what is "
                "memoized of a batch needs the same rows in the same order; take the plain "
                "algorithm for rows that are shuffled."
            )
