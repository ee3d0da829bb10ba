"""Rows of weight 0 at the end, so that data of about as many rows share their programs.

A program is compiled for one number of rows. A fit for each class or each speaker, each with
another number, would compile for most of its time.
"""

from typing import Any

import jax
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxgmm._estep.rows import Rows
from jaxgmm._numerics.arrays import as_array, first
from jaxgmm._numerics.devices import is_on_host
from jaxgmm._numerics.programs import Program, effort_of
from jaxgmm._numerics.pytree import replace

# More rows than this take longer than a program of their own.
_MANY = 1 << 16


def padded_size(n: int) -> int:
    """The number of rows that n are padded to.

    A power of two up to 1024, and not less than 32. Above that it is one of eight numbers between
    two powers of two, at most an eighth more than n.
    """
    if n <= 1024:
        return max(32, 1 << (n - 1).bit_length())
    step = 1 << ((n - 1).bit_length() - 4)
    return -(-n // step) * step


def padded(rows: Rows) -> Rows:
    """The rows with more of weight 0, at their mean; as they are if they are many or on a device.

    In NumPy, which compiles nothing for another shape.
    """
    if not _can_pad(rows, None):
        return rows
    n = rows.n_samples
    weight = np.ones(n, rows.x.dtype) if rows.weight is None else rows.weight
    size = padded_size(n)
    return replace(_longer(rows, size), weight=padded_weight(weight, size))


def padded_weight(weight: Any, size: int) -> Array:
    """The weights of so many rows."""
    weight = np.asarray(weight)
    return as_array(np.pad(weight, (0, size - len(weight))))


def by_row(program: Program, model: Any, rows: Rows, n_components: int) -> Array:
    """``program(model, rows)``, which leads with the rows: ``(N, ...)``; without weights."""
    n, rows = rows.n_samples, replace(rows, weight=None)
    effort = effort_of(rows.x.size * n_components)
    if not _can_pad(rows, model):
        return program.on(effort, model, rows)()
    return first(program.on(effort, model, _longer(rows, padded_size(n)))(), n)


def _longer(rows: Rows, size: int) -> Rows:
    """So many rows, of which nobody looks at those at the end; their weights stay as they are."""

    def repeated(a: Any) -> Any:
        if a is None:
            return None
        a = np.asarray(a)
        return as_array(np.concatenate([a, np.broadcast_to(a[:1], (size - len(a), *a.shape[1:]))]))

    values = padded_values(np.asarray(rows.x), size)
    gaps, noise, labels = map(repeated, (rows.missing, rows.noise, rows.labels))
    return Rows(values, rows.weight, gaps, noise, labels)


def padded_values(x: np.ndarray, size: int) -> Array:
    """So many rows, ``(N, ...)``, of which those at the end are for nobody to see."""
    # what looks at the values alone sees no new ones; a mean that does not overflow
    more = np.broadcast_to(np.sum(x / len(x), axis=0), (size - len(x), *x.shape[1:]))
    return as_array(np.concatenate([x, more.astype(x.dtype)]))


def _can_pad(rows: Rows, others: Any) -> bool:
    """Whether rows are on the host, not many, and not of a number that they are padded to."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((rows, others))):
        return False
    x, n = rows.x, rows.n_samples
    here = isinstance(x, jax.Array) and not x.committed and is_on_host(x)
    return here and 0 < n <= _MANY and n != padded_size(n)
