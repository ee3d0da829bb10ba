"""One variance for every component: scatters and factors are (K,)."""

import jax.numpy as jnp
from jax import Array

from jaxgmm._numerics import linalg


class Spherical:
    """Features are ``||x||^2``, ``x`` and 1: F = D + 2."""

    def features(self, x: Array) -> Array:
        return jnp.concatenate([jnp.sum(x * x, axis=0, keepdims=True), x, jnp.ones_like(x[:1])])

    def coefficients(self, const: Array, mean: Array, factor: Array) -> Array:
        precision = (factor**2)[:, None]
        constant = const - 0.5 * jnp.sum(mean**2, axis=-1) * factor**2
        return jnp.concatenate([-0.5 * precision, precision * mean, constant[:, None]], axis=-1)

    def shared_log_density(self, factor: Array, total: Array) -> Array:
        return jnp.zeros((), factor.dtype)

    def total(self, x: Array, weight: Array) -> Array:
        return jnp.zeros((0,), x.dtype)

    def moments(self, raw: Array, total: Array) -> tuple[Array, Array, Array]:
        count = raw[:, -1]
        mean = linalg.safe_divide(raw[:, 1:-1], count[:, None])
        return count, mean, raw[:, 0] - count * jnp.sum(mean**2, axis=-1)

    def whiten(self, residual: Array, factor: Array) -> Array:
        return residual * factor[:, None, None]

    def scatter(self, residual: Array, weight: Array) -> Array:
        return jnp.sum(residual**2 * weight[:, None, :], axis=(1, 2))

    def outer(self, weight: Array, delta: Array) -> Array:
        return weight * jnp.sum(delta**2, axis=-1)

    def contract(self, scatter: Array, factor: Array) -> Array:
        return jnp.sum(scatter * factor**2)

    def project(self, delta: Array, factor: Array) -> Array:
        return delta * factor[:, None]

    def covariances(self, factor: Array, dimension: int) -> Array:
        return factor[:, None, None] ** -2 * jnp.eye(dimension, dtype=factor.dtype)
