"""Draws: of samples, and of the parameters behind a fit."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxgmm._estep.structures import structure
from jaxgmm._lane.state import Fitted, State, posterior_state
from jaxgmm._mixture.mixture import (
    Mixture,
    Model,
    StudentTMixture,
    check_fitted,
    estimate,
    is_predictive,
)
from jaxgmm._model.prior import Prior
from jaxgmm._model.views import draw
from jaxgmm._numerics.calls import usage
from jaxgmm._numerics.checks import check_positive_int, is_traced


@usage("jaxgmm.sample(key, result, n)")
def sample(key: Array, state: Model, n: int) -> tuple[Float[Array, "n D"], Int[Array, " n"]]:
    """Draw ``n`` samples and their components from the density that `log_prob` gives.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> state = jaxgmm.fit(jax.random.key(1), x, jaxgmm.em(jaxgmm.flat_prior(2, 2))).best
        >>> draws, components = jaxgmm.sample(jax.random.key(2), state, 10)
        >>> draws.shape, components.shape
        ((10, 2), (10,))
    """
    model = check_fitted(state, "sample")
    check_positive_int("n", n)
    return _sample(key, model, n)


def draw_samples(key: Array, state: State | Mixture, n: int) -> tuple[Array, Array]:
    """`sample`; given the components, differentiable in the state."""
    component_key, x_key = jax.random.split(key)
    m = estimate(state)
    component = jax.random.categorical(component_key, jnp.log(m.weights), shape=(n,))
    if is_predictive(state):
        draws = state.posterior.components.sample_predictive(x_key, component)
        if m.background:
            draws = jnp.where((component == 0)[:, None], m.in_box(x_key, n), draws)
        return draws, component
    return m.draw(x_key, component), component


_sample = jax.jit(draw_samples, static_argnames="n")


@usage("jaxgmm.sample_posterior(key, result, n)")
def sample_posterior(key: Array, state: State | Fitted, n: int) -> Any:
    """Draw ``n`` mixtures from the posterior: weights ``(n, K)``, means and covariances.

    The state is that of CAVI or SVI. Component k is the same component in every draw, because q has
    one mode.

    Args:
        key: PRNG key.
        state: of one lane.
        n: number of draws.

    Returns:
        `Mixture` with a leading axis of n: ``(n, K)``, ``(n, K, D)``, ``(n, K, D, D)``. Of
        Student-t components a `StudentTMixture`, all of the same degrees of freedom.

    Raises:
        ValueError: for the state of a point estimate, which has no posterior.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> state = jaxgmm.fit(jax.random.key(1), x, jaxgmm.cavi(jaxgmm.default_prior(x, 3))).best
        >>> jaxgmm.sample_posterior(jax.random.key(2), state, 10).covariances.shape
        (10, 3, 2, 2)
    """
    state = posterior_state(state, "sample_posterior")
    check_positive_int("n", n)
    return _sample_posterior(key, state.posterior, n)


@functools.partial(jax.jit, static_argnames="n")
def _sample_posterior(key: Array, q: Prior, n: int) -> Any:
    def one(key: Array) -> Any:
        drawn = draw(key, q)
        point, weights = drawn.components, jnp.exp(drawn.log_weights)
        kind = structure(point.structure)
        covariances = kind.matrices(kind.covariance(point.factor), *point.mean.shape)
        if drawn.degrees is not None:
            return StudentTMixture(weights, point.mean, covariances, drawn.degrees)
        return Mixture(weights, point.mean, covariances)

    return jax.vmap(one)(jax.random.split(key, n))


class Interval(NamedTuple):
    """Lower and upper limits of all parameters; each of the two has the form of a `Mixture`."""

    lower: Mixture
    upper: Mixture


@usage("jaxgmm.credible_intervals(key, result)")
def credible_intervals(
    key: Array, state: State | Fitted, mass: float = 0.95, n_draws: int = 10_000
) -> Interval:
    """Equal-tailed credible intervals of weights, means and covariances, by posterior draws.

    Each element has its own interval. So the weights of a limit need not sum to 1, and its
    covariances need not be positive definite. The intervals are those of q, which are too narrow
    where components overlap.

    Args:
        key: PRNG key.
        state: of one lane, after CAVI or SVI.
        mass: probability of each interval, between 0 and 1.
        n_draws: number of draws by `sample_posterior`.

    Raises:
        ValueError: for the state of a point estimate, a mass that is not between 0 and 1.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> prior = jaxgmm.default_prior(x, 1, jax.numpy.eye(2), "fixed")
        >>> state = jaxgmm.cavi(prior).init(jax.random.key(1), x, {"means": x[:1]})
        >>> lower, upper = jaxgmm.credible_intervals(jax.random.key(2), state)
        >>> bool(((lower.means < x.mean(0)) & (x.mean(0) < upper.means)).all())
        True
    """
    state = posterior_state(state, "credible_intervals")
    if not is_traced(mass) and not 0 < mass < 1:
        raise ValueError(f"mass must be between 0 and 1, but it is {mass}.")
    draws = sample_posterior(key, state, n_draws)
    return _intervals(draws, jnp.asarray(mass, draws.means.dtype))


@jax.jit
def _intervals(draws: Any, mass: Array) -> Interval:
    limits = jnp.stack([0.5 - 0.5 * mass, 0.5 + 0.5 * mass])
    both = [jnp.quantile(a, limits, axis=0) for a in draws]
    return Interval(*(type(draws)(*(a[i] for a in both)) for i in (0, 1)))
