"""The driver for people: restarts, progress, Ctrl-C, and the best of what was found."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.typing import ArrayLike

from jaxgmm._algorithms.base import Algorithm, check_algorithm
from jaxgmm._algorithms.monitor import rounding
from jaxgmm._estep.data import Data
from jaxgmm._estep.row_checks import check_rows
from jaxgmm._estep.rows import Rows, Samples, floats_of
from jaxgmm._fit.driver import Driver, Limits, resized
from jaxgmm._fit.launch import start_lanes
from jaxgmm._fit.mesh import check_mesh, spread_rows
from jaxgmm._fit.progress import Bar
from jaxgmm._fit.race import RACING_LANES
from jaxgmm._fit.rescue import needs_rescue, rescue, start_afresh
from jaxgmm._fit.result import Result, best_lane, data_notes, resolution_of
from jaxgmm._fit.search import PATIENCE, moving, search, tries_moves
from jaxgmm._fit.whitening import Whitening
from jaxgmm._lane.state import Fitted, State, state_of
from jaxgmm._lane.status import FAILED, Status
from jaxgmm._numerics.calls import usage
from jaxgmm._numerics.checks import check_non_negative, check_positive, check_positive_int
from jaxgmm._numerics.devices import on_automatic_axes
from jaxgmm._numerics.programs import Call, check_process, check_untraced
from jaxgmm._numerics.pytree import put_in, replace

# Lanes at random starts, unless it is said how many.
_LANES = 16
# Lanes that try moves together, unless the fit has a batch of about as many already.
_MOVES = 16
# Up to this N K D an iteration takes no longer than its start, and the search is more patient.
_SMALL = 1 << 16
_PATIENT = 4
# For those who trace.
_INSTEAD = (
    "call jaxgmm.run(algorithm, states, x) there, with states of "
    "jax.vmap(algorithm.init, (0, None))(keys, x), and jaxgmm.fixed_point for derivatives"
)
# Lanes at one optimum, of those that a race leaves, that make it the best one as a rule.
_AGREED = 3
_AGREEMENT = 8


@usage("jaxgmm.fit(key, x, algorithm)")
def fit(
    key: Array,
    x: Samples,
    algorithm: Algorithm,
    n_restarts: int | None = None,
    init: str | Callable[..., Array] | Mapping[str, Any] | State = "mixed",
    max_iter: int = 500,
    tol: float = 1e-6,
    *,
    sample_weight: ArrayLike | None = None,
    history: bool = False,
    progress: bool | None = None,
    racing: bool | None = None,
    moves: bool | None = None,
    effort: float = 1.0,
    mesh: Mesh | None = None,
) -> Result:
    """Fit from many starts at once and keep the best.

    All restarts are lanes of one compiled program. A second fit of the same shapes uses the program
    again, whatever its prior, tolerance, step sizes and limits are. Ctrl-C returns the result so
    far; the lanes that have not ended have the status RUNNING.

    EM and CAVI from random starts do two more things. Their lanes *race*: after 16, 32, 64, ...
    iterations only the best quarter of the lanes goes on, in smaller batches. This is successive
    halving (Jamieson & Talwalkar 2016); emEM (Biernacki, Celeux & Govaert 2003) is the same with
    two rounds. And the best lane tries *moves* when it has converged. A move is a new start, in
    which two components are merged, and one is split or born elsewhere in their place (split and
    merge EM: Ueda et al. 2000). Under a posterior a move may do only one of the two, and may merge
    many. 16 moves or more run at once. Those that will hardly reach the optimum they come from are
    given up after a few iterations. If the best one is a better optimum, it is kept, and moves are
    tried from it again.

    Where the likelihood's spikes take all lanes, or most of them, the lanes that collapsed start
    again: from the optimum under the weak prior of `default_prior`, which has no spikes. If all of
    them fail, new lanes start at random, from random responsibilities as well.

    The fit works in coordinates of its own, in which the data are centred and white, or scaled, as
    far as the covariance structure allows. So no result depends on the units of the data, and
    float32 does where the data are far from 0 or nearly collinear. What goes in and what comes out
    is in the data's units.

    Args:
        key: PRNG key, for the starts and for stochastic algorithms.
        x: samples, ``(N, D)``, float32 or float64 (``jax.config.update("jax_enable_x64", True)``).
            Integers, booleans, lists and data frames of numbers become floats. What is not of JAX
            becomes JAX's default float if it is float64, after it has been centred and scaled. Or
            `Rows`, which also hold the weights.
        algorithm: from `em`, `cavi` or `svi`; it carries the model.
        n_restarts: R; by default 16 lanes at random starts, and as many as there are given ones.
        init: the start: a name or a function (see `Algorithm.init`); a `State`, of one lane or of R
            lanes, or a `Result`, of which the best lane counts, whose posterior is the start
            (`run` also continues its optimiser and counters);
            or a mapping with one given start, such as ``{"means": means}``, whose first axis is R
            if ``n_restarts > 1``. By default every other lane, the first one included, starts by
            k-means++, and the remaining lanes start at random points.
        max_iter: largest number of iterations of a lane.
        tol: a lane has converged when its objective, per sample, changes by no more than this in
            one iteration, in nats.
        sample_weight: non-negative, ``(N,)``.
        history: whether to record every lane's objective after every iteration.
        progress: whether to show a progress bar; by default only on a terminal.
        racing: whether lanes race; by default they do in EM and CAVI with at least 16 lanes at
            random starts.
        moves: whether the best lane tries moves; by default it does in EM and CAVI from random
            starts. A round of them costs about another fit of 16 lanes. A round follows every
            success, and the search ends after some rounds without one. Moves have no history.
        effort: how long the search goes on without success, times the default: up to six rounds, or
            24 of small data.
        mesh: devices to work on. An axis named ``"restarts"`` spreads the lanes, an axis named
            ``"data"`` spreads the rows, and a mesh may have both. The results are those of one
            device up to rounding. ``x`` may be on the mesh already; it must be if several processes
            (`jax.distributed`) hold parts of it. By default the device of ``x`` does all work.

    Returns:
        `Result`, with ``best``, ``states``, ``history`` and ``summary()``.

    Raises:
        ValueError: before any tracing, for samples that are not 2-d floating-point and finite,
            fewer rows than components, a prior of another width or dtype, bad weights, unknown
            names, ``tol < 0``, ``max_iter < 1`` or ``n_restarts < 1``, a mesh with other axes, SVI
            on a mesh with ``"data"``; and under `jax.jit`, `jax.vmap` or `jax.shard_map`.
        TypeError: for an argument that it does not have, or for one that is missing.
        RuntimeError: in a process forked from one in which JAX has run.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (300, 2))
        >>> result = jaxgmm.fit(
        ...     jax.random.key(1), x, jaxgmm.em(jaxgmm.default_prior(x, 2)), n_restarts=8
        ... )
        >>> result.states.objective.shape
        (8,)
    """
    check_process()
    check_untraced("fit", _INSTEAD, key, x, algorithm, sample_weight)
    check_algorithm(algorithm, "jaxgmm.fit(key, x, algorithm)")
    init = state_of(init, "init") if isinstance(init, Fitted) else init
    n_restarts = _n_lanes(init) if n_restarts is None else n_restarts
    check_positive_int("n_restarts", n_restarts)
    check_positive_int("max_iter", max_iter)
    check_non_negative("tol", tol)
    check_positive("effort", effort)
    if mesh is not None:
        mesh = check_mesh(mesh, algorithm)
    x = floats_of(_on_automatic_axes(x))
    rows = check_rows(x, sample_weight)
    algorithm.check(rows)
    notes = data_notes(rows)
    # a start that names no row, and an algorithm that takes no part of the rows for all
    pads = isinstance(init, str) and algorithm.ascends and mesh is None
    coordinates = Whitening(x, rows, algorithm, pads)
    inner = coordinates.into(algorithm)

    def start(key: Array, n_lanes: int, init: Any) -> Call:
        return start_lanes(key, inner, n_lanes, init, coordinates, rows)

    ours = not isinstance(init, State | Mapping) and algorithm.races
    race = ours and n_restarts >= RACING_LANES if racing is None else racing
    limits = Limits(max_iter, tol)
    searches = tries_moves(algorithm, moves, ours)
    least = _MOVES if searches and not history else 1

    def driver_of(data: Data) -> Driver:
        # batches of the sizes that moves will need
        shrinks = searches and n_restarts == _n_moves(n_restarts)
        options = {"least": least, "shrinks": shrinks, "history": history, "mesh": mesh}
        return Driver(inner, data, limits, n_restarts, **options)

    starting = start(key, n_restarts, init)
    if mesh is None and not rows.x.committed and starting.is_new():
        _compile_ahead(starting, driver_of, searches)
    data, starts = starting()
    driver = driver_of(data if mesh is None else spread_rows(data, mesh))
    bar = Bar(algorithm.name, max_iter, "it", progress)
    course, interrupted = driver.run(starts, race, [bar])
    states, record = course.states(), course.history() if history else None
    plan = _Plan(driver.quiet(), key, n_restarts, effort, progress)
    if ours and not interrupted and needs_rescue(plan.driver, states):
        states, interrupted = plan.rescued(starts, states, race, init, start)
    if searches and not interrupted:
        states, interrupted = plan.moved(states)
    total = float(data.total)
    lane = _best(states)[0]
    height = np.nan_to_num(np.asarray(states.objective)[lane], neginf=0.0)
    states, gain, lost = coordinates.back(states, algorithm, rows.weight, total)
    precision = float(rounding(height, total * rows.n_features) + lost[lane])
    record = None if record is None else record + gain
    result = Result(
        algorithm,
        states,
        record,
        interrupted,
        notes,
        precision=precision,
        resolution=resolution_of(tol, total),
    )
    if doubt := result.doubt():
        warnings.warn(doubt, RuntimeWarning, stacklevel=3)
    return result


def _on_automatic_axes(x: Any) -> Any:
    return replace(x, x=on_automatic_axes(x.x)) if isinstance(x, Rows) else on_automatic_axes(x)


def _n_lanes(init: Any) -> int:
    """The default number of lanes: of a state as many as it has, of another given start one."""
    if isinstance(init, Mapping):
        init = init.get("state")
        return _n_lanes(init) if isinstance(init, State) else 1
    if isinstance(init, State):
        return init.status.shape[0] if init.status.ndim else 1
    return _LANES


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
        n_restarts: of the fit.
        effort: of the search by moves.
        progress: whether bars are shown.
    """

    driver: Driver
    key: Array
    n_restarts: int
    effort: float
    progress: bool | None

    def rescued(
        self, starts: State, states: State, race: bool, init: Any, start: Starter
    ) -> tuple[State, bool]:
        """The states, with lanes that collapsed run again, or new ones where none is sound."""
        states, interrupted = rescue(self.driver, starts, states, race)
        lane, failed = _best(states)
        if not failed or interrupted:
            return states, interrupted
        n_lanes = _n_moves(self.n_restarts)
        kinds = (
            lambda key: start(key, n_lanes, init)()[1],
            lambda key: start(key, n_lanes, "random_responsibilities")()[1],
        )
        new, interrupted = start_afresh(jax.random.fold_in(self.key, 2), kinds, self.driver)
        best, failed = _best(new)
        if not failed:
            states = put_in(states, lane, jax.tree.map(lambda a: np.asarray(a)[best], new))
        return states, interrupted

    def moved(self, states: State) -> tuple[State, bool]:
        """The states with the best lane moved to a better optimum, as long as a move finds one."""
        lane, failed = _best(states)
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
            _n_moves(self.n_restarts),
            max(1, round(self.effort * patience)),
            self._observers,
        )
        if best is not start:
            states = put_in(states, lane, jax.tree.map(lambda a: a[0], best))
        return states, interrupted

    def _observers(self) -> list[Bar]:
        limits, name = self.driver.limits, self.driver.algorithm.name
        return [Bar(name, limits.max_iter, "it", self.progress)]

    def _agreed(self, states: State) -> bool:
        """Whether so many lanes found the best optimum that a better one is unlikely."""
        found = np.asarray(states.objective)[np.asarray(states.status) == Status.CONVERGED]
        near = 100 * self.driver.limits.tol * float(self.driver.data.total)
        return len(found) > 0 and bool(np.sum(found >= np.max(found) - near) >= _AGREED)


def _best(states: State) -> tuple[int, bool]:
    """The best lane, and whether even that one failed."""
    status = np.asarray(states.status)
    lane = best_lane(status, np.asarray(states.objective))
    return lane, bool(status[lane] in FAILED)
