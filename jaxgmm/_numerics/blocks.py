"""Passes over the rows in blocks that fit in cache, so that no N x K array ever exists."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxgmm._numerics.devices import on_cpu, varying_as

Carry = TypeVar("Carry")

# Working set of one block in bytes: a core's L2 cache.
_BLOCK_BYTES = 1 << 20


def choose_block_size(n_samples: int, width: int, dtype: Any) -> int:
    """A power-of-two block of rows whose working set, ``width`` values a row, fits in cache."""
    size, row = 128, width * jnp.dtype(dtype).itemsize
    while size < 4096 and 2 * size * row <= _BLOCK_BYTES:
        size *= 2
    return min(size, n_samples)


# Of the feature pass on a CPU: features and logits of a block together, and the logits alone, by
# how they lie; measured, see benchmarks/notes.md. Elsewhere a block only has to be long.
_FEATURE_BYTES = 9 << 20
_LOGIT_BYTES = {"wide": 4 << 20, "one lane": 1 << 19, "lanes": 1 << 18}
_ACCELERATOR_BYTES = 1 << 29


def choose_feature_block(
    n_samples: int, n_features: int, n_logits: int, layout: str, dtype: Any
) -> int:
    """A block of rows for the feature pass.

    On a CPU a power of two; elsewhere all blocks are as long, to 128 rows.

    Args:
        n_samples: N.
        n_features: F, of each row.
        n_logits: lanes times components.
        layout: ``"wide"`` with the logits' axis last; with the samples' axis last ``"one lane"``
            or ``"lanes"``.
        dtype: of the rows.
    """
    item = jnp.dtype(dtype).itemsize
    both, logits = item * (n_features + n_logits), item * n_logits
    if not on_cpu():
        n_blocks = -(-n_samples // max(_ACCELERATOR_BYTES // both, 128))
        return min(-(-n_samples // (128 * n_blocks)) * 128, n_samples)
    # short columns gain nothing from longer blocks, and lose
    longest = 2048 if layout == "one lane" and n_logits < 32 else 4096
    size = 64
    while (
        size < longest
        and 2 * size * both <= _FEATURE_BYTES
        and 2 * size * logits <= _LOGIT_BYTES[layout]
    ):
        size *= 2
    return min(size, n_samples)


def scan_blocks(
    body: Callable[[Carry, Any, Array], Carry],
    carry: Carry,
    rows: Any,
    weight: Array | None,
    block_size: int,
    samples_last: bool = False,
) -> Carry:
    """Fold ``body(carry, block, weight (W, B))`` over blocks of rows.

    ``rows`` is a pytree of arrays that lead with N, and a block is the same tree leading with B;
    ``weight`` is ``(W, N)``, or None for ones. The last block is moved back to end at row N, and
    the rows it then shares with the one before it get weight 0: no padding, no copy. With
    ``samples_last`` N and B are the last axes of the rows' arrays.
    """
    axis = -1 if samples_last else 0
    carry = varying_as((rows, weight, carry), carry)
    first = jax.tree.leaves(rows)[0]
    n_samples = first.shape[axis]
    n_blocks = -(-n_samples // block_size)
    if n_blocks == 1:
        ones = jnp.ones((1, n_samples), first.dtype)
        return body(carry, rows, ones if weight is None else weight)
    ragged = n_samples % block_size != 0

    def take(i: Array) -> tuple[Any, Array]:
        start = jnp.minimum(i * block_size, n_samples - block_size)
        block = jax.tree.map(
            lambda a: lax.dynamic_slice_in_dim(a, start, block_size, axis % a.ndim), rows
        )
        if weight is None:
            w = jnp.ones((1, block_size), first.dtype)
        else:
            w = lax.dynamic_slice_in_dim(weight, start, block_size, axis=1)
        if ragged:
            fresh = start + jnp.arange(block_size) >= i * block_size
            w = jnp.where(fresh, w, 0)
        return block, w

    if not samples_last:
        return lax.scan(lambda c, i: (body(c, *take(i)), None), carry, jnp.arange(n_blocks))[0]

    def step(state: tuple[Carry, Any], i: Array) -> tuple[tuple[Carry, Any], None]:
        carry, block = state
        return (body(carry, *block), take(jnp.minimum(i + 1, n_blocks - 1))), None

    # what a turn of the loop hands on is there in memory: XLA would read a slice of all rows in
    # every expression of it, at five times the time
    start = varying_as((rows, weight, carry), (carry, take(jnp.zeros((), int))))
    return lax.scan(step, start, jnp.arange(n_blocks))[0][0]


def map_blocks(
    function: Callable[[Any], Array], rows: Any, width: int, block_size: int | None = None
) -> Array:
    """``function`` of blocks of rows, results stacked: ``(N, ...)`` with only (B, ...) live.

    ``rows`` is an array that leads with N, or a pytree of such arrays.
    """
    first = jax.tree.leaves(rows)[0]
    n_samples = first.shape[0]
    size = block_size or choose_block_size(n_samples, width, first.dtype)
    if size >= n_samples:
        return function(rows)
    whole = n_samples - n_samples % size
    blocks = jax.tree.map(lambda a: a[:whole].reshape(-1, size, *a.shape[1:]), rows)
    out = lax.map(jax.checkpoint(function), blocks)
    out = out.reshape(whole, *out.shape[2:])
    if whole == n_samples:
        return out
    return jnp.concatenate([out, function(jax.tree.map(lambda a: a[whole:], rows))])
