"""The state that every algorithm keeps."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxgmm._estep.potentials import Potentials
from jaxgmm._lane.status import Status
from jaxgmm._model.prior import Prior
from jaxgmm._model.views import view_penalty, view_potentials
from jaxgmm._numerics.pytree import pytree, static


@pytree
class State:
    """One lane of a fit, or R of them when every leaf leads with a lane axis.

    Attributes:
        prior: the model.
        posterior: of the same type; `mixture` reads the estimate off it.
        objective: the bound at ``posterior``, summed over the samples, in nats; -inf at the start.
        n_iter: iterations done.
        status: a `Status` code.
        reg_covar: what EM adds to the diagonal of each covariance.
        memory: what the algorithm itself needs to go on (optimiser state, keys); () if nothing.
        view: ``"mode"`` where the posterior's mode is the estimate, else ``"expectation"``
            (static).
    """

    prior: Prior
    posterior: Prior
    objective: Float[Array, "*R"]
    n_iter: Int[Array, "*R"]
    status: Int[Array, "*R"]
    reg_covar: Float[Array, "*R"]
    memory: Any
    view: str = static()


def initial_state(
    prior: Prior, posterior: Prior, view: str, *, reg_covar: Array | float = 0.0, memory: Any = ()
) -> State:
    """A state before its first iteration."""
    dtype = prior.dtype
    return State(
        prior=prior,
        posterior=posterior,
        objective=jnp.asarray(-jnp.inf, dtype),
        n_iter=jnp.zeros((), jnp.int32),
        status=jnp.asarray(int(Status.RUNNING), jnp.int32),
        reg_covar=jnp.asarray(reg_covar, dtype),
        memory=memory,
        view=view,
    )


def state_potentials(state: State) -> Potentials:
    """The potentials of the state's own view."""
    return view_potentials(state.view, state.posterior, state.reg_covar)


def state_penalty(state: State) -> Float[Array, ""]:
    """What the state's bound subtracts: -log prior at the mode, or the KL divergence."""
    return view_penalty(state.view, state.posterior, state.prior, state.reg_covar)
