"""Normal-Wishart and known-covariance components against SciPy, simulation and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from conftest import Tolerance
from scipy.special import digamma
from scipy.stats import invwishart, multivariate_normal, wishart

import jaxgmm
from jaxgmm import Dirichlet, KnownCovariance, NormalWishart, Prior
from jaxgmm._estep.potentials import logits
from jaxgmm._estep.structures import structure
from jaxgmm._model.coordinates import constrain, unconstrain
from jaxgmm.stats import Potentials

LOG_2PI = np.log(2 * np.pi)
N_DRAWS = 20_000


def matrices(rng: np.random.Generator, k: int, d: int) -> np.ndarray:
    a = rng.standard_normal((k, d, d))
    return a @ a.swapaxes(-1, -2) + 0.5 * np.eye(d)


def normal_wishart(seed: int, d: int = 2, k: int = 2, dtype: str = "float64") -> NormalWishart:
    rng = np.random.default_rng(seed)
    return NormalWishart(
        mean=jnp.asarray(rng.standard_normal((k, d)), dtype),
        mean_precision=jnp.asarray(rng.uniform(0.5, 5, k), dtype),
        degrees_of_freedom=jnp.asarray(rng.uniform(d + 3, d + 9, k), dtype),
        scale=jnp.asarray(matrices(rng, k, d) * 4, dtype),
    )


def known(seed: int, d: int = 2, k: int = 3, dtype: str = "float64") -> KnownCovariance:
    rng = np.random.default_rng(seed)
    return KnownCovariance(
        mean=jnp.asarray(rng.standard_normal((k, d)), dtype),
        mean_precision=jnp.asarray(rng.uniform(0.5, 5, k), dtype),
        covariance=jnp.asarray(matrices(np.random.default_rng(9), 1, d)[0], dtype),
    )


def leaf(q: object, name: str, k: int | None = None) -> np.ndarray:
    value = np.asarray(getattr(q, name), np.float64)
    return value if k is None else value[k]


def covariances(q, *, mode: bool) -> np.ndarray:
    """The covariances at the mode, or ``E[Lambda]^-1``, as matrices (K, D, D)."""
    own = q.mode_covariance() if mode else q.mean_covariance()
    return np.asarray(structure(q.structure).matrices(own, *q.mean.shape))


def draw(q: NormalWishart, k: int, seed: int, n: int = N_DRAWS) -> tuple[np.ndarray, np.ndarray]:
    """Means (n, D) and precisions (n, D, D) of one component, by SciPy and NumPy."""
    rng = np.random.default_rng(seed)
    scale = np.linalg.inv(leaf(q, "scale", k))
    precision = wishart(leaf(q, "degrees_of_freedom", k), scale).rvs(n, random_state=rng)
    precision = precision.reshape(n, q.n_features, q.n_features)
    lower = np.linalg.cholesky(precision * leaf(q, "mean_precision", k))
    noise = rng.standard_normal((n, q.n_features, 1))
    step = np.linalg.solve(lower.swapaxes(-1, -2), noise)[..., 0]
    return leaf(q, "mean", k) + step, precision


def log_density(q: NormalWishart, k: int, means: np.ndarray, precisions: np.ndarray) -> np.ndarray:
    """Of (mu, Lambda), by SciPy for the Wishart; the Normal is written out, for it is batched."""
    nu, kappa = leaf(q, "degrees_of_freedom", k), leaf(q, "mean_precision", k)
    scale = np.linalg.inv(leaf(q, "scale", k))
    log_wishart = wishart.logpdf(np.moveaxis(precisions, 0, -1), nu, scale)
    offset = means - leaf(q, "mean", k)
    square = kappa * np.einsum("nd,nde,ne->n", offset, precisions, offset)
    log_det = np.linalg.slogdet(kappa * precisions)[1]
    return log_wishart + 0.5 * (log_det - square - means.shape[1] * LOG_2PI)


def assert_within(draws: np.ndarray, exact: object, errors: float = 4.0) -> None:
    exact = np.asarray(exact, np.float64)
    error = draws.std(0) / np.sqrt(len(draws))
    # float32 answers may be off by rounding, too
    assert (np.abs(draws.mean(0) - exact) < errors * error + 1e-5 * np.abs(exact)).all()


@pytest.mark.parametrize("d", [1, 2, 4])
def test_kl_equals_simulated(dtype: str, d: int):
    q, p = normal_wishart(0, d, 1, dtype), normal_wishart(1, d, 1, dtype)
    means, precisions = draw(q, 0, 2)
    ratio = log_density(q, 0, means, precisions) - log_density(p, 0, means, precisions)
    assert_within(ratio, q.kl(p))


def test_kl_in_one_dimension_equals_the_integral(dtype: str, tolerance: Tolerance):
    q, p = normal_wishart(3, 1, 1, dtype), normal_wishart(4, 1, 1, dtype)

    def gamma(node: NormalWishart) -> scipy.stats.rv_continuous:
        return scipy.stats.gamma(
            leaf(node, "degrees_of_freedom", 0) / 2, scale=2 / leaf(node, "scale", 0)[0, 0]
        )

    kappa, kappa0 = leaf(q, "mean_precision", 0), leaf(p, "mean_precision", 0)
    shift = float((leaf(q, "mean", 0) - leaf(p, "mean", 0))[0])

    def integrand(tau: float) -> float:
        # the Normals' KL given tau, added to the Gammas' log ratio
        normal = 0.5 * (kappa0 / kappa - 1 - np.log(kappa0 / kappa) + kappa0 * tau * shift**2)
        ratio = gamma(q).logpdf(tau) - gamma(p).logpdf(tau) + normal
        return float(gamma(q).pdf(tau) * ratio)

    expected, _ = scipy.integrate.quad(integrand, 0, gamma(q).isf(1e-16), epsrel=1e-12, limit=200)
    np.testing.assert_allclose(q.kl(p), expected, rtol=10 * tolerance.value)


@pytest.mark.parametrize("make", [normal_wishart, known])
def test_kl_is_zero_to_itself_positive_otherwise_and_additive(make, dtype, tolerance: Tolerance):
    q, p = make(0, 3, 3, dtype), make(1, 3, 3, dtype)
    assert abs(float(q.kl(q))) < 50 * tolerance.value
    assert float(q.kl(p)) > 0
    assert float(p.kl(q)) > 0
    alone = sum(float(component(q, k).kl(component(p, k))) for k in range(3))
    np.testing.assert_allclose(q.kl(p), alone, rtol=10 * tolerance.value)


def component(q, k: int):
    """The k-th component on its own."""
    shared = {"covariance": q.covariance} if isinstance(q, KnownCovariance) else {}
    rows = {n: getattr(q, n)[k : k + 1] for n in q.transforms()}
    return type(q)(**rows, **shared)


def test_known_kl_is_that_of_normals(dtype: str, tolerance: Tolerance):
    q, p = known(0, 2, 3, dtype), known(1, 2, 3, dtype)
    covariance, expected = leaf(q, "covariance"), 0.0
    for k in range(3):
        a, b = (covariance / leaf(node, "mean_precision", k) for node in (q, p))
        shift = leaf(q, "mean", k) - leaf(p, "mean", k)
        inverse = np.linalg.inv(b)
        log_ratio = np.linalg.slogdet(b)[1] - np.linalg.slogdet(a)[1]
        expected += 0.5 * (np.trace(inverse @ a) + shift @ inverse @ shift - 2 + log_ratio)
    np.testing.assert_allclose(q.kl(p), expected, rtol=10 * tolerance.value)


@pytest.mark.parametrize("d", [1, 2, 4])
def test_cross_entropy_equals_simulated_and_bishop(dtype: str, tolerance: Tolerance, d: int):
    q = normal_wishart(5, d, 2, dtype)
    x = np.random.default_rng(6).standard_normal((3, d)) * 2
    prior = Prior(Dirichlet(jnp.ones(2, dtype)), q)
    actual = jaxgmm.views.gaussian_cross_entropy(jnp.asarray(x, dtype), prior)
    for k in range(2):
        means, precisions = draw(q, k, 7)
        offset = x[:, None] - means
        square = np.einsum("and,nde,ane->na", offset, precisions, offset)
        log_det = np.linalg.slogdet(precisions)[1][:, None]
        assert_within(0.5 * (square - log_det + d * LOG_2PI), actual[:, k])
        nu, kappa = leaf(q, "degrees_of_freedom", k), leaf(q, "mean_precision", k)
        scale, shift = leaf(q, "scale", k), x - leaf(q, "mean", k)
        # Bishop 2006, eq. 10.64 and 10.65
        square = d / kappa + nu * np.einsum("nd,de,ne->n", shift, np.linalg.inv(scale), shift)
        log_det = digamma((nu - np.arange(d)) / 2).sum() + d * np.log(2)
        log_det -= np.linalg.slogdet(scale)[1]
        expected = 0.5 * (square - log_det + d * LOG_2PI)
        np.testing.assert_allclose(actual[:, k], expected, rtol=10 * tolerance.value)


def test_known_cross_entropy_equals_the_closed_form(dtype: str, tolerance: Tolerance):
    q = known(5, 2, 3, dtype)
    x = np.random.default_rng(6).standard_normal((4, 2)) * 2
    prior = Prior(Dirichlet(jnp.ones(3, dtype)), q)
    actual = jaxgmm.views.gaussian_cross_entropy(jnp.asarray(x, dtype), prior)
    for k in range(3):
        plug_in = multivariate_normal(leaf(q, "mean", k), leaf(q, "covariance")).logpdf(x)
        expected = -plug_in + 2 / (2 * leaf(q, "mean_precision", k))
        np.testing.assert_allclose(actual[:, k], expected, rtol=10 * tolerance.value)


def log_inverse_wishart(q: NormalWishart, k: int, mean: np.ndarray, sigma: np.ndarray) -> float:
    """Density over (mu, Sigma) by SciPy."""
    normal = multivariate_normal(leaf(q, "mean", k), sigma / leaf(q, "mean_precision", k))
    inverse = invwishart(leaf(q, "degrees_of_freedom", k), leaf(q, "scale", k))
    return float(inverse.logpdf(sigma) + normal.logpdf(mean))


def covariance_of(point: Potentials, k: int) -> np.ndarray:
    factor = np.asarray(point.factor, np.float64)
    factor = factor[k] if factor.ndim == 3 else factor
    return np.linalg.inv(factor @ factor.T)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_mode_is_a_stationary_maximum_of_the_density_over_mean_and_covariance(d: int):
    q = normal_wishart(8, d, 2)
    point = q.mode()
    for k in range(2):
        mean, sigma = np.asarray(point.mean)[k], covariance_of(point, k)
        top = log_inverse_wishart(q, k, mean, sigma)
        rng = np.random.default_rng(k)
        for _ in range(10):
            step, bend = rng.standard_normal(d), matrices(rng, 1, d)[0] - 2 * np.eye(d)
            near = [
                log_inverse_wishart(q, k, mean + h * step, sigma + h * bend) for h in (1e-4, -1e-4)
            ]
            assert max(near) < top
            # the gradient vanishes: the first-order change is nothing beside the second-order one
            assert abs(near[0] - near[1]) < 0.01 * (2 * top - near[0] - near[1])


def test_mode_potentials_are_the_log_density(dtype: str, tolerance: Tolerance):
    x = np.random.default_rng(6).standard_normal((5, 2))
    for q, reg in ((normal_wishart(8, 2, 2, dtype), 0.25), (known(8, 2, 2, dtype), 0.0)):
        actual = logits(jnp.asarray(x, dtype), q.mode(reg))
        wide = np.asarray(covariances(q, mode=True), np.float64) + reg * np.eye(2)
        for k in range(2):
            expected = multivariate_normal(leaf(q, "mean", k), wide[k]).logpdf(x)
            np.testing.assert_allclose(actual[:, k], expected, rtol=20 * tolerance.value)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_log_prior_equals_scipy(dtype: str, tolerance: Tolerance, d: int):
    p, point = normal_wishart(10, d, 2, dtype), normal_wishart(11, d, 2, dtype).mode()
    expected = sum(
        log_inverse_wishart(p, k, np.asarray(point.mean, np.float64)[k], covariance_of(point, k))
        for k in range(2)
    )
    np.testing.assert_allclose(p.log_prior(point), expected, rtol=20 * tolerance.value)


def test_known_log_prior_equals_scipy(dtype: str, tolerance: Tolerance):
    p, point = known(10, 2, 3, dtype), known(11, 2, 3, dtype).mode()
    expected = sum(
        multivariate_normal(
            leaf(p, "mean", k), leaf(p, "covariance") / leaf(p, "mean_precision", k)
        ).logpdf(np.asarray(point.mean)[k])
        for k in range(3)
    )
    np.testing.assert_allclose(p.log_prior(point), expected, rtol=20 * tolerance.value)


def test_log_prior_of_the_flat_one_is_exactly_zero(dtype: str):
    flat = NormalWishart.flat(2, 3, dtype)
    assert float(flat.log_prior(normal_wishart(11, 3, 2, dtype).mode())) == 0.0
    q = known(11, 2, 3, dtype)
    assert float(KnownCovariance.flat(3, q.covariance).log_prior(q.mode())) == 0.0


@pytest.mark.parametrize("make", [normal_wishart, known])
def test_unconstrained_round_trip(make, dtype: str, tolerance: Tolerance):
    q = make(12, 3, 2, dtype)
    coordinates = unconstrain(q)
    assert all(np.isfinite(c).all() for c in coordinates.values())
    back = constrain(q, coordinates)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(q), strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=10 * tolerance.value, atol=10 * tolerance.value)


@pytest.mark.parametrize("make", [normal_wishart, known])
def test_any_coordinates_are_a_proper_distribution(make, key: jax.Array):
    q = make(12, 3, 2)
    coordinates = {
        name: 2 * jax.random.normal(jax.random.fold_in(key, i), c.shape, c.dtype)
        for i, (name, c) in enumerate(unconstrain(q).items())
    }
    there = constrain(q, coordinates)
    assert bool(there.is_proper())
    assert np.linalg.eigvalsh(covariances(there, mode=False)).min() > 0


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("make", [normal_wishart, known])
def test_with_parameters_round_trips(make, mode: bool, dtype: str, tolerance: Tolerance):
    prior = make(13, 2, 2, dtype)
    means = jnp.asarray([[1.0, 2], [-3, 0.5]], dtype)
    given = jnp.asarray([[[2.0, 0.3], [0.3, 1]], [[0.5, -0.1], [-0.1, 4]]], dtype)
    count = jnp.asarray([30.0, 12.5], dtype)
    n_means = prior.means_in_mode(None) if mode else None
    q = prior.with_parameters(means, given, count, n_means)
    np.testing.assert_array_equal(q.mean, means)
    np.testing.assert_allclose(q.mean_precision, prior.mean_precision + count, rtol=1e-6)
    expected = given if make is normal_wishart else covariances(prior, mode=mode)
    np.testing.assert_allclose(covariances(q, mode=mode), expected, rtol=10 * tolerance.value)
