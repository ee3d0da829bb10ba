"""A diagonal covariance for every component: scatters and factors are (K, D)."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgmm._estep.structures.base import products_with_one
from jaxgmm._numerics import linalg


class Diag:
    """Features are ``x^2``, ``x`` and 1: F = 2 D + 1."""

    def features(self, x: Array) -> Array:
        each, one = np.arange(x.shape[0]), np.full(x.shape[0] + 1, x.shape[0])
        first = np.concatenate([each, each, one[:1]])
        return products_with_one(x, first, np.concatenate([each, one]))

    def coefficients(self, const: Array, mean: Array, factor: Array) -> Array:
        precision = factor**2
        constant = const - 0.5 * jnp.sum((mean * factor) ** 2, axis=-1)
        return jnp.concatenate([-0.5 * precision, precision * mean, constant[:, None]], axis=-1)

    def shared_log_density(self, factor: Array, total: Array) -> Array:
        return jnp.zeros((), factor.dtype)

    def total(self, x: Array, weight: Array) -> Array:
        return jnp.zeros((0,), x.dtype)

    def moments(self, raw: Array, total: Array) -> tuple[Array, Array, Array]:
        dimension = raw.shape[-1] // 2
        count = raw[:, -1]
        mean = linalg.safe_divide(raw[:, dimension:-1], count[:, None])
        return count, mean, raw[:, :dimension] - count[:, None] * mean**2

    def whiten(self, residual: Array, factor: Array) -> Array:
        return residual * factor[:, :, None]

    def scatter(self, residual: Array, weight: Array) -> Array:
        return jnp.sum(residual**2 * weight[:, None, :], axis=-1)

    def outer(self, weight: Array, delta: Array) -> Array:
        return weight[:, None] * delta**2

    def contract(self, scatter: Array, factor: Array) -> Array:
        return jnp.sum(scatter * factor**2)

    def project(self, delta: Array, factor: Array) -> Array:
        return delta * factor

    def covariances(self, factor: Array, dimension: int) -> Array:
        return factor[:, :, None] ** -2 * jnp.eye(dimension, dtype=factor.dtype)
