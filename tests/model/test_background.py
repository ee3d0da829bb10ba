"""A background component: a density that is the same everywhere, against SciPy row by row."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import also_slow, clusters
from matplotlib.figure import Figure
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, multivariate_t

import jaxgmm
from jaxgmm import Rows, plot
from jaxgmm._estep.row_checks import check_rows
from jaxgmm.plot._model import component_log_densities

K, D = 3, 2
RNG = np.random.default_rng(0)
OUTLIERS = RNG.uniform(-20, 25, (30, D))
X = np.concatenate([np.asarray(clusters(n=200)), OUTLIERS])
KINDS = ("full", *also_slow("diag", "spherical"))
ALGORITHMS = ("em", *also_slow("map", "cavi", "natural"))


def model(kind: str = "full", algorithm: str = "em", x: Any = X) -> Any:
    base = jaxgmm.flat_prior(K, D, kind) if algorithm == "em" else jaxgmm.default_prior(x, K, kind)
    prior = jaxgmm.with_background(base, x)
    if algorithm == "natural":
        return jaxgmm.svi(prior, jaxgmm.natural_gradient(), batch_size=50)
    return jaxgmm.cavi(prior) if algorithm == "cavi" else jaxgmm.em(prior)


@pytest.fixture(scope="module")
def fitted() -> jaxgmm.State:
    return jaxgmm.fit(jax.random.key(0), X, model(), 4).best


def box(x: np.ndarray) -> float:
    """Volume of the smaller box, by another way: one of all angles is no larger in the plane."""
    sides = np.ptp(x, axis=0)
    axes = np.linalg.eigh(np.cov(x / sides, rowvar=False))[1]
    return np.prod(sides) * min(1, np.prod(np.ptp(x / sides @ axes, axis=0)))


def naive_log_joint(m: jaxgmm.Mixture, x: np.ndarray, level: Any, noise: Any = None) -> Any:
    """``(N, K + 1)``, row by row, of the values that are not NaN."""
    out = np.zeros((len(x), len(m.weights)))
    for n, row in enumerate(x):
        seen = np.isfinite(row)
        error = np.zeros((D, D)) if noise is None else np.diag(noise[n])
        for k, (w, mean, covariance) in enumerate(zip(*map(np.asarray, m), strict=True)):
            own = (covariance + error)[np.ix_(seen, seen)]
            if k == 0 and level is not None:
                density = level
            elif k == 0:
                density = -0.5 * (seen.sum() * np.log(12) + np.linalg.slogdet(own)[1])
            elif not seen.any():
                density = 0.0
            else:
                density = multivariate_normal(mean[seen], own).logpdf(row[seen])
            out[n, k] = np.log(w) + density
    return out


def test_the_volume_is_that_of_the_smaller_box():
    turned = X @ np.array([[1.0, 0.9], [0.0, 0.3]])
    for x in (X, turned, 1e-3 * X + 7):
        prior = jaxgmm.with_background(jaxgmm.flat_prior(K, D), x)
        covariance = np.asarray(jaxgmm.views.Mode().estimate(prior).covariance[0])
        volume = np.sqrt(12**D * np.linalg.det(covariance))
        assert volume == pytest.approx(box(x), rel=1e-9)
        given = jaxgmm.with_background(jaxgmm.flat_prior(K, D), x, volume=3.0)
        covariance = np.asarray(jaxgmm.views.Mode().estimate(given).covariance[0])
        assert np.sqrt(12**D * np.linalg.det(covariance)) == pytest.approx(3.0)
    assert prior.n_components == K + 1
    # K means and covariances, and a weight more
    assert prior.n_parameters == jaxgmm.flat_prior(K, D).n_parameters + 1


def test_likelihood_labels_and_criteria(fitted: jaxgmm.State):
    m, level = jaxgmm.mixture(fitted), -np.log(box(X))
    joint = naive_log_joint(m, X, level)
    height = logsumexp(joint, axis=1)
    np.testing.assert_allclose(jaxgmm.log_prob(fitted, X), height, rtol=1e-9)
    np.testing.assert_allclose(fitted.objective, height.sum(), rtol=1e-6)
    expected = np.exp(joint - height[:, None])
    np.testing.assert_allclose(jaxgmm.responsibilities(fitted, X), expected, atol=1e-9)
    np.testing.assert_array_equal(jaxgmm.predict(fitted, X), joint.argmax(1))
    n_parameters = jaxgmm.flat_prior(K, D).n_parameters + 1
    bic = n_parameters * np.log(len(X)) - 2 * height.sum()
    assert float(jaxgmm.bic(fitted, X)) == pytest.approx(bic)
    # nothing else is as far out
    far = jaxgmm.responsibilities(fitted, jnp.asarray([[1e3, -1e3], [1e9, 0.0]]))
    np.testing.assert_allclose(far[:, 0], 1)


def test_outliers_have_a_place(fitted: jaxgmm.State):
    assert fitted.status == jaxgmm.Status.CONVERGED
    labels = np.asarray(jaxgmm.predict(fitted, X))
    assert (labels[200:] == 0).mean() > 0.8
    assert (labels[:200] == 0).mean() < 0.05
    # the clusters are those of the data without outliers
    clean = jaxgmm.fit(jax.random.key(0), X[:200], jaxgmm.em(jaxgmm.flat_prior(K, D)), 4)
    means = jaxgmm.mixture(jaxgmm.order_components(clean.best)).means
    own = jaxgmm.mixture(jaxgmm.order_components(fitted))
    np.testing.assert_allclose(own.means[1:], means, atol=0.3)
    known = fitted.prior.components.mean[0]
    np.testing.assert_array_equal(own.means[0], known)


def test_draws_are_inside_of_the_box(fitted: jaxgmm.State):
    x, component = jaxgmm.sample(jax.random.key(1), fitted, 4000)
    x, m = np.asarray(x)[component == 0], jaxgmm.mixture(fitted)
    assert len(x) / 4000 == pytest.approx(float(m.weights[0]), abs=0.02)
    variances, axes = np.linalg.eigh(m.covariances[0])
    place = (x - m.means[0]) @ axes / np.sqrt(12 * variances)
    assert np.abs(place).max() <= 0.5
    assert np.abs(place).max() > 0.48
    np.testing.assert_allclose(np.cov(place, rowvar=False), np.eye(D) / 12, atol=0.015)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noisy", [False, True])
def test_rows_with_gaps_and_errors(kind: str, noisy: bool):
    x = X.copy()
    x[::3, 0], x[1::4, 1] = np.nan, np.nan
    noise = RNG.uniform(0.1, 2, x.shape) if noisy else None
    rows = Rows(jnp.asarray(x), missing="nan", noise=noise)
    algorithm = model(kind, x=rows)
    means = np.concatenate([np.zeros((1, D)), np.asarray(clusters())[:K]])
    state = algorithm.init(jax.random.key(0), rows, {"means": means})
    states = jax.tree.map(lambda a: a[None], state)
    states, history = jaxgmm.run(algorithm, states, rows, max_iter=6, tol=0.0, history_length=6)
    state = jax.tree.map(lambda a: a[0], states)
    assert (np.diff(history[:, 0]) > -1e-9).all()
    joint = naive_log_joint(jaxgmm.mixture(state), x, None, noise)
    np.testing.assert_allclose(
        jaxgmm.log_prob(state, rows), logsumexp(joint, axis=1), rtol=1e-9, atol=1e-12
    )
    if noise is None:  # the same rows in groups of one pattern
        plain = check_rows(rows)
        grouped = plain.grouped()
        assert grouped.groups is not None
        one, other = (jaxgmm.estep(r, state.potentials) for r in (plain, grouped))
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_ascends_and_repeats(kind: str, name: str):
    algorithm, x = model(kind, name), jnp.asarray(X)
    states = jax.vmap(algorithm.init, (0, None))(jax.random.split(jax.random.key(0), 3), X)
    run = jax.jit(lambda s: jaxgmm.run(algorithm, s, x, max_iter=30, history_length=30))
    final, history = run(states)
    steps = np.diff(history, axis=0)
    if name != "natural":
        assert np.nanmin(steps) > -1e-8
        # a lane is what it is alone; minibatches are those of the first lane
        alone, _ = run(jax.tree.map(lambda a: a[1:2], states))
        np.testing.assert_allclose(alone.objective[0], final.objective[1], rtol=1e-10)
    q, prior = final.posterior, algorithm.prior
    np.testing.assert_array_equal(
        q.components.mean[:, 0], prior.components.mean[None, 0].repeat(3, 0)
    )
    assert final.posterior.background


def test_the_predictive_density_of_a_posterior():
    algorithm = model("full", "cavi")
    state = algorithm.init(jax.random.key(0), X, "k-means++")
    q = state.posterior
    weights, c = np.asarray(q.weights.mean()), q.components
    joint = np.full((len(X), K + 1), -np.log(box(X)))
    for k in range(1, K + 1):
        degrees = float(c.degrees_of_freedom[k]) - D + 1
        shape = c.scale[k] * (1 + 1 / c.mean_precision[k]) / degrees
        joint[:, k] = multivariate_t(np.asarray(c.mean[k]), shape, degrees).logpdf(X)
    expected = logsumexp(joint + np.log(weights), axis=1)
    np.testing.assert_allclose(jaxgmm.log_prob(state, X), expected, rtol=1e-9)


def test_gradients_are_those_of_differences(fitted: jaxgmm.State):
    potentials = fitted.potentials
    x = jnp.asarray(X[::20])

    def height(const: jax.Array, x: jax.Array) -> jax.Array:
        return jaxgmm.stats.log_evidence(x, replace(potentials, const=const))

    direction = jnp.asarray(RNG.normal(size=K + 1))
    gradient = jax.grad(height, (0, 1))(potentials.const, x)
    step = 1e-6
    found = height(potentials.const + step * direction, x) - height(
        potentials.const - step * direction, x
    )
    assert float(gradient[0] @ direction) == pytest.approx(float(found) / (2 * step), rel=1e-6)
    up, down = (height(potentials.const, x.at[3, 0].add(s)) for s in (step, -step))
    assert float(gradient[1][3, 0]) == pytest.approx(float(up - down) / (2 * step), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("view", ["sample", "expectation", "mode"])
def test_gradient_steps_learn_the_weight_alone(view: str):
    prior = jaxgmm.with_background(jaxgmm.default_prior(X, K), X)
    algorithm = jaxgmm.svi(prior, optax.adam, learning_rate=0.05, view=view)
    result = jaxgmm.fit(jax.random.key(0), X, algorithm, 2, max_iter=300)
    m, known = jaxgmm.mixture(result), jaxgmm.views.Mode().estimate(prior)
    np.testing.assert_array_equal(m.means[0], known.means[0])
    np.testing.assert_allclose(m.covariances[0], known.covariance[0], rtol=1e-12)
    exact = jaxgmm.mixture(jaxgmm.fit(jax.random.key(0), X, jaxgmm.em(prior), 4))
    assert float(m.weights[0]) == pytest.approx(float(exact.weights[0]), abs=0.04)


@pytest.mark.slow
def test_the_weight_of_the_background_may_be_known():
    prior = jaxgmm.with_background(jaxgmm.flat_prior(K, D), X)
    prior = jaxgmm.freeze(prior, weights=[0.2], components=[0])
    result = jaxgmm.fit(jax.random.key(0), X, jaxgmm.em(prior), 4)
    assert float(jaxgmm.mixture(result).weights[0]) == pytest.approx(0.2)
    assert result.best.posterior.background


@pytest.mark.slow
@pytest.mark.parametrize("name", ["em", "cavi"])
def test_units_do_not_matter(name: str):
    matrix = np.array([[1e3, 2e2], [0.0, 1e-2]])
    moved = X @ matrix + 1e4
    one = jaxgmm.fit(jax.random.key(0), X, model("full", name), 4).best
    other = jaxgmm.fit(jax.random.key(0), moved, model("full", name, moved), 4).best
    gain = len(X) * np.log(np.abs(np.linalg.det(matrix)))
    # the two boxes differ by the axes along which they are: their volumes are close
    volumes = np.log(box(moved)) - np.log(box(X)) - np.log(np.abs(np.linalg.det(matrix)))
    assert abs(volumes) < 1
    assert float(other.objective + gain) == pytest.approx(
        float(one.objective), abs=40 * abs(volumes) + 1
    )
    agree = np.mean(np.asarray(jaxgmm.predict(one, X) == 0) == (jaxgmm.predict(other, moved) == 0))
    assert agree > 0.97


@pytest.mark.slow
def test_a_selection_counts_the_background():
    def algorithm(k: int, covariance: str) -> Any:
        return jaxgmm.em(jaxgmm.with_background(jaxgmm.flat_prior(k - 1, D, covariance), X))

    chosen = jaxgmm.select(jax.random.key(0), X, range(2, 6), ["full"], algorithm=algorithm)
    assert chosen.n_components == K + 1
    labels = np.asarray(jaxgmm.predict(chosen, X))
    assert (labels[200:] == 0).mean() > 0.8


def test_files_prunes_and_pictures(fitted: jaxgmm.State, tmp_path):
    jaxgmm.save(tmp_path / "fit.safetensors", fitted)
    assert jaxgmm.load(tmp_path / "fit.safetensors") == fitted
    smaller = jaxgmm.prune(fitted, least=35.0)
    assert smaller.prior.background
    assert float(jaxgmm.mixture(smaller).weights[0]) > 0
    values = component_log_densities(fitted, X[:, ::-1], (1, 0))
    np.testing.assert_allclose(logsumexp(values, axis=1), jaxgmm.log_prob(fitted, X), rtol=1e-9)
    assert len(plot.ellipses(fitted, [0.9], ax=Figure().subplots()).patches) == K


@pytest.mark.usefixtures("no_type_checker")
def test_calls_that_are_refused(fitted: jaxgmm.State):
    flat = jaxgmm.flat_prior(K, D)
    constant = X.copy()
    constant[:, 1] = 3
    for call, words in (
        (lambda: jaxgmm.with_background(3, X), "takes a prior"),
        (lambda: jaxgmm.with_background(fitted.prior, X), "has a background already"),
        (lambda: jaxgmm.with_background(jaxgmm.flat_prior(K, D, "tied"), X), "share their"),
        (lambda: jaxgmm.with_background(flat, X[:, :1]), "1 features"),
        (lambda: jaxgmm.with_background(flat, constant), r"column\(s\) 1 of x do not vary"),
        (lambda: jaxgmm.with_background(flat, X, volume=-1.0), "volume must be positive"),
        (
            lambda: jaxgmm.with_background(
                jaxgmm.default_prior(X, K, weights="dirichlet_process"), X
            ),
            "StickBreaking; use Dirichlet",
        ),
        (lambda: jaxgmm.cdf(fitted, 0.0, 0), "no formula for a background"),
        (lambda: jaxgmm.numpyro.predictive(fitted), "no distribution with a background"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
