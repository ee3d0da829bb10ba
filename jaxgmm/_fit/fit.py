"""The driver for people: restarts, progress, Ctrl-C, and the best of what was found."""

import warnings
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

from jax import Array
from jax.sharding import Mesh
from jax.typing import ArrayLike

from jaxgmm._algorithms.base import Algorithm, check_algorithm
from jaxgmm._estep.row_checks import check_rows
from jaxgmm._estep.rows import Rows, Samples, floats_of
from jaxgmm._fit.driver import Limits
from jaxgmm._fit.keeping import Given, Opener, opener_of
from jaxgmm._fit.mesh import check_mesh
from jaxgmm._fit.plan import Options, find_optima, finished
from jaxgmm._fit.result import Result, data_notes
from jaxgmm._fit.streamed import fit_stream
from jaxgmm._fit.whitening import Whitening
from jaxgmm._lane.state import Fitted, State, state_of
from jaxgmm._numerics.calls import usage
from jaxgmm._numerics.checks import check_non_negative, check_positive, check_positive_int
from jaxgmm._numerics.devices import on_automatic_axes
from jaxgmm._numerics.programs import check_process, check_untraced
from jaxgmm._numerics.pytree import replace
from jaxgmm._stream.stream import Stream

# Lanes at random starts, unless it is said how many.
_LANES = 16
# For those who trace.
_INSTEAD = (
    "call jaxgmm.run(algorithm, states, x) there, with states of "
    "jax.vmap(algorithm.init, (0, None))(keys, x), and jaxgmm.fixed_point for derivatives"
)


@usage("jaxgmm.fit(key, x, algorithm)")
def fit(
    key: Array,
    x: Samples | Stream,
    algorithm: Algorithm,
    n_restarts: int | None = None,
    init: str | Callable[..., Array] | Mapping[str, Any] | State | Fitted = "mixed",
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
    checkpoint: str | PathLike[str] | Opener | None = None,
    every: int | str = "1 min",
    keep: int = 2,
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

    Of a `Stream` an iteration of EM or CAVI is a pass over all rows. Lanes from random starts come
    to their optima on a sample of the rows, with race and moves. Those that may be the best of all
    rows, a quarter at most, then see all of them. ``n_iter``, ``history`` and ``max_iter`` count
    these passes; the other lanes are DROPPED.

    The fit works in coordinates of its own, in which the data are centred and white, or scaled, as
    far as the covariance structure allows. So no result depends on the units of the data, and
    float32 does where the data are far from 0 or nearly collinear. What goes in and what comes out
    is in the data's units.

    Args:
        key: PRNG key, for the starts and for stochastic algorithms.
        x: samples, ``(N, D)``, float32 or float64 (``jax.config.update("jax_enable_x64", True)``).
            Integers, booleans, lists and data frames of numbers become floats. What is not of JAX
            becomes JAX's default float if it is float64, after it has been centred and scaled. Or
            `Rows`, which also hold the weights; or a `Stream` of them.
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
        checkpoint: a folder, in which the fit is kept while it runs, so that `resume` can go on
            after a crash. One that keeps a fit already is refused. It needs Orbax
            (``pip install "jaxgmm[checkpoint]"``).
        every: how often it is written: a number of iterations, or a time such as ``"5 min"``.
        keep: how many checkpoints the folder holds, the last ones.

    Returns:
        `Result`, with ``best``, ``states``, ``history`` and ``summary()``.

    Raises:
        ValueError: before any tracing, for samples that are not 2-d floating-point and finite,
            fewer rows than components, a prior of another width or dtype, bad weights, unknown
            names, ``tol < 0``, ``max_iter < 1`` or ``n_restarts < 1``, a mesh with other axes, SVI
            on a mesh with ``"data"``, a ``checkpoint`` that keeps another fit; and under `jax.jit`,
            `jax.vmap` or `jax.shard_map`.
        OSError: where a checkpoint cannot be written, on a full disk; the last one stays.
        ImportError: for ``checkpoint`` without Orbax.
        TypeError: for an argument that it does not have, or for one that is missing.
        RuntimeError: in a process forked from one in which JAX has run.
        StreamError: for a stream that fails, or whose rows change.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
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
    opener = opener_of(checkpoint, every, keep)
    if mesh is not None:
        mesh = check_mesh(mesh, algorithm)
    options = Options(
        n_restarts, init, Limits(max_iter, tol), history, progress, racing, moves, effort, mesh
    )
    if isinstance(x, Stream):
        if sample_weight is not None:
            raise ValueError(
                "the weights of a stream come with its batches, jaxgmm.Rows(x, weight=weight); "
                "leave sample_weight out."
            )
        if checkpoint is not None and not algorithm.ascends:
            raise ValueError(
                f"a checkpoint does not hold where in a stream {algorithm.name} is; leave "
                "checkpoint out, or take jaxgmm.em or jaxgmm.cavi."
            )
        result = fit_stream(key, x, algorithm, options, opener)
    else:
        result = _fit_rows(key, x, sample_weight, algorithm, options, opener)
    if doubt := result.doubt():
        warnings.warn(doubt, RuntimeWarning, stacklevel=3)
    return result


def _fit_rows(
    key: Array,
    x: Any,
    sample_weight: Any,
    algorithm: Algorithm,
    options: Options,
    opener: Opener,
) -> Result:
    """`fit` of rows that are in memory."""
    x = floats_of(_on_automatic_axes(x))
    rows = check_rows(x, sample_weight)
    algorithm.check(rows)
    notes = data_notes(rows)
    # a start that names no row, and an algorithm that takes no part of the rows for all
    pads = isinstance(options.init, str) and algorithm.ascends and options.mesh is None
    coordinates = Whitening(x, rows, algorithm, pads)
    with opener(Given(key, x, rows, algorithm, options)) as keeper:
        own = coordinates.into(algorithm)
        lanes = find_optima(key, own, coordinates, rows, options, keeper)
    gain = coordinates.gain(rows.weight, lanes.total)
    return finished(lanes, algorithm, coordinates, gain, options.limits.tol, notes)


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
