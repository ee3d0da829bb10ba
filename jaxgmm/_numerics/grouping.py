"""Rows in the order of their groups, and tiles of rows of one group."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Int


class Groups(NamedTuple):
    """Rows sorted by a number that each has.

    Attributes:
        order: the rows, those of group 0 first, ``(N,)``; within a group as they were.
        count: rows of each group, ``(G,)``.
        start: where the rows of each group begin in ``order``, ``(G,)``.
    """

    order: Int[Array, " N"]
    count: Int[Array, " G"]
    start: Int[Array, " G"]


def grouped(labels: Int[Array, " N"], n_groups: int) -> Groups:
    """Rows by their labels, from 0 to ``n_groups - 1``: a counting sort.

    XLA sorts single numbers on a CPU about five times as fast as pairs of them. So a label and a
    row's place among some thousands are one number of 32 bits, and what the sorted pieces have of
    each group is then put together.
    """
    n = labels.shape[0]
    bits = max(n_groups.bit_length(), 1)
    shift = 32 - bits
    size = min(n, 1 << shift)
    n_pieces = -(-n // size)
    # the rows that fill up the last piece are of a group of their own
    labels = jnp.pad(labels, (0, n_pieces * size - n), constant_values=n_groups)
    labels = labels.reshape(n_pieces, size).astype(jnp.uint32)
    place = jnp.arange(size, dtype=jnp.uint32)[None]
    packed = lax.sort((labels << shift) | place, dimension=1, is_stable=False)
    piece = jnp.arange(n_pieces, dtype=jnp.int32)[:, None]
    count = jnp.zeros((n_pieces, n_groups + 1), jnp.int32)
    count = count.at[piece, labels.astype(jnp.int32)].add(1)
    of_all = jnp.sum(count, axis=0, dtype=jnp.int32)
    start = _exclusive(of_all, 0)
    base = start[None] + _exclusive(count, 0) - _exclusive(count, 1)
    label = (packed >> shift).astype(jnp.int32)
    where = base[piece, label] + jnp.arange(size, dtype=jnp.int32)[None]
    row = piece * size + (packed & jnp.uint32((1 << shift) - 1)).astype(jnp.int32)
    order = jnp.zeros((n_pieces * size,), jnp.int32)
    order = order.at[where.reshape(-1)].set(row.reshape(-1), unique_indices=True)
    return Groups(order[:n], of_all[:-1], start[:-1])


def _exclusive(count: Array, axis: int) -> Array:
    return jnp.cumsum(count, axis=axis, dtype=count.dtype) - count


class Tiles(NamedTuple):
    """Tiles of at most ``size`` rows, all of one group.

    Attributes:
        groups: of all the rows.
        last: the number of tiles up to the end of each group, ``(G,)``.
        size: rows of a tile.
    """

    groups: Groups
    last: Int[Array, " G"]
    size: int

    @property
    def number(self) -> Int[Array, ""]:
        """How many there are."""
        return self.last[-1]

    def take(
        self, tiles: Int[Array, " J"]
    ) -> tuple[Int[Array, " J"], Int[Array, "J T"], Bool[Array, "J T"]]:
        """The group of each of some tiles, its rows, and which of these there are."""
        of, n = self.groups, self.groups.order.shape[0]
        group = jnp.searchsorted(self.last, tiles, side="right").astype(jnp.int32)
        group = jnp.minimum(group, self.last.shape[0] - 1)
        n_tiles = -(-of.count[group] // self.size)
        number = tiles - (self.last[group] - n_tiles)
        within = number[:, None] * self.size + jnp.arange(self.size, dtype=jnp.int32)[None]
        there = (within < of.count[group][:, None]) & (tiles < self.number)[:, None]
        place = jnp.minimum(of.start[group][:, None] + within, n - 1)
        return group, of.order[place], there


def tiled(labels: Int[Array, " N"], n_groups: int, size: int) -> Tiles:
    """Tiles of so many rows by their labels."""
    groups = grouped(labels, n_groups)
    n_tiles = -(-groups.count // size)
    return Tiles(groups, jnp.cumsum(n_tiles, dtype=jnp.int32), size)
