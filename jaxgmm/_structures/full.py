"""A covariance matrix of its own for every component: scatters and factors are (K, D, D)."""

import functools
import itertools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxgmm import _linalg as linalg

# From this many features on, a CPU makes the products offset by offset: measured in
# benchmarks/notes.md.
_BY_OFFSETS = 32


class Products(NamedTuple):
    """Which feature is which product ``x_i x_j``, in the order in which they are made.

    Attributes:
        first: i of each.
        second: j of each.
        times: how many features are the same product.
        position: a feature that is ``x_i x_j``, ``(D, D)``.
    """

    first: np.ndarray
    second: np.ndarray
    times: np.ndarray
    position: np.ndarray


@functools.cache
def products(dimension: int) -> Products:
    """All products once: row by row, or by the offset ``j - i`` modulo D.

    By offsets every piece is as long as ``x``. Where D is even, the last offset has each of its
    products twice.
    """
    if dimension < _BY_OFFSETS:
        first, second = np.triu_indices(dimension)
    else:
        offset, first = np.divmod(np.arange(dimension * (dimension // 2 + 1)), dimension)
        second = (first + offset) % dimension
    position = np.zeros((dimension, dimension), np.int32)
    position[first, second] = position[second, first] = np.arange(len(first))
    which = np.minimum(first, second) * dimension + np.maximum(first, second)
    return Products(first, second, np.bincount(which)[which], position)


def _by_rows(x: Array) -> Array:
    first, second, *_ = products(x.shape[0])
    return jnp.concatenate([x[first] * x[second], x, jnp.ones_like(x[:1])])


def _by_offsets(x: Array) -> Array:
    dimension, size = x.shape
    twice = jnp.concatenate([x, x])

    def write(offset: Array, out: Array) -> Array:
        shifted = lax.dynamic_slice_in_dim(twice, offset, dimension)
        return lax.dynamic_update_slice_in_dim(out, x * shifted, offset * dimension, 0)

    number = dimension // 2 + 1
    out = jnp.ones((number * dimension + dimension + 1, size), x.dtype)
    out = lax.dynamic_update_slice_in_dim(out, x, number * dimension, 0)
    return lax.fori_loop(0, number, write, out)


class Full:
    """Features are the products ``x_i x_j``, ``x`` and 1: F is about (D + 1)(D + 2) / 2."""

    def features(self, x: Array) -> Array:
        if x.shape[0] < _BY_OFFSETS:
            return _by_rows(x)
        return lax.platform_dependent(x, cpu=_by_offsets, default=_by_rows)

    def coefficients(self, const: Array, mean: Array, factor: Array) -> Array:
        precision = linalg.einsum("kij,klj->kil", factor, factor)
        first, second, times, _ = products(mean.shape[-1])
        quadratic = jnp.asarray(np.where(first == second, -0.5, -1.0) / times, mean.dtype)
        projected = self.project(mean, factor)
        linear = linalg.einsum("kij,kj->ki", factor, projected)
        constant = const - 0.5 * jnp.sum(projected**2, axis=-1)
        return jnp.concatenate(
            [quadratic * precision[:, first, second], linear, constant[:, None]], axis=-1
        )

    def shared_log_density(self, factor: Array, total: Array) -> Array:
        return jnp.zeros((), factor.dtype)

    def total(self, x: Array, weight: Array) -> Array:
        return jnp.zeros((0,), x.dtype)

    def moments(self, raw: Array, total: Array) -> tuple[Array, Array, Array]:
        dimension = _dimension(raw.shape[-1])
        count = raw[:, -1]
        mean = linalg.safe_divide(raw[:, -1 - dimension : -1], count[:, None])
        second = raw[:, products(dimension).position]
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


@functools.cache
def _dimension(width: int) -> int:
    """D, from the number of features."""
    return next(d for d in itertools.count(1) if len(products(d).first) + d + 1 >= width)
