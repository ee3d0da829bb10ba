"""The estimators against scikit-learn's fits."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.mixture
from conftest import clusters
from scipy.special import multigammaln
from sklearn.exceptions import ConvergenceWarning

import jaxgmm
from jaxgmm.sklearn._bayesian import BayesianGaussianMixture
from jaxgmm.sklearn._gaussian import GaussianMixture
from jaxgmm.sklearn._programs import padded_size

OURS = {"GaussianMixture": GaussianMixture, "BayesianGaussianMixture": BayesianGaussianMixture}
TYPES = ["full", "tied", "diag", "spherical"]
FITTED = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")
POSTERIOR = (*FITTED, "mean_precision_", "degrees_of_freedom_", "weight_concentration_")
X = np.asarray(clusters(n=200))
# scikit-learn keeps the bounds of all iterations since 1.7
HAS_HISTORY = hasattr(sklearn.mixture.GaussianMixture().fit(X), "lower_bounds_")
# the default ones share their programs
SLOW_BAYES = ["GaussianMixture", pytest.param("BayesianGaussianMixture", marks=pytest.mark.slow)]
SOME = [pytest.param(c, marks=() if c in ("full", "tied") else pytest.mark.slow) for c in TYPES]


def both(name: str, x: np.ndarray = X, *, fit: bool = True, **parameters: Any) -> tuple[Any, Any]:
    """Our estimator and scikit-learn's, fitted from the same seed."""
    models = OURS[name](**parameters), getattr(sklearn.mixture, name)(**parameters)
    return tuple(model.fit(x) for model in models) if fit else models


def assert_same(ours: Any, theirs: Any, names: tuple[str, ...], tolerance: float = 1e-8) -> None:
    for name in names:
        expected = getattr(theirs, name)
        np.testing.assert_allclose(
            getattr(ours, name), expected, rtol=tolerance, atol=tolerance, err_msg=name
        )
        assert np.shape(getattr(ours, name)) == np.shape(expected)


def assert_same_mixture(ours: Any, theirs: Any) -> None:
    assert (ours.n_iter_, ours.converged_) == (theirs.n_iter_, theirs.converged_)
    assert_same(ours, theirs, (*FITTED, "lower_bound_"))
    x = X[::3]
    np.testing.assert_array_equal(ours.predict(x), theirs.predict(x))
    for method in ("predict_proba", "score_samples", "score", "bic", "aic"):
        np.testing.assert_allclose(
            getattr(ours, method)(x), getattr(theirs, method)(x), rtol=1e-8, atol=1e-8
        )
    for a, b in zip(ours.sample(30), theirs.sample(30), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("covariance_type", SOME)
def test_em_is_scikit_learns(covariance_type: str) -> None:
    ours, theirs = both(
        "GaussianMixture",
        n_components=3,
        covariance_type=covariance_type,
        random_state=1,
        tol=1e-5,
    )
    assert ours.n_iter_ > 2
    assert_same_mixture(ours, theirs)
    if HAS_HISTORY:
        assert_same(ours, theirs, ("lower_bounds_",))


@pytest.mark.slow
@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_em_is_scikit_learns_from_every_start(covariance_type: str, init_params: str) -> None:
    ours, theirs = both(
        "GaussianMixture",
        n_components=3,
        covariance_type=covariance_type,
        init_params=init_params,
        # k-means leads all to one optimum, of whose copies rounding chooses
        n_init=1 if init_params == "kmeans" else 4,
        max_iter=1000,
        random_state=0,
    )
    assert_same_mixture(ours, theirs)
    # its weights sum to K / N at the start from one sample for each component; and there the bound
    # is of a variance of 1e-6, and has lost six digits
    if not HAS_HISTORY:
        return
    first = np.log(len(X) / 3) if init_params in ("k-means++", "random_from_data") else 0.0
    np.testing.assert_allclose(ours.lower_bounds_[1:], theirs.lower_bounds_[1:], rtol=1e-8)
    assert ours.lower_bounds_[0] - theirs.lower_bounds_[0] == pytest.approx(first, rel=1e-2)


GIVEN = {
    "weights_init": np.array([0.2, 0.3, 0.5]),
    "means_init": X[:3],
    "precisions_init": {
        "full": np.stack([np.eye(2), np.array([[2.0, 0.5], [0.5, 1.0]]), 0.5 * np.eye(2)]),
        "tied": np.array([[2.0, 0.5], [0.5, 1.0]]),
        "diag": np.array([[1.0, 2.0], [0.5, 0.6], [3.0, 1.0]]),
        "spherical": np.array([1.0, 2.0, 0.5]),
    },
}


@pytest.mark.parametrize(
    "given", [("means_init",), ("precisions_init", "weights_init"), tuple(GIVEN)]
)
@pytest.mark.parametrize("covariance_type", SOME)
def test_given_starts_are_scikit_learns(covariance_type: str, given: tuple[str, ...]) -> None:
    start: dict[str, Any] = {name: GIVEN[name] for name in given}
    if "precisions_init" in start:
        start["precisions_init"] = start["precisions_init"][covariance_type]
    ours, theirs = both(
        "GaussianMixture",
        n_components=3,
        covariance_type=covariance_type,
        random_state=0,
        tol=1e-5,
        **start,
    )
    assert_same_mixture(ours, theirs)


@pytest.mark.parametrize("reg_covar", [0.0, 1e-2])
def test_cavi_is_scikit_learns(reg_covar: float) -> None:
    gaps = []
    for init_params in ("kmeans", "random"):
        ours, theirs = both(
            "BayesianGaussianMixture",
            n_components=3,
            weight_concentration_prior_type="dirichlet_distribution",
            init_params=init_params,
            reg_covar=reg_covar,
            random_state=0,
            tol=1e-6,
            max_iter=1000,
        )
        assert (ours.n_iter_, ours.converged_) == (theirs.n_iter_, theirs.converged_)
        assert_same(ours, theirs, POSTERIOR)
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-8)
        np.testing.assert_allclose(ours.score_samples(X), theirs.score_samples(X), atol=1e-8)
        which = "lower_bounds_" if HAS_HISTORY else "lower_bound_"
        gaps += list(np.ravel(np.subtract(getattr(ours, which), getattr(theirs, which))))
    # a constant, which the prior and the data's shape decide
    np.testing.assert_allclose(gaps, gaps[0], rtol=1e-10)


@pytest.mark.parametrize("covariance_type", [c for c in TYPES if c != "tied"])
def test_given_responsibilities_the_posterior_is_scikit_learns(covariance_type: str) -> None:
    parameters = {
        "n_components": 3,
        "covariance_type": covariance_type,
        "weight_concentration_prior_type": "dirichlet_distribution",
        "max_iter": 0,
        "random_state": 0,
    }
    assert_same(*both("BayesianGaussianMixture", **parameters), POSTERIOR)


def test_the_tied_posterior_counts_the_prior_once() -> None:
    prior = np.array([[2.0, 0.3], [0.3, 1.0]])
    model = BayesianGaussianMixture(
        n_components=1,
        covariance_type="tied",
        covariance_prior=prior,
        mean_prior=[0.0, 0.0],
        reg_covar=0.0,
        max_iter=0,
    ).fit(X)
    n, mean = len(X), X.mean(axis=0)
    scale = prior + (X - mean).T @ (X - mean) + n / (1 + n) * np.outer(mean, mean)
    assert model.degrees_of_freedom_ == 2 + n
    np.testing.assert_allclose(model.covariances_, scale / (2 + n), rtol=1e-12)


@pytest.mark.slow
def test_the_bound_of_one_component_is_the_log_evidence() -> None:
    prior = np.array([[2.0, 0.3], [0.3, 1.0]])
    model = BayesianGaussianMixture(
        covariance_prior=prior,
        mean_prior=[0.5, 0.0],
        mean_precision_prior=0.1,
        degrees_of_freedom_prior=4.0,
        reg_covar=0.0,
    ).fit(X)
    # Murphy 2007, eq. 266
    n, d = X.shape
    scale = model.covariances_ * (4 + n)
    expected = (
        -0.5 * n * d * np.log(np.pi)
        + multigammaln((4 + n) / 2, d)
        - multigammaln(4 / 2, d)
        + 0.5 * 4 * np.linalg.slogdet(prior)[1]
        - 0.5 * (4 + n) * np.linalg.slogdet(scale)[1]
        + 0.5 * d * np.log(0.1 / (0.1 + n))
    )
    np.testing.assert_allclose(model.lower_bound_, expected, rtol=1e-12)


def test_the_default_weights_are_a_truncated_dirichlet_process() -> None:
    ours, theirs = both("BayesianGaussianMixture", n_components=3, random_state=0, max_iter=0)
    up, down = ours.weight_concentration_
    expected = theirs.weight_concentration_
    np.testing.assert_allclose(up, expected[0], rtol=1e-12)
    np.testing.assert_allclose(down[:2], expected[1][:2], rtol=1e-12)
    assert down[2] == 0
    assert ours.weight_concentration_prior_ == pytest.approx(1 / 3)
    share = up[:2] / (up[:2] + down[:2])
    weights = [share[0], (1 - share[0]) * share[1], (1 - share[0]) * (1 - share[1])]
    np.testing.assert_allclose(ours.weights_, weights, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("covariance_type", TYPES)
def test_components_of_a_dirichlet_process_are_in_the_order_of_their_mass(
    covariance_type: str,
) -> None:
    model = BayesianGaussianMixture(
        n_components=6, covariance_type=covariance_type, random_state=0, max_iter=1000
    ).fit(X)
    assert model.converged_
    assert (np.diff(model.mean_precision_) <= 0).all()
    np.testing.assert_allclose(model.weights_.sum(), 1)


# --- precision, compilation -----------------------------------------------------------------------


@pytest.mark.parametrize("name", SLOW_BAYES)
def test_precision_is_the_samples_own_whatever_jaxs_settings(name: str) -> None:
    parameters = {"n_components": 3, "random_state": 1}
    with jax.enable_x64(False):
        double = OURS[name](**parameters).fit(X)
        single = OURS[name](**parameters).fit(X.astype(np.float32))
        # an attribute of the whole process would now be another
        assert jnp.ones(1).dtype == jnp.float32
        scores = double.score_samples(X), single.score_samples(X.astype(np.float32))
    with jax.enable_x64(True):
        np.testing.assert_array_equal(OURS[name](**parameters).fit(X).means_, double.means_)
    for model, dtype in ((double, np.float64), (single, np.float32)):
        for attribute in FITTED:
            assert getattr(model, attribute).dtype == dtype
    assert [s.dtype for s in scores] == [np.float64, np.float32]
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-3)


compiled: list[str] = []


def _listen(event: str, _: float, **about: Any) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        compiled.append(str(about.get("fun_name")))


jax.monitoring.register_event_duration_secs_listener(_listen)


def test_fits_of_about_as_many_rows_share_their_programs() -> None:
    model = GaussianMixture(n_components=3, random_state=1, tol=1e-5)
    model.fit(X).score(X)
    compiled.clear()
    model.set_params(tol=1e-4, reg_covar=1e-5, max_iter=77)
    model.fit(X[:150]).score(X[:140])
    assert compiled == []


@pytest.mark.parametrize("n", [1, 31, 32, 33, 1000, 1024, 1025, 10_000, 123_457])
def test_padding_costs_an_eighth_of_many_rows(n: int) -> None:
    size = padded_size(n)
    assert n <= size
    assert size <= (max(32, 2 * n) if n <= 1024 else 1.125 * n + 1)
    assert padded_size(size) == size


# --- what can go wrong ----------------------------------------------------------------------------


def with_a_pair(seed: int = 2) -> np.ndarray:
    """Two clusters, and two samples that are equal: (142, 2)."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(80, 2)), rng.normal(size=(60, 2)) + np.array([5, 0])
    pair = 2 * rng.normal(size=(1, 2)) + np.array([2, 3])
    return np.concatenate([a, b, pair, pair])


SPIKY = {
    "n_components": 3,
    "init_params": "random_from_data",
    "tol": 1e-6,
    "max_iter": 1000,
    "random_state": 0,
    "n_init": 8,
}


@pytest.mark.slow
@pytest.mark.parametrize("covariance_type", TYPES)
def test_many_rows_take_the_fast_path_to_the_same_fit(covariance_type: str) -> None:
    x = np.asarray(clusters(n=9000))
    ours, theirs = both(
        "GaussianMixture",
        x,
        n_components=4,
        covariance_type=covariance_type,
        n_init=3,
        random_state=0,
        max_iter=1000,
    )
    assert_same_mixture(ours, theirs)


@pytest.mark.slow
def test_initialisations_that_fail_are_left_out() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(80, 2)), rng.normal(size=(60, 2)) + np.array([5, 0])
    equal = np.repeat(2 * rng.normal(size=(1, 2)) + np.array([2, 6]), 4, axis=0)
    x = np.concatenate([a, b, equal, 0.5 * rng.normal(size=(20, 2)) + np.array([2, 6])])
    parameters = {
        "n_components": 4,
        "reg_covar": 0.0,
        "init_params": "random",
        "tol": 1e-6,
        "max_iter": 1000,
    }
    state, bounds = np.random.RandomState(0), []  # two of them fail
    for _ in range(8):
        theirs = sklearn.mixture.GaussianMixture(random_state=state, **parameters)
        try:
            bounds.append(theirs.fit(x).lower_bound_)
        except ValueError:
            bounds.append(-np.inf)
    assert np.isfinite(bounds).any()
    assert not np.isfinite(bounds).all()
    ours = GaussianMixture(random_state=0, n_init=8, **parameters).fit(x)
    assert np.min(np.abs(np.subtract(bounds, ours.lower_bound_))) < 1e-9


@pytest.mark.slow
def test_more_initialisations_are_no_worse() -> None:
    for seed in range(15):
        x = np.random.default_rng(seed).normal(size=(50, 2))
        bounds = [
            GaussianMixture(2, n_init=n, max_iter=20, tol=0.0, random_state=seed) for n in (1, 10)
        ]
        with pytest.warns(ConvergenceWarning, match="did not converge"):
            one, ten = (model.fit(x).lower_bound_ for model in bounds)
        assert ten >= one - 1e-12


@pytest.mark.slow
def test_the_best_initialisation_is_scikit_learns_though_it_is_a_spike() -> None:
    ours, theirs = both("GaussianMixture", with_a_pair(), **SPIKY)
    assert_same(ours, theirs, ("weights_", "means_", "lower_bound_"))
    assert ours.regularised_.sum() == 1


@pytest.mark.slow
def test_without_reg_covar_a_collapsed_component_is_no_best_fit() -> None:
    near = np.array([2.0, 3.0]) + 1e-3 * np.random.default_rng(0).normal(size=(4, 2))
    x = np.concatenate([with_a_pair()[:-2], near])
    ours, theirs = both("GaussianMixture", x, **{**SPIKY, "init_params": "kmeans", "reg_covar": 0})
    smallest = [np.linalg.eigvalsh(m.covariances_).min() for m in (ours, theirs)]
    assert smallest[1] < 1e-6  # a spike on the four
    assert smallest[0] > 1e-4
    assert ours.lower_bound_ < theirs.lower_bound_


def test_collapsed_fits_are_returned_without_a_warning() -> None:
    x = with_a_pair()
    parameters = {
        "n_components": 3,
        "means_init": np.array([[0.0, 0.0], [5.0, 0.0], x[-1]]),
        "precisions_init": np.stack([np.eye(2), np.eye(2), 1e5 * np.eye(2)]),
        "weights_init": np.array([0.5, 0.4, 0.1]),
    }
    # warnings are errors here
    ours, theirs = both("GaussianMixture", x, **parameters)
    assert_same(ours, theirs, ("weights_", "means_"))
    np.testing.assert_array_equal(ours.regularised_, [False, False, True])


@pytest.mark.slow
def test_a_singular_default_prior_is_made_proper() -> None:
    x = np.random.default_rng(0).normal(size=(5, 2)) @ np.array([[1.0, 2.0, 3.0], [0.0, 1.0, 5.0]])
    ours, theirs = both(
        "BayesianGaussianMixture",
        x,
        weight_concentration_prior_type="dirichlet_distribution",
    )
    assert np.isfinite(ours.lower_bound_)
    np.testing.assert_allclose(ours.covariances_, theirs.covariances_, atol=1e-6)
    with pytest.raises(ValueError, match="ill-defined empirical covariance"):
        ours.set_params(reg_covar=0.0).fit(x)


def test_warm_start_needs_the_same_shape() -> None:
    model = GaussianMixture(n_components=3, random_state=1, warm_start=True).fit(X)
    with pytest.raises(ValueError, match=r"means_ have the shape \(3, 2\).* need \(2, 2\)"):
        model.set_params(n_components=2).fit(X)


def test_verbose_prints_what_scikit_learn_prints(capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for model in both("GaussianMixture", fit=False, n_components=3, random_state=1, tol=1e-5):
        model.set_params(verbose=1, verbose_interval=2).fit(X)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert printed[0].endswith("  Iteration 4\n  Iteration 6\nInitialization converged.\n")
    GaussianMixture(n_components=3, random_state=1, tol=1e-5, verbose=2, verbose_interval=2).fit(X)
    assert re.search(r"  Iteration 2\t ll change \d\.\d{5}\n", capsys.readouterr().out)


# --- from one library to the other ----------------------------------------------------------------


def test_parameters_set_by_hand_predict() -> None:
    theirs = sklearn.mixture.GaussianMixture(n_components=3, random_state=1).fit(X)
    ours = GaussianMixture(n_components=3)
    for name in ("weights_", "means_", "precisions_cholesky_"):
        setattr(ours, name, getattr(theirs, name))
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-12)


@pytest.mark.parametrize("name", SLOW_BAYES)
def test_a_fit_is_a_state_for_jaxgmm(name: str) -> None:
    model = OURS[name](n_components=3, random_state=1, tol=1e-5).fit(X)
    state, x = model.to_state(), jnp.asarray(X)
    assert state.status == jaxgmm.Status.CONVERGED
    np.testing.assert_allclose(jaxgmm.mixture(state).means, model.means_)
    np.testing.assert_allclose(
        jaxgmm.responsibilities(state, x), model.predict_proba(X), atol=1e-10
    )
    if name == "GaussianMixture":
        assert float(state.objective) == pytest.approx(len(X) * model.lower_bound_)
        np.testing.assert_allclose(jaxgmm.log_prob(state, x), model.score_samples(X), rtol=1e-10)
        np.testing.assert_allclose(float(jaxgmm.bic(state, x)), model.bic(X), rtol=1e-10)
    else:
        # the density itself is above its lower bound
        assert float(state.objective) == pytest.approx(model.lower_bound_)
        assert np.asarray(jaxgmm.log_prob(state, x)).mean() > model.score(X)
        np.testing.assert_allclose(float(jaxgmm.elbo(state, x)), model.lower_bound_, rtol=1e-4)
    # what a user meets who has not turned JAX's 64-bit types on: a cast would be of no use
    with jax.enable_x64(False), pytest.raises(ValueError, match="64-bit types are off"):
        jaxgmm.predict(state, X)
