"""One variance for every component: scatters and factors are (K,)."""

import jax.numpy as jnp
from jax import Array

from jaxgmm._estep.structures.base import SAFE, VarianceCovariance
from jaxgmm._numerics import linalg
from jaxgmm._numerics.arrays import safe_divide


class Spherical(VarianceCovariance):
    """Features are ``||x||^2``, ``x`` and 1: F = D + 2."""

    separate = "spherical"

    def features(self, x: Array) -> Array:
        return jnp.concatenate([jnp.sum(x * x, axis=0, keepdims=True), x, jnp.ones_like(x[:1])])

    def coefficients(self, const: Array, mean: Array, factor: Array) -> Array:
        precision = (factor**2)[:, None]
        constant = const - 0.5 * jnp.sum(mean**2, axis=-1) * factor**2
        return jnp.concatenate([-0.5 * precision, precision * mean, constant[:, None]], axis=-1)

    def moments(self, raw: Array, total: Array) -> tuple[Array, Array, Array]:
        count = raw[:, -1]
        mean = safe_divide(raw[:, 1:-1], count[:, None])
        return count, mean, raw[:, 0] - count * jnp.sum(mean**2, axis=-1)

    def whiten(self, residual: Array, factor: Array) -> Array:
        return residual * factor[:, None, None]

    def scatter(self, residual: Array, weight: Array) -> Array:
        return jnp.sum(residual**2 * weight[:, None, :], axis=(1, 2))

    def gathered(self, products: Array) -> Array:
        squares = linalg.diagonal(products) if products.ndim == 3 else products
        return jnp.sum(squares, axis=-1)

    def outer(self, weight: Array, delta: Array) -> Array:
        return weight * jnp.sum(delta**2, axis=-1)

    def project(self, delta: Array, factor: Array) -> Array:
        return delta * factor[:, None]

    def reduce(self, matrix: Array) -> Array:
        return jnp.mean(linalg.diagonal(matrix) if matrix.ndim == 2 else matrix)

    def of_matrices(self, matrices: Array) -> Array:
        return jnp.mean(linalg.diagonal(matrices), axis=-1)

    def matrices(self, covariance: Array, n_components: int, dimension: int) -> Array:
        return covariance[:, None, None] * jnp.eye(dimension, dtype=covariance.dtype)[None]

    def variances(self, covariance: Array, n_components: int, dimension: int) -> Array:
        return jnp.broadcast_to(covariance[:, None], (n_components, dimension))

    def half_log_det(self, covariance: Array, dimension: int) -> Array:
        return 0.5 * dimension * jnp.log(covariance)

    def log_volume(self, log_det: Array, dimension: int) -> Array:
        return 2 * log_det / dimension

    def resolved(self, covariance: Array, margin: int = SAFE) -> Array:
        return (covariance > 0) & jnp.isfinite(covariance)

    def exceeds(self, covariance: Array, ratio: Array, share: Array) -> Array:
        return covariance > ratio * jnp.sum(share * covariance)

    def colour(self, root: Array, noise: Array) -> Array:
        return root[..., None] * noise

    def square(self, delta: Array) -> Array:
        return jnp.mean(delta**2, axis=-1)

    def axis(self, covariance: Array, rank: Array, dimension: int) -> Array:
        # all axes are alike
        which = jnp.maximum(dimension - 1 - rank, 0)
        return jnp.zeros((dimension,), covariance.dtype).at[which].set(jnp.sqrt(covariance))
