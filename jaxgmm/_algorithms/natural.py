"""Stochastic inference by natural gradients: the conjugate update of a minibatch, mixed in."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxgmm._algorithms.stochastic import Memory, Stochastic, averaging_weight, empty_trace
from jaxgmm._estep.estep import Data, estep_on
from jaxgmm._estep.stats import scale_stats
from jaxgmm._lane.state import State, initial_state
from jaxgmm._lane.status import Status
from jaxgmm._model.prior import Prior, interpolate, update
from jaxgmm._model.views import bound, view_penalty, view_potentials
from jaxgmm._numerics.pytree import pytree, replace, static


@pytree
class NaturalGradient:
    """Step sizes of the natural-gradient update; see `natural_gradient`.

    Attributes:
        step_size: constant, or None for the Robbins-Monro schedule.
        delay: of the schedule, in iterations.
        forgetting: exponent of the schedule.
    """

    step_size: Float[Array, ""] | None
    delay: Float[Array, ""]
    forgetting: Float[Array, ""]

    def rho(self, iteration: Array, dtype: jnp.dtype) -> Array:
        """The step size of one iteration, counted from 0."""
        if self.step_size is not None:
            return self.step_size.astype(dtype)
        time = iteration.astype(dtype) + 1
        return (time + self.delay.astype(dtype)) ** -self.forgetting.astype(dtype)


def natural_gradient(
    step_size: float | None = None, *, delay: float = 1.0, forgetting: float = 0.7
) -> NaturalGradient:
    """Steps ``rho`` of a natural gradient, ``lambda <- (1 - rho) lambda + rho lambda_hat``.

    Hoffman et al. 2013, eq. 26: the schedule ``rho_t = (t + delay)^-forgetting`` satisfies the
    Robbins-Monro conditions for a forgetting in (0.5, 1].

    Args:
        step_size: a constant in (0, 1] instead of the schedule; 1 with all the data is CAVI, or EM.
        delay: 0 or more; larger values weigh the first minibatches down.
        forgetting: in (0.5, 1].

    Raises:
        ValueError: for a value outside these ranges.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (500, 2))
        >>> algorithm = jaxgmm.svi(
        ...     jaxgmm.default_prior(x, 2), jaxgmm.natural_gradient(), batch_size=100
        ... )
        >>> jaxgmm.fit(jax.random.key(1), x, algorithm, max_iter=100).best.view
        'expectation'
    """
    if step_size is not None and not 0 < step_size <= 1:
        raise ValueError(f"step_size must be in (0, 1], but it is {step_size}.")
    if delay < 0:
        raise ValueError(f"delay must be 0 or more, but it is {delay}.")
    if not 0.5 < forgetting <= 1:
        raise ValueError(f"forgetting must be in (0.5, 1], but it is {forgetting}.")
    constant = None if step_size is None else jnp.asarray(step_size)
    return NaturalGradient(constant, jnp.asarray(delay), jnp.asarray(forgetting))


@pytree
class NaturalSVI(Stochastic):
    """See `svi`."""

    prior: Prior
    optimizer: NaturalGradient
    batch_size: int | None = static()
    view: str = static()
    average: bool = static()

    name = "SVI"

    def begin(self, key: Array, shared_key: Array, posterior: Prior, data: Data) -> State:
        memory = Memory(key, shared_key, empty_trace(self.prior.dtype))
        if self.average:
            memory = replace(memory, coordinates=posterior, average=posterior)
        return initial_state(self.prior, posterior, self.view, memory=memory)

    def advance(self, state: State, data: Data) -> State:
        active = state.status == Status.RUNNING
        current = state.memory.coordinates if self.average else state.posterior
        stats = estep_on(data, view_potentials(self.view, current), active)
        stats = scale_stats(stats, data.scale)
        rho = self.optimizer.rho(state.n_iter, self.prior.dtype)
        mode = self.view == "mode"
        target = update(self.prior, stats, current, mode=mode)
        q = interpolate(current, target, rho)
        penalty = view_penalty(self.view, q, self.prior)
        objective = bound(stats, view_potentials(self.view, q), penalty)
        if not self.average:
            return replace(state, posterior=q, objective=objective)
        share = averaging_weight(state.n_iter, self.prior.dtype)
        average = interpolate(state.memory.average, q, share)
        memory = replace(state.memory, coordinates=q, average=average)
        return replace(state, posterior=average, objective=objective, memory=memory)
