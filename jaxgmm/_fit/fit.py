"""The driver for people: restarts, progress, Ctrl-C, and the best of what was found."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.typing import ArrayLike

from jaxgmm._algorithms.annealed import Annealed
from jaxgmm._algorithms.base import Algorithm
from jaxgmm._algorithms.stochastic import Stochastic
from jaxgmm._estep.estep import Data, prepare
from jaxgmm._fit.driver import Driver
from jaxgmm._fit.mesh import check_mesh, spread_rows
from jaxgmm._fit.moves import proposals
from jaxgmm._fit.race import RACING_LANES, rungs
from jaxgmm._fit.result import Result, data_notes
from jaxgmm._lane.starts import check_start, random_posteriors
from jaxgmm._lane.state import State
from jaxgmm._lane.status import Status
from jaxgmm._model.prior import Prior
from jaxgmm._numerics.checks import (
    check_model,
    check_non_negative,
    check_positive_int,
    check_samples,
    check_weights,
)
from jaxgmm._numerics.devices import on_automatic_axes
from jaxgmm._numerics.pytree import take


def fit(
    key: Array,
    x: ArrayLike,
    algorithm: Algorithm,
    n_restarts: int = 1,
    init: str | Mapping[str, Any] | State = "mixed",
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

    All restarts run as lanes of one compiled program, which a second fit of the same shapes uses
    again, whatever its prior, tolerance, step sizes and limits. Ctrl-C returns what there is so
    far, with the unfinished lanes' status RUNNING.

    EM and CAVI from random starts do two things more. They *race*: after 16, 32, 64, ...
    iterations all but the best quarter of the lanes are dropped, and the others go on in smaller
    batches (successive halving, Jamieson & Talwalkar 2016; emEM of Biernacki, Celeux & Govaert
    2003 is its case of two rungs). And the best lane, once it has converged, tries *moves*: 16
    starts that merge two of its components and split another (split and merge EM: Ueda et al.
    2000), or under a posterior only one of the two, run to their end; it takes the best of them
    while that is a better optimum.

    Args:
        key: PRNG key, for the starts and for stochastic algorithms.
        x: samples, ``(N, D)``, float32 or float64 (``jax.config.update("jax_enable_x64", True)``);
            NumPy float64 becomes JAX's default float.
        algorithm: from `em`, `cavi` or `svi`; it carries the model.
        n_restarts: R.
        init: a start by name (see `Algorithm.init`), by default k-means++ in every other lane, the
            first one included, and random points in the rest; a `State`, of one lane or of R, whose
            posterior is the start (`run` goes on with its optimiser and counters, too); or a
            mapping with one given start, such as ``{"means": means}``, led by R if
            ``n_restarts > 1``.
        max_iter: iterations per lane, at most.
        tol: a lane has converged when its objective, per sample, changes by no more than this in
            one iteration, in nats.
        sample_weight: non-negative, ``(N,)``.
        history: whether to record every lane's objective after every iteration.
        progress: whether to show a progress bar; by default only on a terminal.
        racing: whether beaten lanes are dropped; by default in EM and CAVI from 16 lanes at random
            starts on.
        moves: whether the best lane tries moves; by default in EM and CAVI from random starts.
            They cost about another fit of 16 lanes each time that they succeed, and once more; no
            history is kept of them.
        mesh: devices to work on, with axes named ``"restarts"`` (each has some of the lanes),
            ``"data"`` (each has some of the rows) or both; results are those of one device up to
            rounding. ``x`` may lie on the mesh already, as it must where several processes
            (`jax.distributed`) hold parts of it. By default the device of ``x``.

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
    x = check_samples(on_automatic_axes(x))
    check_model(algorithm.prior, x)
    data = _prepare(x, check_weights(sample_weight, x))
    notes = data_notes(x)
    states = start_lanes(key, data, algorithm, n_restarts, init)
    ours = isinstance(init, str) and not isinstance(algorithm, Stochastic | Annealed)
    racing = ours and n_restarts >= RACING_LANES if racing is None else racing
    if mesh is not None:
        data = spread_rows(data, mesh)
    driver = Driver(algorithm, data, n_restarts, max_iter, tol, history, progress, mesh)
    states, rows, interrupted = driver.run(states, rungs(n_restarts, max_iter) if racing else [])
    result = Result(algorithm, states, rows if history else None, interrupted, notes)
    if not (ours if moves is None else moves) or interrupted:
        return result
    return _try_moves(key, result, driver)


_prepare = jax.jit(prepare)

# Lanes that try moves together, unless the fit has a batch of about as many already.
_MOVES = 16
# A round of moves follows every improvement, and so many at most.
_MOVE_ROUNDS = 10


def _try_moves(key: Array, result: Result, driver: Driver) -> Result:
    """The result with its best lane moved to a better optimum, as long as a move finds one."""
    algorithm, states = result.algorithm, result.states
    lane = result.best_index
    n_restarts = states.status.shape[0]
    n = n_restarts if _MOVES <= n_restarts <= 4 * _MOVES else _MOVES
    if algorithm.prior.n_components < 2:
        return result
    quiet = driver.quiet()
    interrupted = False
    try:
        for number in range(_MOVE_ROUNDS):
            best = take(states, lane)
            if int(best.status) != Status.CONVERGED:
                break
            posteriors = proposals(best, driver.data.total, n)
            keys = jax.random.split(jax.random.fold_in(key, number), n)
            tried = _begin(keys, key, driver.data, algorithm, posteriors)
            tried, _, interrupted = quiet.run(tried, rungs(n, driver.max_iter))
            found = Result(algorithm, tried, None, interrupted, ()).best
            gain = float(found.objective) - float(best.objective)
            # what an iteration more could give anyway is no other optimum
            enough = 100 * float(driver.tol) * float(driver.data.total)
            better = int(found.status) == Status.CONVERGED and gain > enough
            if better:
                states = jax.tree.map(lambda a, b: a.at[lane].set(b), states, found)
            if interrupted or not better:
                break
    except KeyboardInterrupt:  # while a move was being made: what there is stays
        interrupted = True
    return Result(algorithm, states, result.history, interrupted, result.notes)


def start_lanes(key: Array, data: Data, algorithm: Algorithm, n_restarts: int, init: Any) -> State:
    """R states: at random starts of R keys, or at given ones."""
    lane_key, shared_key = jax.random.split(key)
    keys = jax.random.split(lane_key, n_restarts)
    n_samples = data.x.shape[0]
    if isinstance(init, str):
        check_start(init, algorithm.prior, n_samples)
        split = jax.vmap(jax.random.split)(keys)
        # conjugate updates do not ask for the view: one program more to share
        mode = algorithm.view == "mode" and not algorithm.prior.components.conjugate
        posteriors = _random_posteriors(split[:, 0], data, algorithm.prior, init, mode)
        return _begin(split[:, 1], shared_key, data, algorithm, posteriors)
    if isinstance(init, State):
        init = {"state": init}
    if not isinstance(init, Mapping):
        check_start(init, algorithm.prior, n_samples)
    starts = [check_start(given, algorithm.prior, n_samples) for given in _split(init, n_restarts)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    return _given_lanes(keys, shared_key, data, algorithm, stacked)


def _split(init: Mapping[str, Any], n_restarts: int) -> list[dict[str, Any]]:
    """One mapping for each lane, from a mapping whose arrays may lead with R."""
    state = init.get("state")
    if isinstance(state, State):
        lanes = state.status.shape
        if lanes == ():
            return [{"state": state}] * n_restarts
        if lanes != (n_restarts,):
            raise ValueError(
                f"init is a state of {lanes[0]} lanes, but n_restarts is {n_restarts}; "
                f"give n_restarts={lanes[0]}, or one lane."
            )
    elif n_restarts == 1:
        return [dict(init)]
    for name, value in init.items():
        for leaf in jax.tree.leaves(value):
            if np.ndim(leaf) == 0 or np.shape(leaf)[0] != n_restarts:
                raise ValueError(
                    f"init's {name} must lead with n_restarts={n_restarts}, one start for each "
                    f"lane, but its shape is {tuple(np.shape(leaf))}."
                )
    return [take(dict(init), lane) for lane in range(n_restarts)]


@functools.partial(jax.jit, static_argnames=("init", "mode"))
def _random_posteriors(keys: Array, data: Data, prior: Prior, init: str, mode: bool) -> Prior:
    # of the prior, not the algorithm: EM, CAVI and SVI share one program, and it is a long one
    return random_posteriors(keys, data, lambda lane: prior, init, mode=mode)


@jax.jit
def _begin(
    keys: Array, shared_key: Array, data: Data, algorithm: Algorithm, posteriors: Prior
) -> State:
    def one(key: Array, posterior: Prior) -> State:
        return algorithm.begin(key, shared_key, posterior, data)

    return jax.vmap(one)(keys, posteriors)


@jax.jit
def _given_lanes(
    keys: Array, shared_key: Array, data: Data, algorithm: Algorithm, start: Any
) -> State:
    return jax.vmap(algorithm.init_on, (0, None, None, 0))(keys, shared_key, data, start)
