"""The loop over lanes as a pure function, for use inside larger programs."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float

from jaxgmm._algorithms.base import Algorithm, check_algorithm
from jaxgmm._estep.data import prepare
from jaxgmm._estep.rows import Rows, as_rows
from jaxgmm._fit.loop import advance_lanes
from jaxgmm._fit.mesh import advance_on, check_mesh, spread_rows
from jaxgmm._lane.state import State
from jaxgmm._numerics.calls import described, usage
from jaxgmm._numerics.checks import check_non_negative, check_positive

_CALL = "jaxgmm.run(algorithm, states, x)"


@usage(_CALL)
def run(
    algorithm: Algorithm,
    states: State,
    x: Float[Array, "N D"] | Rows,
    *,
    max_iter: int | Array = 500,
    tol: float | Array = 1e-6,
    sample_weight: Float[Array, " N"] | None = None,
    history_length: int = 0,
    mesh: Mesh | None = None,
) -> tuple[State, Float[Array, "T R"]]:
    """Iterate R lanes until each has converged, failed or done ``max_iter`` iterations.

    The function is pure: use it under `jax.jit` and `jax.vmap`, or inside a larger program. The
    lanes share ``x``. A lane that has ended does not change any more, and no lane depends on
    another. The loop ends when no lane is running.

    Args:
        algorithm: from `em`, `cavi` or `svi`.
        states: R lanes, as ``jax.vmap(algorithm.init, (0, None))(keys, x)`` gives.
        max_iter: largest number of iterations of a lane, counted from its own start; traced.
        tol: change of the objective, per sample and iteration, below which a lane has converged;
            with 0 no lane converges; traced.
        sample_weight: non-negative, ``(N,)``.
        history_length: number of iterations whose objectives are recorded (static).
        mesh: devices with axes named ``"restarts"``, ``"data"`` or both, as in `fit` (static).

    Returns:
        The states, and the objective after each iteration, ``(T, R)``; NaN where a lane had ended.

    Raises:
        ValueError: for ``tol < 0`` or ``max_iter < 1``, unless traced; a mesh with other axes.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> algorithm = jaxgmm.em(jaxgmm.flat_prior(2, 2))
        >>> keys = jax.random.split(jax.random.key(1), 4)
        >>> states = jax.vmap(algorithm.init, (0, None))(keys, x)
        >>> states, history = jaxgmm.run(algorithm, states, x, history_length=50)
        >>> history.shape
        (50, 4)
    """
    check_algorithm(algorithm, _CALL)
    check_non_negative("tol", tol)
    check_positive("max_iter", max_iter)
    _check_lanes(states)
    data = prepare(as_rows(x, sample_weight))
    if mesh is None:
        states, history, *_ = advance_lanes(
            algorithm, states, data, max_iter, tol, max_iter, history_length=history_length
        )
        return states, history
    mesh = check_mesh(mesh, algorithm)
    limits = (jnp.asarray(max_iter, jnp.int32), jnp.asarray(tol, data.x.dtype))
    advance = advance_on(mesh, history_length)
    states, history, *_ = advance(algorithm, states, spread_rows(data, mesh), *limits, limits[0])
    return states, history


def _check_lanes(states: Any) -> None:
    how = "jax.vmap(algorithm.init, (0, None))(keys, x) gives, or result.states"
    if not isinstance(states, State):
        raise ValueError(
            f"run takes the states of R lanes, as {how}, but it was given {described(states)}; "
            f"call {_CALL}."
        )
    if states.status.ndim != 1:
        raise ValueError(
            f"run takes the states of R lanes, as {how}, but the first axis of these is not that "
            "of lanes; for one lane pass jax.tree.map(lambda a: a[None], state)."
        )
