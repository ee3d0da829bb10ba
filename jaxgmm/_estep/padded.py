"""Rows of weight 0 at the end, so that data of about as many rows share their programs.

A program is compiled for one number of rows. A fit for each class or each speaker, each with
another number, would compile for most of its time.
"""

from typing import Any

import jax
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxgmm._estep.data import Rows
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
    x = rows.x
    if not _can_pad(x, rows.weight):
        return rows
    values = np.asarray(x)
    weight = np.ones(len(values), values.dtype) if rows.weight is None else rows.weight
    size = padded_size(len(values))
    return replace(rows, x=padded_values(values, size), weight=padded_weight(weight, size))


def padded_weight(weight: Any, size: int) -> Array:
    """The weights of so many rows."""
    weight = np.asarray(weight)
    return as_array(np.pad(weight, (0, size - len(weight))))


def by_row(program: Program, model: Any, x: Array, n_components: int) -> Array:
    """``program(model, x)``, which leads with the rows of x: ``(N, ...)``."""
    effort = effort_of(x.size * n_components)
    if not _can_pad(x, model):
        return program.on(effort, model, x)()
    wide = program.on(effort, model, padded_values(np.asarray(x), padded_size(x.shape[0])))()
    return first(wide, x.shape[0])


def padded_values(x: np.ndarray, size: int) -> Array:
    """So many rows, ``(N, ...)``, of which those at the end are for nobody to see."""
    # what looks at the values alone sees no new ones; a mean that does not overflow
    more = np.broadcast_to(np.sum(x / len(x), axis=0), (size - len(x), *x.shape[1:]))
    return as_array(np.concatenate([x, more.astype(x.dtype)]))


def _can_pad(x: Any, others: Any) -> bool:
    """Whether rows are on the host, not many, and not of a number that they are padded to."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((x, others))):
        return False
    n = x.shape[0]
    here = isinstance(x, jax.Array) and not x.committed and is_on_host(x)
    return here and 0 < n <= _MANY and n != padded_size(n)
