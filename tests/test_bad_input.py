"""What a user gets wrong: one sentence that says what came, and nothing traced before it."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import clusters

import jaxgmm
from jaxgmm import Dirichlet, KnownCovariance, NormalWishart, Prior

K = 3
KEY = jax.random.key(0)
x = clusters(n=40)
em = jaxgmm.em(jaxgmm.flat_prior(K, 2))
proper = jaxgmm.default_prior(x, K)
TWIST = jnp.asarray([[3.0, -0.3], [-2.0, 9.0]])

pytestmark = pytest.mark.usefixtures("no_type_checker", "nothing_is_traced")


def fit(rows: Any = x, algorithm: Any = em, *args: Any, **kwargs: Any) -> Any:
    return jaxgmm.fit(KEY, rows, algorithm, *args, **kwargs)


def with_row(value: float, *rows: int) -> jax.Array:
    return x.at[jnp.asarray(rows), 0].set(value)


SAMPLES = {
    "1-d": (x[:, 0], r"2-d.*\(40,\).*x\[:, None\]"),
    "3-d": (x[None], r"2-d.*\(1, 40, 2\)"),
    "no rows": (x[:0], r"empty.*\(0, 2\)"),
    "no columns": (x[:, :0], r"empty.*\(40, 0\)"),
    "nan": (with_row(jnp.nan, 3, 17), r"NaN or infinity in rows 3, 17, columns 0;"),
    "infinity": (with_row(-jnp.inf, 5), r"NaN or infinity in rows 5, columns 0;"),
    "many nan": (jnp.full((40, 2), jnp.nan), r"rows 0, 1, .* 9, \.\.\. \(40 rows\)"),
    "few rows": (x[:2], r"2 rows, fewer than the 3 components"),
    "another width": (jnp.concatenate([x, x], axis=1), r"4 features, but the (prior|fit) has 2"),
    "another dtype": (x.astype("float32"), r"x is float32, but the (prior|fit) is float64"),
    "half precision": (x.astype("float16"), r"float32 or float64.*float16; convert"),
    "brain float": (x.astype("bfloat16"), r"float32 or float64.*bfloat16; convert"),
    "large": (with_row(1e160, 3), r"so large in rows 3, columns 0 that their squares overflow"),
    "large and small": (with_row(-1e170, 0, 39), r"so large in rows 0, 39, columns 0 that"),
    "large of float32": (
        x.at[7].set(1e25).astype("float32"),
        r"rows 7, columns 0, 1 that their squares overflow float32; drop.*divide x",
    ),
    "all large": (1e155 * x, r"so large in rows .* columns 0, 1 that"),
}


@pytest.mark.parametrize("case", SAMPLES)
def test_samples(case: str):
    rows, message = SAMPLES[case]
    with pytest.raises(ValueError, match=message):
        fit(rows)
    with pytest.raises(ValueError, match=message):
        em.init(KEY, rows)
    with pytest.raises(ValueError, match=message):
        fit(np.asarray(rows))
    if case not in ("few rows", "another width", "another dtype"):
        with pytest.raises(ValueError, match=message):
            jaxgmm.default_prior(rows, K)


OPTIONS = {
    "tol": ({"tol": -1e-9}, "tol must be 0 or more, but it is -1e-09"),
    "tol of nan": ({"tol": float("nan")}, "tol must be 0 or more, but it is nan"),
    "max_iter": ({"max_iter": 0}, "max_iter must be an integer of at least 1, but it is 0"),
    "max_iter a float": ({"max_iter": 10.5}, "max_iter must be an integer"),
    "n_restarts": ({"n_restarts": 0}, "n_restarts must be an integer of at least 1"),
    "n_restarts a bool": ({"n_restarts": True}, "n_restarts must be an integer"),
    "init": (
        {"init": "kmeans"},
        r"'kmeans' is not known.*'k-means\+\+', .*'random_points'",
    ),
    "init of a number": ({"init": 3}, "init must be one of"),
    "init of an unknown name": ({"init": {"centres": x[:3]}}, "'means'.*'posterior'"),
    "init of two": ({"init": {"means": x[:3], "labels": jnp.zeros(40, int)}}, "exactly one"),
    "weights' shape": ({"sample_weight": jnp.ones(39)}, r"shape \(40,\).*\(39,\)"),
    "negative weights": (
        {"sample_weight": jnp.ones(40).at[7].set(-1)},
        "finite and non-negative, but rows 7 are not",
    ),
    "nan weights": (
        {"sample_weight": jnp.ones(40).at[8].set(jnp.nan)},
        "finite and non-negative, but rows 8 are not",
    ),
    "weights of 0": ({"sample_weight": jnp.zeros(40)}, "0 for every sample"),
    "lanes of a start": (
        {"n_restarts": 2, "init": {"means": x[:3]}},
        r"must lead with n_restarts=2.*\(3, 2\)",
    ),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options(case: str):
    options, message = OPTIONS[case]
    with pytest.raises(ValueError, match=message):
        fit(**options)


MASKS = {
    "values": ([3, 17], "x is a masked array.*in rows 3, 17; drop these rows"),
    "a row": (5, "masked values in rows 5;"),
    "all": (slice(None), r"rows 0, 1, .* \.\.\. \(40 rows\)"),
}


@pytest.mark.parametrize("case", MASKS)
def test_masked_samples(case: str):
    index, message = MASKS[case]
    masked = np.ma.masked_array(np.asarray(x))
    masked[index] = np.ma.masked
    for take in (fit, lambda rows: em.init(KEY, rows), lambda rows: jaxgmm.default_prior(rows, K)):
        with pytest.raises(ValueError, match=message):
            take(masked)
    with pytest.raises(ValueError, match="masked array"):
        fit(jaxgmm.Rows(masked))
    with pytest.raises(ValueError, match="sample_weight is a masked array"):
        fit(sample_weight=np.ma.masked_array(np.ones(40), masked.mask[:, 0]))
    with pytest.raises(ValueError, match="means is a masked array"):
        fit(init={"means": masked[np.asarray([3, 5, 17])]})


def test_a_masked_array_without_masked_values_is_an_array():
    prior = jaxgmm.default_prior(np.ma.masked_array(np.asarray(x)), K)
    np.testing.assert_array_equal(prior.components.scale, proper.components.scale)


def test_samples_that_are_just_not_too_large():
    """The limit is that of the squares about the mean, wherever the data lie."""
    for dtype, size in (("float32", 1e16), ("float64", 1e150)):
        far = size * (x / x.std() + 1e3)
        prior = jaxgmm.default_prior(far.astype(dtype), K, "diag")
        assert bool(jnp.all(jnp.isfinite(prior.components.rate)))


RUNS = {
    "tol": ({"tol": -1.0}, "tol must be 0 or more, but it is -1"),
    "tol, an array": ({"tol": jnp.asarray(-1e-9)}, "tol must be 0 or more"),
    "tol of nan": ({"tol": float("nan")}, "tol must be 0 or more, but it is nan"),
    "max_iter": ({"max_iter": 0}, "max_iter must be positive, but it is 0"),
    "max_iter, an array": ({"max_iter": jnp.asarray(-3)}, "max_iter must be positive"),
}


@pytest.mark.parametrize("case", RUNS)
def test_run(case: str):
    options, message = RUNS[case]
    with pytest.raises(ValueError, match=message):
        jaxgmm.run(em, None, x, **options)  # type: ignore[arg-type]


def test_algorithm():
    with pytest.raises(ValueError, match=r"must come from jaxgmm\.em.* but it is 'em'"):
        fit(algorithm="em")


thirds, unit = jnp.full(K, 1 / 3), jnp.broadcast_to(jnp.eye(2), (K, 2, 2))
STARTS = {
    "means' shape": ({"means": x[:2]}, r"means must have shape \(3, 2\).*\(2, 2\)"),
    "nan means": ({"means": x[:3] * jnp.nan}, "NaN or infinity in.*means"),
    "labels' shape": ({"labels": jnp.zeros(7, int)}, r"labels must have shape \(40,\)"),
    "labels' dtype": ({"labels": jnp.zeros(40)}, "labels must be integers.*float64"),
    "labels out of range": ({"labels": jnp.full(40, 3)}, "labels must be from 0 to 2"),
    "responsibilities' shape": ({"responsibilities": jnp.ones((40, 2)) / 2}, r"\(40, 3\)"),
    "nan responsibilities": (
        {"responsibilities": jnp.full((40, 3), jnp.nan)},
        "rows that sum to 1",
    ),
    "nan weights": ({"parameters": (jnp.full(K, jnp.nan), x[:3], unit)}, "NaN or infinity"),
    "responsibilities' sum": ({"responsibilities": jnp.ones((40, 3))}, "rows that sum to 1"),
    "weights' sum": ({"parameters": (jnp.ones(K), x[:3], unit)}, "weights must be.*sum to 1"),
    "negative weights": (
        {"parameters": (jnp.asarray([1.5, -0.5, 0]), x[:3], unit)},
        "weights must be non-negative",
    ),
    "two parameters": ({"parameters": (thirds, x[:3])}, r"tuple \(weights, means, covariances\)"),
    "asymmetric covariances": (
        {"parameters": (thirds, x[:3], unit.at[1].set(TWIST))},
        r"covariances must be symmetric, but element \(1, 0, 1\) is -0\.3 .*\(1, 1, 0\) is -2",
    ),
    "indefinite covariances": (
        {"parameters": (thirds, x[:3], unit.at[1, 0, 0].set(-1))},
        "positive definite, but the smallest eigenvalue of its correlations is -1",
    ),
    "nan covariances": ({"parameters": (thirds, x[:3], unit * jnp.nan)}, "must be finite"),
    "a posterior of another K": (
        {"posterior": jaxgmm.flat_prior(2, 2)},
        "posterior must have the type, shapes and dtype of the prior",
    ),
    "a posterior of another family": (
        {"posterior": jaxgmm.flat_prior(K, 2, jnp.eye(2))},
        "posterior must have the type",
    ),
    "a posterior that is none": ({"posterior": x}, "posterior must have the type"),
    "a state that is none": ({"state": x}, "state must be a jaxgmm State"),
}


@pytest.mark.parametrize("case", STARTS)
def test_starts(case: str):
    given, message = STARTS[case]
    with pytest.raises(ValueError, match=message):
        fit(init=given)
    with pytest.raises(ValueError, match=message):
        em.init(KEY, x, given)


def components(**changes: Any) -> Prior:
    return replace(proper, components=replace(proper.components, **changes))


def weights(values: Any) -> Prior:
    return replace(proper, weights=Dirichlet(jnp.asarray(values)))


PRIORS = {
    "another K": (lambda: weights([1.0, 1.0]), "weights are of 2 components, but its mean is of 3"),
    "mean_precision's shape": (
        lambda: components(mean_precision=jnp.ones(2)),
        r"mean_precision.*\(3,\)",
    ),
    "scale's shape": (lambda: components(scale=jnp.eye(2)), r"scale must have shape \(3, 2, 2\)"),
    "mean's rank": (lambda: components(mean=jnp.zeros(2)), r"mean must have shape \(K, D\)"),
    "half precision": (
        lambda: jax.tree.map(lambda a: a.astype("float16"), proper),
        "float32 or float64, but they have float16; convert",
    ),
    "brain float": (
        lambda: jaxgmm.flat_prior(K, 2, dtype="bfloat16"),
        "float32 or float64, but they have bfloat16",
    ),
    "two dtypes": (lambda: components(mean_precision=jnp.ones(3, "float32")), "float32, float64"),
    "asymmetric scale": (
        lambda: components(scale=jnp.stack([TWIST] * 3)),
        "scale must be symmetric",
    ),
    "indefinite scale": (lambda: components(scale=-unit), "scale must be positive definite"),
    "nan": (lambda: components(mean=x[:3] * jnp.nan), "prior has NaN or infinity in.*mean"),
    "negative mean_precision": (
        lambda: components(mean_precision=-jnp.ones(3)),
        "mean_precision must be 0",
    ),
    "negative concentration": (lambda: weights([1.0, -1.0, 1.0]), "concentration must be positive"),
    "concentration of 0": (lambda: weights([1.0, 0.0, 1.0]), "concentration must be positive"),
}


@pytest.mark.parametrize("case", PRIORS)
def test_priors(case: str):
    make_prior, message = PRIORS[case]
    prior = make_prior()
    for make in (jaxgmm.em, jaxgmm.cavi, lambda p: jaxgmm.svi(p, optax.adam(0.1))):
        with pytest.raises(ValueError, match=message):
            make(prior)


def test_improper_prior_where_the_bound_needs_a_proper_one():
    for make in (jaxgmm.cavi, lambda p: jaxgmm.svi(p, optax.adam(0.1))):
        for prior in (jaxgmm.flat_prior(K, 2), jaxgmm.flat_prior(K, 2, jnp.eye(2))):
            with pytest.raises(ValueError, match=r"proper prior.*jaxgmm\.default_prior"):
                make(prior)


def test_weights_without_a_mode():
    with pytest.raises(ValueError, match=r"at least 1.*jaxgmm\.cavi"):
        jaxgmm.em(weights([0.5, 1.0, 1.0]))


MAKERS = {
    "n_components": (lambda: jaxgmm.default_prior(x, 0), "n_components.*at least 1"),
    "n_features": (lambda: jaxgmm.flat_prior(3, 0), "n_features.*at least 1"),
    "covariance": (lambda: jaxgmm.flat_prior(3, 2, "banded"), "'banded' is not known.*'full'"),
    "covariance of default": (lambda: jaxgmm.default_prior(x, 3, "banded"), "is not known"),
    "weights": (lambda: jaxgmm.default_prior(x, 3, weights="uniform"), "'uniform'.*'dirichlet'"),
    "asymmetric": (lambda: jaxgmm.default_prior(x, 3, TWIST), "must be symmetric"),
    "asymmetric, flat": (lambda: jaxgmm.flat_prior(3, 2, TWIST), "must be symmetric"),
    "of another width": (lambda: jaxgmm.flat_prior(3, 2, jnp.eye(3)), r"shape \(2, 2\)"),
    "indefinite": (lambda: jaxgmm.flat_prior(3, 2, jnp.zeros((2, 2))), "positive definite"),
    "reg_covar": (lambda: jaxgmm.em(proper, reg_covar=-1e-6), "reg_covar must be 0 or more"),
    "batch_size": (lambda: jaxgmm.svi(proper, optax.adam(0.1), 0), "batch_size must be"),
    "n_draws": (lambda: jaxgmm.svi(proper, optax.adam(0.1), n_draws=0), "n_draws must be"),
    "view": (lambda: jaxgmm.svi(proper, optax.adam(0.1), view="median"), "view='median'.*'mode'"),
    "optimiser": (lambda: jaxgmm.svi(proper, optax.adam), "optax.adam.*learning_rate="),
    "natural view": (
        lambda: jaxgmm.svi(proper, jaxgmm.natural_gradient(), view="sample"),
        "view='sample' is not known",
    ),
    "natural learning_rate": (
        lambda: jaxgmm.svi(proper, jaxgmm.natural_gradient(), learning_rate=0.1),
        "not learning_rate=",
    ),
}


@pytest.mark.parametrize("case", MAKERS)
def test_makers(case: str):
    make, message = MAKERS[case]
    with pytest.raises(ValueError, match=message):
        make()


def test_known_covariance_and_explicit_priors_are_checked():
    asymmetric = KnownCovariance(x[:3], jnp.ones(3), TWIST)
    with pytest.raises(ValueError, match=r"covariance must be symmetric.*\(0, 1\)"):
        jaxgmm.cavi(Prior(Dirichlet(jnp.ones(3)), asymmetric))
    low = NormalWishart(x[:3], jnp.ones(3), jnp.full(3, 0.5), unit)
    with pytest.raises(ValueError, match="degrees_of_freedom above D - 1"):
        jaxgmm.cavi(Prior(Dirichlet(jnp.ones(3)), low))


def test_states_of_another_number_of_lanes():
    state = jax.tree.map(lambda a: jnp.stack([a, a]), _state())
    with pytest.raises(ValueError, match="state of 2 lanes, but n_restarts is 3"):
        fit(n_restarts=3, init=state)


def _state() -> jaxgmm.State:
    from jaxgmm._lane.state import initial_state

    return initial_state(em.prior, em.prior, jaxgmm.views.Mode())


AFTER = {
    "log_prob": jaxgmm.log_prob,
    "responsibilities": jaxgmm.responsibilities,
    "predict": jaxgmm.predict,
    "bic": jaxgmm.bic,
    "aic": jaxgmm.aic,
    "icl": jaxgmm.icl,
    "elbo": jaxgmm.elbo,
}


@pytest.mark.parametrize("name", AFTER)
def test_samples_after_the_fit(name: str):
    for case in ("1-d", "no rows", "nan", "another width", "another dtype"):
        rows, message = SAMPLES[case]
        with pytest.raises(ValueError, match=message):
            AFTER[name](_state(), rows)


LINE = (jnp.asarray([0.25, 0.75]), jnp.zeros((2, 1)), jnp.ones((2, 1, 1)))


def mixture(**changes: Any) -> jaxgmm.Mixture:
    return jaxgmm.Mixture(*LINE)._replace(**changes)


MIXTURES = {
    "zero variance": (
        mixture(covariances=LINE[2].at[1].set(0)),
        "positive definite, but the smallest eigenvalue of its correlations is 0",
    ),
    "negative variance": (mixture(covariances=-LINE[2]), "positive definite.* is -1"),
    "indefinite covariance": (
        jaxgmm.Mixture(LINE[0], x[:2], jnp.asarray([[[1.0, 2.0], [2.0, 1.0]]] * 2)),
        "positive definite.* is -1",
    ),
    "asymmetric covariance": (
        jaxgmm.Mixture(LINE[0], x[:2], jnp.stack([TWIST, TWIST])),
        "covariances must be symmetric",
    ),
    "weights' sum": (mixture(weights=20 * LINE[0]), "sum to 1, but they are .* 5. 15."),
    "negative weight": (mixture(weights=jnp.asarray([-0.5, 1.5])), "must be non-negative"),
    "nan weight": (mixture(weights=LINE[0] * jnp.nan), "mixture has NaN or infinity in weights"),
    "nan mean": (mixture(means=LINE[1] + jnp.nan), "NaN or infinity in means"),
    "infinite covariance": (mixture(covariances=LINE[2] / 0), "NaN or infinity in covariances"),
    "half precision": (
        jaxgmm.Mixture(*(a.astype("float16") for a in LINE)),
        "float32 or float64, but theirs are float16",
    ),
}


@pytest.mark.parametrize("case", MIXTURES)
def test_mixtures(case: str):
    m, message = MIXTURES[case]
    rows = x[:, : m.means.shape[1]]
    for ask in (
        lambda: jaxgmm.log_prob(m, rows),
        lambda: jaxgmm.predict(m, rows),
        lambda: jaxgmm.sample(KEY, m, 3),
        lambda: jaxgmm.mixture(m),
        lambda: jaxgmm.algebra.marginal(m, [0]),
        lambda: jaxgmm.cdf(m, rows[:, 0], 0),
        lambda: jaxgmm.quantile(m, 0.5, 0),
        lambda: jaxgmm.sampled_entropy(KEY, m),
        lambda: jaxgmm.sampled_kl(KEY, m, m),
        lambda: jaxgmm.order_components(m),
    ):
        with pytest.raises(ValueError, match=message):
            ask()


def test_a_traced_mixture_passes_whatever_its_values_are():
    def density(variance: jax.Array) -> jax.Array:
        return jaxgmm.log_prob(mixture(covariances=variance * LINE[2]), x[:1, :1])[0]

    assert jnp.isfinite(jax.jit(density)(1.0))
    assert jnp.isnan(jax.jit(density)(-1.0))
    assert jnp.isfinite(jax.grad(density)(1.0))
