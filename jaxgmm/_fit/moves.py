"""Moves between optima: merge two components and split a third, and let the lanes try it.

EM and CAVI climb to the optimum in whose basin they start. A move proposes a start in another one
(split and merge EM: Ueda, Nakano, Ghahramani & Hinton 2000; for the number of occupied components
of a variational posterior: Hughes & Sudderth 2013). All proposals are lanes of one program, and
none is taken unless the objective it converges to is better.

The fits that are moved come in groups, of one K each. Where there are several, some moves of K come
from its neighbours: the best of K - 1 with a component split, the best of K + 1 with two merged.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Int

from jaxgmm._estep.data import Data
from jaxgmm._fit.launch import begin_lane
from jaxgmm._lane.state import State
from jaxgmm._lane.status import FAILED
from jaxgmm._mixture.merging import compact, merged, pairs_by_cost, part, put
from jaxgmm._model.estimate import Estimate
from jaxgmm._model.prior import Prior
from jaxgmm._model.views import Expectation, Mode, View
from jaxgmm._numerics.pytree import replace, take

# A half of a split lies so many standard deviations from the middle, along the split's axis; the
# halves' variance there is what keeps that of the whole.
_OFFSET = 0.8
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


@functools.partial(jax.jit, static_argnames=("n", "grouped"))
def moved_lanes(
    algorithm: Any, best: State, sizes: Int[Array, " G"], data: Data, *, n: int, grouped: bool
) -> State:
    """``n`` lanes for each group, each a move away from the best of a group, those of one in a row.

    Args:
        algorithm: of all lanes, or if ``grouped`` of each group, every leaf led by G.
        best: the best state of each group, every leaf led by G.
        sizes: K of each group; the others of its components are absent.
        data: the rows.
        n: lanes of each group.
        grouped: whether the algorithm leads with G.
    """
    group = jnp.arange(sizes.shape[0] * n) // n
    view = Mode() if best.view.point else Expectation()
    posteriors = _moved(best, sizes, data.total, n, view)

    def begin(group: Array, posterior: Prior) -> State:
        return begin_lane(take(algorithm, group) if grouped else algorithm, posterior, data)

    return jax.vmap(begin)(group, posteriors)


def _moved(best: State, sizes: Array, total: Array, n: int, view: View) -> Prior:
    # without reg_covar, which the view adds and a posterior has not
    estimates = jax.vmap(lambda q: view.estimate(q).separate())(best.posterior)
    present = jnp.arange(best.prior.n_components) < sizes[:, None]
    pairs = jax.vmap(pairs_by_cost)(estimates, present)
    heaviest = jnp.argsort(-estimates.weights, axis=-1)
    failed = jnp.isin(best.status, jnp.asarray(FAILED, best.status.dtype))
    n_groups = sizes.shape[0]
    # merges alone, and splits alone, for a posterior whose components may be empty; neighbours make
    # both where there are any
    alone = 0 if view.point or n_groups > 1 else max(n // 4, 1)

    def one(lane: Array) -> Prior:
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
            move = _instead(move, r - (n - 2 * alone), alone, m, pairs[source], total)
        new = apply(m, m if n_groups > 1 else empty, move)
        new = _where(wish > 0, compact(new, move.j, k - 1), new)
        new = _where((wish == 0) & (k < 2), m, new)
        return view.posterior_at(prior, new, total)

    return jax.vmap(one)(jnp.arange(n_groups * n))


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
