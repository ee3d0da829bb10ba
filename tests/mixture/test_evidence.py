"""Bounds, their gradients by the prior, and draws from the posterior, for every family."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithms import FAMILIES, WEIGHTS, components, data
from conftest import parametrize

import jaxgmm
from jaxgmm import Prior
from jaxgmm._model.views import draw, log_density

K, D, N = 3, 2, 60
# every family with one kind of weights, and every kind of weights with one family
MODELS = [(family, "dirichlet") for family in FAMILIES]
MODELS += [("full", "dirichlet process"), ("diag", "pitman-yor"), ("tied", "fixed")]
MODELS += [("spherical", "sparse")]
# Run by default; the others are marked slow: each compiles fits and their gradients.
DEFAULT_MODELS = {
    ("full", "dirichlet"),
    ("diag", "pitman-yor"),
    ("tied", "fixed"),
    ("independent spherical", "dirichlet"),
}


def is_slow(family: str, weights: str = "dirichlet") -> bool:
    return (family, weights) not in DEFAULT_MODELS


models = parametrize(("family", "weights"), MODELS, is_slow)


def model(family: str, weights: str) -> Prior:
    return Prior(WEIGHTS[weights]("float64"), components(family, "float64", proper=True))


def x() -> jax.Array:
    return data("float64")[:N]


@jax.jit
def converge(prior: Prior, start: jaxgmm.State, x: jax.Array) -> jaxgmm.State:
    algorithm = jaxgmm.cavi(prior)
    state = algorithm.init(jax.random.key(0), x, start)
    lanes = jax.tree.map(lambda a: a[None], state)
    lanes, _ = jaxgmm.run(algorithm, lanes, x, tol=1e-14, max_iter=3000)
    return jax.tree.map(lambda a: a[0], lanes)


def fitted(prior: Prior) -> jaxgmm.State:
    return converge(prior, jaxgmm.cavi(prior).init(jax.random.key(3), x()), x())


def directions(prior: Prior) -> list[Prior]:
    """A change of every leaf by itself, small beside it, that keeps the prior valid."""
    rng = np.random.default_rng(0)
    leaves, tree = jax.tree.flatten(prior)
    out = []
    for i, leaf in enumerate(leaves):
        change = rng.standard_normal(leaf.shape)
        if leaf.shape[-2:] == (D, D):
            change = change + np.swapaxes(change, -1, -2)
        if isinstance(prior.weights, jaxgmm.FixedWeights) and i == 0:
            change = change - change.mean()
        zeros = [np.zeros(a.shape) for a in leaves]
        zeros[i] = 1e-4 * np.abs(leaf).max() * change
        out.append(jax.tree.unflatten(tree, zeros))
    return out


@models
def test_prior_gradient_is_the_slope_of_the_best_bound(family: str, weights: str):
    """By finite differences of fits that are each converged under a prior of their own."""
    prior = model(family, weights)
    state = fitted(prior)
    gradient = jaxgmm.prior_gradient(state, x())
    for change in directions(prior):
        expected = sum(
            float(np.vdot(a, b))
            for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(change), strict=True)
        )
        ends = []
        for sign in (-1, 1):
            moved = jax.tree.map(
                lambda a, b, sign=sign: jnp.asarray(np.asarray(a) + sign * b), prior, change
            )
            ends.append(float(converge(moved, state, x()).objective))
        # a curvature of order 1 in changes of 1e-4, and rounding of objectives of some hundreds
        assert (ends[1] - ends[0]) / 2 == pytest.approx(expected, rel=2e-4, abs=2e-9)


@pytest.mark.slow
def test_prior_gradient_after_em_is_that_of_the_log_prior():
    prior = model("full", "dirichlet")
    state = jaxgmm.fit(jax.random.key(0), x(), jaxgmm.em(prior), tol=1e-12).best
    gradient = jaxgmm.prior_gradient(state, x())
    expected = jax.grad(lambda prior: -state.view.penalty(state.posterior, prior))(prior)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


@pytest.mark.slow
@models
def test_mean_log_ratio_of_draws_is_the_divergence(family: str, weights: str):
    prior = model(family, weights)
    q = fitted(prior).posterior

    @jax.jit
    def ratios(keys: jax.Array) -> jax.Array:
        def one(key: jax.Array) -> jax.Array:
            point = draw(key, q)
            return log_density(q, point) - log_density(prior, point)

        return jax.vmap(one)(keys)

    values = np.asarray(ratios(jax.random.split(jax.random.key(1), 10_000)))
    expected = float(jaxgmm.views.kl_divergence(q, prior))
    error = values.std() / 100
    assert error < 0.01 * expected
    assert abs(values.mean() - expected) < 4 * error


@parametrize(["family"], [[family] for family in FAMILIES], is_slow)
def test_sampled_elbo_at_one_component_is_the_exact_one(family: str):
    """One component leaves no assignments to sum out, so that the two bounds are one."""
    whole = model(family, "dirichlet")
    own = [n for n in whole.components.expected_shapes() if n not in whole.components.shared]
    first = {name: getattr(whole.components, name)[:1] for name in own}
    prior = Prior(jaxgmm.Dirichlet(jnp.ones(1)), replace(whole.components, **first))
    state = fitted(prior)
    bound, error = jaxgmm.sampled_elbo(jax.random.key(2), state, x(), 10_000)
    assert 0 < float(error) < 0.1
    assert abs(float(bound) - float(state.objective)) < 4 * float(error)


@pytest.mark.slow
def test_sampled_elbo_is_at_least_the_exact_one():
    state = fitted(model("full", "dirichlet"))
    bound, error = jaxgmm.sampled_elbo(jax.random.key(2), state, x(), 20_000)
    assert float(bound) > float(jaxgmm.elbo(state, x())) + 4 * float(error)


@pytest.mark.slow
def test_standard_error_of_the_sampled_elbo_is_that_of_many():
    state = fitted(model("diag", "dirichlet"))
    both = [
        jaxgmm.sampled_elbo(key, state, x(), 50) for key in jax.random.split(jax.random.key(3), 64)
    ]
    bounds, errors = np.asarray(both).T
    # a standard deviation of 64 values is known to 9%
    assert np.std(bounds, ddof=1) == pytest.approx(np.sqrt(np.mean(errors**2)), rel=0.36)


@models
def test_posterior_draws_have_the_posteriors_moments(family: str, weights: str):
    state = fitted(model(family, weights))
    draws = jaxgmm.sample_posterior(jax.random.key(4), state, 4000)
    assert draws.covariances.shape == (4000, K, D, D)
    np.testing.assert_allclose(draws.weights.sum(-1), 1, rtol=1e-10)
    weight, mean, covariance = jaxgmm.mixture(state)
    precision = np.linalg.inv(np.asarray(draws.covariances))
    for found, expected in (
        (draws.weights, weight),
        (draws.means, mean),
        (precision, np.linalg.inv(np.asarray(covariance))),
    ):
        found = np.asarray(found)
        error = found.std(axis=0) / np.sqrt(4000) + 1e-12
        assert (np.abs(found.mean(axis=0) - np.asarray(expected)) < 5 * error).all()


def test_what_needs_a_posterior_refuses_a_point_estimate():
    state = jaxgmm.fit(jax.random.key(0), x(), jaxgmm.em(jaxgmm.flat_prior(2, D)), moves=False).best
    with pytest.raises(ValueError, match="point estimate"):
        jaxgmm.sample_posterior(jax.random.key(0), state, 3)
    with pytest.raises(ValueError, match="point estimate"):
        jaxgmm.sampled_elbo(jax.random.key(0), state, x())


def test_bounds_refuse_an_improper_prior():
    algorithm = jaxgmm.cavi(model("full", "dirichlet"))
    state = algorithm.init(jax.random.key(0), x())
    state = replace(state, prior=jaxgmm.flat_prior(K, D))
    for bound in (
        lambda: jaxgmm.elbo(state, x()),
        lambda: jaxgmm.sampled_elbo(jax.random.key(0), state, x()),
        lambda: jaxgmm.prior_gradient(state, x()),
    ):
        with pytest.raises(ValueError, match="proper prior"):
            bound()
