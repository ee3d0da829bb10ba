"""True values whose features depend on one another: each that was observed is a scalar update."""

import functools
import math
import operator
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxgmm._numerics import linalg
from jaxgmm._numerics.devices import varying_as

# Up to so many features columns are written out, in a fifth of the time of a loop that keeps a
# matrix of each row; of more the program would take long to compile.
_WRITTEN_OUT = 12


class Seen(NamedTuple):
    """Which values are known and which are missing, 1 or 0, ``(1, D, B)``."""

    known: Array
    missing: Array


class Eliminated(NamedTuple):
    """Covariances of what remains unknown: ``covariance - sum_i column_i column_i^T``.

    Each feature that was observed takes away what it says of all of them, so that no row needs a
    matrix of its own.

    Attributes:
        covariance: before anything is observed, ``(K, D, D)`` or ``(1, D, D)``.
        columns: of each feature, ``(K or 1, D, B)``; 0 where it is missing.
    """

    covariance: Array
    columns: tuple[Array, ...]

    def summed(self, weight: Array) -> Array:
        """The sum over rows with weights ``(K or 1, B)``: ``(K or 1, D, D)``."""
        columns, d = self.columns, self.covariance.shape[-1]
        halves = [_said([c[:, : i + 1] for c in columns], _of(columns, i)) for i in range(d)]
        rows = [linalg.einsum("kdb,kb->kd", half, weight) for half in halves]
        padded = [jnp.pad(row, ((0, 0), (0, d - 1 - i))) for i, row in enumerate(rows)]
        lower = jnp.stack(padded, axis=1)
        taken = lower + jnp.tril(lower, -1).swapaxes(1, 2)
        return jnp.sum(weight, axis=1)[:, None, None] * self.covariance - taken


# Shift, covariance of what remains unknown, squared distance, log-determinant of what was seen.
Found = tuple[Array, Any, Array, Array]


def eliminated(noise: Array | None, residual: Array, seen: Seen | None, own: Array) -> Found:
    """What is known of the true values once each feature that was observed is taken in.

    Args:
        noise: variances ``(D, B)`` or covariances ``(D, D, B)`` of the errors; None without any.
        residual: of what was observed from each mean, ``(K, D, B)``.
        seen: which values were observed; None for all.
        own: covariances of the true values, ``(K, D, D)``, or ``(1, D, D)`` if they are shared.
    """
    if noise is None:
        noise = jnp.zeros(residual.shape[1:], residual.dtype)
    if residual.shape[1] <= _WRITTEN_OUT:
        return _by_columns(noise, residual, seen, own)
    if seen is None:
        seen = Seen(jnp.ones_like(residual[:1]), jnp.zeros_like(residual[:1]))
    by_matrices = _with_covariances if noise.ndim == 3 else _with_variances
    return by_matrices(noise, residual, seen, own)


def _by_columns(noise: Array, residual: Array, seen: Seen | None, own: Array) -> Found:
    """The Cholesky factorisation of the covariance of what was observed, column by column.

    Each has the covariances of all the true values with a feature.
    """
    (_, d, b), apart = residual.shape, noise.ndim == 2
    least = jnp.finfo(residual.dtype).eps * linalg.diagonal(own)[..., None]
    # a missing value says nothing: it has the largest error of which there is a square
    unknown = math.sqrt(jnp.finfo(residual.dtype).max)
    log_det = jnp.zeros((own.shape[0], b), residual.dtype)
    # of the true values, and of the observed ones if errors depend on one another
    columns, observed, gaps = (), (), ()
    for i in range(d):
        before = _of(columns if apart else observed, i)
        prior = jnp.broadcast_to(own[:, :, i, None], (*own.shape[:2], b))
        column, gap = _less(prior, columns, before), _less(residual[:, i], gaps, before)
        both = column if apart else _less(prior + noise[i][None], observed, before)
        total = jnp.maximum(both[:, i], least[:, i])
        total = total + noise[i][None] if apart else total
        root, log = jnp.sqrt(total), jnp.log(total)
        if seen is not None:
            known, missing = seen.known[:, i], seen.missing[:, i]
            root, log = root * known + unknown * missing, log * known
        columns, gaps = (*columns, column / root[:, None]), (*gaps, gap / root)
        observed = observed if apart else (*observed, both / root[:, None])
        log_det = log_det + log
    return _said(columns, gaps), Eliminated(own, columns), _said(gaps, gaps), log_det


def _terms(parts: Any, shares: Any) -> list[Array]:
    """What each feature says: its part, ``(K, D, B)`` or ``(K, B)``, times its share ``(K, B)``."""
    return [a * (s if a.ndim == 2 else s[:, None]) for a, s in zip(parts, shares, strict=True)]


def _said(parts: Any, shares: Any) -> Array:
    return functools.reduce(operator.add, _terms(parts, shares))


def _less(a: Array, parts: Any, shares: Any) -> Array:
    return functools.reduce(operator.sub, _terms(parts, shares), a)


def _of(columns: Any, i: int) -> Any:
    """The entries of one feature."""
    return tuple(c[:, i] for c in columns)


def _with_variances(noise: Array, residual: Array, seen: Seen, covariance: Array) -> Found:
    """A matrix of each row, of errors that do not depend on one another."""
    d = residual.shape[1]
    diagonal = jnp.diagonal(covariance, axis1=1, axis2=2)
    least = jnp.finfo(residual.dtype).eps * diagonal

    def update(i: Any, carry: Found) -> Found:
        shift, within, squares, log_det = carry
        column = _at(within, i, 1)
        total = jnp.maximum(_at(column, i, 1), _at(least, i, 1)[:, None]) + _at(noise, i, 0)[None]
        here = _at(seen.known, i, 1)
        gain = here / total
        gap = _at(residual, i, 1) - _at(shift, i, 1)
        scaled = column * gain[:, None]
        return (
            shift + scaled * gap[:, None],
            within - column[:, :, None] * scaled[:, None],
            squares + gain * gap**2,
            log_det + here * jnp.log(total),
        )

    return _loop(update, d, _before(covariance, residual))


def _with_covariances(noise: Array, residual: Array, seen: Seen, covariance: Array) -> Found:
    """Of errors that do: what is observed is a second vector, of x itself."""
    _, d, b = residual.shape
    own = jnp.broadcast_to(covariance[..., None], (*covariance.shape, b))
    diagonal = jnp.diagonal(covariance, axis1=1, axis2=2)
    least = jnp.finfo(residual.dtype).eps * diagonal

    def update(i: Any, carry: Any) -> Any:
        (shift, within, squares, log_det), across, predicted, observed = carry
        row = _at(observed, i, 1)
        total = jnp.maximum(_at(row, i, 1), _at(least, i, 1)[:, None])
        here = _at(seen.known, i, 1)
        gain = here / total
        gap = _at(residual, i, 1) - _at(predicted, i, 1)
        column, scaled = _at(across, i, 2), row * gain[:, None]
        found = (
            shift + column * (gain * gap)[:, None],
            within - column[:, :, None] * (column * gain[:, None])[:, None],
            squares + gain * gap**2,
            log_det + here * jnp.log(total),
        )
        across = across - column[:, :, None] * scaled[:, None]
        observed = observed - row[:, :, None] * scaled[:, None]
        return found, across, predicted + scaled * gap[:, None], observed

    start = (_before(covariance, residual), own, jnp.zeros_like(residual), own + noise[None])
    return _loop(update, d, start)[0]


def _before(covariance: Array, residual: Array) -> Found:
    """Before anything is seen."""
    k, _, b = residual.shape
    within = jnp.broadcast_to(covariance[..., None], (*covariance.shape, b))
    log_det = jnp.zeros((covariance.shape[0], b), residual.dtype)
    return jnp.zeros_like(residual), within, jnp.zeros((k, b), residual.dtype), log_det


def _at(a: Array, i: Array, axis: int) -> Array:
    return lax.dynamic_index_in_dim(a, i, axis, keepdims=False)


def _loop(update: Any, n: int, carry: Any) -> Any:
    carry = varying_as(carry, carry)
    return lax.scan(lambda c, i: (update(i, c), None), carry, jnp.arange(n))[0]
