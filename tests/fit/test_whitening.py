"""The coordinates of a fit: nothing that comes out depends on the units of what went in."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import DTYPES, also_slow
from numpy.testing import assert_allclose
from scipy.stats import multivariate_normal

import jaxgmm
from benchmarks import _oracle as oracle
from jaxgmm import Status
from jaxgmm._estep.row_checks import check_rows
from jaxgmm._fit.whitening import Whitening
from jaxgmm._numerics.pytree import replace, take

KEY = jax.random.key(0)
D, K = 3, 2
COVARIANCES = ("full", "tied", "diag", "spherical")
# Nats a sample that the rounding of nearly singular covariances to the dtype may move an objective.
OFF = 1e-3


def clusters(n: int = 200, d: int = D, seed: int = 0) -> np.ndarray:
    """Two overlapping clusters, correlated, away from 0."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) @ np.triu(rng.standard_normal((d, d)) + 2 * np.eye(d))
    x[: n // 3] = 0.4 * x[: n // 3] + 6
    return x + np.arange(d)


def linear_map(d: int, condition: float, seed: int = 1) -> np.ndarray:
    """A matrix of that condition number, in no particular direction."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((d, d)))[0] for _ in range(2))
    return left @ np.diag(np.geomspace(1, condition, d)) @ right


def independent(shape: tuple[int, ...]) -> jaxgmm.Prior:
    wide, own = jnp.ones((K, D)), jnp.ones(shape)
    components = jaxgmm.IndependentNormalGamma(2 * wide, 0.1 * wide, 3 * own, 2 * own)
    return jaxgmm.Prior(jaxgmm.flat_prior(K, D).weights, components)


def models(x: np.ndarray) -> dict[str, Any]:
    """Every family, by maximum likelihood, under a prior and as a posterior."""
    out = {}
    for name in COVARIANCES:
        prior = jaxgmm.default_prior(x, K, name)
        out[f"{name} ML"] = jaxgmm.em(jaxgmm.flat_prior(K, D, name))
        out[f"{name} MAP"] = jaxgmm.em(prior)
        out[f"{name} CAVI"] = jaxgmm.cavi(prior)
    matrix = jnp.cov(x.T)
    out["known ML"] = jaxgmm.em(jaxgmm.flat_prior(K, D, matrix))
    out["known MAP"] = jaxgmm.em(jaxgmm.default_prior(x, K, matrix))
    for shape in ((K, D), (K,)):
        out[f"independent MAP {shape}"] = jaxgmm.em(independent(shape))
        out[f"independent CAVI {shape}"] = jaxgmm.cavi(independent(shape))
    out["diag ML reg_covar"] = jaxgmm.em(jaxgmm.flat_prior(K, D, "diag"), reg_covar=0.3)
    out["full ML reg_covar"] = jaxgmm.em(jaxgmm.flat_prior(K, D), reg_covar=0.3)
    flat = jaxgmm.flat_prior(K, D).components
    partly = jaxgmm.Prior(
        jaxgmm.flat_prior(K, D).weights,
        jaxgmm.NormalWishart(
            flat.mean, flat.mean_precision, flat.degrees_of_freedom + 9, flat.scale + jnp.eye(D)
        ),
    )
    out["full, improper in the means alone"] = jaxgmm.em(partly)
    return out


# of each kind of map one runs by default
BRIEF = ("full MAP", "diag CAVI", "spherical ML", "known MAP", "tied MAP", "full ML reg_covar")


@pytest.mark.parametrize(
    "name",
    [
        name if name in BRIEF else pytest.param(name, marks=pytest.mark.slow)
        for name in models(clusters())
    ],
)
def test_an_iteration_is_the_same_in_both_coordinates(name: str) -> None:
    """An oracle for every map: of the prior, the posterior, the objective and the monitor."""
    x = jnp.asarray(clusters())
    algorithm = models(x)[name]
    coordinates = Whitening(x, check_rows(x), algorithm)
    inner, z = coordinates.into(algorithm), coordinates.rows.x
    start = {"labels": (np.arange(len(x)) < len(x) // 2).astype(np.int32)}
    there = jax.tree.map(lambda a: a[None], inner.step(inner.init(KEY, z, start), z))
    gain = coordinates.gain(None, float(len(x)))
    back, *_ = coordinates.back(there, algorithm, gain)
    one = jax.tree.map(lambda a: a[0], back)

    again = algorithm.init(KEY, x, {"posterior": one.posterior})
    here = algorithm.step(again, x)
    moved = jax.tree.map(lambda a: a[None], inner.step(jax.tree.map(lambda a: a[0], there), z))
    expected = jax.tree.map(lambda a: a[0], coordinates.back(moved, algorithm, gain)[0])
    assert_allclose(here.objective, expected.objective, rtol=1e-11)
    for a, b in zip(
        jax.tree.leaves(here.posterior), jax.tree.leaves(expected.posterior), strict=True
    ):
        assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    assert jax.tree.structure(back.view) == jax.tree.structure(
        jax.tree.map(lambda a: a[None], again.view)
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        if (name, kind) in (("full", "ML"), ("diag", "CAVI"))
        else pytest.param(name, kind, marks=pytest.mark.slow)
        for name in COVARIANCES
        for kind in ("ML", "CAVI")
    ],
)
def test_a_fit_is_equivariant(name: str, kind: str) -> None:
    """``x A + b`` gives the fit of x, for the maps that the structure can follow."""
    x = clusters(300)
    matrix = {
        "full": linear_map(D, 1e6),
        "tied": linear_map(D, 1e6),
        "diag": np.diag([1e-4, 1.0, 1e5]),
        "spherical": 1e-5 * np.eye(D),
    }[name]
    y = x @ matrix + 100 * np.diag(matrix)
    results = []
    for data in (x, y):
        prior = jaxgmm.default_prior(data, K, name)
        if name in ("diag", "spherical"):
            prior = jaxgmm.default_prior(x, K, name)
            if data is y:
                prior = prior.mapped(_affine(matrix, name))
        algorithm = jaxgmm.cavi(prior)
        if kind == "ML":
            algorithm = jaxgmm.em(jaxgmm.flat_prior(K, D, name))
        results.append(jaxgmm.fit(KEY, data, algorithm, n_restarts=8, tol=1e-9))
    old, new = results
    shift = len(x) * np.linalg.slogdet(matrix)[1]
    assert old.best.status == new.best.status == Status.CONVERGED
    # the prior of correlated data is itself known to cond * eps only
    assert_allclose(new.best.objective + shift, old.best.objective, rtol=0, atol=1e-3)


def _affine(matrix: np.ndarray, name: str) -> Any:
    from jaxgmm._numerics.affine import Affine

    factors = np.diag(matrix) if name == "diag" else matrix[0, 0]
    offset = np.zeros(D)
    return Affine(jnp.asarray(offset), jnp.asarray(factors), jnp.asarray(100 * np.diag(matrix)))


def float64_objective(result: jaxgmm.Result, x: np.ndarray) -> float:
    """The log-likelihood in 64 bits at what a fit returned."""
    m = jax.tree.map(lambda a: np.asarray(a, np.float64), jaxgmm.mixture(result.best))
    parts = [
        np.log(w) + multivariate_normal(mean, covariance, allow_singular=False).logpdf(x)
        for w, mean, covariance in zip(m.weights, m.means, m.covariances, strict=True)
    ]
    return float(np.sum(np.logaddexp.reduce(np.stack(parts))))


def sklearn_table(name: str) -> np.ndarray:
    from sklearn import datasets

    x = getattr(datasets, f"load_{name}")().data
    return (x - x.mean(axis=0)) / x.std(axis=0) if name == "breast_cancer" else x


@pytest.mark.parametrize(
    ("name", "k", "covariance"),
    [
        ("diabetes", 3, "full"),
        *(
            pytest.param(name, k, covariance, marks=pytest.mark.slow)
            for name, k in (("breast_cancer", 2), ("diabetes", 3), ("wine", 3))
            for covariance in ("full", "tied")
        ),
    ],
)
def test_float32_is_as_good_as_float64_on_popular_tables(
    name: str, k: int, covariance: str
) -> None:
    x = sklearn_table(name).astype(np.float32)
    algorithm = jaxgmm.em(jaxgmm.flat_prior(k, x.shape[1], covariance, "float32"))
    for scale in (np.float32(1), np.float32(1 / 1024)):
        result = jaxgmm.fit(KEY, x * scale, algorithm, n_restarts=8)
        assert result.best.status == Status.CONVERGED, result
        assert Status.DECREASED not in result.statuses(), result
        exact = float64_objective(result, (x * scale).astype(np.float64))
        assert abs(float(result.best.objective) - exact) < 1e-4 * len(x)


def test_float64_data_are_centred_before_they_are_rounded() -> None:
    """Seconds since 1970 of two bursts: float32 alone would know them to two minutes."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 20, 400), rng.normal(400, 40, 600)])[:, None]
    for kind in ("em", "cavi"):
        with jax.enable_x64(False):
            prior = jaxgmm.flat_prior(2, 1) if kind == "em" else jaxgmm.default_prior(x, 2)
            algorithm = getattr(jaxgmm, kind)(prior)
            near = jaxgmm.fit(KEY, x, algorithm, n_restarts=4, moves=False)
            prior = jaxgmm.flat_prior(2, 1) if kind == "em" else jaxgmm.default_prior(x + 1.7e9, 2)
            algorithm = getattr(jaxgmm, kind)(prior)
            far = jaxgmm.fit(KEY, x + 1.7e9, algorithm, n_restarts=4, moves=False)
        sd = [np.sort(np.sqrt(jaxgmm.mixture(r.best).covariances.ravel())) for r in (near, far)]
        assert far.best.status == Status.CONVERGED
        # a prior has its own mean in float32, far from 0
        assert_allclose(sd[1], sd[0], rtol=1e-3 if kind == "em" else 1e-2)


@pytest.mark.parametrize("magnitude", [1e-30, 1e-18, 1e17])
def test_magnitudes_that_float32_cannot_square_are_refused(magnitude: float) -> None:
    x = (clusters() * magnitude).astype(np.float32)
    with pytest.raises(ValueError, match=r"column.* 0, 1, 2.*(variance|squares)"):
        jaxgmm.fit(KEY, x, jaxgmm.em(jaxgmm.flat_prior(K, D, dtype="float32")))


def test_starts_are_given_in_the_units_of_the_data() -> None:
    x = 1000 * clusters() + 5000
    means = x[[0, 100]]
    seen = []

    def seeds(key: jax.Array, rows: jaxgmm.Rows, n_components: int) -> jax.Array:
        seen.append(rows.x.shape)
        return jnp.asarray(means)

    algorithm = jaxgmm.em(jaxgmm.flat_prior(K, D))
    options = {"n_restarts": 1, "moves": False}
    by_function = jaxgmm.fit(KEY, x, algorithm, init=seeds, **options)
    by_means = jaxgmm.fit(KEY, x, algorithm, init={"means": means}, **options)
    assert seen == [x.shape]
    assert_allclose(by_function.best.objective, by_means.best.objective, rtol=1e-10)

    m = jaxgmm.mixture(by_means.best)
    parameters = (m.weights, m.means, m.covariances)
    for init in ({"parameters": parameters}, {"posterior": by_means.best.posterior}, by_means.best):
        again = jaxgmm.fit(KEY, x, algorithm, init=init, **options)
        assert again.best.n_iter <= 3
        assert_allclose(again.best.objective, by_means.best.objective, rtol=1e-9)


@pytest.mark.slow
def test_what_goes_on_from_a_fit_goes_on_in_the_units_of_the_data() -> None:
    """States of an unfinished fit, with momentum, counters and monitors, are states of `run`."""
    import optax

    x = jnp.asarray(100 * clusters())
    prior = jaxgmm.default_prior(x, K)
    for algorithm in (
        jaxgmm.squarem(jaxgmm.cavi(prior)),
        jaxgmm.svi(prior, optax.adam(0.05), view="expectation"),
        jaxgmm.svi(prior, jaxgmm.natural_gradient(), batch_size=50, average=True),
    ):
        result = jaxgmm.fit(
            KEY, x, algorithm, n_restarts=2, max_iter=20, tol=0.0, racing=False, moves=False
        )
        states = jax.tree.map(lambda a: a, result.states)
        states = replace(states, status=jnp.full_like(states.status, int(Status.RUNNING)))
        more, _ = jaxgmm.run(algorithm, states, x, max_iter=60, tol=0.0)
        assert np.isfinite(more.objective).all()
        assert (more.n_iter == 60).all()
        if getattr(algorithm, "batch_size", None) is None:
            assert (more.objective > result.states.objective - 1).all()


@pytest.mark.parametrize("dtype", ["float32", *also_slow("float64")])
@pytest.mark.parametrize("name", ["full", "tied"])
@pytest.mark.parametrize("view", [jaxgmm.em, jaxgmm.cavi])
def test_a_sum_of_columns_is_fitted_under_a_prior(dtype: str, name: str, view: Any) -> None:
    """In the direction without variation the prior alone says how wide a component is."""
    x = clusters(150).astype(dtype)
    x = np.column_stack([x, x.sum(1), x[:, 0] - x[:, 1]])
    algorithm = view(jaxgmm.default_prior(jnp.asarray(x), K, name))
    result = jaxgmm.fit(KEY, x, algorithm, n_restarts=8, moves=False, progress=False)
    ended = np.asarray(result.states.status)
    assert set(ended) <= {Status.CONVERGED, Status.DROPPED}
    for lane in np.flatnonzero(ended == Status.CONVERGED):
        state = take(result.states, int(lane))
        expected = oracle.objective(x, jax.device_get(state))
        assert_allclose(state.objective, expected, rtol=0, atol=len(x) * OFF)


@pytest.mark.parametrize("view", [jaxgmm.em, jaxgmm.cavi])
def test_what_the_data_s_units_cannot_hold_has_collapsed(view: Any) -> None:
    """The more samples, the narrower is the direction that a weak prior bounds alone."""
    x = clusters(20_000).astype("float32")
    x = np.column_stack([x, x.sum(1)])
    algorithm = view(jaxgmm.default_prior(jnp.asarray(x), K, "tied"))
    result = jaxgmm.fit(KEY, x, algorithm, n_restarts=1, moves=False, progress=False)
    assert result.best.status == Status.COLLAPSED


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("covariance", ["full", "tied"])
def test_a_direction_just_wide_enough_is_fitted(dtype: str, covariance: str) -> None:
    """Its correlations have an eigenvalue of about 30 eps, and a covariance can hold it."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, D))
    x[:, -1] = x[:, :-1].sum(1) + 11 * np.sqrt(np.finfo(dtype).eps) * rng.standard_normal(len(x))
    x = x.astype(dtype)
    least = np.linalg.eigvalsh(np.corrcoef(x.astype(np.float64).T))[0]
    assert 16 < least / np.finfo(dtype).eps < 64
    flat = jaxgmm.flat_prior(1, D, covariance, dtype)
    result = jaxgmm.fit(KEY, x, jaxgmm.em(flat), n_restarts=1, progress=False)
    assert result.best.status == Status.CONVERGED
    expected = oracle.objective(x, jax.device_get(result.best))
    assert_allclose(result.best.objective, expected, rtol=0, atol=len(x) * OFF)


@pytest.mark.slow
@pytest.mark.parametrize("of", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("n", [600, 100_000])
def test_a_constant_column_of_many_rows_is_constant(dtype: str, n: int, of: Any) -> None:
    """The mean of so many equal values is rounded by more than they differ by."""
    x = clusters(n).astype(dtype)
    x[:, 1] = 1e3
    x = of(x)
    algorithm = jaxgmm.em(jaxgmm.default_prior(x, 1, "diag"))
    result = jaxgmm.fit(KEY, x, algorithm, n_restarts=1, progress=False)
    assert result.best.status == Status.CONVERGED
    scale = algorithm.prior.components.rate[0]
    # a share of eps^(1/3) of the largest variance
    share = float(jnp.finfo(dtype).eps) ** (1 / 3)
    assert_allclose(scale[1], share * np.max(np.asarray(scale)) / (1 + share), rtol=1e-3)
