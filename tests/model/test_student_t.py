"""Student-t components against SciPy: densities, fits, bounds, gaps, draws."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import also_slow
from matplotlib.figure import Figure
from scipy import integrate, stats
from scipy.special import digamma, gammaln, logsumexp

import jaxgmm
from jaxgmm import Rows, plot
from jaxgmm._numerics.special import gamma_shape, log_less_digamma, stirling
from jaxgmm.plot._model import squared_radius

K, D, N = 2, 2, 240
RNG = np.random.default_rng(0)
TURN = np.array([[1.0, 0.5], [0.0, 1.2]])
X = np.concatenate(
    [RNG.standard_t(3, (N // 2, D)) @ TURN, 0.7 * RNG.standard_t(8, (N // 2, D)) + [6.0, 4.0]]
)
FAMILIES = ("full", *also_slow("tied", "diag", "spherical"))


def model(view: str = "em", family: str = "full", x: Any = X, **given: Any) -> Any:
    base = jaxgmm.flat_prior(K, D, family) if view == "em" else jaxgmm.default_prior(x, K, family)
    prior = jaxgmm.with_student_t(base, **given)
    return jaxgmm.em(prior) if view in ("em", "map") else jaxgmm.cavi(prior)


def naive_log_joint(m: jaxgmm.StudentTMixture, x: np.ndarray) -> np.ndarray:
    """``(N, K)``, row by row, of the values that are not NaN."""
    out = np.zeros((len(x), len(m.weights)))
    for n, row in enumerate(x):
        seen = np.isfinite(row)
        for k, (w, mean, scale, degrees) in enumerate(zip(*map(np.asarray, m), strict=True)):
            out[n, k] = np.log(w)
            if seen.any():
                density = stats.multivariate_t(mean[seen], scale[np.ix_(seen, seen)], degrees)
                out[n, k] += density.logpdf(row[seen])
    return out


@pytest.fixture(scope="module")
def fitted() -> jaxgmm.State:
    return jaxgmm.fit(jax.random.key(0), X, model(), 4, tol=1e-9).best


def test_special_functions_where_their_terms_cancel():
    a = np.concatenate([np.logspace(-2, 6, 60), [15.999, 16.0, 16.001]])
    np.testing.assert_allclose(
        stirling(jnp.asarray(a)), a * np.log(a) - a - gammaln(a), rtol=1e-7, atol=1e-11
    )
    np.testing.assert_allclose(log_less_digamma(jnp.asarray(a)), np.log(a) - digamma(a), rtol=1e-8)
    small = a[a < 1e4]
    found = gamma_shape(log_less_digamma(jnp.asarray(small)))
    np.testing.assert_allclose(found, small, rtol=1e-10)
    # a float32 has the digits that the difference of float64 has
    single = stirling(jnp.asarray(small, jnp.float32))
    np.testing.assert_allclose(single, stirling(jnp.asarray(small)), rtol=1e-5, atol=3e-6)
    slope = jax.vmap(jax.grad(gamma_shape))(jnp.asarray([0.01, 0.5, 3.0]))
    step = 1e-6 * jnp.asarray([0.01, 0.5, 3.0])
    ahead, behind = (gamma_shape(jnp.asarray([0.01, 0.5, 3.0]) + s * step) for s in (1, -1))
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=1e-6)


def test_one_component_is_scipys_estimate():
    x = stats.t(4.5, 2.0, 0.7).rvs(400, random_state=np.random.default_rng(1))
    prior = jaxgmm.with_student_t(jaxgmm.flat_prior(1, 1))
    result = jaxgmm.fit(jax.random.key(0), x[:, None], jaxgmm.em(prior), 1, tol=1e-13)
    m = jaxgmm.student_t_mixture(result)
    found = np.array([m.degrees[0], m.means[0, 0], np.sqrt(m.scales[0, 0, 0])])
    degrees, loc, scale = stats.t.fit(x, 4.0)
    np.testing.assert_allclose(found, [degrees, loc, scale], rtol=2e-3)
    likelihood = stats.t(degrees, loc, scale).logpdf(x).sum()
    assert float(result.best.objective) == pytest.approx(likelihood, abs=1e-4)
    assert float(result.best.objective) >= likelihood - 1e-8


@pytest.mark.slow
def test_standard_errors_are_of_the_curvature_of_scipys_likelihood():
    x = stats.t(4.5, 2.0, 0.7).rvs(400, random_state=np.random.default_rng(1))
    prior = jaxgmm.with_student_t(jaxgmm.flat_prior(1, 1))
    result = jaxgmm.fit(jax.random.key(0), x[:, None], jaxgmm.em(prior), 1, tol=1e-13)
    m = jaxgmm.student_t_mixture(result)
    point = np.array([m.degrees[0], m.means[0, 0], m.scales[0, 0, 0]])
    step = 1e-3 * np.maximum(point, 1)

    def height(point: np.ndarray) -> float:
        return stats.t(point[0], point[1], np.sqrt(point[2])).logpdf(x).sum()

    eye = np.diag(step)
    information = np.zeros((3, 3))
    for i in range(3):
        for j in range(3):
            corners = [
                a * b * height(point + a * eye[i] + b * eye[j]) for a in (1, -1) for b in (1, -1)
            ]
            information[i, j] = -sum(corners) / (4 * step[i] * step[j])
    expected = np.sqrt(np.diag(np.linalg.inv(information)))
    errors = jaxgmm.standard_errors(result, x[:, None])
    got = [errors.errors.degrees[0], errors.errors.means[0, 0], errors.errors.scales[0, 0, 0]]
    np.testing.assert_allclose(got, expected, rtol=1e-2)
    assert "degrees of freedom" in errors.summary()


def test_likelihood_criteria_and_far_rows(fitted: jaxgmm.State):
    m = jaxgmm.student_t_mixture(fitted)
    joint = naive_log_joint(m, X)
    height = logsumexp(joint, axis=1)
    np.testing.assert_allclose(jaxgmm.log_prob(fitted, X), height, rtol=1e-9)
    np.testing.assert_allclose(fitted.objective, height.sum(), rtol=1e-9)
    np.testing.assert_allclose(
        jaxgmm.responsibilities(fitted, X), np.exp(joint - height[:, None]), atol=1e-9
    )
    # a weight, means, scales and degrees of freedom
    n_parameters = 1 + K * D + K * 3 + K
    assert fitted.prior.n_parameters == n_parameters
    bic = n_parameters * np.log(N) - 2 * height.sum()
    assert float(jaxgmm.bic(fitted, X)) == pytest.approx(bic)
    far = jnp.asarray([[1e200, -1e200], [1e3, 0.0]])
    assert np.isfinite(jaxgmm.log_prob(fitted, far)).all()
    # the heaviest tail has it
    np.testing.assert_allclose(
        jaxgmm.responsibilities(fitted, far[:1])[0, np.argmin(m.degrees)], 1, atol=1e-6
    )


@pytest.mark.parametrize("family", ["full", *also_slow("tied", "diag", "spherical")])
def test_passes_agree(family: str):
    state = model("map", family).init(jax.random.key(0), X, {"means": X[[3, N - 3]]})
    weight = jnp.asarray(np.random.default_rng(4).uniform(size=N))
    fast, careful = (
        jaxgmm.estep(jnp.asarray(X), state.potentials, sample_weight=weight, path=path)
        for path in ("feature", "whitened")
    )
    for name in ("count", "mass", "excess", "mean", "scatter", "log_evidence", "entropy"):
        np.testing.assert_allclose(getattr(fast, name), getattr(careful, name), rtol=1e-9)


def run_of(algorithm: Any, rows: Any, steps: int = 30) -> tuple[jaxgmm.State, np.ndarray]:
    """A lane after some iterations from given means, and its objectives."""
    start = algorithm.init(jax.random.key(0), rows, {"means": np.array([[0.0, 1.0], [5.0, 5.0]])})
    lanes = jax.tree.map(lambda a: a[None], start)
    lanes, history = jaxgmm.run(
        algorithm, lanes, rows, max_iter=steps, tol=0.0, history_length=steps
    )
    return jax.tree.map(lambda a: a[0], lanes), np.asarray(history[:, 0])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("view", ["em", *also_slow("map", "cavi")])
@pytest.mark.parametrize("gaps", [True, *also_slow(False)])
def test_rows_with_gaps_and_monotone_bounds(view: str, family: str, gaps: bool):
    x = X.copy()
    if gaps:
        x[::3, 0], x[1::4, 1] = np.nan, np.nan
    rows = Rows(jnp.asarray(x), missing="nan") if gaps else Rows(jnp.asarray(x))
    state, history = run_of(model(view, family, rows), rows)
    assert (np.diff(history) > -1e-9).all()
    assert history[-1] - history[0] > 5
    if view == "cavi":
        return
    joint = naive_log_joint(jaxgmm.student_t_mixture(state), x)
    np.testing.assert_allclose(
        jaxgmm.log_prob(state, rows), logsumexp(joint, axis=1), rtol=1e-9, atol=1e-12
    )
    likelihood = float(jaxgmm.elbo(state, rows) + state.penalty)
    assert likelihood == pytest.approx(logsumexp(joint, axis=1).sum(), rel=1e-10)


def test_bound_of_a_posterior_is_the_integral_over_the_scales():
    algorithm = model("cavi")
    state = algorithm.init(jax.random.key(0), X, {"means": X[[3, N - 3]]})
    q = state.posterior
    mean, kappa = np.asarray(q.components.mean), np.asarray(q.components.mean_precision)
    dof, scale = np.asarray(q.components.degrees_of_freedom), np.asarray(q.components.scale)
    alpha, nu = np.asarray(q.weights.concentration), np.asarray(q.tails.degrees)

    def expected_log(row: np.ndarray, k: int, u: float) -> float:
        """``E[log pi + log Normal(x | mu, Lambda u)] + log Gamma(u)``: Bishop 2006, 10.64-10.66."""
        gap = row - mean[k]
        distance = D / kappa[k] + dof[k] * gap @ np.linalg.solve(scale[k], gap)
        log_det = digamma((dof[k] - np.arange(D)) / 2).sum() + D * np.log(2)
        log_det -= np.linalg.slogdet(scale[k])[1]
        normal = 0.5 * (log_det + D * np.log(u / (2 * np.pi)) - u * distance)
        log_weight = digamma(alpha[k]) - digamma(alpha.sum())
        return log_weight + normal + stats.gamma(nu[k] / 2, scale=2 / nu[k]).logpdf(u)

    chosen = X[[0, 7, N // 2, N - 1]]
    integrals = np.array(
        [
            sum(
                integrate.quad(lambda u, r=row, k=k: np.exp(expected_log(r, k, u)), 0, np.inf)[0]
                for k in range(K)
            )
            for row in chosen
        ]
    )
    own = jaxgmm.stats.log_evidence(jnp.asarray(chosen), state.potentials)
    assert float(own) == pytest.approx(np.log(integrals).sum(), rel=1e-7)
    # and the penalty is that of the normal model: nothing is added for the scales
    prior = algorithm.prior
    expected = jaxgmm.views.kl_divergence(q, prior)
    assert float(jaxgmm.elbo(state, X)) == pytest.approx(
        float(jaxgmm.stats.log_evidence(jnp.asarray(X), state.potentials) - expected)
    )


def test_many_degrees_are_a_normal_component():
    normal = jaxgmm.em(jaxgmm.flat_prior(K, D))
    plain = normal.init(jax.random.key(0), X, {"means": X[[3, N - 3]]})
    heavy = jaxgmm.with_student_t(normal.prior, 1e9).tails
    posterior = replace(plain.posterior, tails=heavy)
    a = jaxgmm.estep(jnp.asarray(X), plain.potentials)
    b = jaxgmm.estep(jnp.asarray(X), plain.view.potentials(posterior))
    for name in ("count", "mean", "scatter", "log_evidence"):
        np.testing.assert_allclose(getattr(b, name), getattr(a, name), rtol=1e-6)
    np.testing.assert_allclose(b.mass, b.count, rtol=1e-6)


def test_known_and_shared_degrees():
    known, _ = run_of(model(degrees=[4.0, 9.0]), jnp.asarray(X), 10)
    np.testing.assert_array_equal(known.posterior.tails.degrees, [4.0, 9.0])
    assert known.prior.n_parameters == 1 + K * D + K * 3
    shared, history = run_of(model(shared=True), jnp.asarray(X))
    assert (np.diff(history) > -1e-9).all()
    degrees = shared.posterior.tails.degrees
    assert degrees[0] == degrees[1] != 10
    assert shared.prior.n_parameters == 1 + K * D + K * 3 + 1


def test_outliers_move_no_component():
    rng = np.random.default_rng(2)
    clean = np.concatenate([rng.normal(size=(114, 2)), rng.normal([7.0, 0.0], size=(114, 2))])
    x = np.concatenate([clean, rng.uniform(-60, 60, (12, 2))])
    heavy = jaxgmm.fit(jax.random.key(0), x, model(x=x), 4, tol=1e-9)
    m = jaxgmm.student_t_mixture(jaxgmm.order_components(heavy))
    np.testing.assert_allclose(m.means, [[0.0, 0.0], [7.0, 0.0]], atol=0.3)
    # of two normal components one would be for the outliers
    assert np.linalg.det(m.scales).max() < 4


def test_draws_quantiles_and_the_posterior(fitted: jaxgmm.State):
    m = jaxgmm.student_t_mixture(fitted)
    x, component = jaxgmm.sample(jax.random.key(1), fitted, 20_000)
    for k in range(K):
        own = np.asarray(x)[component == k, 0]
        scale = np.sqrt(m.scales[k, 0, 0])
        p = stats.kstest(own, stats.t(m.degrees[k], m.means[k, 0], scale).cdf).pvalue
        assert p > 1e-3
    values = np.linspace(-6, 9, 7)
    expected = sum(
        w * stats.t(v, mean[0], np.sqrt(s[0, 0])).cdf(values)
        for w, mean, s, v in zip(*map(np.asarray, m), strict=True)
    )
    np.testing.assert_allclose(jaxgmm.cdf(fitted, values, feature=0), expected, rtol=1e-7)
    posterior, _ = run_of(model("cavi"), jnp.asarray(X))
    draws = jaxgmm.sample_posterior(jax.random.key(2), posterior, 500)
    middle = jaxgmm.student_t_mixture(posterior)
    np.testing.assert_array_equal(draws.degrees[0], middle.degrees)
    np.testing.assert_allclose(draws.means.mean(0), middle.means, atol=0.05)


def test_imputed_values_are_those_of_the_conditional_distribution(fitted: jaxgmm.State):
    m = jaxgmm.student_t_mixture(fitted)
    # far from the mean, where the conditional distribution is wide
    row = np.array([[9.0, np.nan], [0.0, 1.0]])
    rows = Rows(jnp.asarray(row), missing="nan")
    draws = jaxgmm.impute(fitted, rows, key=jax.random.key(3), n_draws=4000)[:, 0, 1]
    joint = naive_log_joint(m, row[:1])[0]
    r = np.exp(joint - logsumexp(joint))

    def cdf(values: np.ndarray) -> np.ndarray:
        total = np.zeros_like(values)
        for k, (_, mean, scale, degrees) in enumerate(zip(*map(np.asarray, m), strict=True)):
            gap = row[0, 0] - mean[0]
            middle = mean[1] + scale[1, 0] / scale[0, 0] * gap
            left = scale[1, 1] - scale[1, 0] ** 2 / scale[0, 0]
            wide = (degrees + gap**2 / scale[0, 0]) / (degrees + 1) * left
            total += r[k] * stats.t(degrees + 1, middle, np.sqrt(wide)).cdf(values)
        return total

    assert stats.kstest(np.asarray(draws), cdf).pvalue > 1e-3
    mean = jaxgmm.impute(fitted, rows)
    assert float(mean[0, 1]) == pytest.approx(float(np.mean(draws)), abs=0.2)


def test_pictures(fitted: jaxgmm.State):
    degrees = np.asarray(jaxgmm.student_t_mixture(fitted).degrees)
    np.testing.assert_allclose(squared_radius(fitted, 0.9), 2 * stats.f(2, degrees).ppf(0.9))
    ax = Figure().subplots()
    plot.points(fitted, X, ax=ax)
    plot.ellipses(fitted, ax=ax)
    assert len(ax.patches) == 2 * K
    ax = plot.histogram(fitted, X, feature=1, ax=Figure().subplots())
    across, height = ax.lines[0].get_data()
    m = jaxgmm.student_t_mixture(fitted)
    expected = sum(
        w * stats.t(v, mean[1], np.sqrt(s[1, 1])).pdf(across)
        for w, mean, s, v in zip(*map(np.asarray, m), strict=True)
    )
    np.testing.assert_allclose(height, expected, rtol=1e-9)


def test_wrong_calls_say_what_is_right(fitted: jaxgmm.State):
    prior, normal = fitted.prior, jaxgmm.flat_prior(K, D)
    plain, _ = run_of(jaxgmm.em(normal), jnp.asarray(X), 10)
    noisy = Rows(X, noise=np.ones(N))
    for call, said in (
        (lambda: jaxgmm.with_student_t(prior), "already"),
        (lambda: jaxgmm.with_student_t(normal, -1.0), "positive and finite"),
        (lambda: jaxgmm.with_student_t(normal, [1.0, 2.0, 3.0]), "2 components"),
        (lambda: jaxgmm.with_student_t(normal, "many"), "one number"),
        (lambda: jaxgmm.with_student_t(normal, 3.0, shared=True), "leave one"),
        (lambda: jaxgmm.mixture(fitted), "student_t_mixture"),
        (lambda: jaxgmm.student_t_mixture(plain), "jaxgmm.mixture"),
        (lambda: jaxgmm.annealed(jaxgmm.em(prior)), "normal components"),
        (lambda: jaxgmm.em(prior, truncation=1), "normal components"),
        (lambda: jaxgmm.fit(jax.random.key(0), noisy, jaxgmm.em(prior)), "no closed form"),
        (lambda: jaxgmm.log_prob(fitted, noisy), "no closed form"),
    ):
        with pytest.raises(ValueError, match=said):
            call()


@pytest.mark.slow
def test_everything_else_that_fits(tmp_path: Any):
    prior, proper = model().prior, model("cavi").prior
    best = jaxgmm.fit(jax.random.key(0), X, model(), 4, tol=1e-10).best
    # accelerated, streamed, memoized, of other units
    fast = jaxgmm.fit(jax.random.key(0), X, jaxgmm.squarem(jaxgmm.em(prior)), 4, tol=1e-10).best
    assert float(fast.objective) == pytest.approx(float(best.objective), abs=1e-5)
    assert int(fast.n_iter) < int(best.n_iter) / 2
    stream = jaxgmm.Stream(X, batch_size=77)
    streamed = jaxgmm.fit(jax.random.key(0), stream, jaxgmm.em(prior), 4, tol=1e-10).best
    assert float(streamed.objective) == pytest.approx(float(best.objective), abs=1e-5)
    whole = jaxgmm.fit(jax.random.key(0), X, jaxgmm.cavi(proper), 4, tol=1e-9).best
    batches = jaxgmm.memoized(jaxgmm.cavi(proper))
    memoized = jaxgmm.fit(jax.random.key(0), stream, batches, 4, tol=1e-9).best
    assert float(memoized.objective) == pytest.approx(float(whole.objective), abs=1e-3)
    turned = 1e3 * X @ TURN + 50
    other = jaxgmm.fit(jax.random.key(0), turned, model(x=turned), 4, tol=1e-10).best
    np.testing.assert_allclose(
        np.sort(other.posterior.tails.degrees), np.sort(best.posterior.tails.degrees), rtol=1e-3
    )
    gain = N * (D * np.log(1e3) + np.linalg.slogdet(TURN)[1])
    assert float(other.objective) == pytest.approx(float(best.objective) - gain, abs=1e-4)
    # to a file and back
    jaxgmm.save(tmp_path / "fit", best)
    assert jaxgmm.load(tmp_path / "fit") == best
    # of a background, and of sticks that keep their order
    both = [
        jaxgmm.with_background(prior, X),
        jaxgmm.with_student_t(jaxgmm.with_background(jaxgmm.flat_prior(K, D), X)),
    ]
    states = [jaxgmm.fit(jax.random.key(1), X, jaxgmm.em(p), 4).best for p in both]
    assert float(states[0].objective) == float(states[1].objective)
    assert both[0].n_parameters == prior.n_parameters + 1
    sticks = jaxgmm.default_prior(X, 5, weights="dirichlet_process")
    many = jaxgmm.fit(jax.random.key(0), X, jaxgmm.cavi(jaxgmm.with_student_t(sticks))).best
    assert jaxgmm.prune(many).prior.n_components == K
    # the number of components, and normal components beside them

    def of(k: int, kind: str) -> jaxgmm.Algorithm:
        base = jaxgmm.flat_prior(k, D, "full")
        return jaxgmm.em(jaxgmm.with_student_t(base) if kind == "student-t" else base)

    chosen = jaxgmm.select(jax.random.key(0), X, range(1, 5), ["student-t", "normal"], algorithm=of)
    assert (chosen.n_components, chosen.covariance) == (2, "student-t")


@pytest.mark.slow
def test_implicit_derivatives_of_the_degrees():
    algorithm = model("map")
    best = jaxgmm.fit(jax.random.key(0), X, algorithm, 4, tol=1e-14).best

    def degrees(x: Any) -> Any:
        return jaxgmm.fixed_point(algorithm, best, x).posterior.tails.degrees[0]

    slope = jax.grad(degrees)(jnp.asarray(X))[5, 1]
    step = 1e-3 * np.eye(N)[5][:, None] * np.array([0.0, 1.0])

    @jax.jit
    def settled(x: jax.Array) -> jaxgmm.Prior:
        # so many iterations that no rule of convergence matters
        def iterate(q: jaxgmm.Prior, _: None) -> tuple[jaxgmm.Prior, None]:
            stats = jaxgmm.estep(x, algorithm.view.potentials(q))
            return jaxgmm.update(algorithm.prior, stats, q, point=True), None

        return jax.lax.scan(iterate, best.posterior, length=4000)[0]

    ahead, behind = (settled(jnp.asarray(X + sign * step)) for sign in (1, -1))
    expected = (ahead.tails.degrees[0] - behind.tails.degrees[0]) / 2e-3
    assert float(slope) == pytest.approx(float(expected), rel=1e-4)
