"""Student-t densities: the posterior predictives of the conjugate families."""

import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import gammaln
from jaxtyping import Float, Int

from jaxgmm._estep.potentials import Potentials, logits
from jaxgmm._numerics import linalg


def log_density(
    x: Float[Array, "N D"],
    mean: Float[Array, "K D"],
    scale: Float[Array, "K D D"],
    degrees: Float[Array, " K"],
) -> Float[Array, "N K"]:
    """log of each multivariate Student-t density (Bishop 2006, eq. B.68)."""
    d = x.shape[1]
    factor = linalg.inverse_factor(linalg.cholesky(scale))
    distance = -2 * logits(x, Potentials(jnp.zeros_like(degrees), mean, factor, "full"))
    constant = gammaln((degrees + d) / 2) - gammaln(degrees / 2) + linalg.log_det(factor)
    constant = constant - 0.5 * d * jnp.log(degrees * math.pi)
    return constant - 0.5 * (degrees + d) * jnp.log1p(distance / degrees)


def draw(
    key: Array,
    component: Int[Array, " n"],
    mean: Float[Array, "K D"],
    scale: Float[Array, "K D D"],
    degrees: Float[Array, " K"],
) -> Float[Array, "n D"]:
    """One draw from the density of each given component."""
    normal_key, gamma_key = jax.random.split(key)
    noise = jax.random.normal(normal_key, (component.shape[0], mean.shape[1]), mean.dtype)
    half = degrees[component] / 2
    mixing = jax.random.gamma(gamma_key, half, dtype=mean.dtype) / half
    lower = linalg.cholesky(scale)[component]
    return mean[component] + linalg.einsum("nij,nj->ni", lower, noise / jnp.sqrt(mixing)[:, None])


def log_density_by_feature(
    x: Float[Array, "N D"],
    mean: Float[Array, "K D"],
    variance: Float[Array, "K D"],
    degrees: Float[Array, "K D"],
) -> Float[Array, "N K"]:
    """log of each product of univariate Student-t densities."""
    half = (degrees + 1) / 2
    constant = gammaln(half) - gammaln(degrees / 2) - 0.5 * jnp.log(degrees * math.pi * variance)
    distance = (x[:, None, :] - mean) ** 2 / (degrees * variance)
    return jnp.sum(constant - half * jnp.log1p(distance), axis=-1)


def draw_by_feature(
    key: Array,
    component: Int[Array, " n"],
    mean: Float[Array, "K D"],
    variance: Float[Array, "K D"],
    degrees: Float[Array, "K D"],
) -> Float[Array, "n D"]:
    """One draw from the product of univariate densities of each given component."""
    noise = jax.random.t(key, degrees[component], dtype=mean.dtype)
    return mean[component] + jnp.sqrt(variance[component]) * noise
