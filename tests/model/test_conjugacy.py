"""Conjugate updates, draws and predictions, and the closed-form evidence of one component."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from conftest import Tolerance, clusters
from scipy.special import multigammaln
from test_families import assert_within, draw, known, leaf, normal_wishart

import jaxgmm
from jaxgmm import Dirichlet, KnownCovariance, NormalWishart, Prior

N_DRAWS = 20_000


def responsibilities(n: int, k: int, dtype: str) -> jax.Array:
    return jnp.asarray(np.random.default_rng(3).dirichlet(np.ones(k), n), dtype)


def assert_trees_close(a: object, b: object, tolerance: float) -> None:
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(left, right, rtol=tolerance, atol=tolerance)


def natural(q) -> list[np.ndarray]:
    """Natural parameters, up to constants that do not matter to a weighted mean."""
    kappa, mean = leaf(q, "mean_precision"), leaf(q, "mean")
    out = [kappa, kappa[:, None] * mean]
    if isinstance(q, NormalWishart):
        second = kappa[:, None, None] * mean[:, :, None] * mean[:, None, :]
        out += [leaf(q, "degrees_of_freedom"), leaf(q, "scale") + second]
    return out


# --- draws ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("d", [1, 2, 3])
def test_normal_wishart_samples_have_the_exact_moments(key: jax.Array, dtype: str, d: int):
    q = normal_wishart(20, d, 2, dtype)
    points = jax.jit(jax.vmap(q.sample))(jax.random.split(key, N_DRAWS))
    assert points.factor.dtype == dtype
    factor, means = np.asarray(points.factor, np.float64), np.asarray(points.mean, np.float64)
    precision = factor @ factor.swapaxes(-1, -2)
    for k in range(2):
        nu, kappa = leaf(q, "degrees_of_freedom", k), leaf(q, "mean_precision", k)
        inverse = np.linalg.inv(leaf(q, "scale", k))
        assert_within(precision[:, k], nu * inverse, 4.5)
        # Var Lambda_ij = nu (W_ij^2 + W_ii W_jj)
        diagonal = np.diag(inverse)
        spread = (precision[:, k] - nu * inverse) ** 2
        assert_within(spread, nu * (inverse**2 + np.outer(diagonal, diagonal)), 4.5)
        assert_within(means[:, k], leaf(q, "mean", k))
        offset = means[:, k] - leaf(q, "mean", k)
        products = offset[:, :, None] * offset[:, None, :]
        assert_within(products, leaf(q, "scale", k) / (kappa * (nu - d - 1)), 4.5)
        # given Lambda the mean is Normal: kappa ||(mu - m) F||^2 is chi-squared
        square = kappa * np.sum(np.einsum("nd,nde->ne", offset, factor[:, k]) ** 2, -1)
        assert scipy.stats.kstest(square, scipy.stats.chi2(d).cdf).pvalue > 1e-3
    log_det = np.linalg.slogdet(factor)[1]
    expected = log_det - 0.5 * d * np.log(2 * np.pi)
    np.testing.assert_allclose(points.const, expected, atol=1e-4 if dtype == "float32" else 1e-10)


def test_normal_wishart_sample_gradient_is_that_of_the_expectation(key: jax.Array):
    # d E[tr Lambda] / d (nu, S), by implicit reparameterisation and in closed form
    q = normal_wishart(21, 2, 1)

    def trace(q: NormalWishart, key: jax.Array) -> jax.Array:
        return jnp.sum(q.sample(key).factor ** 2)

    draws = jax.jit(jax.vmap(jax.grad(trace), (None, 0)))(q, jax.random.split(key, N_DRAWS))

    def exact(q: NormalWishart) -> jax.Array:
        return jnp.sum(q.degrees_of_freedom * jnp.trace(jnp.linalg.inv(q.scale), axis1=1, axis2=2))

    gradient = jax.grad(exact)(q)
    assert_within(np.asarray(draws.degrees_of_freedom), gradient.degrees_of_freedom)
    # a Cholesky factor reads one triangle: only the symmetric part is comparable
    scale = np.asarray(draws.scale)
    assert_within((scale + scale.swapaxes(-1, -2)) / 2, gradient.scale)


def test_known_covariance_samples_have_the_exact_moments(key: jax.Array, dtype: str):
    q = known(22, 2, 3, dtype)
    points = jax.jit(jax.vmap(q.sample))(jax.random.split(key, N_DRAWS))
    means = np.asarray(points.mean, np.float64)
    for k in range(3):
        assert_within(means[:, k], leaf(q, "mean", k))
        offset = means[:, k] - leaf(q, "mean", k)
        products = offset[:, :, None] * offset[:, None, :]
        assert_within(products, leaf(q, "covariance") / leaf(q, "mean_precision", k), 4.5)


# --- predictions ------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 3])
def test_predictive_is_the_mean_density_over_the_posterior(dtype: str, d: int):
    q = normal_wishart(23, d, 2, dtype)
    predictive = q.predictive()
    degrees, shape = predictive.degrees, predictive.scale
    x = np.random.default_rng(1).standard_normal((3, d))
    for k in range(2):
        means, precisions = draw(q, k, 24)
        offset = x[:, None] - means
        square = np.einsum("and,nde,ane->na", offset, precisions, offset)
        log_det = np.linalg.slogdet(precisions)[1][:, None]
        density = np.exp(0.5 * (log_det - square - d * np.log(2 * np.pi)))
        student = scipy.stats.multivariate_t(
            leaf(q, "mean", k), np.asarray(shape[k], np.float64), float(degrees[k])
        )
        assert_within(density, student.pdf(x))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_predictive_is_the_evidence_of_one_more_sample(d: int):
    q = normal_wishart(25, d, 1)
    predictive = q.predictive()
    degrees, shape = predictive.degrees, predictive.scale
    x = np.random.default_rng(2).standard_normal((1, d))
    student = scipy.stats.multivariate_t(leaf(q, "mean", 0), np.asarray(shape[0]), degrees[0])
    np.testing.assert_allclose(student.logpdf(x[0]), log_evidence_of_one(q, x), rtol=1e-12)


def test_known_predictive(dtype: str, tolerance: Tolerance):
    q = known(26, 2, 3, dtype)
    x = clusters(dtype, 20)
    # x = mu + noise, whose covariances add
    wide = leaf(q, "covariance") * (1 + 1 / leaf(q, "mean_precision"))[:, None, None]
    oracle = [
        scipy.stats.multivariate_normal(leaf(q, "mean", k), wide[k]).logpdf(np.asarray(x))
        for k in range(3)
    ]
    np.testing.assert_allclose(q.log_predictive(x), np.transpose(oracle), rtol=10 * tolerance.value)


# --- updates ----------------------------------------------------------------------------------


def test_update_is_the_textbook_one(dtype: str, tolerance: Tolerance):
    prior = Prior(Dirichlet(jnp.asarray([0.5, 1.5], dtype)), normal_wishart(27, 2, 2, dtype))
    x, r = clusters(dtype), responsibilities(300, 2, dtype)
    q = jaxgmm.update(prior, jaxgmm.stats.from_responsibilities(x, r))
    rows, weights = np.asarray(x, np.float64), np.asarray(r, np.float64)
    np.testing.assert_allclose(
        q.weights.concentration, np.array([0.5, 1.5]) + weights.sum(0), rtol=tolerance.value
    )
    for k in range(2):
        # Murphy 2007, eq. 231 to 234, in raw moments
        n, total = weights[:, k].sum(), weights[:, k] @ rows
        kappa0, m0 = leaf(prior.components, "mean_precision", k), leaf(prior.components, "mean", k)
        kappa = kappa0 + n
        mean = (kappa0 * m0 + total) / kappa
        second = (rows.T * weights[:, k]) @ rows
        scale = leaf(prior.components, "scale", k) + second
        scale += kappa0 * np.outer(m0, m0) - kappa * np.outer(mean, mean)
        close = {"rtol": 10 * tolerance.value}
        np.testing.assert_allclose(q.components.mean_precision[k], kappa, **close)
        np.testing.assert_allclose(q.components.mean[k], mean, **close)
        np.testing.assert_allclose(q.components.scale[k], scale, **close)
        degrees = leaf(prior.components, "degrees_of_freedom", k) + n
        np.testing.assert_allclose(q.components.degrees_of_freedom[k], degrees, **close)


@pytest.mark.parametrize("make", [normal_wishart, known])
def test_sequential_updates_equal_the_batch_update(make, dtype: str, tolerance: Tolerance):
    prior = Prior(Dirichlet(jnp.ones(3, dtype)), make(28, 2, 3, dtype))
    x, r = clusters(dtype), responsibilities(300, 3, dtype)
    kind = prior.components.structure
    batch = jaxgmm.update(prior, jaxgmm.stats.from_responsibilities(x, r, structure=kind))
    sequential = prior
    for rows in np.split(np.arange(300), [7, 50, 51, 220]):
        stats = jaxgmm.stats.from_responsibilities(x[rows], r[rows], structure=kind)
        sequential = jaxgmm.update(sequential, stats)
    assert_trees_close(sequential, batch, 20 * tolerance.value)


@pytest.mark.parametrize("make", [normal_wishart, known])
def test_update_with_nothing_changes_nothing(make, dtype: str):
    prior = Prior(Dirichlet(jnp.ones(3, dtype)), make(28, 2, 3, dtype))
    nothing = jaxgmm.stats.empty(3, 2, prior.components.structure, dtype)
    assert_trees_close(jaxgmm.update(prior, nothing), prior, 0.0)


@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("make", [normal_wishart, known])
def test_interpolate_is_the_mean_of_natural_parameters(make, rho, dtype, tolerance: Tolerance):
    a, b = make(29, 3, 3, dtype), make(30, 3, 3, dtype)
    between = a.interpolate(b, jnp.asarray(rho, dtype))
    expected = [(1 - rho) * left + rho * right for left, right in zip(natural(a), natural(b))]  # noqa: B905
    for actual, exact in zip(natural(between), expected, strict=True):
        np.testing.assert_allclose(
            actual, exact, rtol=10 * tolerance.value, atol=10 * tolerance.value
        )
    if isinstance(a, KnownCovariance):
        np.testing.assert_array_equal(between.covariance, a.covariance)


# --- evidence ---------------------------------------------------------------------------------


def log_evidence_of_one(prior: NormalWishart, x: np.ndarray) -> float:
    """Log marginal likelihood of one Gaussian (Murphy 2007, eq. 266), by raw moments."""
    n, d = x.shape
    nu, kappa = leaf(prior, "degrees_of_freedom", 0), leaf(prior, "mean_precision", 0)
    scale, mean = leaf(prior, "scale", 0), leaf(prior, "mean", 0)
    kappa_n, nu_n = kappa + n, nu + n
    mean_n = (kappa * mean + x.sum(0)) / kappa_n
    scale_n = scale + x.T @ x + kappa * np.outer(mean, mean) - kappa_n * np.outer(mean_n, mean_n)
    return float(
        -n * d / 2 * np.log(np.pi)
        + multigammaln(nu_n / 2, d)
        - multigammaln(nu / 2, d)
        + nu / 2 * np.linalg.slogdet(scale)[1]
        - nu_n / 2 * np.linalg.slogdet(scale_n)[1]
        + d / 2 * np.log(kappa / kappa_n)
    )


def bound_of_one(prior: Prior, x: jax.Array) -> float:
    stats = jaxgmm.estep(x, jaxgmm.views.Expectation().potentials(prior))
    q = jaxgmm.update(prior, stats)
    kl = jaxgmm.views.kl_divergence(q, prior)
    return float(jaxgmm.bound(stats, jaxgmm.views.Expectation().potentials(q), kl))


@pytest.mark.parametrize("d", [1, 2, 4])
def test_bound_of_one_component_is_the_normal_wishart_evidence(dtype: str, d: int):
    x = np.random.default_rng(5).standard_normal((60, d)) * 2 + 1
    prior = Prior(Dirichlet(jnp.asarray([0.7], dtype)), normal_wishart(31, d, 1, dtype))
    expected = log_evidence_of_one(prior.components, x)
    actual = bound_of_one(prior, jnp.asarray(x, dtype))
    # float32 holds some hundreds of nats to about 1e-4
    assert abs(actual - expected) < (1e-9 if dtype == "float64" else 2e-3)


@pytest.mark.parametrize("d", [1, 2])
def test_bound_of_one_component_is_the_known_covariance_evidence(dtype: str, d: int):
    x = np.random.default_rng(6).standard_normal((30, d)) * 2 + 1
    prior = Prior(Dirichlet(jnp.asarray([0.7], dtype)), known(32, d, 1, dtype))
    # the samples are jointly Normal: they share mu, of covariance Sigma / nu
    shared = np.eye(30) + 1 / leaf(prior.components, "mean_precision", 0)
    covariance = np.kron(shared, leaf(prior.components, "covariance"))
    mean = np.tile(leaf(prior.components, "mean", 0), 30)
    expected = scipy.stats.multivariate_normal(mean, covariance).logpdf(x.ravel())
    actual = bound_of_one(prior, jnp.asarray(x, dtype))
    assert abs(actual - expected) < (1e-9 if dtype == "float64" else 2e-3)


@pytest.mark.parametrize("make", [normal_wishart, known])
def test_one_cavi_step_reports_the_evidence(make, key: jax.Array):
    x = clusters()
    prior = Prior(Dirichlet(jnp.ones(1)), make(33, 2, 1))
    algorithm = jaxgmm.cavi(prior)
    state = algorithm.step(algorithm.init(key, x, "random_points"), x)
    assert abs(float(state.objective) - bound_of_one(prior, x)) < 1e-9


@pytest.mark.parametrize("make", [normal_wishart, known])
def test_log_prior_at_the_mode_is_a_density_of_the_prior(make, dtype: str, tolerance: Tolerance):
    # Bayes: log p(x, theta) - log p(theta | x) is the log evidence at any theta, weights known
    x = clusters(dtype, 40)
    prior = Prior(Dirichlet(jnp.ones(1, dtype)), make(34, 2, 1, dtype))
    stats = jaxgmm.stats.from_responsibilities(
        x, jnp.ones((40, 1), dtype), structure=prior.components.structure
    )
    q = jaxgmm.update(prior, stats)
    likelihood = jaxgmm.bound(stats, jaxgmm.views.Mode().potentials(q))
    ratio = jaxgmm.views.Mode().penalty(q, q) - jaxgmm.views.Mode().penalty(q, prior)
    np.testing.assert_allclose(
        likelihood + ratio, bound_of_one(prior, x), rtol=10 * tolerance.value
    )
