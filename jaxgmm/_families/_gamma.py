"""The gamma factor of the families with a precision for each feature or component."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import digamma, gammaln
from jaxtyping import Float


def expected_log(shape: Float[Array, "*K"], rate: Float[Array, "*K"]) -> Float[Array, "*K"]:
    """``E[log tau] = digamma(shape) - log(rate)`` (Bishop 2006, eq. B.30)."""
    return digamma(shape) - jnp.log(rate)


def kl(
    shape: Float[Array, "*K"],
    rate: Float[Array, "*K"],
    shape0: Float[Array, "*K"],
    rate0: Float[Array, "*K"],
) -> Float[Array, "*K"]:
    """``KL(Gamma(shape, rate) || Gamma(shape0, rate0))``, elementwise."""
    return (
        (shape - shape0) * digamma(shape)
        - gammaln(shape)
        + gammaln(shape0)
        + shape0 * (jnp.log(rate) - jnp.log(rate0))
        + shape * (rate0 / rate - 1)
    )


def log_normaliser(shape: Float[Array, "*K"], rate: Float[Array, "*K"]) -> Float[Array, "*K"]:
    """log of the constant of the gamma density (Bishop 2006, eq. B.26)."""
    return shape * jnp.log(rate) - gammaln(shape)


def sample(key: Array, shape: Float[Array, "*K"], rate: Float[Array, "*K"]) -> Float[Array, "*K"]:
    """log of a draw, reparameterised with implicit gradients (Figurnov et al. 2018)."""
    return jax.random.loggamma(key, shape, dtype=shape.dtype) - jnp.log(rate)
