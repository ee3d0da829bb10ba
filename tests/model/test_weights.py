"""Stick-breaking and fixed weights."""

import functools
import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import also_slow, clusters
from scipy.stats import beta

import jaxgmm
from jaxgmm import Dirichlet, FixedWeights, IndependentNormalGamma, StickBreaking
from jaxgmm._numerics.arrays import masked_product

K = 4


def sticks(seed: int = 0, dtype: str = "float64") -> StickBreaking:
    rng = np.random.default_rng(seed)
    return StickBreaking(*(jnp.asarray(rng.uniform(1.2, 6, K - 1), dtype) for _ in range(2)))


def weights_of(v: np.ndarray) -> np.ndarray:
    """The definition, one stick after the other."""
    left, out = np.ones(v.shape[:-1]), []
    for k in range(v.shape[-1]):
        out.append(v[..., k] * left)
        left = left * (1 - v[..., k])
    return np.stack([*out, left], axis=-1)


def test_moments_are_those_of_broken_sticks():
    q = sticks()
    rng = np.random.default_rng(1)
    v = rng.beta(np.asarray(q.alpha), np.asarray(q.beta), (100_000, K - 1))
    oracle = weights_of(v)
    draws = np.asarray(jax.vmap(q.sample)(jax.random.split(jax.random.key(0), 100_000)))
    for ours, theirs in (
        (q.mean(), oracle.mean(0)),
        (q.expectation(), np.log(oracle).mean(0)),
        (np.exp(draws).mean(0), oracle.mean(0)),
        (np.exp(draws).std(0), oracle.std(0)),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0.02)
    np.testing.assert_allclose(np.exp(draws).sum(-1), 1, rtol=1e-12)
    up, down = np.asarray(q.alpha) - 1, np.asarray(q.beta) - 1
    np.testing.assert_allclose(jnp.exp(q.mode()), weights_of(up / (up + down)), rtol=1e-12)


def test_kl_and_log_prior_against_scipy():
    q, p = sticks(1), sticks(2)
    a, b = np.asarray(q.alpha), np.asarray(q.beta)
    v = np.random.default_rng(3).beta(a, b, (200_000, K - 1))
    other = beta(np.asarray(p.alpha), np.asarray(p.beta))
    ratio = (beta(a, b).logpdf(v) - other.logpdf(v)).sum(-1)
    assert abs(float(q.kl(p)) - ratio.mean()) < 4 * ratio.std() / np.sqrt(len(ratio))
    weights = jnp.log(jnp.asarray(weights_of(v[0])))
    np.testing.assert_allclose(p.log_prior(weights), other.logpdf(v[0]).sum(), rtol=1e-10)


def test_update_counts_what_is_left():
    count = jnp.asarray([5.0, 3.0, 2.0, 1.0])
    q = StickBreaking.dirichlet_process(K, 2.0).update(count)
    np.testing.assert_allclose(q.alpha, [6, 4, 3])
    np.testing.assert_allclose(q.beta, [8, 5, 3])


def test_processes():
    q = StickBreaking.pitman_yor(K, 0.25, 2.0)
    np.testing.assert_allclose(q.alpha, 0.75)
    np.testing.assert_allclose(q.beta, [2.25, 2.5, 2.75])
    one = StickBreaking.dirichlet_process(1)
    assert one.n_components == 1
    np.testing.assert_allclose(one.mean(), [1.0])
    assert float(one.kl(one)) == 0


@pytest.mark.parametrize("kind", [StickBreaking, Dirichlet])
@pytest.mark.parametrize("point", [True, False])
def test_with_weights_round_trip(kind: type, point: bool):
    weights = jnp.asarray([0.4, 0.3, 0.2, 0.1])
    q = kind.flat(K).with_weights(weights, jnp.asarray(50.0), point=point)
    found = jnp.exp(q.mode()) if point else q.mean()
    np.testing.assert_allclose(found, weights, rtol=1e-10)


def test_fixed_weights_stay():
    x = clusters()
    fixed = FixedWeights(jnp.asarray([0.6, 0.3, 0.1]))
    prior = jaxgmm.Prior(fixed, jaxgmm.default_prior(x, 3).components)
    result = jaxgmm.fit(jax.random.key(0), x, jaxgmm.cavi(prior), 2)
    np.testing.assert_array_equal(jaxgmm.mixture(result.best).weights, fixed.weights)
    assert prior.n_parameters == jaxgmm.default_prior(x, 3).n_parameters - 2
    with pytest.raises(ValueError, match="sum to 1"):
        jaxgmm.cavi(jaxgmm.Prior(FixedWeights(jnp.asarray([0.6, 0.6, 0.1])), prior.components))


def separated(n: int = 90) -> jax.Array:
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [12.0, 0.0], [0.0, 12.0]])
    return jnp.asarray(centres[np.arange(n) % 3] + rng.standard_normal((n, 2)))


def same_prior(x: jax.Array, k: int, covariance: str) -> jaxgmm.Prior:
    """The prior of one component, k times: `default_prior`'s own narrows as K grows."""
    if covariance.startswith("independent"):
        spherical = covariance.endswith("spherical")
        spread = jnp.cov(x.T)
        one = IndependentNormalGamma.default(x.mean(0), spread, 1, spherical=spherical)
    else:
        given = jnp.eye(2) if covariance == "known" else covariance
        one = jaxgmm.default_prior(x, 1, given).components
    own = [name for name in one.expected_shapes() if name not in one.shared]
    repeated = {name: jnp.repeat(getattr(one, name), k, axis=0) for name in own}
    return jaxgmm.Prior(Dirichlet(jnp.ones(k)), replace(one, **repeated))


# each of these compiles a program for every K; test_select.py has one by default
@pytest.mark.slow
@pytest.mark.parametrize(
    "covariance",
    ["full", "independent diag", "tied", "diag", "spherical", "known", "independent spherical"],
)
def test_bound_picks_the_number_of_components(covariance: str):
    x = separated()
    bounds = []
    for k in range(1, 7):
        algorithm = jaxgmm.cavi(same_prior(x, k, covariance))
        result = jaxgmm.fit(jax.random.key(k), x, algorithm, 8, max_iter=300)
        bounds.append(float(result.best.objective))
    assert np.argmax(bounds) + 1 == 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dirichlet process", "pitman-yor", "sparse"])
def test_a_sparse_prior_empties_components(kind: str):
    x = separated(300)
    weights = {
        "dirichlet process": StickBreaking.dirichlet_process(6, 0.1),
        "pitman-yor": StickBreaking.pitman_yor(6, 0.05, 0.1),
        "sparse": Dirichlet(jnp.full(6, 1e-3)),
    }[kind]
    prior = jaxgmm.Prior(weights, jaxgmm.default_prior(x, 6).components)
    result = jaxgmm.fit(jax.random.key(0), x, jaxgmm.cavi(prior), 16, max_iter=2000)
    found = np.asarray(jaxgmm.mixture(result.best).weights)
    assert (found > 0.02).sum() == 3
    assert found[found > 0.02] == pytest.approx(1 / 3, abs=0.05)
    if kind != "sparse":
        assert (np.diff(found) <= 1e-9).all()  # sorted by mass


def test_cavi_with_sticks_never_decreases():
    x = clusters()
    prior = jaxgmm.default_prior(x, 5, weights="dirichlet_process")
    algorithm = jaxgmm.cavi(prior)
    result = jaxgmm.fit(jax.random.key(0), x, algorithm, 8, history=True, moves=False)
    rise = np.diff(result.history, axis=0)
    assert np.nanmin(rise) > -1e-9
    assert (np.asarray(result.states.status) == jaxgmm.Status.CONVERGED).all()


PROCESSES = [(0.1, 0.0), (1.0, 0.0), (50.0, 0.0), (1e3, 0.0), (0.1, 0.3), (10.0, 0.9), (1e3, 0.5)]


@pytest.mark.parametrize(("concentration", "discount"), PROCESSES)
def test_the_order_of_the_sticks_is_the_best_of_all(concentration: float, discount: float):
    """Every permutation, the bound of each from what the views need: no closed form."""
    prior = StickBreaking.pitman_yor(5, discount, concentration)
    rng = np.random.default_rng(0)
    orders = jnp.asarray(list(itertools.permutations(range(5))))

    def of_expectation(count: jax.Array) -> jax.Array:
        q = prior.update(count)
        return jnp.vdot(count, q.expectation()) - q.kl(prior)

    def of_mode(count: jax.Array) -> jax.Array:
        log_weights = prior.update(count).mode()
        return masked_product(count, log_weights).sum() + prior.log_prior(log_weights)

    views = {False: of_expectation}
    if discount == 0 and concentration >= 1:  # else there is no mode
        views[True] = of_mode
    for point, bound in views.items():
        order = jax.jit(functools.partial(prior.best_order, point=point))
        bounds = jax.jit(jax.vmap(bound))
        for size in (1.0, 30.0, 1000.0):
            for counts in (rng.exponential(size, 5), rng.integers(0, 3, 5) * size):
                count = jnp.asarray(counts)
                best = bounds(count[orders]).max()
                mine = bounds(count[order(count)][None])[0]
                np.testing.assert_allclose(mine, best, rtol=1e-13, atol=1e-10)


@pytest.mark.parametrize("point", [False, True])
def test_the_order_of_any_sticks_is_no_worse_than_the_present_one(point: bool):
    rng = np.random.default_rng(4)
    for seed in range(20):
        prior, count = sticks(seed), jnp.asarray(rng.exponential(20, K))
        order = prior.best_order(count, point=point)
        assert sorted(order.tolist()) == list(range(K))
        gain = functools.partial(prior.gain, point=point)
        assert float(gain(count[order])) >= float(gain(count))


def test_the_order_leaves_absent_components_at_the_end():
    prior = StickBreaking.dirichlet_process(3, 50.0).padded(2)
    order = prior.best_order(jnp.asarray([60.0, 20.0, 0.0, 0.0, 0.0]), point=False)
    np.testing.assert_array_equal(order, [1, 2, 0, 3, 4])


@pytest.mark.parametrize("dtype", ["float64", *also_slow("float32")])
@pytest.mark.parametrize("kind", ["cavi", "map", "natural"])
def test_no_bound_falls_whatever_the_concentration(kind: str, dtype: str):
    """Two groups of 60 and 20 rows: sorted by mass, most of these lanes were DECREASED."""
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.normal(0, 1, (60, 1)), rng.normal(9, 1, (20, 1))])
    components = jaxgmm.default_prior(jnp.asarray(x, dtype), 2).components
    rounding = 1e-9 if dtype == "float64" else 1e-3
    for concentration, discount in PROCESSES:
        if kind == "map" and (discount > 0 or concentration < 1):
            continue
        weights = StickBreaking.pitman_yor(2, discount, concentration, dtype)
        prior = jaxgmm.Prior(weights, components)
        algorithm = {
            "cavi": jaxgmm.cavi,
            "map": jaxgmm.em,
            "natural": lambda prior: jaxgmm.svi(prior, jaxgmm.natural_gradient(1.0)),
        }[kind](prior)
        result = jaxgmm.fit(
            jax.random.key(0), jnp.asarray(x, dtype), algorithm, 8, history=True, moves=False
        )
        assert np.nanmin(np.diff(result.history, axis=0)) > -rounding
        assert jaxgmm.Status.DECREASED not in result.statuses()


def test_the_better_order_of_two_groups_is_found():
    """The lighter one first: the last one pays nothing for a stick."""
    x = np.concatenate([np.linspace(-2, 2, 60), np.linspace(8, 10, 20)])[:, None]
    prior = jaxgmm.Prior(
        StickBreaking.dirichlet_process(2, 50.0), jaxgmm.default_prior(x, 2).components
    )
    best = jaxgmm.fit(jax.random.key(0), x, jaxgmm.cavi(prior), 8).best
    np.testing.assert_allclose(jaxgmm.mixture(best).means[:, 0], [9, 0], atol=1)


def test_sorting_leaves_components_with_priors_of_their_own():
    x = separated()
    base = jaxgmm.default_prior(x, 3).components
    means = jnp.asarray([[0.0, 12.0], [0.0, 0.0], [12.0, 0.0]])
    components = jaxgmm.NormalWishart(means, jnp.full(3, 5.0), base.degrees_of_freedom, base.scale)
    prior = jaxgmm.Prior(StickBreaking.dirichlet_process(3), components)
    weights = jnp.concatenate([jnp.ones(30), jnp.full(30, 3.0), jnp.full(30, 2.0)])
    result = jaxgmm.fit(
        jax.random.key(0),
        x,
        jaxgmm.cavi(prior),
        init={"means": means},
        sample_weight=weights,
    )
    np.testing.assert_allclose(jaxgmm.mixture(result.best).means, means, atol=1.0)
    assert int(result.best.status) == jaxgmm.Status.CONVERGED
