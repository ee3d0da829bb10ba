"""Models of different K in one shape: components that are absent, and a program shared by all.

A padded prior says by its weights which components are absent (`Dirichlet.present`). Their log
weight is -inf, so no sample is theirs, their posterior stays their prior, and they add exactly
nothing to the bound. The padded fit is then the plain one, number by number up to rounding.
"""

import numpy as np
from jax import Array

from jaxgmm._model.prior import Prior
from jaxgmm._numerics.arrays import as_array, first
from jaxgmm._numerics.pytree import replace


def pad(prior: Prior, n_components: int, mean: Array, covariance: Array) -> Prior:
    """The prior with absent components up to ``n_components``.

    An absent component has the last one's prior, or where that is improper the default one for
    data of the given mean and covariance, so that its posterior has a mode and a mean.
    """
    n_absent = n_components - prior.n_components

    def longer(a: Array) -> Array:
        edges = [(0, n_absent), *[(0, 0)] * (a.ndim - 1)]
        # in NumPy, which compiles nothing for another shape
        return as_array(np.pad(np.asarray(a), edges, mode="edge"))

    own = prior.components.own_fields()
    components = replace(prior.components, **{n: longer(a) for n, a in own.items()})
    proper = components.proper_or_default(mean, covariance)
    k = prior.n_components
    rows = {name: _join(a, getattr(proper, name), k) for name, a in own.items()}
    return Prior(prior.weights.padded(n_absent), replace(components, **rows))


def _join(a: Array, b: Array, k: int) -> Array:
    return as_array(np.concatenate([np.asarray(a), np.asarray(b)[k:]]))


def unpad(q: Prior, n_components: int) -> Prior:
    """The posterior of the first components alone: the inverse of `pad`."""
    own = {name: first(a, n_components) for name, a in q.components.own_fields().items()}
    return Prior(q.weights.truncated(n_components), replace(q.components, **own))
