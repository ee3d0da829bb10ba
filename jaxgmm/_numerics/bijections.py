"""The maps to and from unconstrained space, by NumPyro's registry of bijections."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgmm._numerics import linalg


class CovarianceMap:
    """Bijection onto positive definite ``L L^T``, L = scales times a unit Cholesky factor.

    Off-diagonal coordinates are then free of the data's units, and diagonal ones logarithmic.
    (NumPyro's own builds its triangle in the default dtype, which a float32 program under 64-bit
    types is not.)
    """

    def __call__(self, coordinates: Array) -> Array:
        size = coordinates.shape[-1]
        d = (int(np.sqrt(8 * size + 1)) - 1) // 2
        rows, columns = np.tril_indices(d, -1)
        unit = jnp.broadcast_to(
            jnp.eye(d, dtype=coordinates.dtype), (*coordinates.shape[:-1], d, d)
        )
        unit = unit.at[..., rows, columns].set(coordinates[..., d:])
        lower = jnp.exp(coordinates[..., :d])[..., None] * unit
        return linalg.matmul(lower, jnp.swapaxes(lower, -1, -2))

    def inv(self, matrix: Array) -> Array:
        lower = linalg.cholesky(matrix)
        scales = linalg.diagonal(lower)
        rows, columns = np.tril_indices(matrix.shape[-1], -1)
        unit = lower / scales[..., None]
        return jnp.concatenate([jnp.log(scales), unit[..., rows, columns]], axis=-1)


class VarianceMap:
    """Bijection onto positive variances; the coordinate is the logarithm of the deviation."""

    def __call__(self, coordinates: Array) -> Array:
        return jnp.exp(2 * coordinates)

    def inv(self, variance: Array) -> Array:
        return 0.5 * jnp.log(variance)


class OfSome:
    """A bijection of some elements; of the others the coordinate is 0 and the value given."""

    def __init__(self, transform: Any, chosen: Array, otherwise: float):
        self.transform, self.chosen, self.otherwise = transform, chosen, otherwise

    def __call__(self, coordinates: Array) -> Array:
        value = self.transform(jnp.where(self.chosen, coordinates, 0))
        return jnp.where(self.chosen, value, self.otherwise)

    def inv(self, value: Array) -> Array:
        coordinates = self.transform.inv(jnp.where(self.chosen, value, 1))
        return jnp.where(self.chosen, coordinates, 0)


class SharesMap:
    """Bijection onto weights of which some are known: log ratios of the others to their first.

    Known weights, and the first one that is not, have coordinates on which nothing depends.
    """

    def __init__(self, known: Array):
        self.known = known
        free = known == 0
        self.used = free & (jnp.arange(known.shape[-1]) != jnp.argmax(free))

    def __call__(self, coordinates: Array) -> Array:
        logits = jnp.where(self.known == 0, jnp.where(self.used, coordinates, 0), -jnp.inf)
        shares = jax.nn.softmax(logits, axis=-1)
        rest = 1 - jnp.sum(self.known, axis=-1, keepdims=True)
        return jnp.where(self.known == 0, rest * shares, self.known)

    def inv(self, weights: Array) -> Array:
        first = weights[jnp.argmax(self.known == 0)]
        ratio = jnp.where(self.used, weights, 1) / jnp.where(self.used, first, 1)
        return jnp.log(ratio)


def forward(transform: Any, coordinates: Array) -> Array:
    """The value at given coordinates, in their dtype: NumPyro mixes in default-typed constants."""
    with jax.numpy_dtype_promotion("standard"):
        return transform(coordinates).astype(coordinates.dtype)


def inverse(transform: Any, value: Array) -> Array:
    """The coordinates of a value, in its dtype."""
    with jax.numpy_dtype_promotion("standard"):
        return transform.inv(value).astype(value.dtype)


def interior(weights: Array) -> Array:
    """Weights moved off the simplex's faces, where the map has no finite coordinates."""
    floor = jnp.sqrt(jnp.finfo(weights.dtype).eps)
    weights = jnp.maximum(weights, floor)
    return weights / jnp.sum(weights)
