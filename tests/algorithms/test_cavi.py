"""CAVI: the bound, system 1 of the published figures, and components that are not needed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithms import assert_trees_close
from conftest import DATA, clusters
from sklearn.datasets import load_iris

import jaxgmm
from jaxgmm import Dirichlet, KnownCovariance, Prior, Status


@pytest.fixture(scope="module")
def published() -> dict[str, np.ndarray]:
    with np.load(DATA / "cavi_60x2.npz") as file:
        return dict(file)


def system(published: dict[str, np.ndarray]) -> tuple[jax.Array, Prior, Prior]:
    """The data, the prior and the start of the published run."""
    x = jnp.asarray(published["X"], jnp.float64)
    labels = published["init_clusters"]
    means = jnp.stack([x[labels == k].mean(0) for k in range(3)])
    weights, ones, identity = Dirichlet(jnp.ones(3)), jnp.ones(3), jnp.eye(2)
    prior = Prior(weights, KnownCovariance(jnp.zeros((3, 2)), ones, identity))
    return x, prior, Prior(weights, KnownCovariance(means, ones, identity))


def test_system_1_at_the_start(published: dict[str, np.ndarray]):
    x, prior, q = system(published)
    stats = jaxgmm.stats.from_responsibilities(x, jnp.full((60, 3), 1 / 3), structure="tied")
    objective = jaxgmm.bound(
        stats, jaxgmm.views.Expectation().potentials(q), jaxgmm.views.kl_divergence(q, prior)
    )
    assert abs(float(objective) - published["elbo_trace"][0]) < 1e-6
    assert f"{float(objective):.3f}" == "-733.858"


def test_system_1(published: dict[str, np.ndarray]):
    x, prior, q = system(published)
    result = jaxgmm.fit(
        jax.random.key(0),
        x,
        jaxgmm.cavi(prior),
        init={"posterior": q},
        tol=1e-5 / 60,  # the published run stops at a rise of 1e-5 in the sum
        history=True,
    )
    best = result.best
    assert int(best.status) == Status.CONVERGED
    assert int(best.n_iter) == int(published["n_sweeps"]) == 17
    assert result.history is not None
    np.testing.assert_allclose(result.history[:, 0], published["elbo_trace"][1:], atol=1e-6, rtol=0)
    assert f"{float(best.objective):.7f}" == "-323.5292857"

    components, mixture = best.posterior.components, jaxgmm.mixture(best)
    printed = [[7.3993, 7.4017], [4.4907, 4.1577], [1.2618, 1.6898]]
    np.testing.assert_allclose(np.round(mixture.means, 4), printed, atol=1e-12)
    variances = 1 / components.mean_precision
    np.testing.assert_allclose(np.round(variances, 4), [0.0407, 0.0522, 0.0519], atol=1e-12)
    np.testing.assert_allclose(np.round(mixture.weights, 4), [0.3899, 0.3040, 0.3061], atol=1e-12)
    np.testing.assert_allclose(mixture.means, published["E_mu"], atol=1e-6)
    np.testing.assert_allclose(variances, published["cov_diag"], atol=1e-6)
    np.testing.assert_allclose(
        best.posterior.weights.concentration, published["q_alpha"], atol=1e-5
    )


def rises(x: jax.Array, prior: Prior, init: str) -> np.ndarray:
    options = {"max_iter": 120, "tol": 0.0, "history": True, "moves": False}
    result = jaxgmm.fit(jax.random.key(2), x, jaxgmm.cavi(prior), 8, init, **options)
    assert set(result.statuses()) == {Status.MAX_ITERATIONS}
    assert result.history is not None
    return np.diff(result.history, axis=0) / np.abs(result.history[1:])


@pytest.mark.parametrize(
    ("name", "init"),
    [
        pytest.param("faithful", "random_responsibilities", marks=pytest.mark.slow),
        pytest.param("iris", "k-means++", marks=pytest.mark.slow),
        ("one cluster", "random_points"),
    ],
)
def test_never_decreases_with_too_many_components(name: str, init: str, faithful: np.ndarray):
    x = {
        "faithful": lambda: jnp.asarray(faithful),
        "iris": lambda: jnp.asarray(load_iris().data),
        "one cluster": lambda: jax.random.normal(jax.random.key(3), (200, 2)),
    }[name]()
    relative = rises(x, jaxgmm.default_prior(x, 10), init)
    assert relative.min() >= -1e-13
    assert relative.max() > 1e-6


@pytest.mark.slow
def test_sparse_weights_empty_the_components_that_are_not_needed():
    x = clusters()
    prior = jaxgmm.default_prior(x, 8)
    sparse = Prior(Dirichlet(jnp.full(8, 1e-2)), prior.components)
    assert rises(x, sparse, "random_points").min() >= -1e-13
    result = jaxgmm.fit(jax.random.key(0), x, jaxgmm.cavi(sparse), 16, max_iter=2000, tol=1e-9)
    weights = np.sort(jaxgmm.mixture(result.best).weights)
    assert weights[:5].max() < 2 / 300  # no more than an outlier each
    # the clusters overlap: the best optimum, found by moves, is 4.2 nats above the nearer one
    np.testing.assert_allclose(weights[5:], [0.2, 0.3, 0.5], atol=0.07)
    # an empty component's posterior is its prior
    empty = int(jnp.argmin(result.best.posterior.weights.concentration))
    for ours, theirs in zip(
        jax.tree.leaves(result.best.posterior.components),
        jax.tree.leaves(prior.components),
        strict=True,
    ):
        np.testing.assert_allclose(ours[empty], theirs[empty], rtol=0.05, atol=0.05)


def test_a_fixed_point_stays():
    x = clusters()
    algorithm = jaxgmm.cavi(jaxgmm.default_prior(x, 3))
    options = {"tol": 1e-14, "max_iter": 5000, "moves": False}
    best = jaxgmm.fit(jax.random.key(0), x, algorithm, **options).best
    again = algorithm.step(algorithm.init(jax.random.key(1), x, best), x)
    assert_trees_close(again.posterior, best.posterior, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(again.objective, best.objective, rtol=1e-13)
