"""Moments of rows: of all their values, or of what is known of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from jaxgmm._estep.structures import structure
from jaxgmm._numerics import linalg

# A feature whose values lie within so many eps of themselves is constant.
CONSTANT = 8
# Fisher's scoring steps for a feature's variance beside its noise, and the least share of all its
# variance that is no noise.
_STEPS = 5
_LEAST = 1e-2


def feature_noise(noise: Any, shape: tuple[int, ...]) -> Any:
    """The variance of the noise of each value, ``(N, D)``; NumPy's or JAX's, as it comes."""
    if noise.ndim == 1:
        return noise.__array_namespace__().broadcast_to(noise[:, None], shape)
    return noise.diagonal(axis1=1, axis2=2) if noise.ndim == 3 else noise


def expected_values(x: Any, weight: Any, missing: Any, noise: Any) -> tuple[Any, Any]:
    """Each value as its feature alone predicts it, and the mean variance that remains, ``(D,)``.

    A feature is normal, with the mean and variance of maximum likelihood given the noise, by
    Fisher's scoring; so a value that is missing, or of much noise, becomes the mean. NumPy's arrays
    or JAX's, as they come.
    """
    xp = x.__array_namespace__()
    if xp is np:
        weight, missing, noise = (
            None if a is None else np.asarray(a) for a in (weight, missing, noise)
        )
    n, dtype = x.shape[0], x.dtype
    weight = xp.ones((n,), dtype=dtype) if weight is None else xp.asarray(weight, dtype=dtype)
    used = xp.broadcast_to(weight[:, None], x.shape)
    if missing is not None:
        used = xp.where(missing, xp.zeros_like(used), used)
    steps = 0 if noise is None else _STEPS
    noise = xp.zeros_like(x) if noise is None else feature_noise(noise, x.shape).astype(dtype)

    def mean_of(values: Any, weight: Any) -> Any:
        total = xp.sum(weight, axis=0)
        return (xp.sum(weight * values, axis=0) / xp.where(total > 0, total, 1))[None]

    def gain(variance: Any) -> tuple[Any, Any]:
        total = variance + noise
        return variance / xp.where(total > 0, total, 1), xp.where(total > 0, total, 1)

    mean = mean_of(x, used)
    variance = mean_of((x - mean) ** 2, used)
    for _ in range(steps):
        share, total = gain(variance)
        mean = mean_of(x, used / total)
        least = _LEAST / xp.maximum(mean_of(1 / total, used), jnp.finfo(dtype).tiny)
        squares = mean_of((x - mean) ** 2 - noise, used * share**2)
        variance = xp.where(xp.sum(noise, axis=0)[None] > 0, xp.maximum(squares, least), variance)
    share, _ = gain(variance)
    share = xp.where(used > 0, share, 0)
    remains = xp.sum(weight[:, None] * (1 - share) * variance, axis=0) / xp.sum(weight)
    return mean + share * (x - mean), remains


def weighted_mean(x: Float[Array, "N D"], weight: Array | None) -> Float[Array, " D"]:
    """Mean of the rows; those of weight 0 may be anything finite."""
    if weight is None:
        return jnp.mean(x, axis=0)
    return jnp.sum(weight[:, None] * x, axis=0) / jnp.sum(weight)


def data_covariance(
    x: Float[Array, "N D"], kind: str = "full", weight: Array | None = None
) -> Array:
    """Sample covariance, made positive definite where the data are flat.

    ``(D, D)`` for structures of matrices, else the variances ``(D,)``. Its divisor is N - 1. With
    weights it is the larger one of ``sum w - 1``, so that rows of weight 2 count as two, and of
    ``sum w - sum w^2 / sum w``, which does not depend on the scale of the weights.
    """
    full = structure(kind).separate == "full"
    return (_covariance if full else _variances)(x, weight)


def _centred(x: Float[Array, "N D"], weight: Array | None) -> tuple[Array, Array]:
    """The rows about their mean times the roots of their weights, and the covariance's divisor."""
    centred = jnp.where(_flat(x, weight), 0, x - weighted_mean(x, weight)[None])
    if weight is None:
        return centred, jnp.asarray(max(x.shape[0] - 1, 1), x.dtype)
    total = jnp.sum(weight)
    divisor = total - jnp.minimum(1, jnp.sum(weight**2) / total)
    return jnp.sqrt(weight)[:, None] * centred, jnp.where(divisor > 0, divisor, total)


@jax.jit
def _covariance(x: Float[Array, "N D"], weight: Array | None) -> Float[Array, "D D"]:
    centred, divisor = _centred(x, weight)
    matrix = linalg.matmul(centred.T, centred) / divisor
    units = _units(linalg.diagonal(matrix))
    eps = jnp.finfo(x.dtype).eps
    sd = jnp.sqrt(units)
    correlation = matrix / (sd[:, None] * sd[None])
    eye = jnp.eye(x.shape[1], dtype=x.dtype)
    singular = jnp.any(jnp.isnan(linalg.cholesky(correlation - 64 * eps * eye)))
    return matrix + jnp.where(singular, eps ** (1 / 3), 0) * jnp.diag(units)


@jax.jit
def _variances(x: Float[Array, "N D"], weight: Array | None) -> Float[Array, " D"]:
    centred, divisor = _centred(x, weight)
    variances = jnp.sum(centred**2, axis=0) / divisor
    flat = jnp.any(variances == 0)
    eps = jnp.finfo(x.dtype).eps
    return variances + jnp.where(flat, eps ** (1 / 3), 0) * _units(variances)


def _flat(x: Float[Array, "N D"], weight: Array | None) -> Bool[Array, "1 D"]:
    """Whether a feature is constant; its mean, of many samples, is rounded by more than it is."""
    return (extents(x, weight) == 0)[None]


def extents(x: Float[Array, "N D"], weight: Array | None) -> Float[Array, " D"]:
    """The largest minus the smallest value of each feature; 0 of a constant one."""
    high, low, size = x, x, jnp.abs(x)
    if weight is not None:
        used = (weight > 0)[:, None]
        high, low = jnp.where(used, x, -jnp.inf), jnp.where(used, x, jnp.inf)
        size = jnp.where(used, size, 0)
    extent = jnp.max(high, axis=0) - jnp.min(low, axis=0)
    constant = extent <= CONSTANT * jnp.finfo(x.dtype).eps * jnp.max(size, axis=0)
    return jnp.where(constant, 0, extent)


def _units(variances: Float[Array, " D"]) -> Float[Array, " D"]:
    """The variances; a constant feature has no unit of its own, and takes the largest."""
    largest = jnp.max(variances)
    return jnp.where(variances > 0, variances, jnp.where(largest > 0, largest, 1))
