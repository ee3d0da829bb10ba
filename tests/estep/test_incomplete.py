"""Rows with missing values, measurement errors and labels, against NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import also_slow, clusters
from scipy import stats as scipy_stats
from scipy.special import logsumexp

import jaxgmm
from jaxgmm._estep.row_logits import row_logits

N, D, K = 60, 3, 2
FAMILIES = ("full", "tied", "diag", "spherical")


def table() -> np.ndarray:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, D)) @ np.array([[1.0, 0.5, 0.2], [0, 1, 0.4], [0, 0, 0.7]])
    return x + np.where(np.arange(N) % 2, 3.0, 0.0)[:, None]


def gaps() -> np.ndarray:
    gaps = np.random.default_rng(1).uniform(size=(N, D)) < 0.25
    gaps[0], gaps[1] = True, False  # a row of which nothing is known, and a whole one
    return gaps


def errors(kind: str) -> np.ndarray | None:
    rng = np.random.default_rng(2)
    if kind == "alike":
        return rng.uniform(0, 1, N)
    if kind == "apart":
        return rng.uniform(0, 1, (N, D))
    if kind == "correlated":
        roots = rng.normal(size=(N, D, 2))  # of rank 2
        return 0.3 * np.einsum("nij,nkj->nik", roots, roots)
    return None


def rows_of(kind: str) -> jaxgmm.Rows:
    return jaxgmm.Rows(np.where(gaps(), np.nan, table()), missing="nan", noise=errors(kind))


def covariances_of(noise: np.ndarray | None) -> np.ndarray:
    """Those of the errors, (N, D, D)."""
    if noise is None:
        return np.zeros((N, D, D))
    if noise.ndim == 3:
        return noise
    return np.broadcast_to(noise.reshape(N, -1), (N, D))[:, :, None] * np.eye(D)


def posterior(family: str) -> jaxgmm.Prior:
    x = jnp.asarray(table())
    prior = jaxgmm.default_prior(x, K, family)
    labels = jnp.arange(N) % 2
    stats = jaxgmm.stats.from_labels(x, labels, K, structure=prior.components.structure)
    return jaxgmm.update(prior, stats)


def conditionals(family: str, kind: str) -> tuple[np.ndarray, ...]:
    """Log joint (N, K), and mean (N, K, D) and covariance (N, K, D, D) of the true values."""
    estimate = jaxgmm.views.Mode().estimate(posterior(family))
    means, matrices = np.asarray(estimate.means), np.asarray(estimate.matrices())
    x, missing, noise = table(), gaps(), covariances_of(errors(kind))
    joint, mean = np.zeros((N, K)), np.zeros((N, K, D))
    covariance = np.zeros((N, K, D, D))
    for n in range(N):
        seen = ~missing[n]
        for k in range(K):
            total = (matrices[k] + noise[n])[np.ix_(seen, seen)]
            joint[n, k] = np.log(estimate.weights[k])
            if seen.any():
                normal = scipy_stats.multivariate_normal(means[k, seen], total)
                joint[n, k] += normal.logpdf(x[n, seen])
            gain = matrices[k][:, seen] @ np.linalg.pinv(total)
            mean[n, k] = means[k] + gain @ (x[n] - means[k])[seen]
            covariance[n, k] = matrices[k] - gain @ matrices[k][seen]
    return joint, mean, covariance


@pytest.mark.parametrize("kind", ["apart", *also_slow("missing", "correlated")])
@pytest.mark.parametrize("family", ["full", *also_slow("tied")])
def test_a_loop_over_many_features_does_what_is_written_out_for_few(monkeypatch, family, kind):
    potentials = jaxgmm.views.Mode().potentials(posterior(family))
    written = jaxgmm.estep(rows_of(kind), potentials)
    monkeypatch.setattr("jaxgmm._estep.elimination._WRITTEN_OUT", 0)
    jax.clear_caches()
    for a, b in zip(
        jax.tree.leaves(jaxgmm.estep(rows_of(kind), potentials)),
        jax.tree.leaves(written),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
    jax.clear_caches()


@pytest.mark.parametrize("kind", ["missing", "correlated", *also_slow("alike", "apart")])
@pytest.mark.parametrize("family", FAMILIES)
def test_statistics_are_those_of_the_true_values(family, kind):
    joint, mean, covariance = conditionals(family, kind)
    r = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    count = r.sum(axis=0)
    average = np.einsum("nk,nkd->kd", r, mean) / count[:, None]
    gap = mean - average[None]
    scatter = np.einsum("nk,nkij->kij", r, covariance + gap[..., :, None] * gap[..., None, :])
    expected = {
        "full": scatter,
        "tied": scatter.sum(axis=0),
        "diag": np.einsum("kii->ki", scatter),
        "spherical": np.einsum("kii->k", scatter),
    }
    potentials = jaxgmm.views.Mode().potentials(posterior(family))
    found = jaxgmm.estep(rows_of(kind), potentials, block_size=32)
    close = {"rtol": 1e-10, "atol": 1e-10}
    np.testing.assert_allclose(found.log_evidence, logsumexp(joint, axis=1).sum(), **close)
    np.testing.assert_allclose(found.count, count, **close)
    np.testing.assert_allclose(found.mean, average, **close)
    np.testing.assert_allclose(found.scatter, expected[found.structure], **close)


def test_complete_rows_without_errors_are_plain_rows():
    potentials = jaxgmm.views.Expectation().potentials(posterior("full"))
    x = jnp.asarray(table())
    plain = jaxgmm.estep(x, potentials)
    whole = jnp.zeros((N, D), bool)
    for rows in (
        jaxgmm.Rows(x, missing=whole),
        jaxgmm.Rows(x, noise=jnp.zeros(N)),
        jaxgmm.Rows(x, noise=jnp.zeros((N, D, D))),
        jaxgmm.Rows(x, labels=jnp.full(N, -1)),
        jaxgmm.Rows(x, labels=jnp.ones((N, K), bool)),
    ):
        for a, b in zip(
            jax.tree.leaves(jaxgmm.estep(rows, potentials)), jax.tree.leaves(plain), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("family", ["full", *also_slow("tied", "diag", "spherical")])
def test_a_value_of_boundless_error_is_missing(family):
    potentials = jaxgmm.views.Mode().potentials(posterior(family))
    x, missing = jnp.asarray(table()), np.zeros((N, D), bool)
    missing[::3, 1] = True
    for noise in (
        np.where(missing, 1e8, 0.0),
        np.where(missing, 1e8, 0.0)[:, :, None] * np.eye(D),
    ):
        vague = row_logits(jaxgmm.Rows(x, noise=jnp.asarray(noise)), potentials)
        gone = row_logits(jaxgmm.Rows(x, missing=jnp.asarray(missing)), potentials)
        # a density of the value that was seen is there, of its error alone
        density = scipy_stats.norm.logpdf(np.asarray(x)[:, 1], scale=1e4) * missing[:, 1]
        np.testing.assert_allclose(vague - density[:, None], gone, atol=1e-6)


@pytest.mark.parametrize("family", ["full", "diag", *also_slow("tied", "spherical")])
def test_groups_of_one_pattern_are_rows_by_themselves(family):
    rng = np.random.default_rng(6)
    patterns = rng.uniform(size=(5, D)) < 0.4
    patterns[0], patterns[1] = True, False
    rows = jaxgmm.Rows(
        jnp.asarray(np.tile(table(), (4, 1))),
        jnp.asarray(rng.uniform(0, 2, 4 * N)),
        jnp.asarray(patterns[rng.integers(0, 5, 4 * N)]),
        labels=jnp.asarray(rng.integers(-1, K, 4 * N), jnp.int32),
    )
    assert rows.grouped().groups is not None
    q = posterior(family)
    lanes = jaxgmm.views.Expectation().potentials(q)
    lanes = jax.tree.map(lambda a: jnp.stack([a, 1.1 * a]), lanes)
    one_by_one = jax.vmap(jaxgmm.estep, (None, 0))(rows, lanes)
    in_groups = jax.vmap(jaxgmm.estep, (None, 0))(rows.grouped(), lanes)
    for a, b in zip(jax.tree.leaves(in_groups), jax.tree.leaves(one_by_one), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-9)
    alone = jaxgmm.estep(rows.grouped(), jax.tree.map(lambda a: a[1], lanes))
    np.testing.assert_allclose(alone.mean, in_groups.mean[1], rtol=1e-12)


def test_maximum_likelihood_of_one_component_is_that_of_a_plain_loop():
    # Little & Rubin 2019, section 11.2
    x, missing = table(), gaps()
    mean, covariance = np.zeros(D), np.eye(D)
    for _ in range(500):
        first, second = np.zeros(D), np.zeros((D, D))
        for row, seen in zip(x, ~missing, strict=True):
            gain = covariance[:, seen] @ np.linalg.pinv(covariance[np.ix_(seen, seen)])
            value = mean + gain @ (row - mean)[seen]
            first += value
            second += np.outer(value, value) + covariance - gain @ covariance[seen]
        mean = first / N
        covariance = second / N - np.outer(mean, mean)
    rows = rows_of("missing")
    result = jaxgmm.fit(
        jax.random.key(0), rows, jaxgmm.em(jaxgmm.flat_prior(1, D)), 1, tol=0.0, max_iter=500
    )
    m = jaxgmm.mixture(result)
    np.testing.assert_allclose(m.means[0], mean, atol=1e-8)
    np.testing.assert_allclose(m.covariances[0], covariance, atol=1e-8)
    np.testing.assert_allclose(jaxgmm.log_prob(result, rows).sum(), result.best.objective)


@pytest.mark.parametrize("kind", ["missing", "apart", *also_slow("correlated")])
def test_gradients_are_slopes(kind):
    rows = rows_of(kind)
    rows = jaxgmm.Rows(jnp.nan_to_num(jnp.asarray(rows.x)), jnp.ones(N), jnp.asarray(gaps()))
    noise = errors(kind)
    potentials = jaxgmm.views.Mode().potentials(posterior("full"))
    start = (rows.x, rows.weight, None if noise is None else jnp.asarray(noise), potentials)

    def evidence(values):
        x, weight, noise, potentials = values
        given = jaxgmm.Rows(x, weight, rows.missing, noise)
        return jaxgmm.stats.log_evidence(given, potentials)

    direction = jax.tree.map(
        lambda a: jnp.asarray(np.random.default_rng(3).normal(size=a.shape) * 0.1), start
    )
    if noise is not None:
        direction = (*direction[:2], 0.01 * direction[2], direction[3])
    slope = jax.jvp(evidence, (start,), (direction,))[1]
    gradient = jax.grad(evidence)(start)
    inner = sum(
        jnp.sum(a * b)
        for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    )
    step = 1e-5
    ends = [
        evidence(jax.tree.map(lambda a, b, s=sign: a + s * step * b, start, direction))
        for sign in (1, -1)
    ]
    difference = (ends[0] - ends[1]) / (2 * step)
    np.testing.assert_allclose(slope, difference, rtol=1e-6)
    np.testing.assert_allclose(inner, difference, rtol=1e-6)


@pytest.mark.parametrize(
    ("family", "kind"),
    [("full", "apart"), ("diag", "missing"), pytest.param("tied", "alike", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("algorithm", [jaxgmm.cavi, *also_slow(jaxgmm.em)])
def test_bounds_never_fall(algorithm, family, kind):
    rows = rows_of(kind)
    prior = jaxgmm.default_prior(rows, K, family)
    state = algorithm(prior).init(jax.random.key(0), rows)
    step = jax.jit(lambda state, rows: algorithm(prior).step(state, rows))
    checked = jaxgmm.Rows(
        jnp.nan_to_num(jnp.asarray(rows.x)),
        missing=jnp.asarray(gaps()),
        noise=None if rows.noise is None else jnp.asarray(rows.noise),
    )
    heights = []
    for _ in range(20):
        state = step(state, checked)
        heights.append(float(state.objective))
    assert np.diff(heights).min() > -1e-9
    assert heights[-1] > heights[0]


def test_the_predictive_density_is_that_of_the_known_values():
    rows, x, missing = rows_of("missing"), table(), gaps()
    result = jaxgmm.fit(
        jax.random.key(0), rows, jaxgmm.cavi(jaxgmm.default_prior(rows, K)), 1, moves=False
    )
    q = result.best.posterior
    t, weights = q.components.predictive(), np.asarray(q.weights.mean())
    scale = np.asarray(t.scale)
    expected = np.zeros(N)
    for n in range(1, N):
        seen = ~missing[n]
        expected[n] = logsumexp(
            [
                np.log(w)
                + scipy_stats.multivariate_t(m[seen], s[np.ix_(seen, seen)], df).logpdf(x[n, seen])
                if seen.any()
                else np.log(w)
                for w, m, s, df in zip(weights, np.asarray(t.mean), scale, t.degrees, strict=True)
            ]
        )
    np.testing.assert_allclose(jaxgmm.log_prob(result, rows), expected, atol=1e-10)
    with pytest.raises(ValueError, match="no closed form; take that of the mean parameters"):
        jaxgmm.log_prob(result, rows_of("alike"))


def test_imputed_values_are_the_conditional_ones():
    joint, mean, covariance = conditionals("full", "apart")
    r = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    expected = np.einsum("nk,nkd->nd", r, mean)
    m = jaxgmm.Mixture(*_parameters("full"))
    rows = rows_of("apart")
    np.testing.assert_allclose(jaxgmm.impute(m, rows), expected, atol=1e-9)
    draws = np.asarray(jaxgmm.impute(m, rows, key=jax.random.key(0), n_draws=4000))
    gap = mean - expected[:, None]
    variance = np.einsum("nk,nkd->nd", r, np.einsum("nkii->nki", covariance) + gap**2)
    error = np.sqrt(variance / len(draws))
    assert np.abs((draws.mean(axis=0) - expected) / error).max() < 5
    np.testing.assert_allclose(draws.var(axis=0), variance, rtol=0.15)
    # what is known stays
    known = jaxgmm.impute(m, rows_of("missing"))
    np.testing.assert_array_equal(np.asarray(known)[~gaps()], table()[~gaps()])


def _parameters(family: str) -> tuple[jax.Array, ...]:
    m = jaxgmm.views.Mode().estimate(posterior(family))
    return m.weights, m.means, m.matrices()


@pytest.mark.parametrize("dtype", ["float32", *also_slow("float64")])
def test_fits_do_what_fits_do(dtype):
    # in units of their own, with weights, gaps and errors
    x = np.asarray(clusters("float64", n=600))
    rng = np.random.default_rng(4)
    noise = rng.uniform(0, 1.5, x.shape)
    missing = rng.uniform(size=x.shape) < 0.05
    seen = np.where(missing, np.nan, x + np.sqrt(noise) * rng.normal(size=x.shape))
    unit = np.array([1e-3, 1e4])
    rows = jaxgmm.Rows(
        (seen * unit + 7 * unit).astype(dtype),
        weight=np.ones(len(x)),
        missing="nan",
        noise=noise * unit**2,
    )
    result = jaxgmm.fit(jax.random.key(0), rows, jaxgmm.em(jaxgmm.flat_prior(3, 2, dtype=dtype)))
    assert jaxgmm.Status(int(result.best.status)) == jaxgmm.Status.CONVERGED
    assert f"{missing.sum()} of {missing.size} values of x are missing." in result.summary()
    log_likelihood = float(jaxgmm.log_prob(result, rows).sum())
    np.testing.assert_allclose(float(result.best.objective), log_likelihood, atol=0.05)
    # the density of the true values is better than that of the observed ones
    plain = jaxgmm.fit(
        jax.random.key(0),
        jnp.asarray(x + np.sqrt(noise) * rng.normal(size=x.shape), dtype),
        jaxgmm.em(jaxgmm.flat_prior(3, 2, dtype=dtype)),
    )
    truth = jnp.asarray(clusters("float64", n=2000, seed=9), dtype)
    known = jaxgmm.log_prob(result, truth * unit.astype(dtype) + 7 * unit.astype(dtype))
    gain = float(known.mean()) + np.log(unit).sum() - float(jaxgmm.log_prob(plain, truth).mean())
    assert gain > 0.02
    assert np.isfinite(float(jaxgmm.bic(result, rows)))


@pytest.mark.slow
def test_selection_counts_what_was_observed():
    x = np.asarray(clusters("float64"))
    x = np.where(np.random.default_rng(5).uniform(size=x.shape) < 0.1, np.nan, 100 * x)
    rows = jaxgmm.Rows(x, missing="nan")
    found = jaxgmm.select(jax.random.key(0), rows, [1, 3], "diag", "cv", n_folds=2, n_restarts=4)
    assert found.n_components == 3
    total = float(jaxgmm.log_prob(found, rows).sum())
    np.testing.assert_allclose(found.table["log_likelihood"][-1], total, rtol=1e-6)
    assert abs(found.table["cv"][-1] - total / len(x)) < 0.2


@pytest.mark.parametrize("form", ["labels", *also_slow("allowed")])
def test_labels_name_components_and_take_part_in_the_likelihood(form):
    x, truth = table(), np.arange(N) % 2
    known = np.where(np.arange(N) < 16, 1 - truth, -1)
    labels = known if form == "labels" else (known[:, None] < 0) | (known[:, None] == np.arange(K))
    rows = jaxgmm.Rows(x, labels=labels)
    result = jaxgmm.fit(jax.random.key(0), rows, jaxgmm.em(jaxgmm.default_prior(x, K)))
    m = jaxgmm.mixture(result)
    # the labels say that the heavier means are those of component 0
    assert bool(jnp.all(m.means[0] > m.means[1]))
    joint = np.stack(
        [
            np.log(w) + scipy_stats.multivariate_normal(a, b).logpdf(x)
            for w, a, b in zip(m.weights, m.means, m.covariances, strict=True)
        ],
        axis=1,
    )
    joint = np.where((known[:, None] < 0) | (known[:, None] == np.arange(K)), joint, -np.inf)
    np.testing.assert_allclose(jaxgmm.log_prob(result, rows), logsumexp(joint, axis=1), atol=1e-9)
    np.testing.assert_array_equal(jaxgmm.predict(result, rows)[:16], known[:16])
    r = jaxgmm.responsibilities(result, rows)
    np.testing.assert_array_equal(r[:16].max(axis=1), np.ones(16))


BAD = {
    "missing must be a mask": {"missing": "none"},
    "missing must be booleans of the shape of x": {"missing": np.zeros((N, D))},
    r"column\(s\) 1 of x have no value at all": {"missing": np.arange(D) == np.full((N, 1), 1)},
    r"noise must be variances \(60,\)": {"noise": np.zeros((N, 2))},
    "noise must be 0 or more, but rows 0": {"noise": -np.eye(N)[0]},
    "noise must be symmetric positive semi-definite, but rows 7 are not": {
        "noise": np.where(np.arange(N)[:, None, None] == 7, 1 - 2 * np.eye(D) + 2 * np.eye(D), 0)
        - 0.0
        + np.where(np.arange(N)[:, None, None] == 7, np.array([[0, 3, 0], [3, 0, 0], [0, 0, 0]]), 0)
    },
    "noise must be finite, but rows 0": {"noise": np.where(np.arange(N) == 0, np.inf, 1)},
    "labels must be integers": {"labels": np.zeros(N)},
    "labels must be -1 or more, but rows 3": {"labels": np.where(np.arange(N) == 3, -2, 0)},
    "labels must be from -1 to 1 for 2 components": {"labels": np.full(N, 2)},
    "labels must allow each row a component": {"labels": np.arange(N)[:, None] > [0, 0]},
    "labels must allow each component a row": {"labels": np.tile([True, False], (N, 1))},
    r"labels of shape \(60, 3\) are of 3 components": {"labels": np.ones((N, 3), bool)},
    "NaN or infinity in rows 4": {"x": np.where(np.arange(N)[:, None] == 4, np.nan, table())},
}


@pytest.mark.usefixtures("no_type_checker", "nothing_is_traced")
@pytest.mark.parametrize("message", BAD)
def test_bad_rows_are_refused(message):
    rows = jaxgmm.Rows(**{"x": table(), **BAD[message]})
    with pytest.raises(ValueError, match=message):
        jaxgmm.fit(jax.random.key(0), rows, jaxgmm.em(jaxgmm.flat_prior(K, D)))


@pytest.mark.usefixtures("no_type_checker", "nothing_is_traced")
def test_labels_need_components_without_an_order():
    prior = jaxgmm.default_prior(table(), K, weights="dirichlet_process")
    with pytest.raises(ValueError, match="stick-breaking weights put them in an order"):
        jaxgmm.fit(
            jax.random.key(0), jaxgmm.Rows(table(), labels=np.zeros(N, int)), jaxgmm.cavi(prior)
        )


@pytest.mark.slow
def test_a_fifth_missing_costs_little_and_means_in_their_place_much():
    # 100 data sets of 300 rows; errors of means and covariances over all of them
    n, sets = 300, 100
    rng = np.random.default_rng(7)
    means = np.array([[0.0, 0.0, 0.0], [4.0, 2.0, 0.0]])
    root = np.array([[1.0, 0, 0], [0.6, 0.8, 0], [0.3, 0.4, 0.8]])
    truth = rng.integers(0, 2, (sets, n))
    x = jnp.asarray(means[truth] + rng.normal(size=(sets, n, D)) @ root.T)
    lost = jnp.asarray(rng.uniform(size=x.shape) < 0.2)
    algorithm = jaxgmm.em(jaxgmm.flat_prior(2, D))
    start = {"means": jnp.asarray(means)}

    def errors(rows: jaxgmm.Rows) -> np.ndarray:
        state = algorithm.init(jax.random.key(0), rows, start)
        lanes = jax.tree.map(lambda a: a[None], state)
        found = jaxgmm.run(algorithm, lanes, rows, max_iter=300, tol=1e-9)[0]
        m = jaxgmm.mixture(jax.tree.map(lambda a: a[0], found))
        gaps = m.means - means, m.covariances - root @ root.T
        return jnp.stack([jnp.mean(gap**2) for gap in gaps])

    def over_sets(make):
        return np.sqrt(
            np.mean(jax.jit(lambda *a: jax.lax.map(lambda b: errors(make(*b)), a))(x, lost), axis=0)
        )

    complete = over_sets(lambda x, lost: jaxgmm.Rows(x))
    observed = over_sets(lambda x, lost: jaxgmm.Rows(x, missing=lost))

    def with_means(x, lost):
        mean = jnp.sum(jnp.where(lost, 0, x), axis=0) / jnp.sum(~lost, axis=0, dtype=x.dtype)
        return jaxgmm.Rows(jnp.where(lost, mean[None], x))

    filled = over_sets(with_means)
    assert (observed < 1.3 * complete).all(), (observed, complete)
    assert (filled > 3 * complete).all(), (filled, complete)


def test_bootstraps_that_draw_true_values_refuse_errors_and_labels():
    x = table()
    algorithm = jaxgmm.em(jaxgmm.default_prior(x, K))
    state = algorithm.init(jax.random.key(0), x, {"labels": np.arange(N) % 2})
    for rows in (rows_of("alike"), jaxgmm.Rows(x, labels=np.arange(N) % 2)):
        with pytest.raises(ValueError, match="noise or labels; give kind="):
            jaxgmm.bootstrap(jax.random.key(0), state, rows, algorithm, kind="parametric")
    one = jaxgmm.em(jaxgmm.flat_prior(1, D))
    with pytest.raises(ValueError, match="noise or labels; compare the models by"):
        jaxgmm.likelihood_ratio_test(jax.random.key(0), rows_of("alike"), one, algorithm)
