"""After the fit: densities, labels, samples and criteria against SciPy, scikit-learn and NumPy."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Tolerance, also_slow, clusters
from scipy.stats import multivariate_normal, multivariate_t
from sklearn.mixture import GaussianMixture

import jaxgmm

K, D = 3, 2
COVARIANCES = ("full", "known")


def known(covariance: str, dtype: str) -> object:
    return jnp.asarray([[1.0, 0.3], [0.3, 0.8]], dtype) if covariance == "known" else "full"


@pytest.fixture(scope="module")
def fitted():
    cache: dict[tuple[str, ...], tuple[jaxgmm.State, jax.Array]] = {}

    def get(name: str, covariance: str = "full", dtype: str = "float64"):
        if (name, covariance, dtype) not in cache:
            x = clusters(dtype, 150)
            family = known(covariance, dtype)
            algorithm = (
                jaxgmm.em(jaxgmm.flat_prior(K, D, family, dtype), reg_covar=0.05)
                if name == "em"
                else jaxgmm.cavi(jaxgmm.default_prior(x, K, family))
            )
            options = {"tol": 1e-9, "max_iter": 3000, "moves": False}
            state = jaxgmm.fit(jax.random.key(0), x, algorithm, **options).best
            cache[name, covariance, dtype] = state, x
        return cache[name, covariance, dtype]

    return get


def float64(values: object) -> list[np.ndarray]:
    return [np.asarray(a, np.float64) for a in values]  # type: ignore[attr-defined]


def log_joint(state: jaxgmm.State, x: jax.Array) -> np.ndarray:
    """Of the plug-in mixture, by SciPy."""
    weights, means, covariances = float64(jaxgmm.mixture(state))
    rows = np.asarray(x, np.float64)
    columns = [
        np.log(w) + multivariate_normal(m, s).logpdf(rows)
        for w, m, s in zip(weights, means, covariances, strict=True)
    ]
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("covariance", ["full", *also_slow("known")])
def test_mixture(covariance: str, dtype: str, tolerance: Tolerance, fitted):
    for name in ("em", "cavi"):
        state, _ = fitted(name, covariance, dtype)
        q = state.posterior
        weights, means, covariances = jaxgmm.mixture(state)
        assert {a.dtype for a in (weights, means, covariances)} == {jnp.dtype(dtype)}
        assert (weights.shape, means.shape, covariances.shape) == ((K,), (K, D), (K, D, D))
        excess = q.weights.concentration - (1 if name == "em" else 0)
        np.testing.assert_allclose(weights, excess / excess.sum(), rtol=tolerance.value)
        np.testing.assert_array_equal(means, q.components.mean)
        if covariance == "known":
            expected = jnp.broadcast_to(q.components.covariance, (K, D, D))
        else:
            nu = q.components.degrees_of_freedom[:, None, None]
            divisor, added = (nu + D + 2, 0.05 * jnp.eye(D)) if name == "em" else (nu, 0)
            expected = q.components.scale / divisor + jnp.asarray(added, dtype)
        np.testing.assert_allclose(covariances, expected, rtol=tolerance.value)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_log_prob_after_em_is_the_mixture(
    covariance: str, dtype: str, tolerance: Tolerance, fitted
):
    state, x = fitted("em", covariance, dtype)
    values = jaxgmm.log_prob(state, x)
    assert values.dtype == dtype
    expected = np.logaddexp.reduce(log_joint(state, x), axis=1)
    np.testing.assert_allclose(values, expected, rtol=tolerance.value, atol=tolerance.value)


def test_log_prob_after_cavi_is_a_student_mixture(dtype: str, tolerance: Tolerance, fitted):
    state, x = fitted("cavi", "full", dtype)
    c = state.posterior.components
    weights, mean, kappa, nu, scale = float64(
        (jaxgmm.mixture(state)[0], c.mean, c.mean_precision, c.degrees_of_freedom, c.scale)
    )
    points = jnp.concatenate([x, jnp.asarray([[1e3, -1e3], [50.0, 50.0]], dtype)])
    columns = []
    for k in range(K):
        df = nu[k] - D + 1  # Bishop 2006, eq. 10.81 and 10.82
        shape = (1 + kappa[k]) / (kappa[k] * df) * scale[k]
        rows = np.asarray(points, np.float64)
        columns.append(np.log(weights[k]) + multivariate_t(mean[k], shape, df).logpdf(rows))
    expected = np.logaddexp.reduce(np.stack(columns, 1), axis=1)
    values = jaxgmm.log_prob(state, points)
    assert values.dtype == dtype
    np.testing.assert_allclose(values, expected, rtol=4 * tolerance.value, atol=tolerance.value)


def test_log_prob_after_cavi_with_known_covariance(dtype: str, tolerance: Tolerance, fitted):
    state, x = fitted("cavi", "known", dtype)
    c = state.posterior.components
    weights, mean, kappa, covariance = float64(
        (jaxgmm.mixture(state)[0], c.mean, c.mean_precision, c.covariance)
    )
    rows = np.asarray(x, np.float64)
    columns = [
        np.log(weights[k])
        + multivariate_normal(mean[k], (1 + 1 / kappa[k]) * covariance).logpdf(rows)
        for k in range(K)
    ]
    expected = np.logaddexp.reduce(np.stack(columns, 1), axis=1)
    np.testing.assert_allclose(jaxgmm.log_prob(state, x), expected, rtol=4 * tolerance.value)


@pytest.mark.parametrize("name", ["em", "cavi"])
def test_densities_integrate_to_one(name: str, fitted):
    state, _ = fitted(name)
    grid = jnp.linspace(-40, 45, 801)
    points = jnp.stack(jnp.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    total = jnp.sum(jnp.exp(jaxgmm.log_prob(state, points))) * (grid[1] - grid[0]) ** 2
    assert abs(float(total) - 1) < 1e-4


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("name", ["em", "cavi"])
def test_responsibilities_and_labels(
    name: str, covariance: str, dtype: str, tolerance: Tolerance, fitted
):
    state, x = fitted(name, covariance, dtype)
    r = jaxgmm.responsibilities(state, x)
    assert (r.dtype, r.shape) == (dtype, (150, K))
    assert float(r.min()) >= 0
    np.testing.assert_allclose(r.sum(axis=1), 1, rtol=10 * np.finfo(dtype).eps)
    if name == "em":
        joint = log_joint(state, x)
    else:
        joint = -np.asarray(jaxgmm.views.gaussian_cross_entropy(x, state.posterior), np.float64)
        joint = joint + np.asarray(state.posterior.weights.expectation())
    expected = np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))
    np.testing.assert_allclose(r, expected, atol=10 * tolerance.value)
    labels = jaxgmm.predict(state, x)
    assert jnp.issubdtype(labels.dtype, jnp.integer)
    np.testing.assert_array_equal(labels, r.argmax(axis=1))
    assert set(labels.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("name", ["em", "cavi"])
def test_samples_have_the_moments_of_the_density(name: str, covariance: str, fitted):
    state, _ = fitted(name, covariance)
    n = 100_000
    draws, labels = jaxgmm.sample(jax.random.key(3), state, n)
    weights, means, covariances = float64(jaxgmm.mixture(state))
    c = state.posterior.components
    if name == "cavi" and covariance == "full":
        # a Student-t of df degrees of freedom has df / (df - 2) times its shape as covariance
        df = np.asarray(c.degrees_of_freedom - D + 1)[:, None, None]
        kappa = np.asarray(c.mean_precision)[:, None, None]
        covariances = (1 + kappa) / (kappa * df) * np.asarray(c.scale) * df / (df - 2)
    elif name == "cavi":
        covariances = (1 + 1 / np.asarray(c.mean_precision)[:, None, None]) * covariances
    for k in range(K):
        mine = np.asarray(draws)[np.asarray(labels) == k]
        error = np.sqrt(np.diag(covariances[k]) / len(mine))
        assert abs(len(mine) / n - weights[k]) < 5 * np.sqrt(weights[k] / n)
        np.testing.assert_array_less(np.abs(mine.mean(0) - means[k]), 5 * error)
        np.testing.assert_allclose(np.cov(mine.T), covariances[k], atol=0.06 * covariances[k].max())


def test_samples_after_cavi_have_heavy_tails():
    """With few samples the predictive has far more extreme draws than its normal counterpart."""
    x = clusters(n=5)
    state = jaxgmm.fit(jax.random.key(0), x, jaxgmm.cavi(jaxgmm.default_prior(x, 1))).best
    draws, _ = jaxgmm.sample(jax.random.key(1), state, 100_000)
    c = state.posterior.components
    df = float(c.degrees_of_freedom[0]) - D + 1
    shape = (1 + 1 / c.mean_precision[0]) / df * c.scale[0]
    residual = draws - c.mean[0]
    squared = np.einsum("ni,ij,nj->n", residual, np.linalg.inv(shape), residual)
    # the squared Mahalanobis distance over D is F(D, df); the normal one chi-squared
    for distance in (10.0, 50.0):
        expected = (1 + distance / df) ** (-df / 2)  # the F tail in closed form for D = 2
        assert expected > 5 * np.exp(-distance / 2)
        assert abs((squared > distance).mean() - expected) < 5 * np.sqrt(expected / 1e5)


def test_criteria_against_scikit_learn_and_numpy(fitted):
    state, x = fitted("em")
    weights, means, covariances = float64(jaxgmm.mixture(state))
    theirs = GaussianMixture(K)
    theirs.weights_, theirs.means_, theirs.covariances_ = weights, means, covariances
    theirs.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(covariances))
    rows = np.asarray(x)
    np.testing.assert_allclose(jaxgmm.bic(state, x), theirs.bic(rows), rtol=1e-10)
    np.testing.assert_allclose(jaxgmm.aic(state, x), theirs.aic(rows), rtol=1e-10)
    np.testing.assert_allclose(jaxgmm.log_prob(state, x), theirs.score_samples(rows), rtol=1e-9)
    joint = log_joint(state, x)
    most = joint.max(axis=1) - np.logaddexp.reduce(joint, axis=1)
    np.testing.assert_allclose(jaxgmm.icl(state, x), theirs.bic(rows) - 2 * most.sum(), rtol=1e-10)
    assert most.sum() < -0.5  # the clusters overlap, so that icl and bic differ


@pytest.mark.parametrize("name", ["em", "cavi"])
def test_criteria_with_known_covariance(name: str, fitted):
    state, x = fitted(name, "known")
    log_likelihood = np.logaddexp.reduce(log_joint(state, x), axis=1).sum()
    df = K - 1 + K * D
    np.testing.assert_allclose(jaxgmm.bic(state, x), -2 * log_likelihood + df * np.log(150))
    np.testing.assert_allclose(jaxgmm.aic(state, x), -2 * log_likelihood + 2 * df)


def test_criteria_of_a_mixture_need_the_number_of_parameters(fitted):
    state, x = fitted("em")
    m, weight = jaxgmm.mixture(state), np.arange(150) % 4 + 0.5
    df = state.posterior.n_parameters
    for criterion in (jaxgmm.bic, jaxgmm.aic, jaxgmm.icl):
        for rows in (x, jaxgmm.Rows(x, weight)):
            found = criterion(m, rows, n_parameters=df)
            np.testing.assert_allclose(found, criterion(state, rows), rtol=1e-12)
        with pytest.raises(ValueError, match=rf"{criterion.__name__}\(mixture.*n_parameters={df}"):
            criterion(m, x)
    gap = jaxgmm.bic(state, x, n_parameters=df + 2) - jaxgmm.bic(state, x)
    np.testing.assert_allclose(gap, 2 * np.log(150), rtol=1e-10)


def test_importance_weights_at_the_scale_of_their_effective_number(fitted):
    """The scale of such weights then does not matter, and equal ones are none."""
    state, x = fitted("em")
    w = np.random.default_rng(0).exponential(size=150)

    def bic(w: np.ndarray) -> jax.Array:
        return jaxgmm.bic(state, x, sample_weight=w * w.sum() / (w**2).sum())

    np.testing.assert_allclose(bic(w), bic(7 * w), rtol=1e-12)
    np.testing.assert_allclose(bic(np.full(150, 0.3)), jaxgmm.bic(state, x), rtol=1e-12)
    n, density = w.sum() ** 2 / (w**2).sum(), jaxgmm.log_prob(state, x)
    df = state.posterior.n_parameters
    expected = -2 * n * np.average(density, weights=w) + df * np.log(n)
    np.testing.assert_allclose(bic(w), expected, rtol=1e-10)


def test_elbo_on_weighted_rows(fitted):
    for name in ("em", "cavi"):
        state, x = fitted(name)
        times = jnp.arange(150) % 3
        weighted = jaxgmm.elbo(state, x, sample_weight=times.astype(float))
        repeated = jaxgmm.elbo(state, jnp.repeat(x, times, axis=0))
        np.testing.assert_allclose(weighted, repeated, rtol=1e-11)


@pytest.mark.parametrize("name", ["em", "cavi"])
def test_criteria_on_weighted_rows(name: str, fitted):
    """Whole weights are repetitions, and N is their sum."""
    state, x = fitted(name)
    times = jnp.arange(150) % 4
    repeated, weight = jnp.repeat(x, times, axis=0), times.astype(float)
    for criterion in (jaxgmm.bic, jaxgmm.aic, jaxgmm.icl):
        expected = criterion(state, repeated)
        found = criterion(state, x, sample_weight=weight)
        np.testing.assert_allclose(found, expected, rtol=1e-10)
        np.testing.assert_allclose(criterion(state, jaxgmm.Rows(x, weight)), found, rtol=1e-13)
        np.testing.assert_allclose(criterion(state, jaxgmm.Rows(x)), criterion(state, x))
        with pytest.raises(ValueError, match="non-negative, but rows 2 are not"):
            criterion(state, x, sample_weight=weight.at[2].set(-1))
    gap = jaxgmm.bic(state, jaxgmm.Rows(x, 0.25 * weight)) - 0.25 * jaxgmm.bic(state, repeated)
    df, n = state.posterior.n_parameters, float(weight.sum())
    np.testing.assert_allclose(gap, df * (np.log(0.25 * n) - 0.25 * np.log(n)), rtol=1e-10)


SHAPES = {
    "narrow and wide": ([[0.0, 0.0], [4.0, 0.0]], [[1.0, 1.0], [9.0, 9.0]]),
    "wide first": ([[0.0, 0.0], [4.0, 0.0]], [[9.0, 9.0], [1.0, 1.0]]),
    "alike": ([[0.0, 0.0], [4.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]),
    "tiny": ([[0.0, 0.0], [4e-9, 0.0]], [[1e-18, 1e-18], [1e-18, 1e-18]]),
    "two alike and one narrow": (
        [[0.0, 0.0], [4.0, 1.0], [-4.0, 1.0]],
        [[1.0, 1.0], [9.0, 9.0], [9.0, 9.0]],
    ),
    "one unused": ([[0.0, 0.0], [4.0, 0.0], [50.0, 0.0]], [[9.0, 9.0], [9.0, 9.0], [99.0, 99.0]]),
}


@pytest.mark.parametrize("case", SHAPES)
def test_labels_of_samples_at_any_distance(case: str, dtype: str):
    """By exact rational arithmetic."""
    means, variances = (np.asarray(a) for a in SHAPES[case])
    k = len(means)
    weights = np.array([0.25, 0.75, 0.0][:k]) if case == "one unused" else np.full(k, 1 / k)
    arrays = (weights, means, np.eye(2) * variances[:, None, :])
    m = jaxgmm.Mixture(*(jnp.asarray(a, dtype) for a in arrays))
    sizes = (1e3, 1e10, 1e20, 1e30, 1e37) + (() if dtype == "float32" else (1e150, 1e200, 1e300))
    rows = [[s * c, t * c] for c in sizes for s in (1, -1) for t in (1, -0.5, 0.25)]
    x = jnp.asarray(rows, dtype)
    r = jaxgmm.responsibilities(m, x)
    np.testing.assert_allclose(r.sum(axis=1), 1, rtol=1e-6)
    expected = []
    given = np.asarray(m.means, float), np.asarray(jnp.diagonal(m.covariances, axis1=1, axis2=2))
    given = [np.asarray(a, float)[weights > 0].tolist() for a in given]
    for row in np.asarray(x, np.float64).tolist():
        squares = [
            sum(
                (Fraction(a) - Fraction(b)) ** 2 / Fraction(v)
                for a, b, v in zip(row, mean, variance, strict=True)
            )
            for mean, variance in zip(*given, strict=True)
        ]
        expected.append(squares.index(min(squares)))
    np.testing.assert_array_equal(jaxgmm.predict(m, x), expected)
    np.testing.assert_array_equal(r.argmax(axis=1), expected)
    assert not bool(jnp.any(jnp.isnan(jaxgmm.log_prob(m, x))))
    slope = jax.grad(lambda x: jnp.sum(jaxgmm.responsibilities(m, x) ** 2))(x)
    assert not bool(jnp.any(jnp.isnan(slope)))


@pytest.mark.parametrize(
    "family", ["full", "independent", *also_slow("diag", "spherical", "known")]
)
def test_densities_of_samples_at_any_distance(family: str, dtype: str):
    """Heavy tails are finite at any distance: a power of it."""
    x = clusters(dtype, 60)
    if family == "independent":
        spread = jnp.var(x, axis=0)
        components = jaxgmm.IndependentNormalGamma.default(x.mean(0), spread, 2)
        prior = jaxgmm.Prior(jaxgmm.Dirichlet(jnp.ones(2, dtype)), components)
    else:
        prior = jaxgmm.default_prior(x, 2, jnp.eye(2, dtype=dtype) if family == "known" else family)
    state = jaxgmm.cavi(prior).init(jax.random.key(0), x)
    sizes = [1e10, 1e15, 1e20, 1e30] if dtype == "float32" else [1e10, 1e50, 1e100, 1e200]
    far = jnp.asarray([[s, -0.3 * s] for s in sizes], dtype)
    for ask in (jaxgmm.log_prob, jaxgmm.responsibilities):
        assert not bool(jnp.any(jnp.isnan(ask(state, far))))
    values = np.asarray(jaxgmm.log_prob(state, far), np.float64)
    assert np.all((values[1:] < values[:-1]) | np.isneginf(values[1:]))
    if family != "known":
        steps = np.diff(values) / np.diff(np.log(sizes))
        assert np.all(np.isfinite(values))
        np.testing.assert_allclose(steps, steps[0], rtol=1e-2 if family == "independent" else 1e-4)
        assert steps[0] < -3


def test_lanes_by_vmap():
    x = clusters(n=150)
    states = jaxgmm.fit(
        jax.random.key(0), x, jaxgmm.cavi(jaxgmm.default_prior(x, K)), 3, max_iter=4
    ).states
    for function in (jaxgmm.log_prob, jaxgmm.responsibilities, jaxgmm.predict, jaxgmm.bic):
        together = jax.vmap(function, (0, None))(states, x)
        alone = function(jax.tree.map(lambda a: a[1], states), x)
        np.testing.assert_allclose(together[1], alone, rtol=1e-10)
