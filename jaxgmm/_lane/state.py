"""The state that every algorithm keeps."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxgmm._estep.potentials import Potentials
from jaxgmm._lane.status import Status
from jaxgmm._model.prior import Prior
from jaxgmm._model.views import View
from jaxgmm._numerics.pytree import pytree


@pytree
class State:
    """One lane of a fit, or R lanes if the first axis of every leaf counts lanes.

    Attributes:
        prior: the model.
        posterior: of the same type as the prior; `mixture` computes the estimate from it.
        view: how the posterior is read, such as `Mode` after EM and `Expectation` after CAVI.
        objective: the bound at ``posterior``, summed over the samples, in nats; -inf at the start.
        n_iter: iterations done.
        status: a `Status` code.
        record: what the algorithm's monitor remembers of the objective.
        memory: what the algorithm itself needs to go on (optimiser state, keys); () if nothing.
    """

    prior: Prior
    posterior: Prior
    view: View
    objective: Float[Array, "*R"]
    n_iter: Int[Array, "*R"]
    status: Int[Array, "*R"]
    record: Any
    memory: Any

    @property
    def potentials(self) -> Potentials:
        """The potentials of the state's own view."""
        return self.view.potentials(self.posterior)

    @property
    def penalty(self) -> Float[Array, ""]:
        """What the state's bound subtracts: -log prior at the mode, or the KL divergence."""
        return self.view.penalty(self.posterior, self.prior)


def initial_state(
    prior: Prior, posterior: Prior, view: View, record: Any = (), memory: Any = ()
) -> State:
    """A state before its first iteration, of arrays of its own, which may be donated."""
    state = State(
        prior=prior,
        posterior=posterior,
        view=view,
        objective=jnp.asarray(-jnp.inf, prior.dtype),
        n_iter=jnp.zeros((), jnp.int32),
        status=jnp.asarray(int(Status.RUNNING), jnp.int32),
        record=record,
        memory=memory,
    )
    return jax.tree.map(jnp.copy, state)


def check_posterior(state: Any, what: str) -> None:
    """Refuse the state of a point estimate where a posterior is asked for."""
    if state.view.point:
        raise ValueError(
            f"{what} needs a posterior, but this state is a point estimate; fit it with "
            "jaxgmm.cavi or jaxgmm.svi."
        )


def check_one_lane(state: Any, what: str) -> None:
    """Refuse the states of several lanes."""
    if state.status.ndim:
        raise ValueError(
            f"{what} takes the state of one lane, but this one has {state.status.shape[0]} lanes; "
            "take result.best, or jax.tree.map(lambda a: a[lane], states)."
        )
