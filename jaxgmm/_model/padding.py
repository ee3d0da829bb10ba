"""Models of different K in one shape: components that are absent, and a program shared by all.

A padded prior says by its weights which components are absent (`Dirichlet.present`). Their log
weight is -inf, so no sample is theirs, their posterior stays their prior, and they add exactly
nothing to the bound. The padded fit is then the plain one, number by number up to rounding.
"""

from typing import Any

import jax
import numpy as np
from jax import Array

from jaxgmm._model.prior import Prior
from jaxgmm._numerics.arrays import as_array, first
from jaxgmm._numerics.pytree import replace, select


def pad(prior: Prior, n_components: int) -> Prior:
    """The prior with absent components up to ``n_components``, of which each has the last's prior.

    In NumPy, which compiles nothing for another shape.
    """
    n_absent = n_components - prior.n_components

    def longer(a: Array) -> Array:
        edges = [(0, n_absent), *[(0, 0)] * (a.ndim - 1)]
        return as_array(np.pad(np.asarray(a), edges, mode="edge"))

    own = {name: longer(a) for name, a in prior.components.own_fields().items()}
    components = replace(prior.components, **own)
    weights = prior.weights.padded(n_absent)
    return replace(prior, weights=weights, components=components, tails=_each(prior, longer))


def completed(prior: Prior, mean: Array, covariance: Array) -> Prior:
    """A padded prior whose absent components are proper.

    Where they were improper they have the default prior for data of the given mean and covariance,
    so that their posterior has a mode and a mean.
    """
    components, present = prior.components, prior.weights.present()
    proper = components.proper_or_default(mean, covariance)
    own = components.own_fields()
    chosen = {name: select(present, a, getattr(proper, name)) for name, a in own.items()}
    return replace(prior, components=replace(components, **chosen))


def unpad(q: Prior, n_components: int) -> Prior:
    """The posterior of the first components alone: the inverse of `pad`."""
    own = {name: first(a, n_components) for name, a in q.components.own_fields().items()}
    components = replace(q.components, **own)
    tails = _each(q, lambda a: first(a, n_components))
    weights = q.weights.truncated(n_components)
    return replace(q, weights=weights, components=components, tails=tails)


def _each(q: Prior, change: Any) -> Any:
    """The tails, of which each component has its own, after a change."""
    return jax.tree.map(change, q.tails)
