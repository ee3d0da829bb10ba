"""What data are like, and the coordinates in which they are round.

The host measures in 64 bits. Devices measure in the dtype of the fit, and what was measured before
it was nearly white is measured again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgmm._estep.moments import CONSTANT
from jaxgmm._estep.rows import Rows
from jaxgmm._estep.structures import structure
from jaxgmm._lane.degenerate import HELD
from jaxgmm._numerics import linalg
from jaxgmm._numerics.affine import Affine
from jaxgmm._numerics.checks import check_variances
from jaxgmm._numerics.devices import for_everyone
from jaxgmm._numerics.programs import program

# Rows that are of 64 bits at a time while the host measures them.
_CHUNK = 1 << 16


class Moments(NamedTuple):
    """Of rows in some coordinates: mean, largest minus smallest value, and covariance."""

    mean: np.ndarray
    extent: np.ndarray
    covariance: np.ndarray


# The moments of the data after ``(x - before (D,)) @ matrix``; a matrix (D,) is a diagonal.
Measure = Callable[[np.ndarray, np.ndarray], Moments]


class Limits(NamedTuple):
    """What the arithmetic can do.

    Attributes:
        dtype: of the fit.
        source: eps of the data as they came.
        on_host: whether they are measured in 64 bits, on the host.
        bounded: whether a prior bounds all covariances, so that none need vanish.
    """

    dtype: Any
    source: float
    on_host: bool
    bounded: bool

    @property
    def eps(self) -> float:
        return float(jnp.finfo(self.dtype).eps)

    @property
    def rounds(self) -> int:
        return 1 if self.on_host else 2

    def round(self, a: Any) -> np.ndarray:
        """Numbers as the rows are moved by: on devices in the dtype of the fit."""
        return np.asarray(a if self.on_host else np.asarray(a, self.dtype), np.float64)


def coordinates_of(
    measure: Measure, n_features: int, kind: str, alike: bool, apart: bool, limits: Limits
) -> Affine:
    """The map of data that ``measure`` measures.

    Args:
        measure: the moments of the data in given coordinates.
        n_features: D.
        kind: name of the covariance structure.
        alike: whether all features are scaled alike, whatever the structure.
        apart: whether each feature stays a coordinate, because some values are missing.
        limits: precisions of the data and of the fit.
    """
    zero, one = np.zeros(n_features), np.ones(n_features)
    first = measure(zero, one)
    before = limits.round(first.mean)
    constant = first.extent <= CONSTANT * limits.source * np.abs(before)
    unit = np.where(constant, 1, first.extent)
    second = measure(before, limits.round(1 / unit))
    variances = np.where(constant, 0, np.diag(second.covariance)) * unit**2
    check_variances(variances, constant, limits.dtype)
    mean, largest = np.mean(variances), np.max(variances)
    sd = np.sqrt(np.where(constant, largest if largest > 0 else 1, variances))
    if structure(kind).separate == "spherical" or alike:
        sd = np.full(n_features, np.sqrt(mean if mean > 0 else 1))
    matrix = 1 / sd
    if kind == "spherical":
        matrix = matrix[0]
    elif structure(kind).separate == "full":
        matrix = np.diag(matrix)
        # what was measured in 32 bits is measured again where it is nearly white
        for _ in range(0 if alike or apart or n_features == 1 else limits.rounds):
            matrix = limits.round(matrix @ _whitening(measure(before, matrix), constant, limits))
    return Affine(before, limits.round(matrix), np.zeros(n_features))


def _whitening(moments: Moments, constant: np.ndarray, limits: Limits) -> np.ndarray:
    """The matrix after which directions that vary have variance 1.

    It is the symmetric one. But where some direction does not vary, and a prior says how wide a
    covariance is there, each axis becomes a coordinate of its own: mixed with those that vary it
    would be lost to rounding.
    """
    free = np.where(constant, 0, 1)
    covariance = moments.covariance * free * free[:, None] + np.diag(1.0 - free)
    values, axes = np.linalg.eigh(covariance)
    # a direction that does not vary as far as the dtype can tell keeps its scale
    vary = values > HELD * limits.eps
    matrix = axes / np.sqrt(np.where(vary, values, 1))
    return matrix if limits.bounded and not vary.all() else matrix @ axes.T


def measured_on_host(x: np.ndarray, weight: Array | None) -> Measure:
    weights = np.ones(len(x)) if weight is None else np.asarray(weight, np.float64)
    weights = weights / np.sum(weights)

    def measure(before: np.ndarray, matrix: np.ndarray) -> Moments:
        d = x.shape[1]
        mean, second = np.zeros(d), np.zeros((d, d))
        low, high = np.full(d, np.inf), np.full(d, -np.inf)
        for i in range(0, len(x), _CHUNK):
            w = weights[i : i + _CHUNK]
            y, w = _in_chunk(x[i : i + _CHUNK][w > 0], before, matrix), w[w > 0]
            mean += w @ y
            second += (w[:, None] * y).T @ y
            low = np.minimum(low, np.min(y, axis=0, initial=np.inf))
            high = np.maximum(high, np.max(y, axis=0, initial=-np.inf))
        return Moments(mean, high - low, second - np.outer(mean, mean))

    return measure


def _in_chunk(x: np.ndarray, before: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    y = x.astype(np.float64) - before
    return y @ matrix if matrix.ndim == 2 else y * matrix


def moved_on_host(x: np.ndarray, to: Affine, dtype: Any) -> np.ndarray:
    out = np.empty(x.shape, dtype)
    for i in range(0, len(x), _CHUNK):
        out[i : i + _CHUNK] = _in_chunk(x[i : i + _CHUNK], to.before, to.matrix)
    return out


def measured_on_devices(rows: Rows) -> Measure:
    def measure(before: np.ndarray, matrix: np.ndarray) -> Moments:
        found = for_everyone(_moments, rows.x, rows.weight, *narrow(rows, before, matrix))
        return Moments(*(np.asarray(a, np.float64) for a in found))

    return measure


def narrow(rows: Rows, *arrays: Any) -> list[np.ndarray]:
    return [np.asarray(a, rows.x.dtype) for a in arrays]


def _moments(x: Array, weight: Array | None, before: Array, matrix: Array) -> tuple[Array, ...]:
    y = moved_on_devices(x, before, matrix)
    w = jnp.ones((x.shape[0],), x.dtype) if weight is None else weight
    w = w / jnp.sum(w)
    used = (w > 0)[:, None]
    mean = jnp.sum(w[:, None] * y, axis=0)
    high = jnp.max(jnp.where(used, y, -jnp.inf), axis=0)
    low = jnp.min(jnp.where(used, y, jnp.inf), axis=0)
    centred = jnp.where(used, y - mean[None], 0)
    return mean, high - low, linalg.matmul((w[:, None] * centred).T, centred)


@program()
def moved_on_devices(x: Array, before: Array, matrix: Array) -> Array:
    y = x - before[None]
    if matrix.ndim == 2:
        return linalg.matmul(y, matrix)
    return y * jnp.broadcast_to(matrix, y.shape[1:])[None]
