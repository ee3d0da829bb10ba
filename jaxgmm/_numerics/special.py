"""Special functions of the conjugate families."""

import math

import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.special import digamma, gammaln
from jaxtyping import Float

from jaxgmm._numerics.arrays import led

LOG_2PI = math.log(2.0 * math.pi)
LOG_12 = math.log(12.0)
LOG_2 = math.log(2.0)


def multivariate_gammaln(a: Float[Array, "*K"], dimension: int) -> Float[Array, "*K"]:
    """Log of the multivariate gamma function (Bishop 2006, eq. B.79, without its 2s).

    ``D (D - 1) / 4 log(pi) + sum_i gammaln(a + (1 - i) / 2)``, i = 1..D.
    """
    steps = jnp.arange(dimension, dtype=a.dtype) / 2
    constant = dimension * (dimension - 1) / 4 * math.log(math.pi)
    return constant + jnp.sum(gammaln(less_each(a, steps)), axis=-1)


def less_each(a: Float[Array, "*K"], steps: Float[Array, " D"]) -> Float[Array, "*K D"]:
    """Each number less each of some steps."""
    apart = a[..., None]
    return apart - led(steps, apart)


def log1p_squares(a: Array, divisor: Array, axis: int = -1) -> Array:
    """``log(1 + sum(a^2) / divisor)`` over an axis, also where the squares overflow."""
    squares = jnp.sum(a**2, axis=axis)
    divisor = led(divisor, squares)
    near = squares * jnp.finfo(a.dtype).eps < divisor
    scale = lax.stop_gradient(jnp.max(jnp.abs(a), axis=axis))
    scale = jnp.where(near, 1, scale)
    # no NaN in the gradient of what is not taken
    unit = jnp.where(jnp.expand_dims(near, axis), 1, a / jnp.expand_dims(scale, axis))
    far = 2 * jnp.log(scale) + jnp.log(jnp.sum(unit**2, axis=axis)) - jnp.log(divisor)
    return jnp.where(near, jnp.log1p(jnp.where(near, squares, 0) / divisor), far)


def multivariate_digamma(a: Float[Array, "*K"], dimension: int) -> Float[Array, "*K"]:
    """Derivative of `multivariate_gammaln`: ``sum_i digamma(a + (1 - i) / 2)``."""
    steps = jnp.arange(dimension, dtype=a.dtype) / 2
    return jnp.sum(digamma(less_each(a, steps)), axis=-1)
