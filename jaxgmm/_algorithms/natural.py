"""Stochastic inference by natural gradients: the conjugate update of a minibatch, mixed in."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxgmm._algorithms.stochastic import Memory, Stochastic, averaging_weight
from jaxgmm._estep.data import Data
from jaxgmm._estep.stats import Stats, reorder
from jaxgmm._estep.stats import scale as scale_stats
from jaxgmm._lane.state import State
from jaxgmm._model.prior import Prior, best_order, interpolate, reorder_posterior
from jaxgmm._model.views import View
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
        delay: 0 or more; larger values give the first minibatches less weight.
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
        Expectation()
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
    view: View
    optimizer: NaturalGradient
    batch_size: int | None = static()
    average: bool = static()

    name = "SVI"

    def remember(self, key: Array, shared_key: Array, posterior: Prior) -> Memory:
        if self.average:
            return Memory(key, shared_key, coordinates=posterior, average=posterior)
        return Memory(key, shared_key)

    def current(self, state: State) -> Prior:
        return state.memory.coordinates if self.average else state.posterior

    def expect(self, state: State, data: Data, beta: Array | None = None) -> Stats:
        return scale_stats(super().expect(state, data, beta), data.scale)

    def maximise(self, state: State, stats: Stats) -> State:
        current, average = self.current(state), state.memory.average
        dtype = self.prior.dtype
        target = self.view.update(self.prior, stats, current)
        q = interpolate(current, target, self.optimizer.rho(state.n_iter, dtype))
        if self.average:
            average = interpolate(average, q, averaging_weight(state.n_iter, dtype))
        if self.prior.weights.ordered:
            # by the counts of the posterior, which a minibatch changes little
            counts = q.weights.counts(self.prior.weights)
            order = best_order(self.prior, counts, point=self.view.point)
            stats, q = reorder(stats, order), reorder_posterior(self.prior, q, order)
            average = reorder_posterior(self.prior, average, order) if self.average else ()
        objective = self.bound(stats, q)
        if not self.average:
            return replace(state, posterior=q, objective=objective)
        memory = replace(state.memory, coordinates=q, average=average)
        return replace(state, posterior=average, objective=objective, memory=memory)
