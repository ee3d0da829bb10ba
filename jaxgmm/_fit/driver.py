"""The host's loop around the compiled one: chunks of iterations, progress, the race, Ctrl-C."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxgmm._algorithms.base import Algorithm
from jaxgmm._estep.estep import Data
from jaxgmm._fit.loop import advance_lanes
from jaxgmm._fit.mesh import advance_on
from jaxgmm._fit.race import Batch, worth_shrinking
from jaxgmm._lane.state import State
from jaxgmm._lane.status import Status

# A compiled call returns after about this long, so that Ctrl-C and the progress bar are prompt.
_CHUNK_SECONDS = 0.5
_FIRST_CHUNK = 16


_advance = jax.jit(advance_lanes, static_argnames="history_length")


class Driver:
    """Runs lanes to the end, in calls short enough for Ctrl-C and a progress bar."""

    def __init__(
        self,
        algorithm: Algorithm,
        data: Data,
        n_restarts: int,
        max_iter: int,
        tol: float,
        history: bool,
        progress: bool | None,
        mesh: Mesh | None,
    ):
        self.algorithm = algorithm
        self.data = data
        self.n_restarts = n_restarts
        self.work = data.x.shape[0] * algorithm.prior.n_components
        self.max_iter = max_iter
        self.tol = jnp.asarray(tol, data.x.dtype)
        self.length = 256 if history else 0
        self.progress = progress
        self.mesh = mesh
        self.advance: Callable[..., Any] = functools.partial(_advance, history_length=self.length)
        if mesh is not None:
            self.advance = advance_on(mesh, self.length)

    def quiet(self) -> "Driver":
        """The same without a history."""
        return Driver(
            self.algorithm,
            self.data,
            self.n_restarts,
            self.max_iter,
            float(self.tol),
            False,
            self.progress,
            self.mesh,
        )

    def run(self, states: State, rungs: list[tuple[int, int]]) -> tuple[State, np.ndarray, bool]:
        """The states, the rows of the history, and whether Ctrl-C ended it.

        Args:
            states: of all lanes.
            rungs: iterations at which the lanes are compared, and how many then go on.
        """
        from tqdm import tqdm

        n_lanes = states.status.shape[0]
        # of the fit's lanes, so that moves use the programs that its race has compiled
        shrinking = worth_shrinking(self.work, self.n_restarts)
        batch, rungs = Batch(states), list(rungs)
        chunks: list[Any] = []
        n_steps, done = _FIRST_CHUNK, 0
        bar = tqdm(
            total=self.max_iter,
            desc=self.algorithm.name,
            unit="it",
            leave=False,
            disable=None if self.progress is None else not self.progress,
        )
        try:
            while True:
                began = time.perf_counter()
                limit = min(n_steps, rungs[0][0] - done) if rungs else n_steps
                outcome = self.advance(
                    self.algorithm,
                    batch.states,
                    self.data,
                    jnp.asarray(self.max_iter, jnp.int32),
                    self.tol,
                    jnp.asarray(limit, jnp.int32),
                )
                # together, before anything waits for them: an interruption finds both or neither
                batch.states, chunks = outcome[0], [*chunks, (*outcome[1:], batch.lanes)]
                running = int(jnp.sum(batch.states.status == Status.RUNNING))
                elapsed = max(time.perf_counter() - began, 1e-6)
                did = int(outcome[2])
                done += did
                bar.update(did)
                bar.set_postfix_str(f"{running} of {n_lanes} lanes running", refresh=False)
                if running and rungs and done >= rungs[0][0]:
                    batch.drop(rungs.pop(0)[1])
                    running = batch.n_running
                if running == 0 and batch.revive():
                    rungs, running = [], batch.n_running
                if running == 0:
                    return batch.all_states(), _history(chunks, n_lanes), False
                if shrinking:
                    batch.shrink(self.work)
                if not self.length:
                    chunks = []
                # twice as long or half as long, never a new program: n_steps is traced
                if jax.process_count() == 1:  # several processes must agree, and clocks do not
                    n_steps = max(1, int(limit * min(2.0, _CHUNK_SECONDS / elapsed)))
                n_steps = min(n_steps, self.length) if self.length else n_steps
        except KeyboardInterrupt:
            return batch.all_states(), _history(chunks, n_lanes), True
        finally:
            bar.close()


def _history(chunks: list[Any], lanes: int) -> np.ndarray:
    """The recorded rows of every chunk, (T, R), NaN where a lane was in no batch."""
    out = [np.empty((0, lanes))]
    for rows, did, numbers in chunks:
        rows = np.asarray(rows)[: int(did)]
        wide = np.full((len(rows), lanes), np.nan, rows.dtype)
        wide[:, numbers] = rows
        out.append(wide)
    return np.concatenate(out[1:] or out)
