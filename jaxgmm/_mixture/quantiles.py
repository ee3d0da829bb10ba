"""Distribution functions and quantiles of a feature."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxgmm._lane.state import State
from jaxgmm._mixture.mixture import (
    Mixture,
    Model,
    check_fitted,
    estimate,
    has_background,
    is_predictive,
)
from jaxgmm._mixture.scale_mixture import ScaleMixture, cdf_of, quantile_of
from jaxgmm._numerics.calls import usage
from jaxgmm._numerics.checks import is_traced


def feature_density(state: State | Mixture, feature: int) -> ScaleMixture:
    """The density of `log_prob` of one feature alone."""
    m = estimate(state)
    weights, mean, none = m.weights, m.means[:, feature], jnp.zeros_like(m.weights)
    if not is_predictive(state):
        shape = None if m.degrees is None else 0.5 * m.degrees
        return ScaleMixture(weights, mean, m.variances()[:, feature], none, shape)
    variance, added, shape = state.posterior.components.predictive().marginal(feature)
    return ScaleMixture(weights, mean, variance, added, shape)


@usage("jaxgmm.cdf(result, x, feature=0)")
def cdf(state: Model, x: ArrayLike, feature: int | None = None) -> Float[Array, "..."]:
    """Distribution function of one feature, under the density of `log_prob`.

    For a `Mixture`, and after EM, it is a mixture of normal distribution functions. After CAVI and
    SVI it is a mixture of those of the posterior predictive, mostly Student-t. The relative error
    of small values is small, too.

    Args:
        state: of one lane, or a `Mixture`.
        x: values of the feature, of any shape.
        feature: index of the feature (static); needed if there are several.

    Raises:
        ValueError: if ``feature`` is needed but missing, or does not exist.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> m = jaxgmm.Mixture(jnp.ones(1), jnp.zeros((1, 1)), jnp.ones((1, 1, 1)))
        >>> print(jaxgmm.cdf(m, jnp.array([-jnp.inf, 0.0, 1.96])).round(3))
        [0.    0.5   0.975]
    """
    state, feature, dtype = _check_feature(state, feature, "cdf")
    return _cdf(state, jnp.asarray(x, dtype), feature)


@functools.partial(jax.jit, static_argnames="feature")
def _cdf(state: State | Mixture, x: Array, feature: int) -> Array:
    return cdf_of(feature_density(state, feature), x.ravel()).reshape(x.shape)


@usage("jaxgmm.quantile(result, 0.5, feature=0)")
def quantile(state: Model, p: ArrayLike, feature: int | None = None) -> Float[Array, "..."]:
    """Quantiles of one feature: the inverse of `cdf`, up to rounding.

    They are found by bisection in a fixed number of steps. The rounding error is relative to the
    spread of the whole mixture. Derivatives come from the implicit function theorem.

    Args:
        state: of one lane, or a `Mixture`.
        p: probabilities, of any shape; 0 and 1 give the infinities.
        feature: index of the feature (static); needed if there are several.

    Raises:
        ValueError: if ``feature`` is needed but missing, or does not exist; for p outside [0, 1].

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> m = jaxgmm.Mixture(jnp.ones(1), jnp.zeros((1, 1)), jnp.ones((1, 1, 1)))
        >>> print(jaxgmm.quantile(m, jnp.array([0.025, 0.975])).round(3))
        [-1.96  1.96]
    """
    state, feature, dtype = _check_feature(state, feature, "quantile")
    probability = jnp.asarray(p, dtype)
    if not is_traced(probability) and not bool(jnp.all((probability >= 0) & (probability <= 1))):
        raise ValueError(f"p must be probabilities, from 0 to 1, but they are {p}.")
    return _quantile(state, probability, feature)


@functools.partial(jax.jit, static_argnames="feature")
def _quantile(state: State | Mixture, p: Array, feature: int) -> Array:
    return quantile_of(feature_density(state, feature), p.ravel()).reshape(p.shape)


def _check_feature(model: Any, feature: int | None, what: str) -> tuple[State | Mixture, int, Any]:
    """The model, the feature's index and the dtype of the density."""
    model = check_fitted(model, what)
    if has_background(model):
        raise ValueError(
            f"{what} has no formula for a background; give it jaxgmm.mixture(result), in which "
            "the background is a normal component."
        )
    means = jax.eval_shape(estimate, model).means
    d = means.shape[1]
    if feature is None and d > 1:
        raise ValueError(f"there are {d} features: say which one by feature=0 to {d - 1}.")
    if feature is not None and feature not in range(d):
        raise ValueError(f"feature must be an integer from 0 to {d - 1}, but it is {feature!r}.")
    return model, int(feature or 0), means.dtype
