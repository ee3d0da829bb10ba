"""The Wishart factor of the families that learn precision matrices.

``Lambda ~ Wishart(degrees, scale^-1)``, so that ``E[Lambda] = degrees scale^-1``; every argument
may lead with K.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxgmm._numerics import linalg
from jaxgmm._numerics.special import LOG_2, multivariate_digamma, multivariate_gammaln


def expected_factor(
    degrees: Float[Array, "*K"], scale: Float[Array, "*K D D"]
) -> Float[Array, "*K D D"]:
    """A factor F of the expected precision, ``F F^T = E[Lambda]``."""
    root = jnp.sqrt(degrees)[..., None, None]
    return root * linalg.inverse_factor(linalg.cholesky(scale))


def jensen_gap(degrees: Float[Array, "*K"], dimension: int) -> Float[Array, "*K"]:
    """``E log|Lambda| - log|E Lambda|`` (Bishop 2006, eq. 10.65), which is negative."""
    log_det = multivariate_digamma(degrees / 2, dimension) + dimension * LOG_2
    return log_det - dimension * jnp.log(degrees)


def kl(
    degrees: Float[Array, "*K"],
    scale: Float[Array, "*K D D"],
    degrees0: Float[Array, "*K"],
    scale0: Float[Array, "*K D D"],
) -> Float[Array, "*K"]:
    """``KL(Wishart(degrees, scale^-1) || Wishart(degrees0, scale0^-1))``."""
    d = scale.shape[-1]
    lower, lower0 = linalg.cholesky(scale), linalg.cholesky(scale0)
    factor = linalg.inverse_factor(lower)
    trace = jnp.sum(linalg.matmul(scale0, factor) * factor, axis=(-2, -1))
    return (
        0.5 * (degrees - degrees0) * multivariate_digamma(degrees / 2, d)
        - multivariate_gammaln(degrees / 2, d)
        + multivariate_gammaln(degrees0 / 2, d)
        + degrees0 * (linalg.log_det(lower) - linalg.log_det(lower0))
        + 0.5 * degrees * (trace - d)
    )


def log_normaliser(
    degrees: Float[Array, "*K"], scale: Float[Array, "*K D D"]
) -> Float[Array, "*K"]:
    """log of the constant of the Wishart's density (Bishop 2006, eq. B.79)."""
    d = scale.shape[-1]
    log_det = 2 * linalg.log_det(linalg.cholesky(scale))
    return 0.5 * degrees * (log_det - d * LOG_2) - multivariate_gammaln(degrees / 2, d)


def bartlett(key: Array, degrees: Float[Array, "*K"], dimension: int) -> Float[Array, "*K D D"]:
    """Lower triangular A with ``A A^T ~ Wishart(degrees, I)``, reparameterised.

    Chi variates on the diagonal, whose gamma variates have implicit gradients (Figurnov et al.
    2018), and standard normals below it.
    """
    normal_key, gamma_key = jax.random.split(key)
    dtype = degrees.dtype
    half = (degrees[..., None] - jnp.arange(dimension, dtype=dtype)) / 2
    chi = jnp.sqrt(2 * jax.random.gamma(gamma_key, half, dtype=dtype))
    shape = (*degrees.shape, dimension, dimension)
    below = jnp.tril(jax.random.normal(normal_key, shape, dtype), -1)
    return below + chi[..., None] * jnp.eye(dimension, dtype=dtype)


def mean_step(lower: Array, triangle: Array, noise: Array) -> Array:
    """Draws of ``Normal(0, Lambda^-1)``, ``Lambda = L^-T A A^T L^-1``, from standard normals."""
    return linalg.einsum(
        "...ij,...j->...i", lower, linalg.solve_lower(triangle, noise, transpose=True)
    )
