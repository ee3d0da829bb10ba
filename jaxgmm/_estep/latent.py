"""The true values behind incomplete rows, given the component: they are latent normal variables.

A logit is that of a density of complete rows, ``exp(logit)`` a normal density times a constant. So
what is missing is integrated out, and what was measured with a normal error is convolved, in closed
form, in every view: of a mode this is the likelihood of what was observed (Ghahramani & Jordan
1994; with errors Bovy, Hogg & Roweis 2011), of an expectation it is the best q of the true values
given the component.

Features are taken in one after the other, as a Kalman filter takes in scalars. A missing one is
left out, and one of much noise changes little: there is no limit in which arithmetic breaks.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxgmm._estep.moments import feature_noise
from jaxgmm._estep.potentials import Potentials, covariances_of
from jaxgmm._estep.rows import Rows
from jaxgmm._estep.structures import structure
from jaxgmm._numerics.devices import varying_as
from jaxgmm._numerics.special import LOG_2PI, LOG_12

# Up to so many features the updates are written out: a loop of short steps takes longer.
_WRITTEN_OUT = 8


class Spread(NamedTuple):
    """Covariances of the true values, before anything is observed.

    Attributes:
        covariance: ``(K, D, D)``, or ``(1, D, D)`` if all components share it; variances ``(K, D)``
            where features are independent.
        log_volume: ``const + D/2 log 2 pi + 1/2 log|covariance|``, the log of the integral of
            ``exp(logit)``: ``(K,)``.
        box: whether component 0 is a box. One of what is known of a box, and of its sum with an
            error, is again taken for a box, of their covariance.
    """

    covariance: Array
    log_volume: Array
    box: Array | None = None


class Latent(NamedTuple):
    """Of the true values y of B rows, under each component.

    Attributes:
        log_density: log of the integral of ``exp(logit)`` over what is not known, ``(K, B)``.
        shift: ``E[y] - mean``, ``(K, D, B)``.
        within: covariances ``(K or 1, D, D, B)``, or variances ``(K, D, B)``.
        squares: squared Mahalanobis distance of what was observed, ``(K, B)``.
        log_det: log-determinant of its covariance, ``(K or 1, B)``.
    """

    log_density: Array
    shift: Array
    within: Array
    squares: Array
    log_det: Array


def spread_of(potentials: Potentials, rows: Rows) -> Spread:
    """What `latent` needs of the potentials, once for all rows."""
    kind, (k, d) = structure(potentials.structure), potentials.mean.shape
    covariance = covariances_of(potentials)
    half = kind.half_log_det(covariance, d)
    apart = kind.separate != "full"
    correlated = rows.noise is not None and rows.noise.ndim == 3
    if apart and correlated:
        covariance = kind.matrices(covariance, k, d)
    elif apart:
        covariance = kind.variances(covariance, k, d)
    elif covariance.ndim == 2:
        covariance = covariance[None]
    log_volume = potentials.const + 0.5 * d * LOG_2PI + jnp.broadcast_to(half, (k,))
    if potentials.box is None:
        return Spread(covariance, log_volume)
    log_volume = log_volume.at[0].add(0.5 * d * (LOG_12 - LOG_2PI))
    return Spread(covariance, log_volume, jnp.arange(k) == 0)


def latent(rows: Rows, potentials: Potentials, spread: Spread) -> Latent:
    """The true values given rows ``(B, D)``, and each component."""
    return latent_of(rows, rows.x.T[None] - potentials.mean[:, :, None], spread)


def latent_of(rows: Rows, residual: Array, spread: Spread) -> Latent:
    """`latent`, from residuals of the rows ``(K, D, B)``, of which the shift is linear."""
    x = rows.x.T
    seen = jnp.ones(x.shape, bool) if rows.missing is None else ~rows.missing.T
    residual = jnp.where(seen[None], residual, 0)
    if spread.covariance.ndim == 2:
        shift, within, squares, log_det = _by_feature(rows, residual, seen, spread.covariance)
    elif rows.noise is not None and rows.noise.ndim == 3:
        shift, within, squares, log_det = _with_covariances(
            rows.noise, residual, seen, spread.covariance
        )
    else:
        noise = jnp.zeros_like(x) if rows.noise is None else _variances(rows)
        shift, within, squares, log_det = _jointly(noise, residual, seen, spread.covariance)
    n_seen = jnp.sum(seen, axis=0, dtype=x.dtype)
    if spread.box is not None:
        flat = (LOG_12 - LOG_2PI) * n_seen
        squares = jnp.where(spread.box[:, None], flat[None], squares)
    own = spread.log_volume[:, None] - 0.5 * (LOG_2PI * n_seen)[None]
    return Latent(own - 0.5 * (log_det + squares), shift, within, squares, log_det)


def _variances(rows: Rows) -> Array:
    return feature_noise(rows.noise, rows.x.shape).T


# Shift, covariance of what remains unknown, squared distance, log-determinant of what was seen.
_Found = tuple[Array, Array, Array, Array]


def _by_feature(rows: Rows, residual: Array, seen: Array, variance: Array) -> _Found:
    """Independent features, and independent errors."""
    variance = variance[:, :, None]
    total = variance if rows.noise is None else variance + _variances(rows)[None]
    # 1 where there is no such value
    total = jnp.where(seen[None], total, 1)
    share = jnp.where(seen[None], variance / total, 0)
    squares = jnp.sum(residual**2 / total, axis=1)
    log_det = jnp.sum(jnp.log(total), axis=1)
    error = 0 if rows.noise is None else _variances(rows)[None] * share
    within = jnp.where(seen[None], error, variance)
    return share * residual, within, squares, log_det


def _jointly(noise: Array, residual: Array, seen: Array, covariance: Array) -> _Found:
    """Features that depend on one another, errors that do not: each feature is a scalar update."""
    d = residual.shape[1]
    diagonal = jnp.diagonal(covariance, axis1=1, axis2=2)
    least = jnp.finfo(residual.dtype).eps * diagonal

    def update(i: Any, carry: _Found) -> _Found:
        shift, within, squares, log_det = carry
        column = _at(within, i, 1)
        total = jnp.maximum(_at(column, i, 1), _at(least, i, 1)[:, None]) + _at(noise, i, 0)[None]
        here = _at(seen, i, 0)[None]
        gain = jnp.where(here, 1 / total, 0)
        gap = _at(residual, i, 1) - _at(shift, i, 1)
        scaled = column * gain[:, None]
        return (
            shift + scaled * gap[:, None],
            within - column[:, :, None] * scaled[:, None],
            squares + gain * gap**2,
            log_det + jnp.where(here, jnp.log(total), 0),
        )

    return _repeat(update, d, _before(covariance, residual))


def _with_covariances(noise: Array, residual: Array, seen: Array, covariance: Array) -> _Found:
    """Errors that depend on one another: what is observed is a second vector, of x itself."""
    _, d, b = residual.shape
    noise = noise.transpose(1, 2, 0)[None]
    own = jnp.broadcast_to(covariance[..., None], (*covariance.shape, b))
    diagonal = jnp.diagonal(covariance, axis1=1, axis2=2)
    least = jnp.finfo(residual.dtype).eps * diagonal

    def update(i: Any, carry: Any) -> Any:
        (shift, within, squares, log_det), across, predicted, observed = carry
        row = _at(observed, i, 1)
        total = jnp.maximum(_at(row, i, 1), _at(least, i, 1)[:, None])
        here = _at(seen, i, 0)[None]
        gain = jnp.where(here, 1 / total, 0)
        gap = _at(residual, i, 1) - _at(predicted, i, 1)
        column, scaled = _at(across, i, 2), row * gain[:, None]
        found = (
            shift + column * (gain * gap)[:, None],
            within - column[:, :, None] * (column * gain[:, None])[:, None],
            squares + gain * gap**2,
            log_det + jnp.where(here, jnp.log(total), 0),
        )
        across = across - column[:, :, None] * scaled[:, None]
        observed = observed - row[:, :, None] * scaled[:, None]
        return found, across, predicted + scaled * gap[:, None], observed

    start = (_before(covariance, residual), own, jnp.zeros_like(residual), own + noise)
    return _repeat(update, d, start)[0]


def _before(covariance: Array, residual: Array) -> _Found:
    """Before anything is seen."""
    k, _, b = residual.shape
    within = jnp.broadcast_to(covariance[..., None], (*covariance.shape, b))
    log_det = jnp.zeros((covariance.shape[0], b), residual.dtype)
    return jnp.zeros_like(residual), within, jnp.zeros((k, b), residual.dtype), log_det


def _at(a: Array, i: Any, axis: int) -> Array:
    if isinstance(i, int):
        return lax.index_in_dim(a, i, axis, keepdims=False)
    return lax.dynamic_index_in_dim(a, i, axis, keepdims=False)


def _repeat(update: Any, n: int, carry: Any) -> Any:
    if n <= _WRITTEN_OUT:
        for i in range(n):
            carry = update(i, carry)
        return carry
    carry = varying_as(carry, carry)
    return lax.scan(lambda c, i: (update(i, c), None), carry, jnp.arange(n))[0]
