"""One covariance matrix for all components: the scatter and the factor are (D, D)."""

import jax.numpy as jnp
from jax import Array

from jaxgmm._numerics import linalg


class Tied:
    """Features are ``x`` and 1: the quadratic term is common to all the components.

    It therefore cancels from the responsibilities and enters the log-evidence once, through the
    total scatter of the data.
    """

    def features(self, x: Array) -> Array:
        return jnp.concatenate([x, jnp.ones_like(x[:1])])

    def coefficients(self, const: Array, mean: Array, factor: Array) -> Array:
        projected = self.project(mean, factor)
        constant = const - 0.5 * jnp.sum(projected**2, axis=-1)
        return jnp.concatenate([linalg.matmul(projected, factor.T), constant[:, None]], axis=-1)

    def shared_log_density(self, factor: Array, total: Array) -> Array:
        return -0.5 * self.contract(total, factor)

    def total(self, x: Array, weight: Array) -> Array:
        return linalg.matmul(x * weight, x.T)

    def moments(self, raw: Array, total: Array) -> tuple[Array, Array, Array]:
        count = raw[:, -1]
        mean = linalg.safe_divide(raw[:, :-1], count[:, None])
        return count, mean, total - self.outer(count, mean)

    def whiten(self, residual: Array, factor: Array) -> Array:
        return linalg.einsum("de,kdb->keb", factor, residual)

    def scatter(self, residual: Array, weight: Array) -> Array:
        return linalg.einsum("kdb,keb->de", residual * weight[:, None, :], residual)

    def outer(self, weight: Array, delta: Array) -> Array:
        return linalg.einsum("kd,ke->de", weight[:, None] * delta, delta)

    def contract(self, scatter: Array, factor: Array) -> Array:
        return jnp.sum(linalg.matmul(scatter, factor) * factor)

    def project(self, delta: Array, factor: Array) -> Array:
        return linalg.matmul(delta, factor)

    def covariances(self, factor: Array, dimension: int) -> Array:
        return linalg.inverse_of_factored(factor)
