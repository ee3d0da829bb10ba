"""The gamma factor of the families with a precision for each feature or component."""

import math

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


# Of a trapezoidal rule over a gamma variate: its integrand is analytic in the variate's logarithm
# and decays at both ends, so that the error falls exponentially.
NODES = 256


def node_range(
    shape: Float[Array, "..."], log_tilt: Float[Array, "..."], more: float = 0.0
) -> tuple[Array, Array]:
    """Where the nodes begin and end in ``v = log(tau / E tau)``, by Chernoff's bounds of the tails.

    A density or a tail far out is that of a gamma whose rate is larger by the factor
    ``exp(log_tilt)`` and whose shape is larger by ``more``. Differentiate no argument: the range
    has no derivative of its own.
    """
    reach = -math.log(jnp.finfo(shape.dtype).eps) / shape
    root = jnp.sqrt(2 * reach)
    low = -log_tilt - reach - jnp.minimum(root, 1)
    return low, jnp.log1p(reach + root + more / shape)
