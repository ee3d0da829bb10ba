"""Tied, diagonal, spherical and independent families against SciPy, scikit-learn and simulation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Tolerance, also_slow, clusters
from scipy.special import gammaln
from scipy.stats import gamma, invgamma, multivariate_t, norm
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture
from test_families import covariances

import jaxgmm
from jaxgmm import (
    IndependentNormalGamma,
    NormalGamma,
    NormalWishart,
    Prior,
    SphericalNormalGamma,
    TiedNormalWishart,
)
from jaxgmm._estep.potentials import Potentials, expected_log_joint, logits
from jaxgmm._estep.structures import structure
from jaxgmm._model.coordinates import constrain, unconstrain

K, D = 3, 2
NAMES = ("tied", "diag", "spherical", "independent diag", *also_slow("independent spherical"))
LOG_2PI = np.log(2 * np.pi)


def components(name: str, k: int = K, d: int = D, dtype: str = "float64", seed: int = 0):
    """An arbitrary proper distribution of the family."""
    rng = np.random.default_rng(seed)

    def positive(*shape: int) -> jax.Array:
        return jnp.asarray(rng.uniform(1.5, 5, shape), dtype)

    mean = jnp.asarray(rng.standard_normal((k, d)), dtype)
    if name == "tied":
        a = rng.standard_normal((d, d))
        scale = jnp.asarray(4 * (a @ a.T + np.eye(d)), dtype)
        return TiedNormalWishart(mean, positive(k), jnp.asarray(d + 4.0, dtype), scale)
    if name == "diag":
        return NormalGamma(mean, positive(k), positive(k, d), positive(k, d))
    if name == "spherical":
        return SphericalNormalGamma(mean, positive(k), positive(k), positive(k))
    gammas = (k, d) if name.endswith("diag") else (k,)
    return IndependentNormalGamma(mean, positive(k, d), positive(*gammas), positive(*gammas))


def model(name: str, k: int = K, dtype: str = "float64", seed: int = 0) -> Prior:
    return Prior(jaxgmm.Dirichlet(jnp.ones(k, dtype)), components(name, k, dtype=dtype, seed=seed))


def numpy(a: object) -> np.ndarray:
    return np.asarray(a, np.float64)


def by_feature(q: object, a: object) -> np.ndarray:
    """A gamma's parameter for every feature, (K, D)."""
    a = numpy(a)
    return np.broadcast_to(a if a.ndim == 2 else a[:, None], numpy(q.mean).shape)  # type: ignore


def log_density(q: object, mean: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """log q(mu, tau) of draws (S, K, D) and (S, K, D) or (S, K), by SciPy, without the weights."""
    shape, rate = numpy(q.shape), numpy(q.rate)  # type: ignore
    out = gamma(shape, scale=1 / rate).logpdf(precision)
    wide = precision if precision.ndim == 3 else precision[..., None]
    if isinstance(q, IndependentNormalGamma):
        sd = 1 / np.sqrt(numpy(q.precision))
    else:
        sd = 1 / np.sqrt(numpy(q.mean_precision)[:, None] * wide)  # type: ignore
    normal = norm(numpy(q.mean), sd).logpdf(mean)  # type: ignore
    return out.sum(axis=tuple(range(1, out.ndim))) + normal.sum(axis=(1, 2))


def draws(q: object, n: int) -> Potentials:
    keys = jax.random.split(jax.random.key(1), n)
    return jax.jit(jax.vmap(q.sample))(keys)  # type: ignore


@pytest.mark.parametrize("name", NAMES[1:])
def test_kl_is_the_mean_log_ratio(name: str):
    q, p = components(name, seed=1), components(name, seed=2)
    sample = draws(q, 20_000)
    mean, tau = numpy(sample.mean), numpy(sample.factor) ** 2
    ratio = log_density(q, mean, tau) - log_density(p, mean, tau)
    error = 4 * ratio.std() / np.sqrt(len(ratio))
    assert abs(float(q.kl(p)) - ratio.mean()) < error
    assert float(q.kl(q)) == pytest.approx(0, abs=1e-12)


def test_tied_kl_at_one_component_is_the_full_one():
    q, p = components("tied", 1, seed=1), components("tied", 1, seed=2)
    full = [
        NormalWishart(a.mean, a.mean_precision, a.degrees_of_freedom[None], a.scale[None])
        for a in (q, p)
    ]
    np.testing.assert_allclose(q.kl(p), full[0].kl(full[1]), rtol=1e-12)
    # and with several the Wishart counts once: K normals given it
    q, p = components("tied", 3, seed=1), components("tied", 3, seed=2)
    parts = [jax.tree.map(lambda a, k=k: a[k : k + 1] if a.shape[:1] == (3,) else a, (q, p))
             for k in range(3)]  # fmt: skip
    separate = sum(float(a.kl(b)) for a, b in parts)
    one = float(wishart_kl(q, p))
    np.testing.assert_allclose(q.kl(p), separate - 2 * one, rtol=1e-10)


def wishart_kl(q: TiedNormalWishart, p: TiedNormalWishart) -> jax.Array:
    factor, _ = q.precisions.expectation()
    return q.precisions.kl(p.precisions, factor)


@pytest.mark.parametrize("name", NAMES)
def test_expected_potentials_are_the_mean_of_sampled_ones(name: str):
    prior = model(name, seed=3)
    x = clusters(n=50)
    r = jnp.asarray(np.random.default_rng(0).dirichlet(np.ones(K), 50))
    stats = jaxgmm.stats.from_responsibilities(x, r, structure=prior.components.structure)

    def one(key: jax.Array) -> jax.Array:
        return expected_log_joint(stats, jaxgmm.views.sampled_potentials(key, prior))

    sampled = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(2), 10_000))
    exact = expected_log_joint(stats, jaxgmm.views.Expectation().potentials(prior))
    assert abs(float(exact) - sampled.mean()) < 4 * sampled.std() / 100


@pytest.mark.parametrize("name", NAMES[1:])
def test_log_prior_is_the_density_over_mean_and_variance(name: str):
    prior, point = components(name, seed=4), components(name, seed=5).mode()
    mean, variance = numpy(point.mean), 1 / numpy(point.factor) ** 2
    expected = invgamma(numpy(prior.shape), scale=numpy(prior.rate)).logpdf(variance).sum()
    wide = variance if variance.ndim == 2 else variance[:, None]
    if isinstance(prior, IndependentNormalGamma):
        sd = 1 / np.sqrt(numpy(prior.precision))
    else:
        sd = np.sqrt(wide / numpy(prior.mean_precision)[:, None])
    expected += norm(numpy(prior.mean), sd).logpdf(mean).sum()
    np.testing.assert_allclose(prior.log_prior(point), expected, rtol=1e-10)


def test_tied_log_prior_adds_means_to_one_covariance():
    prior, point = components("tied", 2, seed=4), components("tied", 2, seed=5).mode()
    factor = numpy(point.factor)
    sigma = np.linalg.inv(factor @ factor.T)
    from scipy.stats import invwishart, multivariate_normal

    nu, scale = float(prior.degrees_of_freedom), numpy(prior.scale)
    expected = invwishart(nu, scale).logpdf(sigma)
    for k in range(2):
        spread = sigma / float(prior.mean_precision[k])
        expected += multivariate_normal(numpy(prior.mean)[k], spread).logpdf(numpy(point.mean)[k])
    np.testing.assert_allclose(prior.log_prior(point), expected, rtol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_flat_prior_adds_exactly_nothing(name: str, dtype: str):
    point = components(name, dtype=dtype).mode()
    if name.startswith("independent"):
        flat = IndependentNormalGamma.flat(K, D, dtype, spherical=name.endswith("spherical"))
    else:
        flat = jaxgmm.flat_prior(K, D, name, dtype).components
    assert float(flat.log_prior(point)) == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_mode_is_where_the_density_is_flat(name: str):
    q = components(name, seed=6)
    mode = q.mode()

    def density(change: dict[str, jax.Array]) -> jax.Array:
        # the constant of a point has the logarithm of its factor's determinant
        scales = jnp.trace(change["scale"]) if name == "tied" else 0.0
        return q.log_prior(
            Potentials(
                mode.const + scales,
                mode.mean + change["mean"],
                mode.factor * jnp.exp(change["scale"]),
                mode.structure,
            )
        )

    zero = {"mean": jnp.zeros_like(mode.mean), "scale": jnp.zeros_like(mode.factor)}
    gradient = jax.grad(density)(zero)
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_allclose(leaf, 0, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_unconstrained_round_trip(name: str, dtype: str, tolerance: Tolerance):
    q = components(name, dtype=dtype)
    again = constrain(q, unconstrain(q))
    for a, b in zip(jax.tree.leaves(q), jax.tree.leaves(again), strict=True):
        assert b.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=10 * tolerance.value)


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_with_parameters_round_trip(name: str, mode: bool):
    prior = components(name)
    means = jnp.asarray(np.random.default_rng(3).standard_normal((K, D)))
    variance = jnp.asarray([0.5, 0.5] if "spherical" in name else [0.5, 2.0])
    given = jnp.broadcast_to(jnp.diag(variance), (K, D, D))
    own = structure(prior.structure).of_matrices(given)
    n_means = prior.means_in_mode(None) if mode else None
    q = prior.with_parameters(means, own, jnp.asarray([5.0, 7.0, 9.0]), n_means)
    np.testing.assert_allclose(q.mean, means, rtol=1e-12)
    np.testing.assert_allclose(covariances(q, mode=mode), given, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_predictive_is_the_mean_density_of_draws(name: str):
    q = components(name, seed=7)
    x = clusters(n=6)
    sample = draws(q, 40_000)
    densities = numpy(jnp.exp(jax.vmap(lambda p: logits(x, p))(sample)))
    error = 5 * densities.std(axis=0) / np.sqrt(len(densities))
    predictive = np.exp(numpy(q.log_predictive(x)))
    assert (np.abs(predictive - densities.mean(axis=0)) < error + 1e-12).all()


def test_spherical_predictive_is_student_t():
    q, x = components("spherical"), clusters(n=5)
    for k in range(K):
        a, b, kappa = (float(getattr(q, n)[k]) for n in ("shape", "rate", "mean_precision"))
        scale = b / a * (1 + 1 / kappa) * np.eye(D)
        oracle = multivariate_t(numpy(q.mean)[k], scale, 2 * a).logpdf(numpy(x))
        np.testing.assert_allclose(q.log_predictive(x)[:, k], oracle, rtol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_predictive_samples_follow_the_predictive(name: str):
    q = components(name, 1, seed=8)
    sample = numpy(q.sample_predictive(jax.random.key(0), jnp.zeros(20_000, jnp.int32)))
    median = np.median(sample, axis=0)
    error = 5 * 1.25 * sample.std(axis=0) / np.sqrt(len(sample))
    assert (np.abs(median - numpy(q.mean)[0]) < error).all()
    # two samples of the same density have the same mean log-density: importance ratio of 1
    log_p = numpy(q.log_predictive(jnp.asarray(sample)))[:, 0]
    wide = numpy(q.mean)[0] + 6 * np.random.default_rng(0).standard_t(2, sample.shape)
    proposal = scipy_t_density(wide, numpy(q.mean)[0])
    log_q = numpy(q.log_predictive(jnp.asarray(wide)))[:, 0]
    weight = np.exp(log_q - proposal)
    assert abs(weight.mean() - 1) < 5 * weight.std() / np.sqrt(len(weight))
    entropy = (weight * log_q).mean()
    spread = (weight * log_q).std() + log_p.std()
    assert abs(log_p.mean() - entropy) < 5 * spread / np.sqrt(len(weight))


def scipy_t_density(x: np.ndarray, mean: np.ndarray) -> np.ndarray:
    from scipy.stats import t

    return t(2, mean, 6).logpdf(x).sum(axis=1)


# --- evidence -----------------------------------------------------------------------------------


def one_update(prior: Prior, x: jax.Array) -> jax.Array:
    r = jnp.ones((x.shape[0], 1))
    stats = jaxgmm.stats.from_responsibilities(x, r, structure=prior.components.structure)
    q = jaxgmm.update(prior, stats)
    potentials = jaxgmm.views.Expectation().potentials(q)
    return jaxgmm.bound(stats, potentials, jaxgmm.views.kl_divergence(q, prior))


def gamma_evidence(n, total, kappa0, m0, a0, b0, squares, weight):
    """log evidence of Normal-Gamma data (Murphy 2007, eq. 95), ``weight`` features in a gamma."""
    kappa, a = kappa0 + n, a0 + weight * n / 2
    b = b0 + 0.5 * (squares + kappa0 * n / kappa * total)
    return (
        gammaln(a)
        - gammaln(a0)
        + a0 * np.log(b0)
        - a * np.log(b)
        + 0.5 * weight * (np.log(kappa0 / kappa) - n * LOG_2PI)
    )


@pytest.mark.parametrize("name", ["diag", "spherical"])
def test_bound_at_one_component_is_the_evidence(name: str):
    prior, x = model(name, 1, seed=9), numpy(clusters(n=40))
    c = prior.components
    n, kappa0, m0 = len(x), float(c.mean_precision[0]), numpy(c.mean)[0]
    gap = (x.mean(0) - m0) ** 2
    squares = ((x - x.mean(0)) ** 2).sum(0)
    if name == "diag":
        a0, b0 = numpy(c.shape)[0], numpy(c.rate)[0]
        expected = gamma_evidence(n, gap, kappa0, m0, a0, b0, squares, 1).sum()
    else:
        a0, b0 = float(c.shape[0]), float(c.rate[0])
        expected = gamma_evidence(n, gap.sum(), kappa0, m0, a0, b0, squares.sum(), D)
    np.testing.assert_allclose(one_update(prior, jnp.asarray(x)), expected, rtol=1e-9)


def test_tied_bound_at_one_component_is_the_full_ones():
    prior, x = model("tied", 1, seed=9), clusters(n=40)
    c = prior.components
    full = NormalWishart(c.mean, c.mean_precision, c.degrees_of_freedom[None], c.scale[None])
    other = Prior(prior.weights, full)  # whose evidence is tested against its closed form
    np.testing.assert_allclose(one_update(prior, x), one_update(other, x), rtol=1e-9)


@functools.cache
def iris() -> tuple[np.ndarray, np.ndarray]:
    return load_iris(return_X_y=True)


@pytest.mark.parametrize("name", ["full", "tied", "diag", "spherical"])
def test_em_follows_scikit_learn(name: str):
    x, labels = iris()
    weights = np.array([0.5, 0.2, 0.3])
    means = np.array([0.5 * (x[labels == k].mean(0) + x.mean(0)) for k in range(3)])
    one = np.diag([0.4, 0.3, 0.9, 0.3]) if name != "spherical" else 0.4 * np.eye(4)
    start = (weights, means, np.broadcast_to(one, (3, 4, 4)))
    theirs = GaussianMixture(3, covariance_type=name, reg_covar=0)
    theirs.weights_, theirs.means_ = weights, means
    root = np.sqrt(1 / np.diag(one))
    theirs.precisions_cholesky_ = {
        "full": np.broadcast_to(np.diag(root), (3, 4, 4)),
        "tied": np.diag(root),
        "diag": np.broadcast_to(root, (3, 4)),
        "spherical": np.full(3, root[0]),
    }[name]
    algorithm = jaxgmm.em(jaxgmm.flat_prior(3, 4, name))
    state = algorithm.init(jax.random.key(0), jnp.asarray(x), {"parameters": start})
    step = jax.jit(algorithm.step)
    for _ in range(50):
        state = step(state, jnp.asarray(x))
        _, log_responsibilities = theirs._e_step(x)
        theirs._m_step(x, log_responsibilities)
    ours = jaxgmm.mixture(state)
    np.testing.assert_allclose(ours.weights, theirs.weights_, rtol=1e-8)
    np.testing.assert_allclose(ours.means, theirs.means_, rtol=1e-8)
    dense = {
        "full": lambda c: c,
        "tied": lambda c: np.broadcast_to(c, (3, 4, 4)),
        "diag": lambda c: np.array([np.diag(a) for a in c]),
        "spherical": lambda c: np.array([a * np.eye(4) for a in c]),
    }[name](theirs.covariances_)
    np.testing.assert_allclose(ours.covariances, dense, atol=1e-8)
    np.testing.assert_allclose(jaxgmm.bic(state, jnp.asarray(x)), theirs.bic(x), rtol=1e-8)
