"""The estimators under scikit-learn's own tests of mixtures, and its checks of any estimator."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import sklearn.mixture
from sklearn.utils.estimator_checks import estimator_checks_generator

from jaxgmm.sklearn._bayesian import BayesianGaussianMixture
from jaxgmm.sklearn._gaussian import GaussianMixture

OURS = {"GaussianMixture": GaussianMixture, "BayesianGaussianMixture": BayesianGaussianMixture}
TYPES = ["full", "tied", "diag", "spherical"]
FITTED = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")
POSTERIOR = (*FITTED, "mean_precision_", "degrees_of_freedom_", "weight_concentration_")


# --- scikit-learn's tests of its mixtures, with the two classes replaced by ours ----------------

# Those that are no tests of the two classes' behaviour. All others must pass.
EXCEPTIONS = {
    "gaussian_mixture": {
        "test_suffstat_sk_full": "tests private functions only",
        "test_suffstat_sk_tied": "tests private functions only",
        "test_suffstat_sk_diag": "tests private functions only",
        "test_gaussian_suffstat_sk_spherical": "tests private functions only",
        "test_compute_log_det_cholesky": "tests a private function only",
        "test_gaussian_mixture_log_probabilities": "tests a private function only",
        "test_gaussian_mixture_all_init_does_not_estimate_gaussian_parameters": "counts calls of a "
        "private function through a mock",
        "test_init": "compares bounds of 1 and 10 initialisations without a tolerance: ours come "
        "from two programs, and differ by 4e-16; see test_more_initialisations_are_no_worse",
        "test_gaussian_mixture_array_api_compliance": "array API dispatch, which is not supported "
        "(scikit-learn skips it, too, without SCIPY_ARRAY_API)",
        "test_gaussian_mixture_raises_where_array_api_not_implemented": "as the one before",
    },
    "bayesian_mixture": {
        "test_log_dirichlet_norm": "tests a private function only",
        "test_log_wishart_norm": "tests a private function only",
        "test_compare_covar_type": "tied: divides the scatter by K, as the docstring says",
    },
    "mixture": {},
}
# Those that scikit-learn has since 1.8, with the array API.
NEW = {
    "test_gaussian_mixture_array_api_compliance",
    "test_gaussian_mixture_raises_where_array_api_not_implemented",
}
# Those that take a second or two
QUICK = {
    "test_check_weights",
    "test_mixture_n_components_greater_than_n_samples_error",
    "test_bayesian_mixture_check_is_fitted",
    "test_max_iter_zero",
}


def substituted(name: str) -> ModuleType:
    """One of scikit-learn's test modules, imported anew with our classes in place of its own."""
    path = Path(sklearn.mixture.__file__).parent / "tests" / f"test_{name}.py"
    spec = importlib.util.spec_from_file_location(f"substituted_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    theirs = {n: getattr(sklearn.mixture, n) for n in OURS}
    try:
        for n, ours in OURS.items():
            setattr(sklearn.mixture, n, ours)
        spec.loader.exec_module(module)
    finally:
        for n, their in theirs.items():
            setattr(sklearn.mixture, n, their)
    return module


def collect(name: str) -> dict[str, Any]:
    module = substituted(name)
    out = {}
    for n, function in vars(module).items():
        if not n.startswith("test_") or n in EXCEPTIONS[name]:
            continue
        # their warnings are theirs to judge
        function = pytest.mark.filterwarnings("default")(function)
        if n not in QUICK:
            function = pytest.mark.slow(function)
        out[n.replace("test_", f"test_of_{name}_", 1)] = function
    return out


for _name in EXCEPTIONS:
    globals().update(collect(_name))


@pytest.fixture(params=["float32", "float64"])
def global_dtype(request: pytest.FixtureRequest) -> Any:
    """As in scikit-learn's conftest."""
    return np.dtype(request.param).type


@pytest.fixture
def global_random_seed() -> int:
    """As in scikit-learn's conftest."""
    return 42


def test_the_substituted_tests_know_no_other_mixture() -> None:
    for name, exceptions in EXCEPTIONS.items():
        module = substituted(name)
        for n, ours in OURS.items():
            assert getattr(module, n, ours) is ours
        assert exceptions.keys() - NEW <= vars(module).keys()


# --- scikit-learn's checks of any estimator -------------------------------------------------------

QUICK_CHECKS = {
    "check_no_attributes_set_in_init",
    "check_estimators_unfitted",
    "check_estimator_tags",
}
# one that fits, too
QUICK_FIT = ("GaussianMixture", "check_fit2d_1feature")


def checks() -> list[Any]:
    out = []
    for estimator in (GaussianMixture(), BayesianGaussianMixture()):
        for one, check in estimator_checks_generator(estimator):
            name = check.func.__name__
            keywords = ", ".join(f"{k}={v}" for k, v in check.keywords.items())
            quick = name in QUICK_CHECKS or (type(one).__name__, name) == QUICK_FIT
            marks = [] if quick else [pytest.mark.slow]
            out.append(
                pytest.param(one, check, id=f"{type(one).__name__}-{name}({keywords})", marks=marks)
            )
    return out


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("estimator", "check"), checks())
def test_check_estimator(estimator: Any, check: Any) -> None:
    check(estimator)
