"""Special functions of the conjugate families."""

import math

import jax.numpy as jnp
import numpy as np
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


def masked_product(weight: Array, value: Array) -> Array:
    """``weight * value``, and 0 wherever the weight is 0 (so 0 times -inf is 0).

    The value is masked before the product, so that the gradient has no NaN either.
    """
    used = weight != 0
    return jnp.where(used, weight * jnp.where(used, value, 0), 0)


def longer(a: Array, number: int, value: float = 0) -> Array:
    """So many more entries of one value; in NumPy, which compiles nothing for another shape."""
    return jnp.asarray(np.pad(np.asarray(a), (0, number), constant_values=value))


def first(a: Array, number: int) -> Array:
    """The first so many rows; in NumPy, as `longer`."""
    return jnp.asarray(np.asarray(a)[:number])


def sum_where(present: Array | None, values: Array) -> Array:
    """Sum over the components that are present; over all of them if that is None."""
    return jnp.sum(values if present is None else jnp.where(present, values, 0))
