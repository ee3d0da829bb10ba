"""Rows grouped by which of their values are missing: one set of factors for each pattern."""

from typing import Any

import jax
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.devices import is_on_host
from jaxgmm._numerics.pytree import pytree

# Rows in a group at a time.
_SIZES = tuple(1 << i for i in range(4, 13))


@pytree
class Groups:
    """Blocks of B rows, all of one pattern.

    Attributes:
        index: numbers of the rows, ``(G, B)``.
        used: 1, and 0 where a block has no more rows, ``(G, B)``.
        missing: the pattern of each block, ``(G, D)``.
    """

    index: Array
    used: Array
    missing: Array


def groups_of(missing: Any, dtype: Any) -> Groups | None:
    """The groups of rows, or None if the patterns are too many, or the rows are on a device."""
    if isinstance(missing, Tracer) or not is_on_host(missing):
        return None
    mask = np.asarray(missing)
    n, d = mask.shape
    patterns, number = np.unique(mask, axis=0, return_inverse=True)
    counts = np.bincount(number.ravel(), minlength=len(patterns))
    # a block's factors cost about as much as 2 D rows; by themselves rows cost D times as much
    costs = {size: np.sum(-(-counts // size)) * (size + 2 * d) for size in _SIZES}
    size = min(costs, key=lambda size: costs[size])
    if costs[size] > n * d:
        return None
    order = np.argsort(number.ravel(), kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)])
    index, used, blocks = [], [], []
    for p, pattern in enumerate(patterns):
        rows = order[starts[p] : starts[p + 1]]
        n_blocks = -(-len(rows) // size)
        fill = n_blocks * size - len(rows)
        index.append(np.concatenate([rows, np.repeat(rows[-1:], fill)]).reshape(-1, size))
        used.append(np.concatenate([np.ones(len(rows)), np.zeros(fill)]).reshape(-1, size))
        blocks.append(np.repeat(pattern[None], n_blocks, axis=0))
    # a few blocks of nothing, so that other data share the program
    total = sum(map(len, blocks))
    step = 1 << max(total.bit_length() - 3, 0)
    more = -total % step
    index.append(np.zeros((more, size), int))
    used.append(np.zeros((more, size)))
    blocks.append(np.repeat(patterns[:1], more, axis=0))
    with jax.ensure_compile_time_eval():
        return Groups(
            as_array(np.concatenate(index), np.int32),
            as_array(np.concatenate(used), dtype),
            as_array(np.concatenate(blocks)),
        )
