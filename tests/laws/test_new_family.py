"""The family that docs/new_family.md adds is another parametrisation of the spherical one.

The contract table puts it through the laws of every algorithm (`algorithms.FAMILIES`); here are all
its results beside those of the family that it is.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import also_slow, clusters
from new_family import NormalChiSquared

import jaxgmm
from jaxgmm import Dirichlet, Prior, SphericalNormalGamma

K = 3
x = clusters(n=120)
WEIGHTS = Dirichlet(jnp.ones(K))
ALGORITHMS = {
    "em": lambda components: jaxgmm.em(Prior(WEIGHTS, components.flat(K, 2))),
    "map": lambda components: jaxgmm.em(Prior(WEIGHTS, default(components))),
    "cavi": lambda components: jaxgmm.cavi(Prior(WEIGHTS, default(components))),
    "natural": lambda components: jaxgmm.svi(
        Prior(WEIGHTS, default(components)), jaxgmm.natural_gradient(0.5)
    ),
}


def default(components: type) -> object:
    return components.default(x.mean(axis=0), x.var(axis=0), K)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["em", *also_slow("cavi", "map", "natural")])
def test_fits_are_those_of_the_spherical_family(name: str):
    new, old = (
        jaxgmm.fit(jax.random.key(0), x, ALGORITHMS[name](c), 16, max_iter=100).best
        for c in (NormalChiSquared, SphericalNormalGamma)
    )
    assert new.status == old.status
    np.testing.assert_allclose(new.objective, old.objective, rtol=1e-9)
    for a, b in zip(jaxgmm.mixture(new), jaxgmm.mixture(old), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    np.testing.assert_allclose(jaxgmm.log_prob(new, x), jaxgmm.log_prob(old, x), rtol=1e-8)
    np.testing.assert_allclose(jaxgmm.elbo(new, x), jaxgmm.elbo(old, x), rtol=1e-9)
    assert new.posterior.n_parameters == old.posterior.n_parameters


def test_it_shares_no_code_with_the_family_that_it_is():
    assert NormalChiSquared.distribution.__module__ != SphericalNormalGamma.distribution.__module__
    assert not issubclass(NormalChiSquared.distribution, SphericalNormalGamma.distribution)
