"""The truncated pass: each row has responsibilities for a few components only.

Forster & Luecke 2018; Hirschberger, Forster & Luecke 2022. A row keeps its C best components. Its
candidates are those that it kept and the neighbours of the best of them. Rows with the same best
component share their neighbours, so that a tile of such rows is two small matrix products.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from jaxgmm._estep.neighbours import best_components, best_of, least_of, neighbours_of
from jaxgmm._estep.passes.common import Sums, add_compensated, finite_const, over_devices
from jaxgmm._estep.potentials import Potentials
from jaxgmm._estep.structures import structure
from jaxgmm._numerics import linalg
from jaxgmm._numerics.arrays import safe_divide
from jaxgmm._numerics.grouping import Tiles, tiled
from jaxgmm._numerics.pytree import pytree, replace

# Neighbours that a tile of rows searches, and those that it chooses among where neighbours are new;
# or so many for each component that a row keeps, if that is more. The wide searches make the
# optimum: on 1,000 clusters 30 passes end 0.15% below the exact ones where the same 64 are searched
# in every pass, and 0.015% with these.
_NARROW = 32
_WIDE = 256
_PER_KEPT = 4
# Rows of a block of tiles, and of a tile at least and at most.
_BLOCK = 2048
_TILE = 16, 64


@pytree
class Kept:
    """What a truncated pass remembers of the rows.

    Attributes:
        components: the components that each row keeps, best first, ``(N, C)``; -1 for none.
        neighbours: of each component those that are searched, itself first, ``(K, G)``.
    """

    components: Int[Array, "*R N C"]
    neighbours: Int[Array, "*R K G"]

    def renamed(self, order: Int[Array, " K"]) -> "Kept":
        """The same of renamed components: the new k is the old ``order[k]``."""
        new = jnp.zeros_like(order).at[order].set(jnp.arange(order.shape[0], dtype=order.dtype))
        new = new.astype(jnp.int32)
        components = jnp.where(self.components < 0, -1, new[self.components])
        return Kept(components, new[self.neighbours[order]])


def nothing_kept(n_samples: int, n_components: int, number: int) -> Kept:
    """Before the first pass, for ``number`` components a row."""
    searched = _n_searched(_WIDE, n_components, number)
    return Kept(
        jnp.full((n_samples, number), -1, jnp.int32),
        jnp.zeros((n_components, searched), jnp.int32),
    )


def _n_searched(least: int, n_components: int, number: int) -> int:
    return min(n_components, max(least, _PER_KEPT * number))


def truncated_lane(
    x: Float[Array, "N D"],
    weight: Float[Array, " N"] | None,
    centre: Float[Array, " D"],
    potentials: Potentials,
    kept: Kept,
    due: Bool[Array, ""],
    axis: str | None = None,
) -> tuple[Sums, Kept]:
    """The sums of one lane under its truncated responsibilities, and what it then keeps.

    Args:
        x: complete rows.
        weight: of the rows; None for ones.
        centre: point near the data.
        potentials: of the lane.
        kept: from the pass before.
        due: whether the neighbours are to be found again, and a tile to choose among all of them;
            in other passes it has the nearest.
        axis: of the mesh over which the rows lie, or None.
    """
    potentials = replace(potentials, const=finite_const(potentials))
    neighbours = lax.cond(
        due,
        lambda: neighbours_of(potentials, centre, kept.neighbours.shape[1]),
        lambda: kept.neighbours,
    )
    best = lax.cond(
        kept.components[0, 0] < 0,
        lambda: best_components(x, potentials, centre),
        lambda: jnp.maximum(kept.components[:, 0], 0),  # of rows that fill up a device, none
    )
    old = kept.components.at[:, 0].set(best)
    weight = jnp.ones((x.shape[0],), x.dtype) if weight is None else weight

    wide = neighbours.shape[1]
    narrow = _n_searched(_NARROW, wide, old.shape[1])

    def search(neighbours: Array) -> _Found:
        found = _Found.nothing(potentials, old)
        return _by_tiles(found, x, weight, potentials, old, neighbours, narrow)

    if narrow == wide:
        found = search(neighbours)
    else:
        found = lax.cond(due, search, lambda near: search(near[:, :narrow]), neighbours)
    found = _by_rows(found, x, weight, potentials, old)
    kind = structure(potentials.structure)
    log_evidence = found.log_evidence + found.error
    sums = (found.count, found.first, found.second, log_evidence)
    count, first, second, log_evidence = over_devices(axis, sums)
    shift = safe_divide(first, count[:, None])
    scatter = second - kind.outer(count, shift)
    sums = Sums(count, potentials.mean + shift, scatter, log_evidence)
    return sums, Kept(found.components, neighbours)


@pytree
class _Found:
    """Sums so far, about the means of the potentials, and what was found of the rows."""

    count: Array
    first: Array
    second: Array
    log_evidence: Array
    error: Array
    components: Array
    open: Array

    @staticmethod
    def nothing(potentials: Potentials, old: Array) -> "_Found":
        mean = potentials.mean
        count, first = jnp.zeros_like(potentials.const), jnp.zeros_like(mean)
        second = structure(potentials.structure).outer(count, first)
        zero = jnp.zeros((), mean.dtype)
        return _Found(count, first, second, zero, zero, old, jnp.zeros(old.shape[0], bool))

    def add(
        self, kind: Any, index: Array, count: Array, first: Array, second: Array, lse: Array
    ) -> "_Found":
        """With parts of the components ``index (M, J)``."""
        log_evidence, error = add_compensated(self.log_evidence, self.error, jnp.sum(lse))
        return replace(
            self,
            count=self.count.at[index].add(count),
            first=self.first.at[index].add(first),
            second=kind.add_parts(self.second, index, second),
            log_evidence=log_evidence,
            error=error,
        )


def _respond(values: Array, number: int, w: Array) -> tuple[Array, Array, Array, Array]:
    """Of candidates' logits (S, B): weighted responsibilities (S, B), log-sum-exp, and the best.

    The best are at most ``number`` places (C, B), and which of them there are. One that adds less
    than rounding to the sum of the others is not kept: it changes nothing, and would be searched
    for in vain.
    """
    at, top, chosen = best_of(values, number)
    least = top[:1] + math.log(jnp.finfo(values.dtype).eps / 4)
    exponentials = jnp.where(chosen & (values >= least), jnp.exp(values - top[:1]), 0)
    normaliser = jnp.sum(exponentials, axis=0)
    r = exponentials * (w / normaliser)[None]
    return r, w * (top[0] + jnp.log(normaliser)), at, top >= least


def _by_tiles(
    found: _Found,
    x: Array,
    weight: Array,
    potentials: Potentials,
    old: Array,
    neighbours: Array,
    n_searched: int,
) -> _Found:
    """All rows against neighbours of their best components, in coordinates about its mean.

    Of more neighbours than ``n_searched`` a tile takes those nearest to being a row's best. A row
    that kept something else stays open.
    """
    kind = structure(potentials.structure)
    n, number = old.shape
    k = potentials.const.shape[0]
    size = min(max(_TILE[0], 1 << (n // k // 2).bit_length()), _TILE[1])
    n_tiles = max(_BLOCK // size, 1)
    tiles: Tiles = tiled(old[:, 0], k, size)

    def tile(group: Array, x: Array, w: Array, old: Array, there: Array) -> Any:
        near = neighbours[group]
        centre = potentials.mean[group]
        mean = potentials.mean[near]
        factor = kind.reorder(potentials.factor, near)
        coefficients = kind.coefficients(potentials.const[near], mean - centre[None], factor)
        centred = (x - centre[None]).T
        features = kind.features(centred)
        values = linalg.matmul(coefficients, features)
        if neighbours.shape[1] > n_searched:
            behind = jnp.where(there[None], jnp.max(values, axis=0)[None] - values, jnp.inf)
            chosen = least_of(jnp.min(behind, axis=1), n_searched)
            near, mean, values = near[chosen], mean[chosen], values[chosen]
        # (C, G, T): whether each that was kept is among the candidates
        known = jnp.any(near[None, :, None] == old.T[:, None], axis=1) | (old.T < 0)
        done = jnp.all(known, axis=0)
        w = jnp.where(done, w, 0)
        r, lse, at, kept = _respond(values, number, w)
        total = kind.total(centred, w)
        raw = linalg.matmul(r, features.T)
        count, average, scatter = kind.moments(raw, total)
        shift = average + centre[None] - mean
        first = count[:, None] * shift
        second = scatter + kind.outer(count, shift)
        lse = jnp.sum(lse) + kind.shared_log_density(factor, total)
        new = jnp.where(kept, near[at], -1).T
        return near, count, first, second, lse, new, ~done

    def block(i: Array, found: _Found) -> _Found:
        numbers = i * n_tiles + jnp.arange(n_tiles, dtype=jnp.int32)
        group, rows, there = tiles.take(numbers)
        w = jnp.where(there, weight[rows], 0)
        *sums, new, left = jax.vmap(tile)(group, x[rows], w, old[rows], there)
        found = found.add(kind, *sums)
        to = jnp.where(there, rows, n)
        return replace(
            found,
            components=found.components.at[to].set(new, mode="drop"),
            open=found.open.at[to].set(left, mode="drop"),
        )

    n_blocks = -(-tiles.number // n_tiles)
    return lax.fori_loop(0, n_blocks, block, found)


def _by_rows(found: _Found, x: Array, weight: Array, potentials: Potentials, old: Array) -> _Found:
    """The rows that are still open: what was found beside what they kept, by residuals."""
    kind = structure(potentials.structure)
    n, number = old.shape
    size = min(n, _BLOCK)
    place = jnp.cumsum(found.open, dtype=jnp.int32)
    to = jnp.where(found.open, place - 1, n)
    rows = jnp.zeros((n,), jnp.int32).at[to].set(jnp.arange(n, dtype=jnp.int32), mode="drop")
    n_open = place[-1]

    def row(x: Array, w: Array, new: Array, old: Array) -> Any:
        double = jnp.any(old[:, None] == new[None], axis=1) | (old < 0)
        candidates = jnp.concatenate([new, jnp.where(double, -1, old)])
        index = jnp.maximum(candidates, 0)
        factor = kind.reorder(potentials.factor, index)
        residual = x[None] - potentials.mean[index]
        squares = jnp.sum(kind.project(residual, factor) ** 2, axis=-1)
        values = jnp.where(candidates < 0, -jnp.inf, potentials.const[index] - 0.5 * squares)
        r, lse, at, there = _respond(values[:, None], number, w[None])
        r = r[:, 0]
        best = jnp.where(there, candidates[at], -1)[:, 0]
        return index, r, r[:, None] * residual, kind.outer(r, residual), lse, best

    def block(i: Array, found: _Found) -> _Found:
        numbers = i * size + jnp.arange(size, dtype=jnp.int32)
        there = numbers < n_open
        index = rows[jnp.minimum(numbers, n - 1)]
        w = jnp.where(there, weight[index], 0)
        *sums, best = jax.vmap(row)(x[index], w, found.components[index], old[index])
        found = found.add(kind, *sums)
        components = found.components.at[jnp.where(there, index, n)].set(best, mode="drop")
        return replace(found, components=components)

    return lax.fori_loop(0, -(-n_open // size), block, found)
