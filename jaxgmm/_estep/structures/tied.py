"""One covariance matrix for all components: the scatter and the factor are (D, D)."""

import jax.numpy as jnp
from jax import Array

from jaxgmm._estep.structures.base import MatrixCovariance
from jaxgmm._numerics import linalg
from jaxgmm._numerics.arrays import safe_divide


class Tied(MatrixCovariance):
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
        return linalg.matmul(x * weight[None], x.T)

    def moments(self, raw: Array, total: Array) -> tuple[Array, Array, Array]:
        count = raw[:, -1]
        mean = safe_divide(raw[:, :-1], count[:, None])
        return count, mean, total - self.outer(count, mean)

    def whiten(self, residual: Array, factor: Array) -> Array:
        return linalg.einsum("de,kdb->keb", factor, residual)

    def scatter(self, residual: Array, weight: Array) -> Array:
        each = linalg.einsum("kdb,keb->kde", residual * weight[:, None, :], residual)
        return jnp.sum(each, axis=0)

    def gathered(self, products: Array) -> Array:
        return jnp.sum(products, axis=0)

    def outer(self, weight: Array, delta: Array) -> Array:
        return linalg.einsum("kd,ke->de", weight[:, None] * delta, delta)

    def project(self, delta: Array, factor: Array) -> Array:
        return linalg.matmul(delta, factor)

    def reorder(self, a: Array, order: Array) -> Array:
        return a

    def add_parts(self, a: Array, index: Array, parts: Array) -> Array:
        return a + jnp.sum(parts, axis=0)

    def exceeds(self, covariance: Array, ratio: Array, share: Array) -> Array:
        # no component's covariance is smaller than the others'
        return ratio < 1
