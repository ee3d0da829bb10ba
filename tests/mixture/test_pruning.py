"""Fewer components: what prune leaves is the fitted model, without what it did not need."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxgmm

KEY = jax.random.key(0)


def clusters(n: int = 300) -> jax.Array:
    rng = np.random.default_rng(0)
    means = np.array([[0.0, 0], [8, 0], [0, 8]])
    return jnp.asarray(means[rng.integers(3, size=n)] + rng.standard_normal((n, 2)))


@pytest.mark.slow  # the example of `prune` fits one by default
@pytest.mark.parametrize("weights", ["dirichlet_process", "sparse Dirichlet"])
def test_a_pruned_fit_is_the_same_mixture_and_goes_on(weights: str) -> None:
    x = clusters()
    prior = jaxgmm.default_prior(x, 8, "full", "dirichlet_process")
    if weights == "sparse Dirichlet":
        prior = jaxgmm.Prior(jaxgmm.Dirichlet(jnp.full(8, 1e-3)), prior.components)
    state = jaxgmm.fit(KEY, x, jaxgmm.cavi(prior)).best
    small = jaxgmm.prune(state)
    assert small.prior.n_components == 3
    # where the samples are; what is left to the empty components is far and wide
    assert_allclose(jaxgmm.log_prob(small, x), jaxgmm.log_prob(state, x), atol=0.2)
    assert set(np.asarray(jaxgmm.predict(small, x))) == {0, 1, 2}

    on = jaxgmm.fit(KEY, x, jaxgmm.cavi(small.prior), init=small, n_restarts=1).best
    assert on.status == jaxgmm.Status.CONVERGED
    assert on.n_iter < 10
    assert_allclose(on.objective, jaxgmm.elbo(small, x), atol=0.01)


def test_pruning_says_what_it_cannot_do() -> None:
    x = clusters(60)
    algorithm = jaxgmm.em(jaxgmm.default_prior(x, 3))
    result = jaxgmm.fit(KEY, x, algorithm, n_restarts=2, moves=False)
    assert jaxgmm.prune(result.best).prior.n_components == 3
    with pytest.raises(ValueError, match=r"one lane.*result\.best"):
        jaxgmm.prune(result.states)
    with pytest.raises(ValueError, match=r"no component has 1000\.0 samples: the largest"):
        jaxgmm.prune(result.best, least=1000.0)
    fixed = jaxgmm.em(jaxgmm.default_prior(x, 3, weights="fixed"))
    with pytest.raises(ValueError, match="weights that are learnt"):
        jaxgmm.prune(jaxgmm.fit(KEY, x, fixed, n_restarts=2, moves=False).best)
