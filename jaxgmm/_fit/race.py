"""The race: beaten lanes stop early, and those that go on move to smaller batches."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgmm._lane.degenerate import is_degenerate
from jaxgmm._lane.state import State
from jaxgmm._lane.status import FAILED, Status
from jaxgmm._numerics.pytree import replace

# Fits of fewer lanes have no race.
RACING_LANES = 16
# Iterations after which lanes are first compared, and then after twice as many each time.
_FIRST_RUNG = 16
# So many lanes are never dropped.
_SURVIVORS = 4
# A batch shrinks by this factor or more: each size is a program of its own to compile.
_SHRINK = 4
# Responsibilities in one iteration of all lanes, above which smaller batches save more time than
# their programs cost; and how many a smaller one must save. Numbers and not a clock decide, so that
# results repeat.
_LARGE = 1 << 22
_SAVED = 1 << 19


def rungs(n_lanes: int, max_iter: int) -> list[tuple[int, int]]:
    """``(iteration, lanes that go on)`` of successive halving (Jamieson & Talwalkar 2016)."""
    out, iteration, lanes = [], _FIRST_RUNG, n_lanes
    while lanes > _SURVIVORS and iteration < max_iter:
        lanes = max(lanes // 4, _SURVIVORS)
        out.append((iteration, lanes))
        iteration *= 2
    return out


def beaten(
    status: np.ndarray, objective: np.ndarray, degenerate: np.ndarray, n_left: int
) -> np.ndarray:
    """Which running lanes are not among the ``n_left`` best: ``(B,)``.

    Lanes that have converged count among the best; those that failed do not, nor those that would
    be refused if they ended now: on its way up a spike of the likelihood beats every other lane.
    """
    objective = objective.astype(np.float64)
    lost = np.isin(status, FAILED) | degenerate
    score = np.where(lost | ~np.isfinite(objective), -np.inf, objective)
    # of equal lanes the first goes on
    best = np.argsort(-score, kind="stable")[:n_left]
    out = status == Status.RUNNING
    out[best] = False
    return out


class Batch:
    """Some of the lanes of a fit, packed together, and which ones they are.

    Attributes:
        everyone: states of all lanes, as they were when they last left a batch.
        states: of those in the batch.
        lanes: their numbers ``(B,)``.
    """

    def __init__(self, states: State):
        self.everyone = states
        self.states = states
        self.lanes = np.arange(states.status.shape[0])

    @property
    def n_everyone(self) -> int:
        return self.everyone.status.shape[0]

    def all_states(self) -> State:
        """The states of all lanes."""
        if len(self.lanes) == self.n_everyone:
            return self.states
        return _put(self.everyone, self.states, jnp.asarray(self.lanes))

    @property
    def n_running(self) -> int:
        return int(np.sum(np.asarray(self.states.status) == Status.RUNNING))

    def drop(self, n_left: int) -> None:
        """The beaten lanes of all get the status DROPPED."""
        states = self.all_states()
        status, objective = np.asarray(states.status), np.asarray(states.objective)
        degenerate = np.asarray(_degenerate(states))
        lanes = beaten(status, objective, degenerate, n_left)[self.lanes]
        status = jnp.where(jnp.asarray(lanes), int(Status.DROPPED), self.states.status)
        self.states = replace(self.states, status=status.astype(jnp.int32))

    def revive(self) -> bool:
        """Let the dropped lanes go on if those that beat them all failed; whether there are any."""
        states = self.all_states()
        status = np.asarray(states.status)
        dropped = status == Status.DROPPED
        failed = np.isin(status, FAILED)
        if not dropped.any() or not (dropped | failed).all():
            return False
        again = jnp.where(jnp.asarray(dropped), int(Status.RUNNING), states.status)
        self.everyone = self.states = replace(states, status=again.astype(jnp.int32))
        self.lanes = np.arange(self.n_everyone)
        return True

    def shrink(self, work: int) -> None:
        """Keep a power of two of lanes, the running ones among them, if that saves much.

        Args:
            work: responsibilities of a lane in an iteration, N K.
        """
        running = np.asarray(self.states.status) == Status.RUNNING
        size = 1 << int(max(running.sum() - 1, 0)).bit_length()
        if (_SURVIVORS - size) * work < _SAVED:  # a race that ends and moves share this size
            size = max(size, _SURVIVORS)
        saved = (len(self.lanes) - size) * work
        if not running.any() or size * _SHRINK > len(self.lanes) or saved < _SAVED:
            return
        # what fills the new batch up are finished lanes, which the loop leaves alone
        kept = np.sort(np.argsort(~running, kind="stable")[:size])
        # together: an interruption finds all of them or none
        everyone, states = self.all_states(), _get(self.states, jnp.asarray(kept))
        self.everyone, self.states, self.lanes = everyone, states, self.lanes[kept]


def worth_shrinking(work: int, n_lanes: int) -> bool:
    """Whether an iteration is long enough for smaller batches to pay for their compilation.

    Args:
        work: responsibilities of a lane in an iteration, N K.
        n_lanes: of the fit.
    """
    return work * n_lanes >= _LARGE


_degenerate = jax.jit(jax.vmap(is_degenerate))


@jax.jit
def _get(states: State, lanes: Array) -> State:
    return jax.tree.map(lambda a: a[lanes], states)


@jax.jit
def _put(everyone: State, some: State, lanes: Array) -> State:
    def put(a: Any, b: Any) -> Any:
        return a.at[lanes].set(b)

    return jax.tree.map(put, everyone, some)
