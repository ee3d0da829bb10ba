"""The driver for people: restarts, progress, Ctrl-C, and the best of what was found."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.typing import ArrayLike

from jaxgmm._algorithms.base import Algorithm
from jaxgmm._estep.data import Rows, check_rows, prepare
from jaxgmm._fit.driver import Driver, Limits
from jaxgmm._fit.launch import start_lanes
from jaxgmm._fit.mesh import check_mesh, spread_rows
from jaxgmm._fit.progress import Bar
from jaxgmm._fit.race import RACING_LANES
from jaxgmm._fit.result import Result, data_notes
from jaxgmm._fit.search import search
from jaxgmm._lane.state import State
from jaxgmm._model.checks import check_model
from jaxgmm._numerics.checks import check_non_negative, check_positive_int
from jaxgmm._numerics.devices import on_automatic_axes
from jaxgmm._numerics.pytree import replace, set_at

# Lanes that try moves together, unless the fit has a batch of about as many already.
_MOVES = 16


def fit(
    key: Array,
    x: ArrayLike | Rows,
    algorithm: Algorithm,
    n_restarts: int = 1,
    init: str | Callable[..., Array] | Mapping[str, Any] | State = "mixed",
    max_iter: int = 500,
    tol: float = 1e-6,
    *,
    sample_weight: ArrayLike | None = None,
    history: bool = False,
    progress: bool | None = None,
    racing: bool | None = None,
    moves: bool | None = None,
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
    which two components are merged and another one is split (split and merge EM: Ueda et al. 2000).
    Under a posterior a move may do only one of the two. 16 moves are run to their end. If the best
    of them is a better optimum, it is kept, and moves are tried from it again.

    Args:
        key: PRNG key, for the starts and for stochastic algorithms.
        x: samples, ``(N, D)``, float32 or float64 (``jax.config.update("jax_enable_x64", True)``);
            NumPy float64 becomes JAX's default float. Or `Rows`, which also hold the weights.
        algorithm: from `em`, `cavi` or `svi`; it carries the model.
        n_restarts: R.
        init: the start: a name or a function (see `Algorithm.init`); a `State`, of one lane or of R
            lanes, whose posterior is the start (`run` also continues its optimiser and counters);
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
            starts. The moves cost about another fit of 16 lanes each time that they succeed, and
            once more at the end. They have no history.
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
            on a mesh with ``"data"``.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (300, 2))
        >>> result = jaxgmm.fit(
        ...     jax.random.key(1), x, jaxgmm.em(jaxgmm.default_prior(x, 2)), n_restarts=8
        ... )
        >>> result.states.objective.shape
        (8,)
    """
    if not isinstance(algorithm, Algorithm):
        raise ValueError(
            "algorithm must come from jaxgmm.em, jaxgmm.cavi or jaxgmm.svi, but it is a "
            f"{type(algorithm).__name__}."
        )
    check_positive_int("n_restarts", n_restarts)
    check_positive_int("max_iter", max_iter)
    check_non_negative("tol", tol)
    if mesh is not None:
        mesh = check_mesh(mesh, algorithm)
    rows = check_rows(_on_automatic_axes(x), sample_weight)
    check_model(algorithm.prior, rows.x)
    data = _prepare(rows)
    notes = data_notes(rows.x)
    states = start_lanes(key, data, algorithm, n_restarts, init)
    ours = not isinstance(init, State | Mapping) and algorithm.races
    race = ours and n_restarts >= RACING_LANES if racing is None else racing
    if mesh is not None:
        data = spread_rows(data, mesh)
    limits = Limits(max_iter, tol)
    driver = Driver(algorithm, data, limits, n_restarts, history=history, mesh=mesh)
    bar = Bar(algorithm.name, max_iter, "it", progress)
    course, interrupted = driver.run(states, race, [bar])
    record = course.history() if history else None
    result = Result(algorithm, course.states(), record, interrupted, notes)
    if not (ours if moves is None else moves) or interrupted:
        return result
    return _with_moves(key, result, driver.quiet(), progress)


_prepare = jax.jit(prepare)


def _on_automatic_axes(x: Any) -> Any:
    return replace(x, x=on_automatic_axes(x.x)) if isinstance(x, Rows) else on_automatic_axes(x)


def _with_moves(key: Array, result: Result, driver: Driver, progress: bool | None) -> Result:
    """The result with its best lane moved to a better optimum, as long as a move finds one."""
    lane, n_restarts = result.best_index, result.states.status.shape[0]
    n = n_restarts if _MOVES <= n_restarts <= 4 * _MOVES else _MOVES
    sizes = jnp.asarray([result.algorithm.prior.n_components])
    start = best = jax.tree.map(lambda a: np.asarray(a)[[lane]], result.states)

    def observers() -> list[Bar]:
        return [Bar(result.algorithm.name, driver.limits.max_iter, "it", progress)]

    best, interrupted = search(best, sizes, driver, n, observers)
    states = result.states
    if best is not start:
        states = set_at(states, np.asarray([lane]), best)
    return Result(result.algorithm, states, result.history, interrupted, result.notes)
