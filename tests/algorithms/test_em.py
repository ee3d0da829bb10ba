"""EM against scikit-learn, the MAP formulas, and known optima of Old Faithful."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import also_slow, clusters
from scipy.stats import multivariate_normal
from sklearn.datasets import load_iris, load_wine
from sklearn.mixture import GaussianMixture

import jaxgmm
from jaxgmm import Mixture, State

K = 3
STEPS = 50
Point = tuple[np.ndarray, np.ndarray, np.ndarray]


def data_set(name: str) -> tuple[np.ndarray, np.ndarray]:
    x, labels = load_iris(return_X_y=True) if "iris" in name else load_wine(return_X_y=True)
    return (x - x.mean(0)) / x.std(0) if "standardised" in name else x, labels


def blurred_start(x: np.ndarray, labels: np.ndarray) -> Point:
    """Some way from the classes: their moments, each mixed half and half with the whole data's."""
    weights = np.array([0.5, 0.2, 0.3])
    means = np.array([0.5 * (x[labels == k].mean(0) + x.mean(0)) for k in range(K)])
    covariances = np.array([0.5 * (np.cov(x[labels == k].T) + np.cov(x.T)) for k in range(K)])
    return weights, means, covariances


@jax.jit
def follow(algorithm: jaxgmm.EM, state: State, x: jax.Array) -> tuple[Mixture, jax.Array]:
    """The estimate and the objective after each step."""

    def step(state: State, _: None) -> tuple[State, tuple[Mixture, jax.Array]]:
        state = algorithm.step(state, x)
        return state, (jaxgmm.mixture(state), state.objective)

    return jax.lax.scan(step, state, length=STEPS)[1]


def assert_estimates(ours: Mixture, theirs: Point, scale: np.ndarray) -> None:
    """Weights, means and covariances to 1e-8 in units of the features' standard deviations."""
    weights, means, covariances = theirs
    np.testing.assert_allclose(ours.weights, weights, atol=1e-8, rtol=0.0)
    np.testing.assert_allclose((ours.means - means) / scale, 0, atol=1e-8)
    error = (ours.covariances - covariances) / np.outer(scale, scale)
    np.testing.assert_allclose(error, 0, atol=1e-8)


@pytest.mark.parametrize("covariance", ["full", *also_slow("tied", "spherical")])
@pytest.mark.parametrize("weights", ["dirichlet", "dirichlet_process"])
def test_a_lane_whose_component_empties_goes_on(weights: str, covariance: str, dtype: str):
    """The prior holds a component away from all rows: its weight becomes exactly 0."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(200, 2)), dtype)
    prior = jaxgmm.default_prior(x, 3, covariance, weights)
    for far in (6.0, 9.0, 20.0):
        mean = jnp.asarray([[0.0, 0.0], [0.5, 0.0], [far, far]], dtype)
        changes = {"mean": mean, "mean_precision": jnp.full(3, 500.0, dtype)}
        held = replace(prior, components=replace(prior.components, **changes))
        result = jaxgmm.fit(
            jax.random.key(0), x, jaxgmm.em(held), 16, max_iter=3000, racing=False, moves=False
        )
        assert result.statuses() == {jaxgmm.Status.CONVERGED: 16}
        assert float(jaxgmm.mixture(result.best).weights.min()) == 0
        np.testing.assert_allclose(jaxgmm.elbo(result.best, x), result.best.objective, rtol=1e-5)


@pytest.mark.parametrize("reg_covar", [0.0, 1e-6])
@pytest.mark.parametrize("name", ["iris", "wine", "wine standardised"])
def test_follows_scikit_learn(name: str, reg_covar: float):
    x, labels = data_set(name)
    weights, means, covariances = blurred_start(x, labels)
    theirs = GaussianMixture(K, reg_covar=reg_covar)
    theirs.weights_, theirs.means_ = weights, means
    theirs.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(covariances))

    algorithm = jaxgmm.em(jaxgmm.flat_prior(K, x.shape[1]), reg_covar=reg_covar)
    start = (weights, means, covariances)
    state = algorithm.init(jax.random.key(0), jnp.asarray(x), {"parameters": start})
    estimates, objectives = follow(algorithm, state, jnp.asarray(x))
    for i in range(STEPS):
        _, log_responsibilities = theirs._e_step(x)
        theirs._m_step(x, log_responsibilities)
        expected = theirs.weights_, theirs.means_, theirs.covariances_
        assert_estimates(jax.tree.map(lambda a, i=i: a[i], estimates), expected, x.std(0))
    # the start was no fixed point, so that there was a path to follow
    assert np.ptp(np.asarray(estimates.means[:20]) / x.std(0), axis=0).max() > 0.05
    assert objectives[-1] <= theirs.score(x) * len(x) + 1e-6


@pytest.mark.parametrize("reg_covar", [0.0, 1e-2])
def test_the_start_is_the_given_mixture(reg_covar: float):
    x = clusters()
    start = blurred_start(np.asarray(x), np.arange(300) % K)
    algorithm = jaxgmm.em(jaxgmm.flat_prior(K, 2), reg_covar=reg_covar)
    state = algorithm.init(jax.random.key(0), x, {"parameters": start})
    for ours, given in zip(jaxgmm.mixture(state), start, strict=True):
        np.testing.assert_allclose(ours, given, rtol=1e-12)


def log_joint(x: np.ndarray, point: Point) -> np.ndarray:
    columns = [
        np.log(w) + multivariate_normal(m, s).logpdf(x) for w, m, s in zip(*point, strict=True)
    ]
    return np.stack(columns, axis=1)


def map_step(x: np.ndarray, point: Point) -> Point:
    """Fraley & Raftery 2007, with their default prior, in NumPy."""
    n, d = x.shape
    kappa, nu, mean = 0.01, d + 2, x.mean(0)
    scale = np.cov(x.T) / K ** (2 / d)
    joint = log_joint(x, point)
    r = np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))
    count = r.sum(0)
    means, covariances = [], []
    for k in range(K):
        centre = r[:, k] @ x / count[k]
        e = centre - mean
        scatter = (r[:, k, None] * (x - centre)).T @ (x - centre)
        shrunk = kappa * count[k] / (kappa + count[k]) * np.outer(e, e)
        means.append((kappa * mean + count[k] * centre) / (kappa + count[k]))
        covariances.append((scale + shrunk + scatter) / (nu + count[k] + d + 2))
    return count / n, np.array(means), np.array(covariances)


@pytest.mark.parametrize("name", ["faithful", "iris"])
def test_map_follows_fraley_and_raftery(name: str, faithful: np.ndarray):
    x, labels = (faithful, np.arange(272) % 3) if name == "faithful" else data_set(name)
    start = blurred_start(x, labels)
    algorithm = jaxgmm.em(jaxgmm.default_prior(jnp.asarray(x), K))
    state = algorithm.init(jax.random.key(0), jnp.asarray(x), {"parameters": start})
    estimates, _ = follow(algorithm, state, jnp.asarray(x))
    point = start
    for i in range(STEPS):
        point = map_step(x, point)
        assert_estimates(jax.tree.map(lambda a, i=i: a[i], estimates), point, x.std(0))


@pytest.mark.parametrize(
    ("k", "log_likelihood", "criterion"),
    [(2, -1130.263960, 2322.1917), (3, -1114.439873, 2324.1784)],
)
def test_old_faithful(k: int, log_likelihood: float, criterion: float, faithful: np.ndarray):
    x = jnp.asarray(faithful)
    algorithm = jaxgmm.em(jaxgmm.flat_prior(k, 2))
    result = jaxgmm.fit(
        jax.random.key(1), x, algorithm, 256, tol=1e-10, max_iter=3000, racing=False, moves=False
    )
    assert abs(float(result.best.objective) - log_likelihood) < 1e-4
    assert abs(float(jaxgmm.bic(result.best, x)) - criterion) < 1e-3
    if k == 3:
        # the optimum that most software stops at is there, and it was not chosen
        converged = np.asarray(result.states.objective)[np.asarray(result.states.status) == 1]
        assert np.abs(converged + 1119.213971).min() < 1e-4


def test_old_faithful_from_random_points_in_float32(faithful: np.ndarray):
    x = jnp.asarray(faithful, jnp.float32)
    algorithm = jaxgmm.em(jaxgmm.flat_prior(K, 2, dtype="float32"))
    result = jaxgmm.fit(
        jax.random.key(0), x, algorithm, 256, init="random_points", tol=1e-7, max_iter=2000
    )
    assert abs(float(result.best.objective) + 1114.439873) < 0.02  # 20 units in the last place


def test_one_component_is_the_sample_moments(dtype: str):
    x = clusters(dtype)
    algorithm = jaxgmm.em(jaxgmm.flat_prior(1, 2, dtype=dtype))
    start = jax.jit(algorithm.init)(jax.random.key(0), x)
    state = jax.jit(algorithm.step)(start, x)
    weights, means, covariances = jaxgmm.mixture(state)
    rtol = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(weights, [1])
    np.testing.assert_allclose(means[0], np.mean(np.asarray(x, np.float64), axis=0), rtol=rtol)
    np.testing.assert_allclose(
        covariances[0], np.cov(np.asarray(x, np.float64).T, bias=True), rtol=rtol
    )
