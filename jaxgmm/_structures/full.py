"""A covariance matrix of its own for every component: scatters and factors are (K, D, D)."""

import math

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgmm import _linalg as linalg


def _upper_indices(dimension: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(dimension)


class Full:
    """Features are the products ``x_i x_j`` (i <= j), ``x`` and 1: F = D(D+1)/2 + D + 1."""

    def features(self, x: Array) -> Array:
        dimension = x.shape[0]
        products = [x[i : i + 1] * x[i:] for i in range(dimension)]
        return jnp.concatenate([*products, x, jnp.ones_like(x[:1])])

    def coefficients(self, const: Array, mean: Array, factor: Array) -> Array:
        precision = linalg.einsum("kij,klj->kil", factor, factor)
        rows, columns = _upper_indices(mean.shape[-1])
        quadratic = jnp.where(rows == columns, -0.5, -1.0).astype(mean.dtype)
        projected = self.project(mean, factor)
        linear = linalg.einsum("kij,kj->ki", factor, projected)
        constant = const - 0.5 * jnp.sum(projected**2, axis=-1)
        return jnp.concatenate(
            [quadratic * precision[:, rows, columns], linear, constant[:, None]], axis=-1
        )

    def shared_log_density(self, factor: Array, total: Array) -> Array:
        return jnp.zeros((), factor.dtype)

    def total(self, x: Array, weight: Array) -> Array:
        return jnp.zeros((0,), x.dtype)

    def moments(self, raw: Array, total: Array) -> tuple[Array, Array, Array]:
        # F = (D + 1)(D + 2) / 2
        dimension = (math.isqrt(8 * raw.shape[-1] + 1) - 3) // 2
        count = raw[:, -1]
        mean = linalg.safe_divide(raw[:, -1 - dimension : -1], count[:, None])
        rows, columns = _upper_indices(dimension)
        position = np.zeros((dimension, dimension), np.int32)
        position[rows, columns] = position[columns, rows] = np.arange(len(rows))
        second = raw[:, position]
        return count, mean, second - count[:, None, None] * linalg.outer(mean)

    def whiten(self, residual: Array, factor: Array) -> Array:
        return linalg.einsum("kde,kdb->keb", factor, residual)

    def scatter(self, residual: Array, weight: Array) -> Array:
        return linalg.einsum("kdb,keb->kde", residual * weight[:, None, :], residual)

    def outer(self, weight: Array, delta: Array) -> Array:
        return weight[:, None, None] * linalg.outer(delta)

    def contract(self, scatter: Array, factor: Array) -> Array:
        return jnp.sum(linalg.matmul(scatter, factor) * factor)

    def project(self, delta: Array, factor: Array) -> Array:
        return linalg.einsum("kd,kde->ke", delta, factor)

    def covariances(self, factor: Array, dimension: int) -> Array:
        return linalg.inverse_of_factored(factor)
