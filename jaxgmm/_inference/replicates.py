"""The fits of many replicates: lanes over data sets, few at a time, in one compiled program.

Each call of the program takes as many lanes as fit, draws the data set of each again and iterates
it some more. A lane that has ended makes room for another, so that slow lanes hold nothing up; what
is kept of a lane is its state alone.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from jaxgmm._estep.data import prepare
from jaxgmm._fit.driver import Limits
from jaxgmm._fit.launch import begin_lane
from jaxgmm._fit.loop import advance_lanes
from jaxgmm._inference.resampling import Source
from jaxgmm._lane.starts import random_posterior
from jaxgmm._lane.state import State
from jaxgmm._lane.status import Status
from jaxgmm._model.prior import Prior
from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.programs import Call, Effort, effort_of_loop, program

# Iterations of a call: its data sets are drawn once for so many.
_STEPS = 32
# Lanes of a call: as many as have so many numbers in their samples, within limits.
_NUMBERS = 1 << 17
_FEWEST, _MOST = 2, 256


class Lanes(NamedTuple):
    """Fits of replicates, on the host.

    Attributes:
        numbers: the replicate of each lane, ``(L,)``.
        states: of the lanes; NumPy arrays.
        log_likelihood: the objective without the prior's part, ``(L,)``.
    """

    numbers: np.ndarray
    states: State
    log_likelihood: np.ndarray

    @property
    def status(self) -> np.ndarray:
        return self.states.status  # type: ignore[return-value]

    def with_status(self, lanes: np.ndarray, status: Status) -> "Lanes":
        """Some lanes ended by hand."""
        states = jax.tree.map(np.array, self.states)
        states.status[lanes] = int(status)
        return self._replace(states=states)


def width_of(source: Source, n_components: int, n_lanes: int) -> int:
    """Lanes of a call."""
    rows = source.rows
    numbers = rows.n_samples * (rows.n_features + 2 * n_components)
    return min(n_lanes, int(np.clip(_NUMBERS // numbers, _FEWEST, _MOST)))


def _effort(source: Source, n_components: int, size: int) -> Effort:
    return effort_of_loop(source.rows.n_samples * n_components * size)


def given_lanes(algorithm: Any, posterior: Prior, source: Source, numbers: np.ndarray) -> Lanes:
    """A lane for each number, all from one posterior."""
    state = _given_lane(algorithm, posterior, source)
    lead = (len(numbers),)
    states = jax.tree.map(lambda a: np.broadcast_to(a, lead + np.shape(a)), state)
    return Lanes(numbers, states, np.full(len(numbers), -np.inf))


@program()
def _given_lane(algorithm: Any, posterior: Prior, source: Source) -> State:
    return begin_lane(algorithm, posterior, prepare(source.rows))


def random_lanes(algorithm: Any, key: Array, source: Source, numbers: np.ndarray) -> Lanes:
    """A lane for each number, started by k-means++ on its own data set."""
    size = width_of(source, algorithm.prior.n_components, len(numbers))
    blocks = []
    for block in _blocks(np.arange(len(numbers)), size):
        call = _starting(algorithm, key, source, block, numbers[block])
        blocks.append(jax.tree.map(np.asarray, call()))
    states = jax.tree.map(lambda *a: np.concatenate(a)[: len(numbers)], *blocks)
    return Lanes(numbers, states, np.full(len(numbers), -np.inf))


def compile_ahead(algorithm: Any, source: Source, n_lanes: int) -> None:
    """Begin to compile the programs of as many lanes at random starts, in threads of their own."""
    some = np.zeros(width_of(source, algorithm.prior.n_components, n_lanes), np.int32)
    starting = _starting(algorithm, source.key, source, some, some)
    starting.ahead()
    _advancing(algorithm, source, some, starting.shapes(), Limits(0, 0.0), 0).ahead()


def _starting(
    algorithm: Any, key: Array, source: Source, lanes: np.ndarray, numbers: np.ndarray
) -> Call:
    effort = _effort(source, algorithm.prior.n_components, len(lanes))
    return _random_lanes.on(effort, algorithm, key, source, lanes, numbers)


@program()
def _random_lanes(
    algorithm: Any, key: Array, source: Source, lanes: Array, numbers: Array
) -> State:
    def begin(lane: Array, number: Array) -> State:
        data = prepare(source.replicate(number))
        own = jax.random.fold_in(key, lane)
        posterior = random_posterior(own, data, algorithm.prior, "k-means++", algorithm.view)
        return begin_lane(algorithm, posterior, data)

    return jax.vmap(begin)(lanes, numbers)


def together(*groups: Lanes) -> Lanes:
    """The lanes of several groups, one after the other."""
    return jax.tree.map(lambda *a: np.concatenate(a), *groups)


def advance(algorithm: Any, source: Source, lanes: Lanes, limits: Limits, upto: int) -> Lanes:
    """The lanes at their ends, or after ``upto`` iterations."""
    size = width_of(source, algorithm.prior.n_components, len(lanes.numbers))
    states = jax.tree.map(np.array, lanes.states)
    log_likelihood = np.array(lanes.log_likelihood)
    while True:
        left = (states.status == Status.RUNNING) & (states.n_iter < upto)
        if not left.any():
            return Lanes(lanes.numbers, states, log_likelihood)
        chosen = next(_blocks(np.flatnonzero(left), size))
        batch = jax.tree.map(lambda a, c=chosen: as_array(a[c]), states)
        steps = min(_STEPS, upto - int(states.n_iter[chosen].min()))
        call = _advancing(algorithm, source, lanes.numbers[chosen], batch, limits, steps)
        batch, found = jax.tree.map(np.asarray, call())
        for old, new in zip(jax.tree.leaves(states), jax.tree.leaves(batch), strict=True):
            old[chosen] = new
        log_likelihood[chosen] = found


def _advancing(
    algorithm: Any, source: Source, numbers: np.ndarray, batch: Any, limits: Limits, steps: int
) -> Call:
    ends = (
        np.asarray(limits.max_iter, np.int32),
        np.asarray(limits.tol, source.rows.x.dtype),
        np.asarray(steps, np.int32),
    )
    effort = _effort(source, algorithm.prior.n_components, len(numbers))
    return _advance.on(effort, algorithm, source, numbers, batch, *ends)


def _blocks(lanes: np.ndarray, size: int) -> Any:
    """The lanes in blocks of one size; the last repeats its last lane."""
    for start in range(0, len(lanes), size):
        block = lanes[start : start + size]
        yield np.pad(block, (0, size - len(block)), mode="edge").astype(np.int32)


@program()
def _advance(
    algorithm: Any,
    source: Source,
    numbers: Array,
    states: State,
    max_iter: Array,
    tol: Array,
    n_steps: Array,
) -> tuple[State, Array]:
    """Some iterations of each lane on its own data set, and the log likelihood there."""

    def one(number: Array, state: State) -> tuple[State, Array]:
        data = prepare(source.replicate(number))
        lane = jax.tree.map(lambda a: a[None], state)
        lane, *_ = advance_lanes(algorithm, lane, data, max_iter, tol, n_steps, history_length=0)
        state = jax.tree.map(lambda a: a[0], lane)
        # the bound is tight where an iteration gains no more
        return state, state.objective + state.penalty

    return jax.vmap(one)(numbers, states)
