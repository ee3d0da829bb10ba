"""The compiled loop over lanes: one program for hundreds of restarts."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Int

from jaxgmm._algorithms.base import Algorithm
from jaxgmm._estep.data import Data
from jaxgmm._lane.degenerate import is_degenerate
from jaxgmm._lane.state import State
from jaxgmm._lane.status import Status
from jaxgmm._model.prior import Prior
from jaxgmm._numerics.devices import varying_as
from jaxgmm._numerics.pytree import replace, select, take


def advance_lanes(
    algorithm: Algorithm,
    states: State,
    data: Data,
    max_iter: int | Array,
    tol: float | Array,
    n_steps: int | Array,
    group: Int[Array, " R"] | None = None,
    *,
    history_length: int,
) -> tuple[State, Array, Array, Bool[Array, " R"]]:
    """At most ``n_steps`` iterations of `run`; lanes that need more stay RUNNING.

    With groups, every leaf of the algorithm leads with their number, and a lane has that of its
    group.

    Returns the states, the history, the number of iterations that this call did, and which lanes
    would be refused as degenerate if they ended here.
    """
    tol = jnp.asarray(tol, data.x.dtype)
    lanes = states.status.shape[0]
    history = jnp.full((history_length, lanes), jnp.nan, data.x.dtype)
    own = algorithm if group is None else take(algorithm, group)
    step = jax.vmap(
        lambda one, state, rows: one.step_on(state, rows, tol),
        (None if group is None else 0, 0, None),
    )

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
        states = select(active, step(own, states, batch), states)
        if history_length:
            row = jnp.where(active, states.objective, jnp.nan)
            history = history.at[i].set(row, mode="drop")
        return i + 1, states, history

    carry = (jnp.zeros((), jnp.int32), states, history)
    # inside of a user's own shard_map each device goes on until its own lanes have ended
    given = (algorithm, states, data, tol, jnp.asarray(max_iter), jnp.asarray(n_steps))
    i, states, history = lax.while_loop(proceed, iterate, varying_as(given, carry))
    row_per_weight = 1.0 if data.row_per_weight is None else data.row_per_weight
    degenerate = jax.vmap(is_degenerate, (0, None))(states, row_per_weight)
    return finish(states, max_iter, degenerate), history, i, degenerate


def finish(states: State, max_iter: int | Array, degenerate: Bool[Array, " R"]) -> State:
    """Judge the lanes that stopped: out of iterations, or at a degenerate optimum."""
    out = (states.status == Status.RUNNING) & (states.n_iter >= max_iter)
    status = jnp.where(out, Status.MAX_ITERATIONS, states.status)
    done = (status == Status.CONVERGED) | (status == Status.MAX_ITERATIONS)
    # a lane that shrinks onto a spike may first overflow, or lose its objective to rounding
    lost = (status == Status.NONFINITE) | (status == Status.DECREASED)
    lost = lost & jax.vmap(Prior.is_finite)(states.posterior)
    status = jnp.where((done | lost) & degenerate, Status.COLLAPSED, status)
    return replace(states, status=status.astype(jnp.int32))
