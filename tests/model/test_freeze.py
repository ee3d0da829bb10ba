"""Known parameters: against plain NumPy, closed-form evidences, and in whole fits."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import TOLERANCE, clusters, parametrize
from scipy.special import digamma, gammaln, multigammaln
from scipy.stats import multivariate_normal, multivariate_t, norm, t

import jaxgmm
from jaxgmm import Dirichlet, FixedWeights, IndependentNormalGamma, Prior
from jaxgmm._estep.data import Rows, prepare
from jaxgmm._fit.moves import moved_lanes
from jaxgmm._model.coordinates import coordinates_of, known_coordinates, posterior_of
from jaxgmm.views import Expectation, Mode

K, D, N = 3, 2, 90
X = np.asarray(clusters(n=N))
MEAN = np.array([[3.8, 0.9]])
FULL = np.array([[[0.5, -0.2], [-0.2, 1.4]]])
# A known covariance of the second component, in the shape of each structure
KNOWN = {"full": FULL, "diag": np.array([[0.5, 1.4]]), "spherical": np.array([0.9])}
STARTS = np.array([[0.0, 0.0], [3.0, 1.0], [1.0, 4.0]])


def flat(name: str, **given: Any) -> Prior:
    return jaxgmm.freeze(jaxgmm.flat_prior(K, D, name), components=[1], **given)


def mask(which: str) -> np.ndarray:
    return np.arange(K) == 1 if which else np.zeros(K, bool)


# --- against EM in plain NumPy ------------------------------------------------------------------


def plain_em(
    name: str, means: np.ndarray, known: dict[str, Any], steps: int
) -> tuple[list[float], np.ndarray, np.ndarray, np.ndarray]:
    """EM of the maximum-likelihood estimate, a sum over the definition at a time."""
    k, chosen = len(means), 1
    labels = np.argmin(((X[:, None] - means[None]) ** 2 / X.var(0)).sum(-1), axis=1)
    r = np.eye(k)[labels]
    likelihoods, m = [], means
    for _ in range(steps + 1):
        count = r.sum(0)
        m = (r.T @ X) / count[:, None]
        if "means" in known:
            m[chosen] = known["means"][0]
        gap = X[:, None] - m[None]
        scatter = np.einsum("nk,nki,nkj->kij", r, gap, gap)
        s = scatter / count[:, None, None]
        if name == "tied":
            s = np.broadcast_to(scatter.sum(0) / N, s.shape).copy()
        variances = np.einsum("kii->ki", s)
        if name == "diag":
            s = np.stack([np.diag(v) for v in variances])
        if name == "spherical":
            s = variances.mean(-1)[:, None, None] * np.eye(D)
        if "covariances" in known:
            own = known["covariances"]
            s[chosen] = own[0] if name == "full" else np.diag(np.broadcast_to(own[0], D))
            if name == "tied":
                s[:] = own
        w = count / N
        if "weights" in known:
            w = w / (N - count[chosen]) * N * (1 - known["weights"][0])
            w[chosen] = known["weights"][0]
        log_joint = np.stack(
            [np.log(w[j]) + multivariate_normal(m[j], s[j]).logpdf(X) for j in range(k)], axis=1
        )
        total = np.logaddexp.reduce(log_joint, axis=1)
        likelihoods.append(total.sum())
        r = np.exp(log_joint - total[:, None])
    return likelihoods, w, m, s


DEFAULT = ("means", "covariance and weight", "full", "diag", "independent spherical")
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "means": ("full", {"means": MEAN}, 17 - 2),
    "tied means": ("tied", {"means": MEAN}, 2 + 6 + 3 - 2),
    "diag, both": ("diag", {"means": MEAN, "covariances": KNOWN["diag"]}, 14 - 4),
    "spherical covariance": ("spherical", {"covariances": KNOWN["spherical"]}, 11 - 1),
    "covariance and weight": ("full", {"covariances": FULL, "weights": np.array([0.4])}, 17 - 4),
}


@parametrize(("case",), [(name,) for name in CASES], lambda case: case not in DEFAULT)
def test_em_is_that_of_plain_numpy_and_rises(case: str):
    name, known, n_parameters = CASES[case]
    prior = flat(name, **known)
    assert prior.n_parameters == n_parameters
    algorithm = jaxgmm.em(prior)
    x, steps = jnp.asarray(X), 25
    state = jax.jit(algorithm.init)(jax.random.key(0), x, {"labels": _labels()})
    run = jax.jit(jaxgmm.run, static_argnames=("history_length", "max_iter"))
    state = jax.tree.map(lambda a: a[None], state)
    states, history = run(algorithm, state, x, max_iter=steps, tol=0.0, history_length=steps)
    expected, w, m, s = plain_em(name, STARTS, known, steps)
    rises = np.diff(np.asarray(history[:, 0]))
    assert (rises > -1e-9).all()
    best = jax.tree.map(lambda a: a[0], states)
    got = jaxgmm.mixture(best)
    for a, b in zip(got, (w, m, s), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)
    # the bound is the likelihood by the responsibilities of before, which the next pass has
    np.testing.assert_allclose(jaxgmm.elbo(best, x), expected[-1], rtol=1e-10)
    assert float(jaxgmm.bic(best, x)) == pytest.approx(
        n_parameters * np.log(N) - 2 * expected[-1], rel=1e-10
    )


def _labels() -> jax.Array:
    return jnp.asarray(np.argmin(((X[:, None] - STARTS[None]) ** 2 / X.var(0)).sum(-1), axis=1))


# --- closed forms at K = 1 ----------------------------------------------------------------------

FEW = X[:20]
MU = np.array([[0.7, 1.1]])


@jax.jit
def evidence(prior: Prior) -> jax.Array:
    """The bound of one update, which of a single component is the log evidence."""
    view = jaxgmm.views.Expectation()
    stats = jaxgmm.estep(jnp.asarray(FEW), view.potentials(prior))
    q = jaxgmm.update(prior, stats, prior)
    return jaxgmm.bound(stats, view.potentials(q), view.penalty(q, prior))


def gamma_evidence(shape: Any, rate: Any, n: int, squares: Any) -> Any:
    """Of n standard deviates of a precision tau ~ Gamma(shape, rate) with a sum of squares."""
    new, scale = shape + n / 2, rate + squares / 2
    return (
        gammaln(new) - gammaln(shape) + shape * np.log(rate) - new * np.log(scale)
        - n / 2 * np.log(2 * np.pi)
    )  # fmt: skip


def of_a_known_mean(name: str, c: Any) -> float:
    gap = FEW - MU
    if name in ("full", "tied"):
        nu = float(c.degrees_of_freedom.ravel()[0])
        scale = np.asarray(c.scale).reshape(-1, D, D)[0]
        new, n = scale + gap.T @ gap, len(gap)
        return (
            multigammaln((nu + n) / 2, D) - multigammaln(nu / 2, D)
            + nu / 2 * np.linalg.slogdet(scale)[1] - (nu + n) / 2 * np.linalg.slogdet(new)[1]
            - n * D / 2 * np.log(np.pi)
        )  # fmt: skip
    if np.ndim(c.shape) == 2:
        return gamma_evidence(
            *(np.asarray(a)[0] for a in (c.shape, c.rate)), 20, (gap**2).sum(0)
        ).sum()
    return gamma_evidence(float(c.shape[0]), float(c.rate[0]), 40, (gap**2).sum())


def of_a_known_covariance(c: Any, covariance: np.ndarray) -> float:
    """The mean integrated out: all samples together are one normal vector."""
    spread = covariance
    if hasattr(c, "mean_precision"):
        spread = covariance / float(c.mean_precision[0])
    else:
        spread = np.diag(1 / np.asarray(c.precision[0]))
    n = len(FEW)
    whole = np.kron(np.eye(n), covariance) + np.kron(np.ones((n, n)), spread)
    return multivariate_normal(np.tile(np.asarray(c.mean[0]), n), whole).logpdf(FEW.ravel())


def single(name: str) -> Prior:
    if name.startswith("independent"):
        spherical = name.endswith("spherical")
        cov = jnp.asarray(np.cov(X.T))
        c = IndependentNormalGamma.default(jnp.asarray(X.mean(0)), cov, 1, spherical=spherical)
        return Prior(Dirichlet(jnp.ones(1)), c)
    return jaxgmm.default_prior(jnp.asarray(X), 1, name)


FAMILIES = ("full", "tied", "diag", "spherical", "independent diag", "independent spherical")


@parametrize(("name",), [(name,) for name in FAMILIES], lambda name: name not in DEFAULT)
def test_one_component_has_its_evidence(name: str):
    prior = single(name)
    c, kind = prior.components, name.split()[-1]
    known = {"tied": FULL[0], **KNOWN}[kind]
    matrix = {"tied": FULL[0], "full": FULL[0], "diag": np.diag([0.5, 1.4])}.get(
        kind, 0.9 * np.eye(2)
    )
    near = {"rel": TOLERANCE["float64"].value, "abs": 1e-10}
    mean, covariance = (
        jaxgmm.freeze(prior, **{a: b}) for a, b in (("means", MU), ("covariances", known))
    )
    both = jaxgmm.freeze(mean, covariances=known)
    assert float(evidence(mean)) == pytest.approx(of_a_known_mean(name, c), **near)
    assert float(evidence(covariance)) == pytest.approx(of_a_known_covariance(c, matrix), **near)
    likelihood = multivariate_normal(MU[0], matrix).logpdf(FEW).sum()
    assert float(evidence(both)) == pytest.approx(likelihood, **near)
    numbers = [p.n_parameters for p in (prior, mean, covariance, both)]
    assert numbers == [numbers[0], numbers[0] - D, D, 0]
    # a strong prior comes near to what an infinite one gives
    if name == "full":
        strong = replace(c, mean=jnp.asarray(MU), mean_precision=jnp.full(1, 1e9))
        assert float(evidence(replace(prior, components=strong))) == pytest.approx(
            float(evidence(mean)), abs=1e-5
        )


# --- whole fits ---------------------------------------------------------------------------------

SHIFT = np.array([1000.0, -3.0])
SCALE = np.array([2.0, 1e-3])
X32 = jnp.asarray(X * SCALE + SHIFT, "float32")
MEAN32 = np.asarray(MEAN * SCALE + SHIFT, "float32")
FULL32 = np.asarray(FULL * SCALE[:, None] * SCALE, "float32")


def partly_known() -> Prior:
    prior = jaxgmm.freeze(jaxgmm.default_prior(X32, K), means=MEAN32, components=[1])
    return jaxgmm.freeze(prior, covariances=FULL32, weights=[0.3], components=2)


def assert_known(q: Any, prior: Prior) -> None:
    """What is known is that of the prior, in every bit."""
    c, own = q.components, prior.components
    assert np.array_equal(c.mean[1], own.mean[1])
    assert np.array_equal(c.scale[2], own.scale[2])
    assert np.array_equal(own.scale[2], FULL32[0])
    assert np.array_equal(q.weights.weights, prior.weights.weights)
    assert np.isposinf(c.mean_precision).tolist() == [False, True, False]
    assert np.isposinf(c.degrees_of_freedom).tolist() == [False, False, True]


@pytest.mark.parametrize("make", [jaxgmm.em, pytest.param(jaxgmm.cavi, marks=pytest.mark.slow)])
def test_a_fit_with_moves_keeps_what_is_known_in_every_bit(make: Any, tmp_path: Any):
    """In float32, far from 0 and in units of its own."""
    prior = partly_known()
    result = jaxgmm.fit(jax.random.key(0), X32, make(prior), n_restarts=16)
    q, m = result.best.posterior, jaxgmm.mixture(result)
    assert_known(q, prior)
    for lane in range(16):
        assert_known(jax.tree.map(lambda a, i=lane: a[i], result.states.posterior), prior)
    assert np.array_equal(m.means[1], MEAN32[0])
    np.testing.assert_allclose(m.weights[2], 0.3, rtol=1e-6)
    np.testing.assert_allclose(m.covariances[2], FULL32[0], rtol=1e-6)
    jaxgmm.save(tmp_path / "fit.safetensors", result)
    assert jaxgmm.load(tmp_path / "fit.safetensors") == result
    # names move with what is known of them
    ordered = jaxgmm.order_components(result.best, by="mean")
    place = int(np.flatnonzero(np.isposinf(ordered.prior.components.mean_precision))[0])
    assert np.array_equal(ordered.posterior.components.mean[place], MEAN32[0])
    assert np.isposinf(ordered.posterior.components.mean_precision)[place]
    draws = jaxgmm.sample(jax.random.key(1), result, 20)[0]
    assert np.isfinite(jaxgmm.log_prob(result, draws)).all()


@pytest.mark.slow
def test_moves_start_from_what_is_known():
    prior = jaxgmm.freeze(jaxgmm.flat_prior(K, D), means=MEAN, weights=[0.4], components=1)
    algorithm, x = jaxgmm.em(prior), jnp.asarray(X)
    state = jax.jit(algorithm.init)(jax.random.key(0), x, {"labels": _labels()})
    state = jax.jit(algorithm.step)(state, x)
    best = jax.tree.map(lambda a: a[None], state)
    lanes = moved_lanes(
        jax.random.key(1), np.asarray([0]), algorithm, best, np.asarray([K]),
        prepare(Rows(x, None)), jnp.asarray([4]), n=8, grouped=False,
    )  # fmt: skip
    means = np.asarray(lanes.posterior.components.mean)
    assert (means[:, 1] == MEAN[0]).all()
    assert np.unique(means[:, 0, 0]).size > 4  # and the others have moved
    np.testing.assert_allclose(
        np.exp(jax.vmap(lambda w: w.mode())(lanes.posterior.weights))[:, 1], 0.4
    )


@pytest.mark.slow
def test_starts_take_known_means_for_seeds():
    """If all means are known nothing is left to chance, in the coordinates of a fit neither."""
    algorithm = jaxgmm.em(jaxgmm.freeze(jaxgmm.flat_prior(K, D, "diag"), means=STARTS))
    states = [
        jax.jit(algorithm.init, static_argnums=2)(jax.random.key(i), jnp.asarray(X), "k-means")
        for i in range(2)
    ]
    count = np.bincount(_labels())
    for state in states:
        np.testing.assert_allclose(state.posterior.weights.concentration, 1 + count, rtol=1e-12)
    state = jax.jit(algorithm.step)(states[0], jnp.asarray(X))
    result = jaxgmm.fit(
        jax.random.key(3), X, algorithm, n_restarts=8, max_iter=1, moves=False, racing=False
    )
    np.testing.assert_allclose(result.states.objective, float(state.objective), rtol=1e-10)


@pytest.mark.slow
def test_selection_keeps_what_is_known():
    def algorithm(k: int, name: str) -> jaxgmm.Algorithm:
        prior = jaxgmm.freeze(jaxgmm.flat_prior(k, D, name), means=MEAN, components=[0])
        return jaxgmm.em(jaxgmm.freeze(prior, weights=[0.3], components=[0]) if k > 1 else prior)

    chosen = jaxgmm.select(
        jax.random.key(0), X, (2, 3, 4), ("full", "tied"), algorithm=algorithm, n_restarts=4
    )
    assert len(chosen.states) == 6
    for i, state in enumerate(chosen.states):
        row = {name: values[i] for name, values in chosen.table.items()}
        k = int(row["n_components"])
        df = (k - 2) + D * (k - 1) + (3 * k if row["covariance"] == "full" else 3)
        assert np.array_equal(state.posterior.components.mean[0], MEAN[0])
        assert float(jaxgmm.mixture(state).weights[0]) == pytest.approx(0.3, abs=1e-12)
        likelihood = float(jaxgmm.log_prob(state, X).sum())
        assert row["n_parameters"] == df
        assert row["bic"] == pytest.approx(df * np.log(N) - 2 * likelihood, rel=1e-9)


VIEWS: dict[str, Callable[[Prior], Any]] = {
    "sample": lambda p: jaxgmm.svi(p, optax.adam(0.05), 30),
    "landing": lambda p: jaxgmm.svi(p, optax.adam(0.05), 30, divergence="sticking_the_landing"),
    "expectation": lambda p: jaxgmm.svi(p, optax.adam(0.05), view="expectation"),
    "mode": lambda p: jaxgmm.svi(p, optax.adam(0.05), view="mode"),
    "natural": lambda p: jaxgmm.svi(p, jaxgmm.natural_gradient(1.0), average=True),
    "natural mode": lambda p: jaxgmm.svi(p, jaxgmm.natural_gradient(), 30, view="mode"),
}
WAYS = [(view, name) for view in VIEWS for name in FAMILIES]


@parametrize(("view", "name"), WAYS, lambda view, name: (view, name) != ("sample", "diag"))
def test_steps_keep_what_is_known(view: str, name: str):
    kind = name.split()[-1]
    prior = jaxgmm.default_prior(X, K, kind)
    if name.startswith("independent"):
        cov = jnp.asarray(np.cov(X.T))
        c = IndependentNormalGamma.default(
            jnp.asarray(X.mean(0)), cov, K, spherical=kind == "spherical"
        )
        prior = replace(prior, components=c)
    prior = jaxgmm.freeze(prior, means=MEAN, components=[1])
    if kind == "tied":
        prior = jaxgmm.freeze(prior, covariances=FULL[0])
    else:
        prior = jaxgmm.freeze(prior, covariances=KNOWN[kind], components=[2])
    algorithm, x = VIEWS[view](prior), jnp.asarray(X)
    begin, step = jax.jit(algorithm.init), jax.jit(algorithm.step)
    state = begin(jax.random.key(1), x)
    first = state.posterior
    for _ in range(5):
        state = step(state, x)
    c, own = state.posterior.components, prior.components
    field = c.strengths[c.strength_of("covariance")]
    value, known = getattr(c, field), getattr(own, field)
    assert np.array_equal(c.mean[1], MEAN[0])
    assert np.array_equal(*((value, known) if kind == "tied" else (value[2], known[2])))
    assert int(state.status) <= 2, state.status
    assert np.isfinite(state.objective)
    assert (np.asarray(c.mean[0]) != np.asarray(first.components.mean[0])).all()


@pytest.mark.slow
def test_predictions_where_the_covariance_is_known_are_normal():
    for name, kind in (("full", multivariate_t), ("diag", t), ("spherical", multivariate_t)):
        prior = jaxgmm.freeze(
            jaxgmm.default_prior(X, K, name), covariances=KNOWN[name], components=[1]
        )
        state = jax.jit(jaxgmm.cavi(prior).init)(jax.random.key(1), X, {"labels": _labels()})
        state = jax.jit(jaxgmm.cavi(prior).step)(state, X)
        c = state.posterior.components
        own = np.asarray(c.log_predictive(jnp.asarray(X)))
        matrix = {"full": FULL[0], "diag": np.diag(KNOWN["diag"][0])}.get(name, 0.9 * np.eye(D))
        wider = matrix * (1 + 1 / float(c.mean_precision[1]))
        normal = multivariate_normal(np.asarray(c.mean[1]), wider)
        np.testing.assert_allclose(own[:, 1], normal.logpdf(X), rtol=1e-11)
        if kind is multivariate_t and name == "full":
            degrees = float(c.degrees_of_freedom[0]) + 1 - D
            shape = np.asarray(c.scale[0]) * (1 + 1 / float(c.mean_precision[0])) / degrees
            oracle = kind(np.asarray(c.mean[0]), shape, degrees).logpdf(X)
            np.testing.assert_allclose(own[:, 0], oracle, rtol=1e-11)
        one = replace(state.posterior, weights=FixedWeights(jnp.asarray([0.0, 1.0, 0.0])))
        lonely = replace(state, posterior=one)
        sd, values = np.sqrt(wider[0, 0]), np.asarray([-1.0, 2.0, 5.0])
        mass = jaxgmm.cdf(lonely, values, feature=0)
        np.testing.assert_allclose(mass, norm.cdf(values, float(c.mean[1, 0]), sd), rtol=1e-9)
        np.testing.assert_allclose(jaxgmm.quantile(lonely, mass, feature=0), values, rtol=1e-9)
        draws = np.asarray(jaxgmm.sample(jax.random.key(2), lonely, 40_000)[0])
        np.testing.assert_allclose(np.cov(draws.T), wider, atol=0.05)


@pytest.mark.slow
def test_standard_errors_are_those_of_what_is_left():
    """Of a known covariance and a known mean beside a component of its own: the sd over root n."""
    prior = jaxgmm.freeze(jaxgmm.flat_prior(1, D), covariances=FULL)
    result = jaxgmm.fit(jax.random.key(0), X, jaxgmm.em(prior))
    found = jaxgmm.standard_errors(result, X)
    np.testing.assert_allclose(found.errors.means[0], np.sqrt(np.diag(FULL[0]) / N), rtol=1e-6)
    assert not found.errors.covariances.any()
    fixed = jaxgmm.fit(
        jax.random.key(0), X, jaxgmm.em(jaxgmm.freeze(jaxgmm.flat_prior(1, D), means=MU))
    )
    found = jaxgmm.standard_errors(fixed, X)
    variance = ((X - MU) ** 2).mean(0)
    assert not found.errors.means.any()
    np.testing.assert_allclose(
        np.diag(found.errors.covariances[0]), variance * np.sqrt(2 / N), rtol=1e-5
    )


@pytest.mark.slow
def test_derivatives_in_a_known_value_are_differences_of_fits():
    base = jaxgmm.freeze(jaxgmm.default_prior(X, K), covariances=FULL, components=[2])
    x, start = jnp.asarray(X), jaxgmm.freeze(base, means=MEAN, components=[1])

    def moved(value: Any) -> Prior:
        c = start.components
        return replace(start, components=replace(c, mean=c.mean.at[1, 0].set(value)))

    for make in (jaxgmm.em, jaxgmm.cavi):

        @jax.jit
        def fit(value: Any, make: Any = make) -> Any:
            algorithm = make(moved(value))
            state = algorithm.init(jax.random.key(0), x, {"labels": _labels()})
            states = jax.tree.map(lambda a: a[None], state)
            out = jaxgmm.run(algorithm, states, x, max_iter=3000, tol=0.0)
            return jax.tree.map(lambda a: a[0], out[0] if isinstance(out, tuple) else out)

        here, step = float(MEAN[0, 0]), 1e-4
        state, above, below = fit(here), fit(here + step), fit(here - step)
        found = jaxgmm.prior_gradient(state, x).components.mean[1, 0]
        slope = (float(jaxgmm.elbo(above, x)) - float(jaxgmm.elbo(below, x))) / (2 * step)
        assert float(found) == pytest.approx(slope, rel=1e-5)

        def first(value: Any, make: Any = make, state: Any = state) -> Any:
            done = replace(state, status=jnp.asarray(1, jnp.int32))
            return jaxgmm.fixed_point(make(moved(value)), done, x).posterior.components.mean[0, 0]

        found = jax.grad(first)(here)
        means = [s.posterior.components.mean[0, 0] for s in (above, below)]
        assert float(found) == pytest.approx(float(means[0] - means[1]) / (2 * step), rel=1e-4)


# --- weights ------------------------------------------------------------------------------------


def test_weights_that_are_left_share_the_rest():
    prior = Prior(Dirichlet(jnp.asarray([2.0, 5.0, 3.0, 1.5])), jaxgmm.flat_prior(4, 1).components)
    w = jaxgmm.freeze(prior, weights=[0.25], components=[1]).weights
    again = jaxgmm.freeze(prior, weights=[0.25, 0.5], components=[1, 0]).weights
    assert w.n_parameters == 2
    assert again.n_parameters == 1
    a, count = np.asarray([2.0, 3.0, 1.5]), jnp.asarray([4.0, 7.0, 0.0, 1.0])
    q, free = w.update(count), np.asarray([0, 2, 3])
    new = a + np.asarray(count)[free]
    near = {"rtol": TOLERANCE["float64"].value}
    np.testing.assert_allclose(np.exp(q.mode())[free], 0.75 * (new - 1) / (new - 1).sum(), **near)
    np.testing.assert_allclose(q.mean()[free], 0.75 * new / new.sum(), **near)
    expected = np.log(0.75) + digamma(new) - digamma(new.sum())
    np.testing.assert_allclose(q.expectation()[free], expected, **near)
    for log_weights in (q.mode(), q.expectation(), q.sample(jax.random.key(0))):
        np.testing.assert_allclose(np.exp(log_weights[1]), 0.25, **near)
    np.testing.assert_allclose(np.exp(q.sample(jax.random.key(0))).sum(), 1, **near)
    shares = Dirichlet(jnp.asarray(new)).kl(Dirichlet(jnp.asarray(a)))
    np.testing.assert_allclose(q.kl(w), shares, **near)
    whole = jaxgmm.freeze(
        jaxgmm.freeze(prior, weights=[0.25], components=1),
        weights=[0.2, 0.3, 0.25],
        components=[0, 2, 3],
    )
    assert whole.weights == FixedWeights(jnp.asarray([0.2, 0.25, 0.3, 0.25]))


# --- wrong calls --------------------------------------------------------------------------------

full, tied = jaxgmm.flat_prior(K, D), jaxgmm.flat_prior(K, D, "tied")
sticks = jaxgmm.flat_prior(K, D, weights="dirichlet_process")
matrix = jaxgmm.flat_prior(K, D, jnp.eye(D))
WRONG: dict[str, tuple[Prior, dict[str, Any], str]] = {
    "nothing": (full, {"components": [0]}, r"weights, means or covariances.*call jaxgmm\.freeze\("),
    "a width": (full, {"means": np.zeros((K, 3))}, r"means must have shape \(3, 2\).*\(3, 3\)"),
    "one row": (full, {"means": np.zeros(2), "components": 0}, r"shape \(1, 2\).*\(2,\)"),
    "a name": (full, {"means": "zero"}, r"means must have shape.*'zero'"),
    "nan": (full, {"means": np.full((K, D), np.nan)}, "means must be finite"),
    "shape": (full, {"covariances": np.eye(D)}, r"covariances must have shape \(3, 2, 2\)"),
    "not definite": (full, {"covariances": -FULL, "components": 0}, "positive definite"),
    "asymmetric": (full, {"covariances": FULL + np.eye(D, k=1), "components": 0}, "symmetric"),
    "negative": (
        jaxgmm.flat_prior(K, D, "diag"),
        {"covariances": [[1.0, -1.0]], "components": 0},
        "positive variances",
    ),
    "tied of one": (
        tied,
        {"covariances": FULL[0], "components": 0},
        "share their covariance.*all 3",
    ),
    "known already": (matrix, {"covariances": FULL[0]}, "KnownCovariance is known already"),
    "negative weight": (full, {"weights": [-0.1], "components": 0}, "weights must be positive"),
    "no weight": (full, {"weights": [0.0], "components": 0}, "weights must be positive"),
    "too much": (full, {"weights": [0.6, 0.5], "components": [0, 1]}, "sum .*below 1.*1.1"),
    "nothing left": (full, {"weights": [0.5, 0.5], "components": [0, 1]}, "leaves something"),
    "too little": (full, {"weights": [0.3, 0.3, 0.3]}, "sum to 1"),
    "sticks": (sticks, {"weights": [0.3], "components": 0}, "broken sticks.*give all 3"),
    "fixed": (
        jaxgmm.flat_prior(K, D, weights="fixed"),
        {"weights": [0.3], "components": 0},
        "known already.*give all 3",
    ),
    "out of range": (full, {"means": MEAN, "components": 3}, r"from 0 to 2.*\[3\]"),
    "from the end": (full, {"means": MEAN, "components": -1}, r"from 0 to 2.*\[-1\]"),
    "twice": (full, {"means": np.zeros((2, 2)), "components": [1, 1]}, r"different.*\[1, 1\]"),
    "no numbers": (full, {"means": MEAN, "components": [0.5]}, "numbers of one component or more"),
    "none": (full, {"means": MEAN, "components": []}, "numbers of one component or more"),
    "no prior": (jaxgmm.em(full), {"means": MEAN}, "freeze takes a prior.*an EM"),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("view", [Mode(), Expectation()])
def test_unconstrained_coordinates_of_weights_of_which_some_are_known(view: Any):
    prior = jaxgmm.freeze(jaxgmm.default_prior(X, K), weights=[0.3], components=[0])
    weights = prior.weights.update(jnp.asarray([0.0, 30.0, 50.0]))
    q = replace(prior, weights=weights)
    coordinates = coordinates_of(q, view)
    found = posterior_of(prior, coordinates, jnp.asarray(100.0), view)
    m, expected = view.estimate(found), view.estimate(q)
    np.testing.assert_allclose(m.weights, expected.weights, rtol=1e-6)
    assert float(m.weights[0]) == pytest.approx(0.3, rel=1e-12)
    # nothing depends on the coordinates of what is known

    def height(coordinates: Any) -> jax.Array:
        m = view.estimate(posterior_of(prior, coordinates, jnp.asarray(100.0), view))
        return jnp.sum(m.weights * jnp.arange(1.0, K + 1))

    (slope,) = jax.tree.leaves(jax.grad(height)(coordinates)["weights"])
    idle = known_coordinates(q)["weights"] if view.point else jnp.asarray([True, False, False])
    assert (np.asarray(slope == 0) == np.asarray(idle)).all()


@pytest.mark.slow
def test_gradients_and_standard_errors_where_some_weights_are_known():
    prior = jaxgmm.freeze(jaxgmm.default_prior(X, K), weights=[0.3], components=[1])
    best = jaxgmm.fit(jax.random.key(0), X, jaxgmm.cavi(prior), tol=1e-9).best
    adam = jaxgmm.svi(prior, optax.adam, learning_rate=0.03, view="expectation")
    found = jaxgmm.fit(jax.random.key(0), X, adam, 4, max_iter=3000).best
    assert float(found.objective) == pytest.approx(float(best.objective), abs=0.02)
    assert float(jaxgmm.mixture(found).weights[1]) == pytest.approx(0.3, rel=1e-12)
    flat = jaxgmm.freeze(jaxgmm.flat_prior(K, D), weights=[0.3], components=[1])
    best = jaxgmm.fit(jax.random.key(0), X, jaxgmm.em(flat), tol=1e-12).best
    errors = jaxgmm.standard_errors(best, X).errors.weights
    assert float(errors[1]) == 0
    # the other two have the same, of which the variance is at least that of known labels
    assert float(errors[0]) == pytest.approx(float(errors[2]))
    share = float(jaxgmm.mixture(best).weights[0]) / 0.7
    assert float(errors[0]) > 0.7 * np.sqrt(share * (1 - share) / (0.7 * len(X))) * 0.9


@pytest.mark.usefixtures("no_type_checker", "nothing_is_traced")
@pytest.mark.parametrize("case", WRONG)
def test_wrong_calls(case: str):
    prior, given, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        jaxgmm.freeze(prior, **given)


@pytest.mark.usefixtures("nothing_is_traced")
def test_what_cannot_be_done_with_known_parameters_is_said():
    import jaxgmm.numpyro

    proper = jaxgmm.default_prior(X, K)
    partly = jaxgmm.freeze(proper, weights=[0.2], components=0)
    for prior in (partly, jaxgmm.freeze(proper, means=MEAN, components=0)):
        with pytest.raises(ValueError, match=r"some of this prior are known.*freeze"):
            jaxgmm.numpyro.model(prior)
    with pytest.raises(ValueError, match=r"cannot be traced.*outside"):
        jax.jit(lambda m: jaxgmm.freeze(proper, means=m))(jnp.zeros((K, D)))
    strange = replace(proper.components, mean_precision=jnp.asarray([1.0, -jnp.inf, 1.0]))
    with pytest.raises(ValueError, match="mean_precision"):
        jaxgmm.cavi(replace(proper, components=strange))
