"""Moves between optima: new starts for the lanes to try, each a change of the best estimate.

EM and CAVI climb to the optimum in whose basin they start. A move proposes a start in another one
(split and merge EM: Ueda, Nakano, Ghahramani & Hinton 2000; for the number of occupied components
of a variational posterior: Hughes & Sudderth 2013). All proposals are lanes of one program, and
none is taken unless the objective it converges to is better. Some are *ranked*: the most promising
merges and splits by their cost. Others are *drawn*: two components that are cheap to merge make
room for a component that is born where some random rows lie together, or for a split along a random
axis. Of a posterior, whose components may be empty, more and more are merged as well.

The fits that are moved come in groups, of one K each. Where there are several, some moves of K come
from its neighbours: the best of K - 1 with a component split, the best of K + 1 with two merged.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Int

from jaxgmm._estep.data import Data
from jaxgmm._estep.rows import Rows
from jaxgmm._fit.launch import begin_lane
from jaxgmm._lane.seeds import some_rows
from jaxgmm._lane.state import State
from jaxgmm._lane.status import FAILED
from jaxgmm._mixture.merging import Part, compact, merged, pairs_by_cost, part, put
from jaxgmm._model.estimate import Estimate
from jaxgmm._model.prior import Prior
from jaxgmm._model.views import Expectation, Mode, View
from jaxgmm._numerics.programs import program
from jaxgmm._numerics.pytree import replace, take

# A half of a split lies so many standard deviations from the middle, along the split's axis; the
# halves' variance there is what keeps that of the whole.
_OFFSET = 0.8
# Merges that are drawn: the mean of their ranks by cost; and births among what follows them.
_CHEAP = 2.0
_BIRTHS = 0.6
# A component with fewer samples than this is free to take half of a split.
_EMPTY = 0.5


class Move(NamedTuple):
    """Merge ``i`` and ``j``, or neither if they are equal; then split ``k`` into itself and ``j``.

    Where ``k`` is one of the two, the merged component is split across its second axis, and where
    it is negative nothing is: ``j`` stays empty.
    """

    i: Int[Array, "*M"]
    j: Int[Array, "*M"]
    k: Int[Array, "*M"]


def apply(m: Estimate, empty: Estimate, move: Move) -> Estimate:
    """The estimate after a move; ``empty`` is what a component without samples looks like."""
    i, j, k = move
    merges, splits = i != j, k >= 0
    m = _where(merges, put(m, i, merged(m, i, j)), m)
    within = merges & ((k == i) | (k == j))
    target = jnp.where(within, i, jnp.maximum(k, 0))
    # a split across the second axis: across the first it would give back what was merged
    weight, mean, covariance = part(m, target)
    step = _OFFSET * m.kind.axis(covariance, jnp.where(within, 1, 0), mean.shape[0])
    half, covariance = 0.5 * weight, covariance - m.kind.square(step)
    split = put(m, target, (half, mean + step, covariance))
    split = put(split, j, (half, mean - step, covariance))
    return _where(splits, split, put(m, j, part(empty, j)))


def _where(condition: Array, a: Estimate, b: Estimate) -> Estimate:
    return jax.tree.map(lambda u, v: jnp.where(condition, u, v), a, b)


@program(static=("n", "grouped"))
def moved_lanes(
    key: Array,
    branch: Array,
    algorithm: Any,
    best: State,
    sizes: Int[Array, " G"],
    data: Data,
    n_ranked: Int[Array, " G"],
    *,
    n: int,
    grouped: bool,
) -> State:
    """``n`` lanes for each group, each a move away from the best of a group, those of one in a row.

    Args:
        key: PRNG key, for the moves that are drawn.
        branch: numbers that are folded into the key, one after the other.
        algorithm: of all lanes, or if ``grouped`` of each group, every leaf led by G.
        best: the best state of each group, every leaf led by G.
        sizes: K of each group; the others of its components are absent.
        data: the rows.
        n_ranked: lanes of each group whose moves are ranked, ``(G,)``.
        n: lanes of each group.
        grouped: whether the algorithm leads with G.
    """
    for number in branch:
        key = jax.random.fold_in(key, number)
    group = jnp.arange(sizes.shape[0] * n) // n
    view = Mode() if best.view.point else Expectation()
    # without reg_covar, which the view adds and a posterior has not
    estimates = jax.vmap(lambda q: view.estimate(q).separate())(best.posterior)
    present = jnp.arange(best.prior.n_components)[None] < sizes[:, None]
    pairs = jax.vmap(pairs_by_cost)(estimates, present)
    ranked = _ranked(best, sizes, data.total, n, view, estimates, pairs)

    # merging more and more is for a posterior alone, and one whose neighbours do not do it
    path = None
    if not view.point and sizes.shape[0] == 1:
        path = merge_path(take(estimates, 0), take(estimates, 0).weights * data.total > _EMPTY)
    few = some_rows(jax.random.fold_in(key, 0), data.rows.completed(), best.prior.n_components)

    def begin(group: Array, lane: Array) -> State:
        m, r = take(estimates, group), lane % n
        lane_key = jax.random.fold_in(key, 1 + lane)
        drawn = _drawn(lane_key, m, sizes[group], pairs[group], few)
        if path is not None:
            empty = _nothing(take(best.prior, group), data.total)
            fewer = _merged_along(lane_key, m, empty, path)
            drawn = _where(r % 2 == 0, fewer, drawn)
        new = _where((r < n_ranked[group]) | (sizes[group] < 2), ranked(lane), drawn)
        posterior = view.posterior_at(take(best.prior, group), new, data.total)
        return begin_lane(take(algorithm, group) if grouped else algorithm, posterior, data)

    return jax.vmap(begin)(group, jnp.arange(sizes.shape[0] * n))


def _ranked(
    best: State, sizes: Array, total: Array, n: int, view: View, estimates: Estimate, pairs: Array
) -> Callable[[Array], Estimate]:
    """The estimate of each lane after a move by rank."""
    heaviest = jnp.argsort(-estimates.weights, axis=-1)
    failed = jnp.isin(best.status, jnp.asarray(FAILED, best.status.dtype))
    n_groups = sizes.shape[0]
    # merges alone, and splits alone, for a posterior whose components may be empty; neighbours make
    # both where there are any
    alone = 0 if view.point or n_groups > 1 else max(n // 4, 1)

    def one(lane: Array) -> Estimate:
        group, r = lane // n, lane % n
        # two of four lanes stay, one comes from below and one from above
        wish = jnp.where(r % 4 == 2, -1, jnp.where(r % 4 == 3, 1, 0))
        source = jnp.clip(group + wish, 0, n_groups - 1)
        usable = (sizes[source] == sizes[group] + wish) & ~failed[source]
        wish, source = jnp.where(usable, wish, 0), jnp.where(usable, source, group)
        k, m, prior = sizes[source], take(estimates, source), take(best.prior, group)
        empty = m if view.point else _nothing(prior, total)
        move = _choose(wish, jnp.where(wish == 0, r, r // 4), k, pairs[source], heaviest[source])
        if alone:
            # by turns, so that there are some among the first lanes, whatever their number
            rank, kind = r // 4, r % 4
            rank = jnp.where(kind == 2, rank, jnp.where(kind == 3, alone + rank, -1))
            move = _instead(move, rank, alone, m, pairs[source], total)
        new = apply(m, m if n_groups > 1 else empty, move)
        new = _where(wish > 0, compact(new, move.j, k - 1), new)
        return _where((wish == 0) & (k < 2), m, new)

    return one


def _drawn(key: Array, m: Estimate, k: Array, pairs: Array, rows: Rows) -> Estimate:
    """The estimate after a random move: a cheap merge, and then a birth or a split at random.

    A birth is of the rows nearest to a random one, half as many as a component has on average. A
    split is along a random axis.
    """
    pair_key, what_key, row_key, which_key, axis_key = jax.random.split(key, 5)
    n_pairs = jnp.maximum(k * (k - 1) // 2, 1)
    rank = jax.random.exponential(pair_key, dtype=m.weights.dtype) * _CHEAP
    i, j = pairs[:, jnp.minimum(rank.astype(n_pairs.dtype), n_pairs - 1)]
    pooled = jnp.tensordot(m.weights, m.covariance, 1, precision="highest")
    m = put(m, i, merged(m, i, j))
    born = part_near(row_key, rows, m, pooled)
    newborn = put(m, j, born)
    target = jax.random.randint(which_key, (), 0, k, k.dtype)
    target = jnp.where(target == j, i, target)
    weight, mean, covariance = part(m, target)
    axis = jax.random.normal(axis_key, mean.shape, mean.dtype)
    step = _OFFSET * m.kind.colour(m.kind.root(covariance), axis / jnp.linalg.norm(axis))
    half, covariance = 0.5 * weight, covariance - m.kind.square(step)
    split = put(m, target, (half, mean + step, covariance))
    split = put(split, j, (half, mean - step, covariance))
    new = _where(jax.random.bernoulli(what_key, _BIRTHS), newborn, split)
    return replace(new, weights=new.weights / jnp.sum(new.weights))


def part_near(key: Array, rows: Rows, m: Estimate, pooled: Array) -> Part:
    """A component of the rows nearest to a random one, a little wider than they lie.

    Args:
        key: PRNG key.
        rows: some of the data, or all of them.
        m: whose structure it has.
        pooled: covariance within the components, whose hundredth is added.
    """
    x, weight = rows.x, rows.weight
    n_components, dimension = m.means.shape
    n = min(max(2 * (dimension + 1), x.shape[0] // (2 * n_components)), x.shape[0])
    log_weight = jnp.zeros((x.shape[0],), x.dtype) if weight is None else jnp.log(weight)
    centre = x[jax.random.categorical(key, log_weight)]
    distance = jnp.sum((x - centre[None]) ** 2, axis=-1)
    near = lax.top_k(-jnp.where(jnp.isfinite(log_weight), distance, jnp.inf), n)[1]
    mean = jnp.mean(x[near], axis=0)
    covariance = jnp.mean(jax.vmap(m.kind.square)(x[near] - mean[None]), axis=0)
    share = jnp.asarray(n / x.shape[0], x.dtype)
    return share, mean, covariance + 0.01 * pooled


def merge_path(m: Estimate, used: Bool[Array, " K"]) -> tuple[Int[Array, "2 S"], Int[Array, ""]]:
    """The pairs of components that are merged one after the other, and how many there are.

    Each is the cheapest of those that are left.
    """

    def merge(carry: tuple[Estimate, Array], _: None) -> tuple[tuple[Estimate, Array], Array]:
        m, used = carry
        i, j = pairs_by_cost(m, used)[:, 0]
        m = put(m, i, merged(m, i, j))
        return (m, used & (jnp.arange(used.shape[0]) != j)), jnp.stack([i, j])

    _, pairs = lax.scan(merge, (m, used), length=used.shape[0] - 1)
    return pairs.T, jnp.maximum(jnp.sum(used) - 1, 0)


def _merged_along(key: Array, m: Estimate, empty: Estimate, path: tuple[Array, Array]) -> Estimate:
    """The estimate after a random number of the path's merges, few of them more often than many."""
    pairs, length = path
    share = jax.random.uniform(key, dtype=m.weights.dtype) ** 2

    def merge(s: Array, m: Estimate) -> Estimate:
        i, j = pairs[:, s]
        return put(put(m, i, merged(m, i, j)), j, part(empty, j))

    n_merges = 1 + (share * length.astype(share.dtype)).astype(length.dtype)
    return lax.fori_loop(0, jnp.minimum(n_merges, length), merge, m)


def _choose(wish: Array, rank: Array, k: Array, pairs: Array, heaviest: Array) -> Move:
    """The move of a rank, the most promising first.

    Of K itself all splits with the cheapest merge, then with the next one; from K - 1 a split, the
    heaviest component's first; from K + 1 a merge, the cheapest first.
    """
    n_pairs = jnp.maximum(k * (k - 1) // 2, 1)
    within, merging = pairs[:, rank // k % n_pairs], pairs[:, rank % n_pairs]
    # from K - 1: the new component is the first that was absent
    i, j = (
        jnp.where(wish < 0, k, jnp.where(wish > 0, b, a))
        for a, b in zip(within, merging, strict=True)
    )
    return Move(i, j, jnp.where(wish > 0, -1, heaviest[rank % k]))


def _instead(move: Move, rank: Array, n: int, m: Estimate, pairs: Array, total: Array) -> Move:
    """From rank 0 on ``n`` merges alone, and then splits alone into a component that is empty."""
    first, second = pairs[:, jnp.maximum(rank, 0) % pairs.shape[1]]
    emptiest = jnp.argmin(m.weights)
    born = jnp.argsort(-m.weights)[jnp.maximum(rank - n, 0) % m.weights.shape[0]]
    # without room for it, a split alone is left out by being no move
    born = jnp.where(m.weights[emptiest] * total < _EMPTY, born, emptiest)
    merge, birth = rank >= 0, rank >= n
    return Move(
        jnp.where(birth, emptiest, jnp.where(merge, first, move.i)),
        jnp.where(birth, emptiest, jnp.where(merge, second, move.j)),
        jnp.where(birth, born, jnp.where(merge, -1, move.k)),
    )


def _nothing(prior: Prior, total: Array) -> Estimate:
    """Components without samples: the prior's own moments, and about one observation's weight."""
    m = Expectation().estimate(prior)
    return replace(m, weights=m.weights / (1 + total)).separate()
