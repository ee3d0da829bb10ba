"""Moves between optima: merge two components and split a third, and let the lanes try it.

EM and CAVI climb to the optimum in whose basin they start. A move proposes a start in another one
(split and merge EM: Ueda, Nakano, Ghahramani & Hinton 2000; for the number of occupied components
of a variational posterior: Hughes & Sudderth 2013). All proposals for one state are lanes of one
program, and none is taken unless the objective it converges to is better.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from jaxgmm._lane.starts import posterior_at
from jaxgmm._lane.state import State
from jaxgmm._mixture.density import Mixture
from jaxgmm._model.prior import Prior
from jaxgmm._numerics import linalg

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


def merge_cost(m: Mixture) -> Float[Array, "K K"]:
    """Upper bound of the divergence that merging two components causes (Runnalls 2007, eq. 16)."""

    def cost(i: Array, j: Array) -> Array:
        weight, _, covariance = merged(m, i, j)
        own = m.weights[i] * half[i] + m.weights[j] * half[j]
        return weight * linalg.log_det(linalg.cholesky(covariance)) - own

    half = linalg.log_det(linalg.cholesky(m.covariances))
    index = jnp.arange(m.weights.shape[0])
    return jax.vmap(lambda i: jax.vmap(lambda j: cost(i, j))(index))(index)


def pairs_by_cost(m: Mixture, present: Array | None = None) -> Int[Array, "2 P"]:
    """All pairs ``i < j``, the cheapest to merge first, those with absent components last."""
    first, second = (jnp.asarray(a) for a in np.triu_indices(m.weights.shape[0], 1))
    cost = merge_cost(m)[first, second]
    last = jnp.isnan(cost)
    if present is not None:
        last = last | ~(present[first] & present[second])
    order = jnp.argsort(jnp.where(last, jnp.inf, cost))
    return jnp.stack([first[order], second[order]])


def merged(m: Mixture, i: Array, j: Array) -> tuple[Array, Array, Array]:
    """Weight, mean and covariance of two components together."""
    weight = m.weights[i] + m.weights[j]
    share = linalg.safe_divide(m.weights[j], weight)
    delta = m.means[j] - m.means[i]
    within = (1 - share) * m.covariances[i] + share * m.covariances[j]
    covariance = within + share * (1 - share) * linalg.outer(delta)
    return weight, m.means[i] + share * delta, covariance


def apply(m: Mixture, empty: Mixture, move: Move) -> Mixture:
    """The mixture after a move; ``empty`` is what a component without samples looks like."""
    i, j, k = move
    together = merged(m, i, j)
    merges = i != j
    m = Mixture(
        *(a.at[i].set(jnp.where(merges, b, a[i])) for a, b in zip(m, together, strict=True))
    )
    within = merges & ((k == i) | (k == j))
    target = jnp.where(within, i, jnp.maximum(k, 0))
    # a split across the second axis: across the first it would give back what was merged
    variances, axes = jnp.linalg.eigh(m.covariances[target])
    last = m.means.shape[1] - 1
    which = jnp.where(within, max(last - 1, 0), last)
    step = _OFFSET * jnp.sqrt(variances[which]) * axes[:, which]
    half = 0.5 * m.weights[target]
    covariance = m.covariances[target] - linalg.outer(step)
    first = (half, m.means[target] + step, covariance)
    second = (half, m.means[target] - step, covariance)
    nothing = tuple(a[j] for a in empty)
    splits = k >= 0
    return Mixture(
        *(
            a.at[target].set(jnp.where(splits, b, a[target])).at[j].set(jnp.where(splits, c, d))
            for a, b, c, d in zip(m, first, second, nothing, strict=True)
        )
    )


def compact(m: Mixture, j: Array, last: Array) -> Mixture:
    """The mixture after component ``j`` was emptied: the ``last`` one takes its place."""
    gone = jnp.zeros_like(m.weights[0])
    out = Mixture(*(a.at[j].set(a[last]) for a in m))
    return out._replace(weights=out.weights.at[last].set(gone))


def choose(m: Mixture, total: Array, n: int, *, mode: bool) -> Move:
    """The ``n`` most promising moves: cheap merges, each with the split of some component.

    For a posterior also merges alone, and splits alone into a component that is empty.
    """
    k = m.weights.shape[0]
    pairs = pairs_by_cost(m)
    heaviest = jnp.argsort(-m.weights)
    count = pairs.shape[1]
    if mode:
        # all splits with the cheapest merge, then with the next one
        index = jnp.arange(n)
        pair, split = pairs[:, index // k % count], heaviest[index % k]
        return Move(pair[0], pair[1], split)
    quarter = max(n // 4, 1)
    index = jnp.arange(n - 2 * quarter)
    pair, split = pairs[:, index // k % count], heaviest[index % k]
    alone = pairs[:, jnp.arange(quarter) % count]
    emptiest = jnp.full((quarter,), jnp.argmin(m.weights))
    births = heaviest[jnp.arange(quarter) % k]
    # without room for it, a split alone is left out by being no move
    room = m.weights[emptiest] * total < _EMPTY
    births = jnp.where(room, births, emptiest)
    return Move(
        jnp.concatenate([pair[0], alone[0], emptiest]),
        jnp.concatenate([pair[1], alone[1], emptiest]),
        jnp.concatenate([split, jnp.full((quarter,), -1), births]),
    )


def estimate(state: State) -> Mixture:
    """The mixture without reg_covar, which `mixture` adds and a posterior has not."""
    q, mode = state.posterior, state.view == "mode"
    weights = jnp.exp(q.weights.mode()) if mode else q.weights.mean()
    return Mixture(weights, q.components.mean, q.components.covariances(mode=mode))


@functools.partial(jax.jit, static_argnames="n")
def proposals(state: State, total: Array, n: int) -> Prior:
    """``n`` posteriors, each a move away from the state of one lane; every leaf leads with n."""
    prior, mode = state.prior, state.view == "mode"
    m = estimate(state)
    nothing = m if mode else _nothing(prior, total)

    def propose(move: Move) -> Prior:
        new = apply(m, nothing, move)
        parameters = (new.weights, new.means, new.covariances)
        return posterior_at(prior, parameters, total, mode=mode)

    return jax.vmap(propose)(choose(m, total, n, mode=mode))


def _nothing(prior: Prior, total: Array) -> Mixture:
    """Components without samples: the prior's own moments, and about one observation's weight."""
    components = prior.components
    weights = prior.weights.mean() / (1 + total)
    return Mixture(weights, components.mean, components.covariances(mode=False))
