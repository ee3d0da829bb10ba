"""Merging two components of an estimate: what it costs, and what comes of it.

In the shape of the covariance structure; every component has a covariance of its own, as
`Estimate.separate` gives.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from jaxgmm._model.estimate import Estimate
from jaxgmm._numerics.arrays import safe_divide
from jaxgmm._numerics.pytree import replace

# A component's weight, mean and covariance.
Part = tuple[Array, Array, Array]


def merged(m: Estimate, i: Array, j: Array) -> Part:
    """Two components together: their moments are kept."""
    weight = m.weights[i] + m.weights[j]
    share = safe_divide(m.weights[j], weight)
    delta = m.means[j] - m.means[i]
    within = (1 - share) * m.covariance[i] + share * m.covariance[j]
    covariance = within + share * (1 - share) * m.kind.square(delta)
    return weight, m.means[i] + share * delta, covariance


def merge_cost(m: Estimate) -> Float[Array, "K K"]:
    """Upper bound of the divergence that merging two components causes (Runnalls 2007, eq. 16)."""
    d = m.means.shape[-1]
    half = m.kind.half_log_det(m.covariance, d)

    def cost(i: Array, j: Array) -> Array:
        weight, _, covariance = merged(m, i, j)
        own = m.weights[i] * half[i] + m.weights[j] * half[j]
        return weight * m.kind.half_log_det(covariance, d) - own

    index = jnp.arange(m.weights.shape[0])
    return jax.vmap(lambda i: jax.vmap(lambda j: cost(i, j))(index))(index)


def pairs_by_cost(m: Estimate, present: Array | None = None) -> Int[Array, "2 P"]:
    """All pairs ``i < j``, the cheapest to merge first, those with absent components last."""
    first, second = (jnp.asarray(a) for a in np.triu_indices(m.weights.shape[0], 1))
    cost = merge_cost(m)[first, second]
    last = jnp.isnan(cost)
    if present is not None:
        last = last | ~(present[first] & present[second])
    order = jnp.argsort(jnp.where(last, jnp.inf, cost))
    return jnp.stack([first[order], second[order]])


def compact(m: Estimate, j: Array, last: Array) -> Estimate:
    """The estimate after component ``j`` was emptied: the ``last`` one takes its place."""
    gone = jnp.zeros_like(m.weights[0])
    out = put(m, j, part(m, last))
    degrees = None if m.degrees is None else m.degrees.at[j].set(m.degrees[last])
    return replace(out, weights=out.weights.at[last].set(gone), degrees=degrees)


def part(m: Estimate, k: Array) -> Part:
    """Component k."""
    return m.weights[k], m.means[k], m.covariance[k]


def put(m: Estimate, k: Array, component: Part) -> Estimate:
    """The estimate with another component k."""
    weight, mean, covariance = component
    return replace(
        m,
        weights=m.weights.at[k].set(weight),
        means=m.means.at[k].set(mean),
        covariance=m.covariance.at[k].set(covariance),
    )
