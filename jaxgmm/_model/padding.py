"""Models of different K in one shape: components that are absent, and a program shared by all.

A padded prior says by its weights which components are absent (`Dirichlet.present`). Their log
weight is -inf, so no sample is theirs, their posterior stays their prior, and they add exactly
nothing to the bound. The padded fit is then the plain one, number by number up to rounding.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgmm._model.families import TiedNormalWishart
from jaxgmm._model.prior import Prior
from jaxgmm._numerics.pytree import replace
from jaxgmm._numerics.special import first


def pad(prior: Prior, n_components: int, mean: Array, covariance: Array, *, mode: bool) -> Prior:
    """The prior with absent components up to ``n_components``.

    An absent component has the last one's prior, or where that is improper the default one for
    data of the given mean and covariance, so that its posterior has a mode and a mean.
    """
    n_absent = n_components - prior.n_components

    def longer(a: Array) -> Array:
        edges = [(0, n_absent), *[(0, 0)] * (a.ndim - 1)]
        # in NumPy, which compiles nothing for another shape
        return jnp.asarray(np.pad(np.asarray(a), edges, mode="edge"))

    own = _own_fields(prior)
    components = replace(prior.components, **{n: longer(a) for n, a in own.items()})
    proper = components.proper_or_default(mean, covariance)
    k = prior.n_components
    rows = {name: _join(a, getattr(proper, name), k) for name, a in own.items()}
    components = replace(components, **rows)
    if mode and isinstance(components, TiedNormalWishart):
        components = components.for_mode(n_absent)
    return Prior(prior.weights.padded(n_absent), components)


def _join(a: Array, b: Array, k: int) -> Array:
    return jnp.asarray(np.concatenate([np.asarray(a), np.asarray(b)[k:]]))


def unpad(q: Prior, n_components: int, *, mode: bool) -> Prior:
    """The posterior of the first components alone: the inverse of `pad`."""
    n_absent = q.n_components - n_components
    own = {name: first(a, n_components) for name, a in _own_fields(q).items()}
    components = replace(q.components, **own)
    if mode and isinstance(components, TiedNormalWishart):
        components = components.for_mode(-n_absent)
    return Prior(q.weights.truncated(n_components), components)


def _own_fields(prior: Prior) -> dict[str, Array]:
    """The fields of which each component has its own."""
    components = prior.components
    names = [n for n in components.expected_shapes() if n not in components.shared]
    return {name: getattr(components, name) for name in names}
