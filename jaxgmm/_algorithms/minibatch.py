"""Minibatches, shuffled on the device with nothing stored: a keyed permutation of row numbers."""

import math

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Int

from jaxgmm._estep.data import Data
from jaxgmm._numerics.pytree import replace

_ROUNDS = 6


def permute(key: Array, index: Int[Array, " B"], n: int) -> Int[Array, " B"]:
    """Images of row numbers under a pseudorandom permutation of ``0 .. n - 1``.

    A Feistel network over a square just above n, walked until it lands inside (Black & Rogaway
    2002, "Ciphers with arbitrary finite domains"): any B images of a shuffle in O(B) time, so that
    an epoch needs neither a sort nor an N-vector in the state.
    """
    side = math.isqrt(n - 1) + 1
    keys = jax.random.bits(key, (_ROUNDS,), jnp.uint32)

    def shuffle(index: Array) -> Array:
        left, right = index // side, index % side
        for i in range(_ROUNDS):
            mixed = _mix(right.astype(jnp.uint32) ^ keys[i]) % jnp.uint32(side)
            left, right = right, (left + mixed.astype(index.dtype)) % side
        return left * side + right

    def outside(index: Array) -> Array:
        return jnp.any(index >= n)

    def walk(index: Array) -> Array:
        return jnp.where(index >= n, shuffle(index), index)

    return lax.while_loop(outside, walk, shuffle(index))


def _mix(h: Array) -> Array:
    # the finaliser of MurmurHash3: every input bit reaches every output bit
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)


def minibatch(key: Array, data: Data, iteration: Array, batch_size: int) -> Data:
    """The rows of one iteration: each epoch visits every row once, in an order of its own.

    The last batch of an epoch may be short; its missing rows have weight 0, and ``scale`` is N over
    the rows that are there, so that the scaled sums are unbiased for the whole data in every batch.
    Of data that are a part themselves it is that times their own scale.
    """
    n_samples = data.x.shape[0]
    n_batches = -(-n_samples // batch_size)
    epoch, number = iteration // n_batches, iteration % n_batches
    index = number * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
    present = index < n_samples
    rows = permute(jax.random.fold_in(key, epoch), jnp.where(present, index, 0), n_samples)
    weight = present.astype(data.x.dtype)
    if data.weight is not None:
        weight = weight * data.weight[rows]
    scale = data.scale * (n_samples / jnp.sum(present).astype(data.x.dtype))
    return replace(data, rows=replace(data.rows.take(rows), weight=weight), scale=scale)
