"""A diagonal covariance for every component: scatters and factors are (K, D)."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgmm._estep.structures.base import SAFE, VarianceCovariance, products_with_one
from jaxgmm._numerics import linalg
from jaxgmm._numerics.arrays import safe_divide


class Diag(VarianceCovariance):
    """Features are ``x^2``, ``x`` and 1: F = 2 D + 1."""

    separate = "diag"

    def features(self, x: Array) -> Array:
        each, one = np.arange(x.shape[0]), np.full(x.shape[0] + 1, x.shape[0])
        first = np.concatenate([each, each, one[:1]])
        return products_with_one(x, first, np.concatenate([each, one]))

    def coefficients(self, const: Array, mean: Array, factor: Array) -> Array:
        precision = factor**2
        constant = const - 0.5 * jnp.sum((mean * factor) ** 2, axis=-1)
        return jnp.concatenate([-0.5 * precision, precision * mean, constant[:, None]], axis=-1)

    def moments(self, raw: Array, total: Array) -> tuple[Array, Array, Array]:
        dimension = raw.shape[-1] // 2
        count = raw[:, -1]
        mean = safe_divide(raw[:, dimension:-1], count[:, None])
        return count, mean, raw[:, :dimension] - count[:, None] * mean**2

    def whiten(self, residual: Array, factor: Array) -> Array:
        return residual * factor[:, :, None]

    def scatter(self, residual: Array, weight: Array) -> Array:
        return linalg.einsum("kdb,kb->kd", residual**2, weight)

    def gathered(self, products: Array) -> Array:
        return linalg.diagonal(products) if products.ndim == 3 else products

    def outer(self, weight: Array, delta: Array) -> Array:
        return weight[:, None] * delta**2

    def project(self, delta: Array, factor: Array) -> Array:
        return delta * factor

    def reduce(self, matrix: Array) -> Array:
        return linalg.diagonal(matrix) if matrix.ndim == 2 else matrix

    def of_matrices(self, matrices: Array) -> Array:
        return linalg.diagonal(matrices)

    def matrices(self, covariance: Array, n_components: int, dimension: int) -> Array:
        return linalg.diagonal_matrix(covariance)

    def variances(self, covariance: Array, n_components: int, dimension: int) -> Array:
        return covariance

    def half_log_det(self, covariance: Array, dimension: int) -> Array:
        return 0.5 * jnp.sum(jnp.log(covariance), axis=-1)

    def resolved(self, covariance: Array, margin: int = SAFE) -> Array:
        return jnp.all((covariance > 0) & jnp.isfinite(covariance), axis=-1)

    def exceeds(self, covariance: Array, ratio: Array, share: Array) -> Array:
        pooled = jnp.sum(share[:, None] * covariance, axis=0)
        return jnp.all(covariance > ratio[:, None] * pooled[None], axis=-1)

    def colour(self, root: Array, noise: Array) -> Array:
        return root * noise

    def square(self, delta: Array) -> Array:
        return delta**2

    def axis(self, covariance: Array, rank: Array, dimension: int) -> Array:
        which = jnp.argsort(covariance)[jnp.maximum(dimension - 1 - rank, 0)]
        return jnp.zeros_like(covariance).at[which].set(jnp.sqrt(covariance[which]))
