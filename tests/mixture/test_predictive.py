"""What a fitted density says, against SciPy's distributions, quadrature and closed forms."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.stats
from algorithms import FAMILIES, K, build, data
from conftest import clusters
from numpy.testing import assert_allclose
from scipy.integrate import quad, simpson

import jaxgmm
from jaxgmm import Mixture, State
from jaxgmm._mixture.draws import credible_intervals
from jaxgmm._mixture.quantiles import cdf, quantile
from jaxgmm._mixture.sampled import outlier_scores, sampled_entropy, sampled_kl, sampled_log_prob

KEY = jax.random.key(0)
POINTS = np.array([-300.0, -12.0, -3.0, -0.2, 1.0, 4.0, 9.0, 30.0])
P = np.array([0.0, 1e-10, 1e-3, 0.2, 0.5, 0.9, 1 - 1e-6, 1.0])


def few(*names: str) -> list[Any]:
    """All families, of which these run by default: the others compile as much again."""
    return [pytest.param(f, marks=() if f in names else pytest.mark.slow) for f in FAMILIES]


@functools.cache
def state_of(family: str, kind: str = "cavi", dtype: str = "float64") -> State:
    """The posterior given the labels of the clusters, few samples in each."""
    x = data(dtype)[:30]
    labels = jnp.argmin(jnp.abs(x[:, :1] - jnp.asarray([0.0, 4.0, 1.0], dtype)), axis=1)
    return build(kind, family, "dirichlet", dtype).init(KEY, x, {"labels": labels})


def mixture_1d(weights: Any, means: Any, variances: Any) -> Mixture:
    covariances = jnp.asarray(variances, float)[:, None, None]
    return Mixture(jnp.asarray(weights), jnp.asarray(means, float)[:, None], covariances)


TWO = mixture_1d([0.3, 0.7], [-20.0, 20.0], [1.0, 4.0])


class Independent:
    """One feature of the predictive with independent mean and precision, by quadrature."""

    def __init__(self, mean: float, precision: float, shape: float, rate: float):
        self.mean, self.variance = mean, 1 / precision
        self.gamma = scipy.stats.gamma(shape, scale=1 / rate)

    def cdf(self, x: float) -> float:
        log_tau = np.linspace(-40, 12, 20_001)
        tau = np.exp(log_tau)
        tail = scipy.stats.norm.cdf((x - self.mean) / np.sqrt(1 / tau + self.variance))
        return float(simpson(self.gamma.pdf(tau) * tau * tail, x=log_tau))


def oracles(state: State, feature: int) -> list[Any]:
    """The distribution of each component, from the hyperparameters, in SciPy."""
    if state.view.name == "mode":
        _, means, covariances = (np.asarray(a) for a in jaxgmm.mixture(state))
        sd = np.sqrt(covariances[:, feature, feature])
        return [scipy.stats.norm(m, s) for m, s in zip(means[:, feature], sd, strict=True)]
    c: Any = state.posterior.components
    mean = np.asarray(c.mean)[:, feature]
    names = c.expected_shapes()
    leaves = {n: np.asarray(getattr(c, n)) for n in names if n != "mean"}
    if isinstance(c, jaxgmm.KnownCovariance):
        sd = np.sqrt(leaves["covariance"][feature, feature] * (1 + 1 / leaves["mean_precision"]))
        return [scipy.stats.norm(m, s) for m, s in zip(mean, sd, strict=True)]
    if "shape" in leaves:
        shape, rate = (
            a[:, feature] if a.ndim == 2 else a for a in (leaves["shape"], leaves["rate"])
        )
        if "precision" in leaves:
            rows = zip(mean, leaves["precision"][:, feature], shape, rate, strict=True)
            return [Independent(*map(float, row)) for row in rows]
        degrees, square = 2 * shape, rate / shape
    elif "nu" in leaves:  # that of docs/new_family.md
        degrees, square = leaves["nu"], leaves["scale"] / leaves["nu"]
    else:
        nu = np.broadcast_to(leaves["degrees_of_freedom"], (K,))
        degrees = nu - state.posterior.n_features + 1
        square = leaves["scale"][..., feature, feature] / degrees
    scale = np.sqrt((1 + 1 / leaves["mean_precision"]) * square)
    return [scipy.stats.t(d, m, s) for d, m, s in zip(degrees, mean, scale, strict=True)]


def weights_of(state: State) -> np.ndarray:
    return np.asarray(jaxgmm.mixture(state).weights, np.float64)


def assert_cdf(state: State) -> None:
    parts, weights = oracles(state, 1), weights_of(state)
    expected = [sum(w * a.cdf(x) for w, a in zip(weights, parts, strict=True)) for x in POINTS]
    values = cdf(state, POINTS, feature=1)
    # the tails, too
    assert_allclose(values, expected, rtol=1e-10)
    x = quantile(state, P, feature=1)
    assert_allclose(cdf(state, x, feature=1), P, rtol=2e-13)
    assert_allclose(x[jnp.asarray([0, -1])], [-np.inf, np.inf])


@pytest.mark.parametrize("name", few("full", "independent diag"))
def test_cdf_of_a_predictive_against_scipy(name: str):
    assert_cdf(state_of(name))


def test_cdf_of_a_mixture_against_scipy():
    assert_cdf(state_of("full", "map"))


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_student_t_of_any_degrees_of_freedom(dtype: str):
    """By components alone, whose prior says so; float32 has the precision of float32."""
    degrees = np.array([1.0, 3.0, 400.0, 1e7])

    def state(nu: jax.Array) -> State:
        ones = jnp.ones((1, 1), dtype)
        one = jaxgmm.NormalGamma(2 * ones, ones[0], ones * nu / 2, ones * nu)
        q = jaxgmm.Prior(jaxgmm.Dirichlet(ones[0]), one)
        return replace(state_of("diag", "cavi", dtype), prior=q, posterior=q)

    p = np.asarray(jnp.asarray(P[1:-1], dtype), np.float64)
    oracle = scipy.stats.t(degrees[:, None], 2.0, 2.0)
    nu = jnp.asarray(degrees, dtype)
    found = jax.vmap(lambda nu: quantile(state(nu), jnp.asarray(p, dtype)))(nu)
    values = jax.vmap(lambda nu, x: cdf(state(nu), x))(nu, found)
    assert found.dtype == values.dtype == dtype
    tolerance = 2e-5 if dtype == "float32" else 1e-11
    # far out in the tails of a Cauchy density the quadrature has few nodes where they matter
    assert_allclose(found[0], oracle.ppf(p)[0], rtol=max(tolerance, 5e-9))
    assert_allclose(found[1:], oracle.ppf(p)[1:], rtol=tolerance)
    # where x itself was rounded, so was the cdf, by that and the hazard
    exact = oracle.cdf(np.asarray(found, np.float64))
    assert_allclose(values[0], exact[0], rtol=max(tolerance, 5e-9))
    assert_allclose(values[1:], exact[1:], rtol=tolerance)


@pytest.mark.parametrize("name", few("full")[::6])
def test_gradients_of_cdf_and_quantile(name: str):
    """In the degrees of freedom, too, where the incomplete beta function of JAX has none."""
    state, f = state_of(name), 0
    p = jnp.asarray(P[2:-2])

    def at(posterior: Any, p: jax.Array) -> jax.Array:
        return quantile(replace(state, posterior=posterior), p, feature=f)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def slopes(posterior: Any, p: jax.Array) -> Any:
        x, (by_state, by_p) = jax.value_and_grad(at, (0, 1))(posterior, p)
        return x, by_state, by_p, jax.grad(lambda x: cdf(state, x, feature=f))(x)

    x, by_state, by_p, density = slopes(state.posterior, p)
    assert_allclose(x, quantile(state, p, feature=f), rtol=1e-13)
    step = 1e-5
    change = (cdf(state, x + step, feature=f) - cdf(state, x - step, feature=f)) / (2 * step)
    assert_allclose(density, change, rtol=1e-8)
    if name == "full":
        pairs = zip(weights_of(state), oracles(state, f), strict=True)
        assert_allclose(density, sum(w * a.pdf(np.asarray(x)) for w, a in pairs), rtol=1e-11)
    assert_allclose(by_p, 1 / density, rtol=1e-11)
    leaves, tree = jax.tree.flatten(state.posterior)
    rng = np.random.default_rng(0)
    directions = [jnp.asarray(rng.uniform(0.5, 1.5, a.shape)) * a for a in leaves]

    def moved(t: float) -> jax.Array:
        posterior = [a + t * d for a, d in zip(leaves, directions, strict=True)]
        return at(jax.tree.unflatten(tree, posterior), p)

    slope = sum(
        jnp.sum(g * d, axis=tuple(range(1, g.ndim)))
        for g, d in zip(jax.tree.leaves(by_state), directions, strict=True)
    )
    assert_allclose(slope, (moved(step) - moved(-step)) / (2 * step), rtol=1e-6)


def test_quantiles_between_far_clusters():
    far = mixture_1d([0.3, 0.7], [0.0, 1e6], [1.0, 1e4])
    x = quantile(far, np.array([0.15, 0.65]))
    # to the rounding of the whole spread
    assert_allclose(x, [0.0, 1e6], atol=1e-9)
    p = np.array([0.299, 0.301])
    assert_allclose(cdf(far, quantile(far, p)), p, rtol=1e-9)


@pytest.mark.parametrize("name", few("full"))
def test_sampled_log_prob_is_log_prob_within_its_error(name: str):
    state, x = state_of(name), jnp.concatenate([clusters(n=8), jnp.asarray([[9.0, -4.0]])])
    value, error = sampled_log_prob(KEY, state, x, 4000)
    gap = np.abs(value - jaxgmm.log_prob(state, x))
    assert (gap < 4.5 * np.asarray(error)).all()
    assert (error[:8] < 0.2).all()


@pytest.mark.slow
def test_the_error_of_sampled_log_prob_is_its_spread():
    state, x = state_of("full"), clusters(n=4)
    keys = jax.random.split(KEY, 200)
    values, errors = jax.vmap(sampled_log_prob, (0, None, None, None))(keys, state, x, 300)
    # a standard deviation of 200 values is off by a twentieth
    assert_allclose(values.std(axis=0), jnp.sqrt(jnp.mean(errors**2, axis=0)), rtol=0.25)


@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.slow)])
def test_credible_intervals_have_their_mass(dtype: str):
    n, mass = 10_000, 0.9
    state = state_of("diag", "cavi", dtype)
    lower, upper = credible_intervals(KEY, state, mass, n)
    assert {a.dtype for a in (*lower, *upper)} == {jnp.dtype(dtype)}
    a = np.asarray(state.posterior.weights.concentration, np.float64)
    c: Any = state.posterior.components
    shape, rate, mean = (np.asarray(b, np.float64) for b in (c.shape, c.rate, c.mean))
    scale = np.sqrt(rate / shape / np.asarray(c.mean_precision, np.float64)[:, None])
    pairs = {
        "weights": (scipy.stats.beta(a, a.sum() - a), lambda m: m.weights),
        "means": (scipy.stats.t(2 * shape, mean, scale), lambda m: m.means),
        "variances": (
            scipy.stats.invgamma(shape, scale=rate),
            lambda m: jnp.diagonal(m.covariances, axis1=1, axis2=2),
        ),
    }
    for law, part in pairs.values():
        for limit, p in ((lower, 0.05), (upper, 0.95)):
            reached = law.cdf(np.asarray(part(limit), np.float64))
            assert_allclose(reached, p, atol=5 * np.sqrt(p * (1 - p) / n))


def test_outlier_scores_are_masses_of_highest_density_regions():
    n = 20_000
    mean, covariance = np.array([1.0, -2.0]), np.array([[2.0, 0.5], [0.5, 1.0]])
    one = Mixture(jnp.ones(1), jnp.asarray(mean)[None], jnp.asarray(covariance)[None])
    x = np.random.default_rng(0).multivariate_normal(mean, 2 * covariance, 20)
    distance = np.einsum("ni,ij,nj->n", x - mean, np.linalg.inv(covariance), x - mean)
    expected = scipy.stats.chi2(2).cdf(distance)
    scores = outlier_scores(KEY, one, x, n)
    error = np.sqrt(expected * (1 - expected) / n)
    assert (np.abs(scores - expected) < 4.5 * error + 1 / n).all()
    # between the modes of two normals the density is less than in either's tails
    middle, tail, beyond = outlier_scores(KEY, TWO, np.array([[0.0], [-22.0], [1e4]]), n)
    assert middle == n / (n + 1) == beyond
    # all of the broad component's points that are denser, and the narrow one's within 2 sd
    level = 0.3 * scipy.stats.norm.pdf(2.0)
    reach = np.sqrt(-2 * np.log(level * 2 * np.sqrt(2 * np.pi) / 0.7))
    exact = 0.3 * (1 - 2 * scipy.stats.norm.sf(2.0)) + 0.7 * (1 - 2 * scipy.stats.norm.sf(reach))
    assert abs(float(tail) - exact) < 4.5 * np.sqrt(exact * (1 - exact) / n)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["map", "cavi"])
def test_outlier_scores_of_regular_samples_are_uniform(kind: str):
    state = state_of("full", kind)
    x = jaxgmm.sample(jax.random.key(1), state, 2000)[0]
    scores = np.asarray(outlier_scores(KEY, state, x))
    assert scipy.stats.kstest(scores, "uniform").pvalue > 1e-3


def test_entropy_and_kl_of_one_component():
    rng = np.random.default_rng(0)
    a, b = (s @ s.T + np.eye(2) for s in rng.standard_normal((2, 2, 2)))
    mean, other = rng.standard_normal((2, 2))
    p, q = (
        Mixture(jnp.ones(1), jnp.asarray(m)[None], jnp.asarray(s)[None])
        for m, s in ((mean, a), (other, b))
    )
    value, error = sampled_entropy(KEY, p)
    assert abs(float(value) - scipy.stats.multivariate_normal(mean, a).entropy()) < 4 * error
    assert 0 < float(error) < 0.02
    inverse = np.linalg.inv(b)
    log_ratio = np.log(np.linalg.det(b) / np.linalg.det(a))
    kl = 0.5 * (np.trace(inverse @ a) + (other - mean) @ inverse @ (other - mean) - 2 + log_ratio)
    value, error = sampled_kl(KEY, p, q)
    assert abs(float(value) - kl) < 4 * error
    assert sampled_kl(KEY, p, p)[0] == 0


def test_kl_between_a_predictive_and_its_plug_in():
    """Of a Student-t density and a normal one, by quadrature."""
    one = jaxgmm.NormalGamma(*(jnp.asarray(a) for a in ([[2.0]], [1.0], [[2.5]], [[3.0]])))
    q = jaxgmm.Prior(jaxgmm.Dirichlet(jnp.ones(1)), one)
    state = replace(state_of("full"), prior=q, posterior=q)
    t, normal = scipy.stats.t(5, 2.0, np.sqrt(2 * 3 / 2.5)), scipy.stats.norm(2.0, np.sqrt(3 / 2.5))
    value, error = sampled_kl(KEY, state, jaxgmm.mixture(state))
    kl = quad(lambda x: t.pdf(x) * (t.logpdf(x) - normal.logpdf(x)), -300, 300, limit=400)[0]
    assert abs(float(value) - kl) < 4 * error


def test_the_gradient_of_the_entropy_is_unbiased():
    """Of the weights, too, although the choice of a component has no derivative."""
    keys = jax.random.split(KEY, 100)
    gradients = jax.vmap(jax.grad(lambda m, key: sampled_entropy(key, m, 200)[0]), (None, 0))(
        TWO, keys
    )
    # far apart, H = sum_k w_k (H_k - log w_k); of the weights, whose sum is 1, along a difference
    w, s = np.array([0.3, 0.7]), np.array([1.0, 4.0])
    parts = 0.5 * np.log(2 * np.pi * np.e * s) - np.log(w)
    found = {
        "weights": (gradients.weights[:, 0] - gradients.weights[:, 1], parts[0] - parts[1]),
        "first variance": (gradients.covariances[:, 0, 0, 0], w[0] / (2 * s[0])),
        "second variance": (gradients.covariances[:, 1, 0, 0], w[1] / (2 * s[1])),
    }
    for values, exact in found.values():
        assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / 10


def test_a_mixture_is_its_own_density():
    state, x = state_of("full", "map"), clusters(n=20)
    m = jaxgmm.mixture(state)
    assert all(a is b for a, b in zip(jaxgmm.mixture(m), m, strict=True))
    rows = zip(*(np.asarray(a) for a in m), strict=True)
    joint = np.stack(
        [np.log(w) + scipy.stats.multivariate_normal(c, s).logpdf(x) for w, c, s in rows], axis=1
    )
    total = np.logaddexp.reduce(joint, axis=1)
    assert_allclose(jaxgmm.log_prob(m, x), total, rtol=1e-12)
    assert_allclose(jaxgmm.responsibilities(m, x), np.exp(joint - total[:, None]), atol=1e-12)
    np.testing.assert_array_equal(jaxgmm.predict(m, x), joint.argmax(axis=1))
    empty = TWO._replace(weights=jnp.asarray([0.0, 1.0]))
    gradient = jax.grad(lambda m: jaxgmm.log_prob(m, jnp.zeros((1, 1))).sum())(empty)
    assert all(bool(jnp.isfinite(a).all()) for a in gradient)


@pytest.mark.slow
@pytest.mark.parametrize("n", [30, 60, 100, 200])
def test_predictive_beats_the_others_on_small_samples(n: int):
    for name, gap in held_out(n, 60).items():
        error = gap.std(ddof=1) / np.sqrt(len(gap))
        print(f"N={n} {name}: {gap.mean():.4f} +- {error:.4f}")
        assert gap.mean() > 3 * error


def held_out(n: int, sets: int) -> dict[str, np.ndarray]:
    """How much more the predictive gives a new sample than others do, in nats, of each data set."""
    test = clusters(n=4000, seed=10_000)
    gaps: dict[str, list[float]] = {"plug-in": [], "maximum a posteriori": [], "ML": []}
    for seed in range(sets):
        x, key = clusters(n=n, seed=seed), jax.random.key(seed)
        prior = jaxgmm.default_prior(x, 3)
        algorithms = jaxgmm.cavi(prior), jaxgmm.em(prior), jaxgmm.em(jaxgmm.flat_prior(3, 2))
        posterior, *estimates = (
            jaxgmm.fit(key, x, algorithm, n_restarts=8, moves=False).best
            for algorithm in algorithms
        )
        own = jnp.mean(jaxgmm.log_prob(posterior, test))
        others = [jaxgmm.mixture(posterior), *map(jaxgmm.mixture, estimates)]
        for gap, other in zip(gaps.values(), others, strict=True):
            gap.append(float(own - jnp.mean(jaxgmm.log_prob(other, test))))
    return {name: np.array(values) for name, values in gaps.items()}


X = clusters(n=5)
BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "width": (lambda: jaxgmm.log_prob(TWO, X), "x has 2 features.*mixture has 1"),
    "no mixture": (lambda: jaxgmm.log_prob(3, X), r"or a jaxgmm\.Mixture, but it was given 3"),
    "no feature": (lambda: cdf(state_of("full"), 0.0), "2 features.*feature=0 to 1"),
    "feature": (lambda: quantile(TWO, 0.5, feature=1), "from 0 to 0, but it is 1"),
    "p": (lambda: quantile(TWO, 1.5), r"from 0 to 1, but they are 1\.5"),
    "nan": (lambda: quantile(TWO, np.nan), "from 0 to 1"),
    "mass": (lambda: credible_intervals(KEY, state_of("full"), 95), "between 0 and 1.*95"),
    "estimate": (lambda: credible_intervals(KEY, state_of("full", "map")), "point estimate"),
    "no posterior": (lambda: sampled_log_prob(KEY, state_of("full", "map"), X), "point estimate"),
    "one draw": (lambda: sampled_entropy(KEY, TWO, 1), "at least 2"),
    "widths": (lambda: sampled_kl(KEY, TWO, state_of("full")), "1 features.*but q of 2"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(what: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    call, message = BAD[what]
    with pytest.raises(ValueError, match=message):
        call()
