"""The state that every algorithm keeps."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxgmm._estep.potentials import Potentials
from jaxgmm._lane.status import Status
from jaxgmm._model.prior import Prior
from jaxgmm._model.views import View
from jaxgmm._numerics.calls import described
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


# What a user of scikit-learn looks for, by its name there.
_ELSEWHERE = {
    "aic": "jaxgmm.aic(result, x)",
    "bic": "jaxgmm.bic(result, x)",
    "converged_": "result.best.status",
    "covariances_": "jaxgmm.mixture(result).covariances",
    "fit_predict": "jaxgmm.predict(result, x)",
    "lower_bound_": "result.best.objective",
    "means_": "jaxgmm.mixture(result).means",
    "n_iter_": "result.best.n_iter",
    "predict": "jaxgmm.predict(result, x)",
    "predict_proba": "jaxgmm.responsibilities(result, x)",
    "sample": "jaxgmm.sample(key, result, n)",
    "score_samples": "jaxgmm.log_prob(result, x)",
    "weights_": "jaxgmm.mixture(result).weights",
}


class Fitted:
    """Base of what holds many fits, of which one is the best: `Result` and `Selection`."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            hint = _ELSEWHERE.get(name, _ELSEWHERE.get(f"{name}_"))
            more = f"; use {hint}" if hint else ""
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{more}")

    @property
    def best(self) -> State:
        """The state of the best one."""
        raise NotImplementedError


def state_of(fit: Any, what: str) -> State:
    """The state of one lane: itself, or the best one of a `Result` or a `Selection`.

    Raises:
        ValueError: for the states of several lanes, and for anything else.
    """
    state = fit.best if isinstance(fit, Fitted) else fit
    if not isinstance(state, State):
        raise ValueError(
            f"{what} takes a fit, the result of jaxgmm.fit(key, x, algorithm) or its state "
            f"result.best, but it was given {described(fit)}."
        )
    check_one_lane(state, what)
    return state


def posterior_state(fit: Any, what: str) -> State:
    """`state_of`, but refuse the state of a point estimate, where a posterior is asked for."""
    state = state_of(fit, what)
    if state.view.point:
        raise ValueError(
            f"{what} needs a posterior, but this state is a point estimate; fit it with "
            "jaxgmm.cavi or jaxgmm.svi."
        )
    return state


def check_one_lane(state: Any, what: str) -> None:
    """Refuse the states of several lanes."""
    if state.status.ndim:
        raise ValueError(
            f"{what} takes the state of one lane, but this one has {state.status.shape[0]} lanes; "
            "take result.best, or jax.tree.map(lambda a: a[lane], states)."
        )
