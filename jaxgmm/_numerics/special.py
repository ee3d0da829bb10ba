"""Special functions of the conjugate families."""

import math

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import digamma, gammaln
from jaxtyping import Float

LOG_2PI = math.log(2.0 * math.pi)
LOG_2 = math.log(2.0)


def multivariate_gammaln(a: Float[Array, "*K"], dimension: int) -> Float[Array, "*K"]:
    """Log of the multivariate gamma function (Bishop 2006, eq. B.79, without its 2s).

    ``D (D - 1) / 4 log(pi) + sum_i gammaln(a + (1 - i) / 2)``, i = 1..D.
    """
    steps = jnp.arange(dimension, dtype=a.dtype) / 2
    constant = dimension * (dimension - 1) / 4 * math.log(math.pi)
    return constant + jnp.sum(gammaln(a[..., None] - steps), axis=-1)


def multivariate_digamma(a: Float[Array, "*K"], dimension: int) -> Float[Array, "*K"]:
    """Derivative of `multivariate_gammaln`: ``sum_i digamma(a + (1 - i) / 2)``."""
    steps = jnp.arange(dimension, dtype=a.dtype) / 2
    return jnp.sum(digamma(a[..., None] - steps), axis=-1)
