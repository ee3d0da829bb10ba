"""Names of components: canonical orders, and alignment with a reference."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from algorithms import WEIGHTS, components, data
from conftest import also_slow

import jaxgmm
from jaxgmm import Mixture, Prior


def fitted(family: str = "full") -> jaxgmm.State:
    prior = Prior(WEIGHTS["dirichlet"]("float64"), components(family, "float64", proper=True))
    algorithm = jaxgmm.cavi(prior)
    return jax.jit(algorithm.step)(
        algorithm.init(jax.random.key(2), data("float64")), data("float64")
    )


def random_mixture(seed: int, k: int = 4, d: int = 2) -> Mixture:
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((k, d, d))
    return Mixture(
        jnp.asarray(rng.dirichlet(np.ones(k))),
        jnp.asarray(rng.standard_normal((k, d))),
        jnp.asarray(a @ a.swapaxes(1, 2) + np.eye(d)),
    )


@pytest.mark.parametrize("family", ["tied", *also_slow("full", "independent spherical")])
@pytest.mark.parametrize("by", ["mean", "weight", "scale"])
def test_orders_are_what_they_say_and_change_nothing_else(family: str, by: Any):
    state = fitted(family)
    ordered = jaxgmm.order_components(state, by, feature=1)
    weights, means, covariances = (np.asarray(a) for a in jaxgmm.mixture(ordered))
    key = {
        "mean": means[:, 1],
        "weight": -weights,
        "scale": np.linalg.det(covariances).round(12),
    }[by]
    assert (np.diff(key) >= 0).all()
    x = data("float64")
    np.testing.assert_allclose(jaxgmm.elbo(ordered, x), jaxgmm.elbo(state, x), rtol=1e-12)
    np.testing.assert_allclose(jaxgmm.log_prob(ordered, x), jaxgmm.log_prob(state, x), rtol=1e-10)


def test_priors_of_their_own_go_with_the_components():
    prior = jaxgmm.default_prior(data("float64"), 3)
    own = jaxgmm.NormalWishart(
        jnp.asarray([[4.0, 1.0], [0.0, 0.0], [1.0, 5.0]]),
        jnp.asarray([5.0, 9.0, 2.0]),
        prior.components.degrees_of_freedom,
        prior.components.scale,
    )
    algorithm = jaxgmm.cavi(Prior(jaxgmm.Dirichlet(jnp.asarray([1.0, 5.0, 2.0])), own))
    state = algorithm.init(jax.random.key(0), data("float64"))
    ordered = jaxgmm.order_components(state)
    bounds = [float(jaxgmm.elbo(s, data("float64"))) for s in (state, ordered)]
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-12)
    assert not np.allclose(ordered.prior.components.mean, state.prior.components.mean)


def test_alignment_undoes_every_permutation():
    target = random_mixture(0)
    for order in itertools.permutations(range(4)):
        shuffled = Mixture(*(a[jnp.asarray(order)] for a in target))
        for a, b in zip(jaxgmm.align(shuffled, target), target, strict=True):
            np.testing.assert_array_equal(a, b)


def test_alignment_is_the_best_of_all_assignments():
    for seed in range(20):
        other, target = random_mixture(seed), random_mixture(seed + 100)
        pooled = np.einsum("k,kij->ij", target.weights, target.covariances)

        def cost(means: np.ndarray, target: Mixture = target, pooled: np.ndarray = pooled) -> float:
            gaps = means - np.asarray(target.means)
            return float(np.einsum("ki,ij,kj->", gaps, np.linalg.inv(pooled), gaps))

        costs = [cost(np.asarray(other.means)[list(p)]) for p in itertools.permutations(range(4))]
        found = cost(np.asarray(jaxgmm.align(other, target).means))
        assert found == pytest.approx(min(costs))


@pytest.mark.slow
def test_draws_and_lanes_align_under_vmap_and_jit():
    state = fitted()
    target = jaxgmm.mixture(state)
    draws = jaxgmm.sample_posterior(jax.random.key(0), state, 50)
    orders = jnp.stack(
        [jax.random.permutation(key, 3) for key in jax.random.split(jax.random.key(1), 50)]
    )
    shuffled = jax.vmap(lambda m, o: Mixture(*(a[o] for a in m)))(draws, orders)
    align = jax.jit(jax.vmap(jaxgmm.align, (0, None)))
    for a, b in zip(align(shuffled, target), align(draws, target), strict=True):
        np.testing.assert_array_equal(a, b)
    algorithm = jaxgmm.em(jaxgmm.default_prior(data("float64"), 3))
    states = jaxgmm.fit(jax.random.key(0), data("float64"), algorithm, 4, moves=False).states
    aligned = jax.vmap(jaxgmm.align, (0, None))(states, jax.tree.map(lambda a: a[0], states))
    means = np.asarray(aligned.posterior.components.mean)
    assert means.shape == (4, 3, 2)


def test_sticks_keep_their_order_and_sizes_must_agree():
    x = data("float64")
    prior = jaxgmm.default_prior(x, 3, weights="dirichlet_process")
    state = jaxgmm.cavi(prior).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="order of their own"):
        jaxgmm.order_components(state)
    jaxgmm.order_components(jaxgmm.mixture(state))
    with pytest.raises(ValueError, match="as many components"):
        jaxgmm.align(random_mixture(0, 3), random_mixture(0, 4))


def test_a_renamed_state_of_an_optimiser_starts_anew():
    x = data("float64")
    algorithm = jaxgmm.svi(jaxgmm.default_prior(x, 3), optax.adam(0.1), view="expectation")
    state = jaxgmm.order_components(algorithm.init(jax.random.key(0), x))
    assert state.memory == ()
    again = algorithm.init(jax.random.key(1), x, state)
    np.testing.assert_allclose(again.posterior.components.mean, state.posterior.components.mean)
