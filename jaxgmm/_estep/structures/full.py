"""A covariance matrix of its own for every component: scatters and factors are (K, D, D)."""

import functools
import math

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgmm._estep.structures.base import MatrixCovariance, OwnCovariance, products_with_one
from jaxgmm._numerics import linalg
from jaxgmm._numerics.arrays import safe_divide


@functools.cache
def products(dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Which two of ``x_1 .. x_D, 1`` each feature multiplies: the F first and the F second ones.

    Of 32 bits, whatever JAX's default is: JAX remembers how it converted an array that lives on,
    and a float64 program must not find the conversion of a float32 one.
    """
    first, second = np.triu_indices(dimension + 1)
    pairs_first = np.argsort(second == dimension, kind="stable")
    return first[pairs_first].astype(np.int32), second[pairs_first].astype(np.int32)


@functools.cache
def positions(dimension: int) -> np.ndarray:
    """Which feature is ``x_i x_j``, ``(D, D)``."""
    first, second = products(dimension)
    position = np.zeros((dimension + 1, dimension + 1), np.int32)
    position[first, second] = position[second, first] = np.arange(len(first))
    return position[:dimension, :dimension]


class Full(MatrixCovariance, OwnCovariance):
    """Features are the products ``x_i x_j``, ``x`` and 1: F = (D + 1)(D + 2) / 2."""

    def features(self, x: Array) -> Array:
        return products_with_one(x, *products(x.shape[0]))

    def coefficients(self, const: Array, mean: Array, factor: Array) -> Array:
        precision = linalg.einsum("kij,klj->kil", factor, factor)
        first, second = np.triu_indices(mean.shape[-1])
        quadratic = jnp.asarray(np.where(first == second, -0.5, -1.0), mean.dtype)
        projected = self.project(mean, factor)
        linear = linalg.einsum("kij,kj->ki", factor, projected)
        constant = const - 0.5 * jnp.sum(projected**2, axis=-1)
        return jnp.concatenate(
            [quadratic[None] * precision[:, first, second], linear, constant[:, None]], axis=-1
        )

    def moments(self, raw: Array, total: Array) -> tuple[Array, Array, Array]:
        dimension = _dimension(raw.shape[-1])
        count = raw[:, -1]
        mean = safe_divide(raw[:, -1 - dimension : -1], count[:, None])
        second = raw[:, positions(dimension)]
        return count, mean, second - count[:, None, None] * linalg.outer(mean)

    def whiten(self, residual: Array, factor: Array) -> Array:
        return linalg.einsum("kde,kdb->keb", factor, residual)

    def scatter(self, residual: Array, weight: Array) -> Array:
        return linalg.einsum("kdb,keb->kde", residual * weight[:, None, :], residual)

    def gathered(self, products: Array) -> Array:
        return products

    def outer(self, weight: Array, delta: Array) -> Array:
        return weight[:, None, None] * linalg.outer(delta)

    def project(self, delta: Array, factor: Array) -> Array:
        return linalg.einsum("kd,kde->ke", delta, factor)

    def exceeds(self, covariance: Array, ratio: Array, share: Array) -> Array:
        pooled = linalg.einsum("k,kij->ij", share, covariance)
        # cheaper than eigenvalues: lambda_min(a) > c exactly where a - c I has a Cholesky factor
        return linalg.is_definite(covariance - ratio[:, None, None] * pooled[None])


def _dimension(width: int) -> int:
    """D, from the number of features."""
    return (math.isqrt(8 * width + 1) - 3) // 2
