"""Special functions of the conjugate families."""

import math

import jax
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


# From here on the asymptotic series below are as exact as float64.
_LARGE = 16.0


def _split(a: Array) -> tuple[Array, Array, Array]:
    """Whether each number is large, the numbers if they are, and the numbers if they are not."""
    large = a >= _LARGE
    return large, jnp.where(large, a, _LARGE), jnp.where(large, _LARGE, a)


def stirling(a: Float[Array, "*K"]) -> Float[Array, "*K"]:
    """``a log a - a - gammaln(a)``, exact where the terms cancel (Abramowitz & Stegun, 6.1.41)."""
    large, b, c = _split(a)
    y = b**-2
    series = 1 / 12 - y * (1 / 360 - y * (1 / 1260 - y * (1 / 1680 - y / 1188)))
    return jnp.where(
        large, 0.5 * (jnp.log(b) - LOG_2PI) - series / b, c * jnp.log(c) - c - gammaln(c)
    )


def log_less_digamma(a: Float[Array, "*K"]) -> Float[Array, "*K"]:
    """``log a - digamma(a)``, the derivative of `stirling` (Abramowitz & Stegun, 6.3.18)."""
    large, b, c = _split(a)
    y = b**-2
    series = 1 / 12 - y * (1 / 120 - y * (1 / 252 - y * (1 / 240 - y / 132)))
    return jnp.where(large, 0.5 / b + y * series, jnp.log(c) - digamma(c))


# Steps of `gamma_shape`: each leaves less than a sixth of the error.
_SHAPE_STEPS = 20


@jax.custom_jvp
def gamma_shape(s: Float[Array, "*K"]) -> Float[Array, "*K"]:
    """The positive number a with ``log a - digamma(a) = s``, for positive s.

    It is the shape of the gamma distribution of maximum likelihood, where s is the logarithm of the
    mean less the mean of the logarithms (Choi & Wette 1969).
    """
    start = (3 - s + jnp.sqrt((s - 3) ** 2 + 24 * s)) / (12 * s)

    def step(_: Array, a: Array) -> Array:
        return a * log_less_digamma(a) / s

    return lax.fori_loop(0, _SHAPE_STEPS, step, start)


@gamma_shape.defjvp
def _gamma_shape_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    a = gamma_shape(*primals)
    _, slope = jax.jvp(log_less_digamma, (a,), (jnp.ones_like(a),))
    return a, tangents[0] / slope


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
