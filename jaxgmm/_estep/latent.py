"""The true values behind incomplete rows, given the component: they are latent normal variables.

A logit is that of a density of complete rows, ``exp(logit)`` a normal density times a constant. So
what is missing is integrated out, and what was measured with a normal error is convolved, in closed
form, in every view: of a mode this is the likelihood of what was observed (Ghahramani & Jordan
1994; with errors Bovy, Hogg & Roweis 2011), of an expectation it is the best q of the true values
given the component.

Features are taken in one after the other, as a Kalman filter takes in scalars, see `eliminated`. A
missing one is left out, and one of much noise changes little: there is no limit in which arithmetic
breaks.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxgmm._estep.elimination import Eliminated, Found, Seen, eliminated
from jaxgmm._estep.potentials import Potentials, covariances_of
from jaxgmm._estep.rows import Rows
from jaxgmm._estep.structures import structure
from jaxgmm._numerics import linalg
from jaxgmm._numerics.pytree import replace
from jaxgmm._numerics.special import LOG_2PI, LOG_12


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
        within: covariances, ``(K or 1, D, D, B)`` if they are written; or variances ``(K, D, B)``
            of independent features.
        squares: squared Mahalanobis distance of what was observed, ``(K, B)``.
        log_det: log-determinant of its covariance, ``(K or 1, B)``.
    """

    log_density: Array
    shift: Array
    within: Eliminated | Array
    squares: Array
    log_det: Array

    def summed_within(self, weight: Array) -> Array:
        """The sum of the covariances with weights ``(K, B)``: ``(K or 1, D, D)`` or ``(K, D)``."""
        within = self.within
        first = within.covariance if isinstance(within, Eliminated) else within
        if first.shape[0] < weight.shape[0]:
            weight = jnp.sum(weight, axis=0, keepdims=True)
        if isinstance(within, Eliminated):
            return within.summed(weight)
        return linalg.einsum("k...b,kb->k...", within, weight)


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


def columns_of(rows: Rows) -> Rows:
    """The rows with the samples last: their arrays transposed, in which a pass is fastest.

    What is missing is then 1 and the rest 0: a loop over floats and booleans takes longer.
    """
    columns = jax.tree.map(lambda a: a.T, rows)
    if rows.missing is None:
        return columns
    return replace(columns, missing=columns.missing.astype(rows.x.dtype))


def latent(rows: Rows, potentials: Potentials, spread: Spread) -> Latent:
    """The true values given rows ``(B, D)``, and each component."""
    return latent_of(columns_of(rows), rows.x.T[None] - potentials.mean[:, :, None], spread)


def latent_of(columns: Rows, residual: Array, spread: Spread) -> Latent:
    """`latent`, from `columns_of` the rows and residuals ``(K, D, B)``; the shift is linear."""
    noise, missing = columns.noise, columns.missing
    if noise is not None and noise.ndim == 1:
        noise = jnp.broadcast_to(noise[None], columns.x.shape)
    seen = None if missing is None else Seen((1 - missing)[None], missing[None])
    find = _by_feature if spread.covariance.ndim == 2 else eliminated
    shift, within, squares, log_det = find(noise, residual, seen, spread.covariance)
    n_seen = jnp.full(residual.shape[2:], residual.shape[1], residual.dtype)
    if missing is not None:
        n_seen = n_seen - jnp.sum(missing, axis=0)
    if spread.box is not None:
        flat = (LOG_12 - LOG_2PI) * n_seen
        squares = jnp.where(spread.box[:, None], flat[None], squares)
    own = spread.log_volume[:, None] - 0.5 * (LOG_2PI * n_seen)[None]
    return Latent(own - 0.5 * (log_det + squares), shift, within, squares, log_det)


def _by_feature(noise: Array | None, residual: Array, seen: Seen | None, own: Array) -> Found:
    """Independent features, of the variances ``own (K, D)``, and independent errors."""
    own = own[:, :, None]
    total = own if noise is None else own + noise[None]
    precision = 1 / total
    logs = jnp.log(total)
    if seen is not None:
        precision, logs = precision * seen.known, logs * seen.known
    scaled = residual * precision
    squares = jnp.sum(residual * scaled, axis=1)
    log_det = jnp.sum(logs, axis=1)
    within = jnp.zeros_like(scaled) if noise is None else noise[None] * own * precision
    within = within if seen is None else within + own * seen.missing
    return own * scaled, within, squares, log_det
