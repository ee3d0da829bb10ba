"""The host's loop around the compiled one, for one model or for many groups of lanes."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxgmm._estep.data import Data
from jaxgmm._fit.loop import advance_lanes
from jaxgmm._fit.mesh import advance_on
from jaxgmm._fit.progress import Observer, Progress, at_start
from jaxgmm._fit.race import (
    drop,
    give_up,
    last_batch,
    looks,
    may_shrink,
    next_cut,
    revive,
    rungs,
    shrink,
    weight_of,
    worth_shrinking,
)
from jaxgmm._lane.state import State
from jaxgmm._lane.status import Status
from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.programs import Call, Program, effort_of_loop
from jaxgmm._numerics.pytree import replace

# A compiled call returns after about this long, so that Ctrl-C and the progress bar are prompt.
_CHUNK_SECONDS = 0.5
_FIRST_CHUNK = 16
# Responsibilities of an iteration up to which more lanes cost less than another program.
_FILLED = 1 << 16


_advance = Program(advance_lanes, static=("history_length",))


class Limits(NamedTuple):
    """Where lanes end: iterations of each, and the tolerance per sample."""

    max_iter: int
    tol: float


class Driver:
    """Runs lanes to the end, in calls short enough for Ctrl-C and a progress bar.

    Args:
        algorithm: of all lanes; or with groups of each group, every leaf led by their number.
        data: the rows.
        limits: where lanes end.
        n_lanes: of a group in the fit, by which it is decided whether batches shrink: moves use the
            programs that its race has compiled.
        n_groups: of lanes with a model each; None for lanes that share one.
        least: lanes of a batch at least, where the work is light: a smaller one is filled up, and
            so uses the program of the moves.
        shrinks: whether smaller batches pay even where one fit does not pay for their programs,
            because moves run in them again and again.
        history: whether every objective is recorded.
        mesh: of devices.
        longest: iterations of a call at most, which ends where they divide those done; None for no
            such limit.
    """

    def __init__(
        self,
        algorithm: Any,
        data: Data,
        limits: Limits,
        n_lanes: int,
        *,
        n_groups: int | None = None,
        least: int = 1,
        shrinks: bool = False,
        history: bool = False,
        mesh: Mesh | None = None,
        longest: int | None = None,
    ):
        self.algorithm, self.data, self.limits = algorithm, data, limits
        self.n_groups, self.mesh, self.longest = n_groups, mesh, longest
        self.work = data.rows.n_samples * algorithm.prior.n_components
        self.shrinks = shrinks or worth_shrinking(self.work, n_lanes * (n_groups or 1))
        structure, n_features = algorithm.prior.components.structure, data.rows.n_features
        self.weight = weight_of(structure, n_features)
        self.length = 256 if history else 0
        self.n_lanes = n_lanes
        usable = algorithm.ascends and mesh is None and n_groups is None
        self.least = least if usable and self.work * least <= _FILLED else 1

    def quiet(self, algorithm: Any = None) -> "Driver":
        """The same for moves, without a history, or also with another prior in its algorithm.

        Of moves most lanes are dropped early, again and again: a smaller batch pays sooner.
        """
        return Driver(
            self.algorithm if algorithm is None else algorithm,
            self.data,
            self.limits,
            self.n_lanes,
            n_groups=self.n_groups,
            least=self.least,
            shrinks=True,
            mesh=self.mesh,
            longest=self.longest,
        )

    def run(
        self,
        states: State,
        race: bool,
        observers: Sequence[Observer] = (),
        best: np.ndarray | None = None,
        at: Progress | None = None,
    ) -> tuple[Progress, bool]:
        """The progress at the end, and whether Ctrl-C ended it.

        What an observer has seen is enough to go on from, to the same end bit by bit.

        Args:
            states: of all lanes at their starts.
            race: whether lanes are compared on the way.
            observers: called with the progress after every call of the loop.
            best: of moved lanes, which race, the objective of each group that is to be exceeded:
                lanes that will hardly do it are given up.
            at: the progress to go on from.
        """
        n_groups, steps = self.n_groups or 1, ()
        n_lanes, max_iter = states.status.shape[0] // n_groups, self.limits.max_iter
        if best is not None:
            steps = looks(n_lanes, max_iter, self.work * self.data.rows.n_features)
        elif race:
            steps = rungs(n_lanes, max_iter, self.data.rows.n_features)
        progress, limit = at_start(states, steps, n_groups) if at is None else at, _FIRST_CHUNK
        try:
            while at is None or progress.n_running:
                began = time.perf_counter()
                upto = self._upto(progress, limit)
                # at once, before anything waits for it: an interruption finds it or does not
                progress = self._call(progress, upto)
                if best is not None and progress.rungs and progress.n_iter >= progress.rungs[0][0]:
                    progress = give_up(progress, progress.before, best)
                    progress = replace(progress, before=progress.of_all("objective").astype(float))
                progress = self._judge(progress)
                for observe in observers:
                    observe(progress)
                if progress.n_running == 0:
                    return progress, False
                elapsed = max(time.perf_counter() - began, 1e-6)
                # twice as long or half as long, never a new program: n_steps is traced
                if jax.process_count() == 1:  # several processes must agree, and clocks do not
                    limit = max(1, int(upto * min(2.0, _CHUNK_SECONDS / elapsed)))
                limit = min(limit, self.length) if self.length else limit
            return progress, False
        except KeyboardInterrupt:
            return progress, True
        finally:
            for observe in observers:
                observe.close()

    def call(self, batch: State, n_steps: int = 0, group: Any = None) -> Call:
        """The call of the loop for a batch, or for the shapes of one; with the group of each lane.

        Returns states, history, iterations done, and which lanes would be refused as degenerate.
        """
        limits = (
            np.asarray(self.limits.max_iter, np.int32),
            np.asarray(self.limits.tol, self.data.rows.x.dtype),
            np.asarray(n_steps, np.int32),
        )
        arguments = (self.algorithm, batch, self.data, *limits, group)
        if self.mesh is not None:
            return Call(advance_on(self.mesh, self.length), arguments, {})
        effort = effort_of_loop(self.work * batch.status.shape[0])
        return _advance.on(effort, *arguments, history_length=self.length)

    def ahead(self, states: State) -> None:
        """Begin to compile the loop for states of these shapes."""
        n_lanes = max(states.status.shape[0], self.least)
        fewest = last_batch(n_lanes, self.work, self.weight) if self.shrinks else n_lanes
        for size in dict.fromkeys((n_lanes, fewest)):
            self.call(resized(states, size)).ahead()

    def _call(self, progress: Progress, n_steps: int) -> Progress:
        """The progress after one call of the loop, of which nothing may be known yet."""
        group = None
        if self.n_groups is not None:
            group = progress.lanes // (progress.n_lanes // progress.n_groups)
        n_lanes, batch = progress.batch.status.shape[0], progress.batch
        if n_lanes < self.least:
            batch = _filled(batch, self.least)
        states, rows, did, degenerate = self.call(batch, n_steps, group)()
        if n_lanes < self.least:
            states, degenerate = jax.tree.map(
                lambda a: np.asarray(a)[:n_lanes], (states, degenerate)
            )
        chunks = (*progress.chunks, (rows, did, progress.lanes)) if self.length else ()
        return replace(
            progress,
            batch=states,
            degenerate=degenerate,
            done=progress.n_iter,
            did=did,
            chunks=chunks,
        )

    def _upto(self, progress: Progress, limit: int) -> int:
        """Iterations of the next call: until something is to be decided, or the limit."""
        n_iter, left = progress.n_iter, [limit]
        if progress.rungs:
            left.append(progress.rungs[0][0] - n_iter)
        if self._may_shrink(progress):
            left.append(self._next_cut(progress, n_iter) - n_iter)
        if self.longest is not None:
            left.append(self.longest - n_iter % self.longest)
        return min(left)

    def _judge(self, progress: Progress) -> Progress:
        """The race: who is dropped, who goes on after all, and in which batch."""
        left, n_running, dropped = progress.rungs, progress.n_running, False
        if n_running and left and progress.n_iter >= left[0][0]:
            progress, dropped = replace(drop(progress, left[0][1]), rungs=left[1:]), True
            n_running = progress.n_running
        if n_running == 0:
            progress = revive(progress)
        if not self._may_shrink(progress):
            return progress
        n_iter = progress.n_iter
        cut = dropped or n_running == 0 or self._next_cut(progress, n_iter - 1) == n_iter
        return shrink(progress, self.work, self.weight) if cut else progress

    def _may_shrink(self, progress: Progress) -> bool:
        return self.shrinks and may_shrink(len(progress.lanes), self.work, self.weight)

    def _next_cut(self, progress: Progress, n_iter: int) -> int:
        return next_cut(n_iter, len(progress.lanes) * self.work * self.weight)


def _filled(states: State, n_lanes: int) -> State:
    """A batch with more lanes, which have nothing to do; in NumPy, which compiles nothing."""
    n = states.status.shape[0]
    more = np.minimum(np.arange(n_lanes), n - 1)
    wide = jax.tree.map(lambda a: as_array(np.asarray(a)[more]), states)
    status = np.asarray(states.status)[more]
    status[n:] = int(Status.CONVERGED)
    return replace(wide, status=as_array(status))


def resized(states: State, n_lanes: int) -> State:
    """The shapes of as many lanes."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct((n_lanes, *a.shape[1:]), a.dtype), states)
