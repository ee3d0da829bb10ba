"""The compiled loop over lanes: one program for hundreds of restarts."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from jaxgmm._algorithm import Algorithm
from jaxgmm._degenerate import is_degenerate
from jaxgmm._estep import Data, prepare
from jaxgmm._pytree import all_finite, replace, select, take
from jaxgmm._state import State
from jaxgmm._status import Status


def run(
    algorithm: Algorithm,
    states: State,
    x: Float[Array, "N D"],
    *,
    max_iter: int | Array = 500,
    tol: float | Array = 1e-6,
    sample_weight: Float[Array, " N"] | None = None,
    history_length: int = 0,
) -> tuple[State, Float[Array, "T R"]]:
    """Iterate R lanes until each has converged, failed or done ``max_iter`` iterations.

    Pure: use it under `jax.jit` and `jax.vmap`, or inside a larger program. The lanes share ``x``;
    a finished lane is frozen, and none depends on another. One scalar condition, whether any lane
    is running, ends the loop.

    Args:
        algorithm: from `em`, `cavi` or `svi`.
        states: every leaf leads with R, as ``jax.vmap(algorithm.init, (0, None))(keys, x)`` gives.
        max_iter: iterations per lane, counted from its own start; traced.
        tol: change of the objective, per sample and iteration, below which a lane has converged;
            0 never converges; traced.
        sample_weight: non-negative, ``(N,)``.
        history_length: number of iterations whose objectives are recorded (static).

    Returns:
        The states, and the objective after each iteration ``(T, R)``, NaN where a lane did none.

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
    data = prepare(x, sample_weight)
    states, history, _ = advance_lanes(
        algorithm, states, data, max_iter, tol, max_iter, history_length=history_length
    )
    return states, history


def advance_lanes(
    algorithm: Algorithm,
    states: State,
    data: Data,
    max_iter: int | Array,
    tol: float | Array,
    n_steps: int | Array,
    *,
    history_length: int,
) -> tuple[State, Array, Array]:
    """At most ``n_steps`` iterations of `run`; lanes that need more stay RUNNING.

    Returns the states, the history and the number of iterations that this call did.
    """
    tol = jnp.asarray(tol, data.x.dtype)
    lanes = states.status.shape[0]
    history = jnp.full((history_length, lanes), jnp.nan, data.x.dtype)
    axes = (0, None, None)

    def running(states: State) -> Array:
        return (states.status == Status.RUNNING) & (states.n_iter < max_iter)

    def proceed(carry: Any) -> Array:
        i, states, _ = carry
        return jnp.any(running(states)) & (i < n_steps)

    def iterate(carry: Any) -> Any:
        i, states, history = carry
        active = running(states)
        # one minibatch for all lanes: x is never batched
        iteration = jnp.max(jnp.where(active, states.n_iter, 0))
        batch = algorithm.batch(data, take(states.memory, 0), iteration)
        new = jax.vmap(algorithm.step_on, axes)(states, batch, tol)
        states = select(active, new, states)
        if history_length:
            row = jnp.where(active, states.objective, jnp.nan)
            history = history.at[i].set(row, mode="drop")
        return i + 1, states, history

    i, states, history = lax.while_loop(
        proceed, iterate, (jnp.zeros((), jnp.int32), states, history)
    )
    return finish(states, max_iter), history, i


def finish(states: State, max_iter: int | Array) -> State:
    """Judge the lanes that stopped: out of iterations, or at a degenerate optimum."""
    out = (states.status == Status.RUNNING) & (states.n_iter >= max_iter)
    status = jnp.where(out, Status.MAX_ITERATIONS, states.status)
    done = (status == Status.CONVERGED) | (status == Status.MAX_ITERATIONS)
    # a lane that shrinks onto a spike may first overflow, or lose its objective to rounding
    lost = (status == Status.NONFINITE) | (status == Status.DECREASED)
    lost = lost & jax.vmap(all_finite)(states.posterior)
    degenerate = (done | lost) & jax.vmap(is_degenerate)(states)
    status = jnp.where(degenerate, Status.COLLAPSED, status)
    return replace(states, status=status.astype(jnp.int32))
