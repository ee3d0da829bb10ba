"""What a fit does with the rows it has: starts, the race, what rescues lanes, and moves."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxgmm._algorithms.monitor import rounding
from jaxgmm._estep.data import Data
from jaxgmm._estep.rows import Rows
from jaxgmm._fit.driver import Driver, Limits, resized
from jaxgmm._fit.keeping import Keeper, Observing, Stage, check_alike
from jaxgmm._fit.launch import start_lanes
from jaxgmm._fit.mesh import spread_rows
from jaxgmm._fit.progress import Bar, Observer
from jaxgmm._fit.race import RACING_LANES
from jaxgmm._fit.rescue import needs_rescue, rescue, start_afresh
from jaxgmm._fit.result import Result, best_lane, resolution_of
from jaxgmm._fit.search import PATIENCE, moving, search, tries_moves
from jaxgmm._fit.whitening import Whitening
from jaxgmm._lane.state import State
from jaxgmm._lane.status import FAILED, Status
from jaxgmm._numerics.programs import Call
from jaxgmm._numerics.pytree import put_in, same_bits

# Lanes that try moves together, unless the fit has a batch of about as many already.
_MOVES = 16
# Up to this N K D an iteration takes no longer than its start, and the search is more patient.
_SMALL = 1 << 16
_PATIENT = 4
# Lanes at one optimum, of those that a race leaves, that make it the best one as a rule.
_AGREED = 3
_AGREEMENT = 8


class Options(NamedTuple):
    """How a fit looks for the best optimum; see `fit`.

    Attributes:
        n_restarts: R.
        init: the start.
        limits: where lanes end.
        history: whether every lane's objectives are recorded.
        progress: whether bars are shown.
        racing: whether lanes race; None for the default.
        moves: whether the best lane tries moves; None for the default.
        effort: of the search by moves.
        mesh: of devices, or None.
    """

    n_restarts: int
    init: Any
    limits: Limits
    history: bool = False
    progress: bool | None = None
    racing: bool | None = None
    moves: bool | None = None
    effort: float = 1.0
    mesh: Mesh | None = None

    def free(self, algorithm: Any) -> bool:
        """Whether the starts are random, and of an algorithm that may leave them."""
        return not isinstance(self.init, State | Mapping) and algorithm.races

    def races(self, algorithm: Any) -> bool:
        many = self.n_restarts >= RACING_LANES
        return self.free(algorithm) and many if self.racing is None else self.racing

    def searches(self, algorithm: Any) -> bool:
        return tries_moves(algorithm, self.moves, self.free(algorithm))


class Lanes(NamedTuple):
    """What became of the lanes of a fit, in its coordinates.

    Attributes:
        states: of all lanes.
        history: objectives (T, R), or None.
        interrupted: whether Ctrl-C ended it.
        total: sum of the weights.
    """

    states: State
    history: np.ndarray | None
    interrupted: bool
    total: float


def find_optima(
    key: Array,
    algorithm: Any,
    coordinates: Whitening,
    rows: Rows,
    options: Options,
    keeper: Keeper | None = None,
) -> Lanes:
    """Run all lanes from their starts to the end, and look for something better.

    Args:
        key: PRNG key.
        algorithm: in the coordinates of the fit.
        coordinates: of the fit, with its rows.
        rows: in the units of the data.
        options: how to look.
        keeper: of what this needs to go on; None for none.
    """
    at = None if keeper is None else keeper.stage
    if at is not None and at.progress is None:
        return Lanes(at.states, at.history, False, float(at.total))
    n_restarts, history, mesh = options.n_restarts, options.history, options.mesh
    race, searches = options.races(algorithm), options.searches(algorithm)
    least = _MOVES if searches and not history else 1

    def start(key: Array, n_lanes: int, init: Any) -> Call:
        return start_lanes(key, algorithm, n_lanes, init, coordinates, rows)

    def driver_of(data: Data) -> Driver:
        # batches of the sizes that moves will need
        shrinks = searches and n_restarts == _n_moves(n_restarts)
        sizes = {"least": least, "shrinks": shrinks, "history": history, "mesh": mesh}
        longest = None if keeper is None else keeper.longest
        return Driver(algorithm, data, options.limits, n_restarts, **sizes, longest=longest)

    starting = start(key, n_restarts, options.init)
    if mesh is None and not rows.x.committed and starting.is_new():
        _compile_ahead(starting, driver_of, searches)
    data, starts = starting()
    driver = driver_of(data if mesh is None else spread_rows(data, mesh))
    plan = _Plan(driver.quiet(), key, options, keeper)
    if at is not None:
        check_alike(at, starts)
    if at is None or at.states is None:
        observers = plan.observers(Stage())
        course, interrupted = driver.run(starts, race, observers, at=at and at.progress)
        states, record = course.states(), course.history() if history else None
        if options.free(algorithm) and not interrupted and needs_rescue(plan.driver, states):
            if keeper is not None:
                keeper(Stage(course), now=True)
            states, interrupted = plan.rescued(starts, states, race, start)
        at = None
    else:
        states, record, interrupted = at.states, at.history, False
    if searches and not interrupted:
        states, interrupted = plan.moved(states, record, at)
    lanes = Lanes(states, record, interrupted, float(data.total))
    if keeper is not None and not interrupted:
        keeper(Stage(None, states, record, None, lanes.total), now=True)
    return lanes


def finished(
    lanes: Lanes, algorithm: Any, coordinates: Whitening, gain: float, tol: float, notes: Any
) -> Result:
    """The result of a fit, in the data's units."""
    states, lane = lanes.states, best_of(lanes.states)[0]
    height = np.nan_to_num(np.asarray(states.objective)[lane], neginf=0.0)
    n_features = algorithm.prior.n_features
    states, gained, lost = coordinates.back(states, algorithm, gain)
    return Result(
        algorithm,
        states,
        None if lanes.history is None else lanes.history + gained,
        lanes.interrupted,
        notes,
        precision=float(rounding(height, lanes.total * n_features) + lost[lane]),
        resolution=resolution_of(tol, lanes.total),
    )


# The call that makes lanes at their starts, and the data, from a key, the number of lanes and the
# start.
Starter = Callable[[Array, int, Any], Call]


def _compile_ahead(starting: Call, driver_of: Callable[[Data], Driver], searches: bool) -> None:
    """Begin to compile the loop and the moves, while the starts are compiled and made."""
    data, states = starting.shapes()
    driver = driver_of(data)
    driver.ahead(states)
    if searches and driver.algorithm.prior.n_components > 1:
        quiet, n_lanes = driver.quiet(), _n_moves(driver.n_lanes)
        sizes = np.asarray([driver.algorithm.prior.n_components])
        moving(starting.args[0], (0, 0), resized(states, 1), sizes, quiet, 0, n_lanes).ahead()
        quiet.ahead(resized(states, n_lanes))


def _n_moves(n_restarts: int) -> int:
    """Lanes of a batch beside the fit's own, whose program they use if it is about as large."""
    return n_restarts if _MOVES <= n_restarts <= 4 * _MOVES else _MOVES


class _Plan(NamedTuple):
    """What a fit does when its lanes have ended: it looks for something better.

    Attributes:
        driver: of lanes, without a history.
        key: PRNG key.
        options: of the fit.
        keeper: of how far it is, or None.
    """

    driver: Driver
    key: Array
    options: Options
    keeper: Keeper | None

    def rescued(
        self, starts: State, states: State, race: bool, start: Starter
    ) -> tuple[State, bool]:
        """The states, with lanes that collapsed run again, or new ones where none is sound."""
        states, interrupted = rescue(self.driver, starts, states, race)
        lane, failed = best_of(states)
        if not failed or interrupted:
            return states, interrupted
        n_lanes = _n_moves(self.options.n_restarts)
        kinds = (
            lambda key: start(key, n_lanes, self.options.init)()[1],
            lambda key: start(key, n_lanes, "random_responsibilities")()[1],
        )
        new, interrupted = start_afresh(jax.random.fold_in(self.key, 2), kinds, self.driver)
        best, failed = best_of(new)
        if not failed:
            states = put_in(states, lane, jax.tree.map(lambda a: np.asarray(a)[best], new))
        return states, interrupted

    def moved(
        self, states: State, record: np.ndarray | None, at: Stage | None
    ) -> tuple[State, bool]:
        """The states with the best lane moved to a better optimum, as long as a move finds one.

        Args:
            states: of all lanes.
            record: their history, or None.
            at: the stage to go on from, or None.
        """
        lane, failed = best_of(states)
        if failed:
            return states, False
        start = jax.tree.map(lambda a: np.asarray(a)[[lane]], states)
        n_components = self.driver.algorithm.prior.n_components
        # more components can be moved in more ways
        patience = min(n_components - 1, PATIENCE)
        if self.driver.work * self.driver.data.x.shape[1] <= _SMALL:
            patience *= _PATIENT
        if self._agreed(states):
            patience /= _AGREEMENT
        best, interrupted = search(
            self.key,
            1,
            start,
            np.asarray([n_components]),
            self.driver,
            _n_moves(self.options.n_restarts),
            max(1, round(self.options.effort * patience)),
            lambda of: self.observers(Stage(None, states, record, of)),
            at and at.in_search(),
        )
        better = best is not start if at is None else not same_bits(best, start)
        if better:
            states = put_in(states, lane, jax.tree.map(lambda a: np.asarray(a)[0], best))
        return states, interrupted

    def observers(self, stage: Stage) -> list[Observer]:
        """Of the lanes, or of a round of moves."""
        limits, name = self.driver.limits, self.driver.algorithm.name
        bar = Bar(name, limits.max_iter, "it", self.options.progress)
        return [bar] if self.keeper is None else [bar, Observing(self.keeper, stage)]

    def _agreed(self, states: State) -> bool:
        """Whether so many lanes found the best optimum that a better one is unlikely."""
        found = np.asarray(states.objective)[np.asarray(states.status) == Status.CONVERGED]
        near = 100 * self.driver.limits.tol * float(self.driver.data.total)
        return len(found) > 0 and bool(np.sum(found >= np.max(found) - near) >= _AGREED)


def best_of(states: State) -> tuple[int, bool]:
    """The best lane, and whether even that one failed."""
    status = np.asarray(states.status)
    lane = best_lane(status, np.asarray(states.objective))
    return lane, bool(status[lane] in FAILED)
