"""Standard errors against closed forms and against Hessians in the parameters themselves."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import clusters
from jax.scipy.stats import multivariate_normal

import jaxgmm
from jaxgmm._lane.state import initial_state

COVARIANCES = ("full", "tied", "diag", "spherical", "known")
KNOWN = np.array([[1.0, 0.2], [0.2, 0.8]])
K, D = 2, 2


def data(n: int = 300) -> jax.Array:
    """Two clusters that overlap a little."""
    x = clusters(n=n)
    return x[x[:, 1] < 3.5]


def fitted(x: jax.Array, covariance: str, k: int = K, prior: Any = None) -> jaxgmm.State:
    """The estimate to the last digit."""
    given = jnp.asarray(KNOWN) if covariance == "known" else covariance
    prior = jaxgmm.flat_prior(k, D, given) if prior is None else prior
    means = jnp.array([[0.0, 0.0], [4.0, 1.0]])[:k]
    algorithm, options = jaxgmm.em(prior), {"init": {"means": means}, "tol": 0.0}
    return jaxgmm.fit(jax.random.key(0), x, algorithm, max_iter=300, **options).best


def oracle(x: jax.Array, state: jaxgmm.State, covariance: str) -> jaxgmm.Mixture:
    """Errors by the Hessian in the free weights, means and entries of the covariances."""
    m = jaxgmm.mixture(state)
    rows, columns = np.tril_indices(D)

    def matrix(entries: jax.Array) -> jax.Array:
        lower = jnp.zeros((D, D)).at[rows, columns].set(entries)
        return lower + lower.T - jnp.diag(jnp.diag(lower))

    # the number of free entries, and K covariances from them
    maps: dict[str, tuple[Any, Callable[[jax.Array], jax.Array]]] = {
        "full": (m.covariances[:, rows, columns], jax.vmap(matrix)),
        "tied": (m.covariances[0, rows, columns], lambda e: jnp.stack([matrix(e)] * K)),
        "diag": (jax.vmap(jnp.diag)(m.covariances), jax.vmap(jnp.diag)),
        "spherical": (m.covariances[:, 0, 0], lambda e: e[:, None, None] * jnp.eye(D)),
        "known": (jnp.zeros(0), lambda e: jnp.stack([jnp.asarray(KNOWN)] * K)),
    }
    entries, covariances_of = maps[covariance]
    flat, restore = jax.flatten_util.ravel_pytree((m.weights[:-1], m.means, entries))

    def mixture(flat: jax.Array) -> jaxgmm.Mixture:
        free, means, entries = restore(flat)
        return jaxgmm.Mixture(jnp.append(free, 1 - jnp.sum(free)), means, covariances_of(entries))

    def log_likelihood(flat: jax.Array) -> jax.Array:
        m = mixture(flat)
        each = jax.vmap(multivariate_normal.logpdf, (None, 0, 0))(x, m.means, m.covariances)
        return jnp.sum(jax.nn.logsumexp(each + jnp.log(m.weights)[:, None], axis=0))

    inverse = np.linalg.inv(-jax.jit(jax.hessian(log_likelihood))(flat))
    slopes = jax.jit(jax.jacfwd(mixture))(flat)
    return jaxgmm.Mixture(
        *(jnp.sqrt(jnp.einsum("...p,pq,...q->...", a, inverse, a)) for a in slopes)
    )


@pytest.mark.slow
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_errors_are_those_of_the_hessian_in_the_parameters_themselves(covariance: str):
    x = data()
    state = fitted(x, covariance)
    found = jaxgmm.standard_errors(state, x)
    for actual, expected in zip(found.errors, oracle(x, state, covariance), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-12)
    assert not found.singular
    assert found.distance < 1e-4
    assert f"K={K}, D={D}, {len(x)} samples" in found.summary()


@pytest.mark.slow
def test_an_early_stop_other_units_and_redundancy():
    # all of one program
    x = data()
    state = fitted(x, "full")
    found = jaxgmm.standard_errors(state, x)
    assert "from the optimum" not in found.summary()
    shift, scale = jnp.array([1000.0, -3.0]), jnp.array([10.0, 0.01])
    m, algorithm = jaxgmm.mixture(state), jaxgmm.em(jaxgmm.flat_prior(K, D))
    there = algorithm.init(
        jax.random.key(0),
        x * scale + shift,
        {
            "parameters": (
                m.weights,
                m.means * scale + shift,
                m.covariances * scale[:, None] * scale,
            )
        },
    )
    moved = jaxgmm.standard_errors(there, x * scale + shift)
    np.testing.assert_allclose(moved.errors.weights, found.errors.weights, rtol=1e-6)
    np.testing.assert_allclose(moved.errors.means, found.errors.means * scale, rtol=1e-6)
    # of a function: the error of a difference is not that of independent estimates
    gap = found.of(lambda m: m.means[0] - m.means[1])
    assert gap.shape == (D,)
    np.testing.assert_allclose(found.of(lambda m: m.means * 2), 2 * found.errors.means)

    # not where all rows have their optimum, but where the estimate of most of them lies
    away = algorithm.init(jax.random.key(0), x, {"parameters": m._replace(means=m.means + 0.02)})
    near = jaxgmm.standard_errors(away, x)
    assert 0.1 < near.distance < 1
    assert "from the optimum" in near.summary()

    halves = (jnp.full(K, 0.5), jnp.stack([m.means[0]] * K), jnp.stack([m.covariances[0]] * K))
    double = algorithm.init(jax.random.key(0), x, {"parameters": halves})
    with pytest.warns(RuntimeWarning, match="singular"):
        none = jaxgmm.standard_errors(double, x)
    assert none.singular
    assert np.isnan(none.errors.means).all()
    assert "no standard errors" in none.summary()


@pytest.mark.slow
def test_one_component_in_closed_form():
    x = clusters(n=150)
    state = fitted(x, "full", 1)
    found = jaxgmm.standard_errors(state, x)
    s = np.cov(x.T, bias=True)
    n, variances = len(x), np.diag(s)
    np.testing.assert_allclose(found.errors.means[0], np.sqrt(variances / n), rtol=1e-9)
    wishart = np.sqrt((s**2 + np.outer(variances, variances)) / n)
    np.testing.assert_allclose(found.errors.covariances[0], wishart, rtol=1e-9)
    assert float(found.errors.weights[0]) == 0


@pytest.mark.slow
def test_weights_count_rows():
    x = data(100)
    twice = jnp.concatenate([x, x[:40]])
    weight = jnp.ones(len(x)).at[:40].set(2)
    state = fitted(twice, "full")
    rows = jaxgmm.standard_errors(state, jaxgmm.Rows(x, weight))
    for a, b in zip(rows.errors, jaxgmm.standard_errors(state, twice).errors, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["dirichlet", "fixed"])
def test_a_prior_adds_its_curvature(weights: str):
    # of so many samples the prior's part is small, and it makes every error smaller
    x = data()
    flat = jaxgmm.standard_errors(fitted(x, "full"), x)
    prior = jaxgmm.default_prior(x, K, weights=weights)
    found = jaxgmm.standard_errors(fitted(x, "full", prior=prior), x)
    assert found.distance < 1e-4
    np.testing.assert_allclose(found.errors.means, flat.errors.means, rtol=0.25)
    assert (found.errors.weights == 0).all() == (weights == "fixed")


@pytest.mark.slow
def test_float32_far_from_0():
    x = data()
    expected = jaxgmm.standard_errors(fitted(x, "full"), x).errors
    far = (np.asarray(x) + 1e4).astype(np.float32)
    algorithm = jaxgmm.em(jaxgmm.flat_prior(K, D, dtype="float32"))
    means = jnp.array([[0.0, 0.0], [4.0, 1.0]], "float32") + 1e4
    state = jaxgmm.fit(jax.random.key(0), far, algorithm, init={"means": means}, tol=0.0).best
    found = jaxgmm.standard_errors(state, far)
    for a, b in zip(found.errors, expected, strict=True):
        assert a.dtype == "float32"
        np.testing.assert_allclose(a, b, rtol=0.01)


def test_what_has_no_information_is_refused():
    x, prior = clusters(n=30), jaxgmm.flat_prior(1, D)
    state = initial_state(prior, prior, jaxgmm.views.Mode())
    posterior = initial_state(prior, prior, jaxgmm.views.Expectation())
    lanes = jax.tree.map(lambda a: jnp.stack([a, a]), state)
    for wrong, message in (
        (posterior, "credible_intervals"),
        (lanes, "2 lanes"),
    ):
        with pytest.raises(ValueError, match=message):
            jaxgmm.standard_errors(wrong, x)
    with pytest.raises(ValueError, match="features"):
        jaxgmm.standard_errors(state, x[:, :1])
