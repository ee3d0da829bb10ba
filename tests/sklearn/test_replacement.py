"""The estimators in place of scikit-learn's: its classes, its private steps, its clients' data."""

import importlib.util
from typing import Any

import numpy as np
import pytest
import sklearn.mixture
from conftest import clusters
from counting import compiled

from jaxgmm.sklearn import BayesianGaussianMixture, GaussianMixture

OURS = {"GaussianMixture": GaussianMixture, "BayesianGaussianMixture": BayesianGaussianMixture}
TYPES = ("full", "tied", "diag", "spherical")
X = np.asarray(clusters(n=200))
OPTIONS = {"n_components": 3, "random_state": 1}
PROCESS = "weight_concentration_prior_type"
# the models whose steps are scikit-learn's
EQUAL: list[tuple[str, dict[str, Any]]] = [
    *(("GaussianMixture", {"covariance_type": kind}) for kind in TYPES),
    ("BayesianGaussianMixture", {PROCESS: "dirichlet_distribution"}),
]


def same(ours: Any, theirs: Any) -> None:
    """Assert that two arrays, or two tuples of them, are equal up to rounding."""
    for kind in (tuple, float, np.ndarray):
        assert isinstance(ours, kind) == isinstance(theirs, kind)
    if isinstance(theirs, tuple):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            same(a, b)
        return
    assert np.shape(ours) == np.shape(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", OURS)
def test_they_are_scikit_learns_classes(name: str):
    theirs = getattr(sklearn.mixture, name)
    assert isinstance(OURS[name](), theirs)
    assert OURS[name]().get_params() == theirs().get_params()
    assert OURS[name]._parameter_constraints == theirs._parameter_constraints
    with pytest.raises(TypeError, match="unexpected keyword argument 'n_lanes'"):
        OURS[name](n_lanes=3)


@pytest.mark.parametrize(("name", "options"), EQUAL)
def test_the_steps_are_scikit_learns(name: str, options: dict[str, Any]):
    theirs = getattr(sklearn.mixture, name)(**OPTIONS, **options).fit(X)
    ours = OURS[name](**OPTIONS, **options)
    compiled.clear()
    if name.startswith("Bayesian"):
        ours._check_parameters(X)
    assert ours._set_parameters(theirs._get_parameters()) is None
    same(ours._get_parameters(), theirs._get_parameters())
    same(ours.weights_, theirs.weights_)
    same(ours.precisions_, theirs.precisions_)
    for method in (
        "_estimate_log_prob",
        "_estimate_weighted_log_prob",
        "_estimate_log_prob_resp",
        "_e_step",
    ):
        same(getattr(ours, method)(X), getattr(theirs, method)(X))
    same(ours._estimate_log_weights(), theirs._estimate_log_weights())
    for method in ("predict_proba", "score_samples", "predict"):
        same(getattr(ours, method)(X[:9]), getattr(theirs, method)(X[:9]))
    if name == "GaussianMixture":
        assert ours._n_parameters() == theirs._n_parameters()
        same(ours.bic(X[:9]), theirs.bic(X[:9]))
        same(ours.aic(X[:9]), theirs.aic(X[:9]))
    gaps = []
    for soft in np.random.default_rng(0).dirichlet(np.ones(3), size=(2, len(X))):
        for model in (ours, theirs):
            model._m_step(X, np.log(soft))
        same(ours._get_parameters(), theirs._get_parameters())
        bounds = [m._compute_lower_bound(np.log(soft), np.float64(-3)) for m in (ours, theirs)]
        gaps.append(bounds[0] - bounds[1])
    # scikit-learn's Bayesian bound leaves out a constant
    np.testing.assert_allclose(gaps, gaps[0] if name.startswith("Bayesian") else 0, rtol=1e-10)
    for model in (ours, theirs):
        model._initialize_parameters(X, np.random.RandomState(0))
    same(ours._get_parameters(), theirs._get_parameters())
    for model in (ours, theirs):
        model._initialize(X, soft)
    same(ours._get_parameters(), theirs._get_parameters())
    assert compiled == []


# one of each kind of formula by default
BAYESIAN = [
    pytest.param(
        kind,
        process,
        marks=() if (kind, process) == ("tied", "dirichlet_process") else pytest.mark.slow,
    )
    for kind in TYPES
    for process in ("dirichlet_process", "dirichlet_distribution")
]


@pytest.mark.parametrize(("kind", "process"), BAYESIAN)
def test_the_steps_make_the_iterations_of_a_fit(kind: str, process: str):
    options = {**OPTIONS, "covariance_type": kind, PROCESS: process, "max_iter": 5, "tol": 1e-9}
    fit = BayesianGaussianMixture(**options)
    with pytest.warns(match="did not converge"):
        fit.fit(X)
    steps = BayesianGaussianMixture(**options)
    steps._check_parameters(X)
    steps._initialize_parameters(X, np.random.RandomState(1))
    bounds = []
    for _ in range(5):
        log_norm, log_resp = steps._e_step(X)
        steps._m_step(X, log_resp)
        bounds.append(steps._compute_lower_bound(log_resp, log_norm))
    np.testing.assert_allclose(bounds, fit.lower_bounds_, rtol=1e-10)
    same(steps._get_parameters(), fit._get_parameters())
    np.testing.assert_allclose(np.exp(steps._e_step(X)[1]), fit.predict_proba(X), atol=1e-10)


# --- subclasses ---------------------------------------------------------------------------------


def test_a_subclass_with_a_step_of_its_own_is_fitted_by_it():
    calls = []

    def spherical(model: Any, x: np.ndarray, log_resp: np.ndarray, xp: Any = None) -> None:
        calls.append(len(x))
        super(type(model), model)._m_step(x, log_resp)
        model.precisions_cholesky_ = np.full((3, 2), 0.5)

    models = []
    for base in (GaussianMixture, sklearn.mixture.GaussianMixture):
        cls = type("Fixed", (base,), {"_m_step": spherical})
        models.append(cls(covariance_type="diag", **OPTIONS).fit(X))
    assert calls
    assert models[0].n_iter_ == models[1].n_iter_
    same(models[0]._get_parameters(), models[1]._get_parameters())
    for method in ("predict", "predict_proba", "score_samples"):
        same(*(getattr(model, method)(X) for model in models))
    with pytest.raises(ValueError, match=r"Fixed replaces a step .* repeat the rows"):
        models[0].fit(X, sample_weight=np.ones(len(X)))


def test_a_subclass_without_steps_is_fitted_as_its_base():
    class Named(GaussianMixture):
        def predict(self, X: Any) -> np.ndarray:  # noqa: N803
            return np.array(["a", "b", "c"])[super().predict(X)]

    model = Named(**OPTIONS)
    assert not model._has_own_steps()
    assert set(model.fit(X).predict(X)) == {"a", "b", "c"}
    # not only in classes: the one in the object is called, too
    model._e_step = model._e_step  # type: ignore[method-assign]
    assert model._has_own_steps()


# --- arrays of other libraries ------------------------------------------------------------------


class OnHost:
    """An array of which DLPack alone is known."""

    def __init__(self, a: np.ndarray):
        self.a = a

    def __dlpack__(self, **options: Any) -> Any:
        return self.a.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.a.__dlpack_device__()


class OnDevice(OnHost):
    """An array on a GPU, as PyTorch and CuPy refuse to be copied without being asked."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError("can't convert cuda:0 device type tensor to numpy.")


def test_arrays_of_other_libraries_are_copied_or_refused():
    model = GaussianMixture(**OPTIONS)
    np.testing.assert_array_equal(model.fit(OnHost(X)).predict(OnHost(X)), model.predict(X))
    assert model.n_features_in_ == 2
    for call in (
        lambda: model.fit(OnDevice(X)),
        lambda: model.predict(OnDevice(X)),
        lambda: model.fit_predict(OnDevice(X)),
    ):
        with pytest.raises(TypeError, match=r"Expected X .*OnDevice: can't .*X\.detach\(\)\.cpu"):
            call()
    with pytest.raises(TypeError, match=r"Expected sample_weight in the host's memory"):
        model.fit(X, sample_weight=OnDevice(X[:, 0]))


# --- what is kept -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_bound_is_a_number_of_numpys(dtype: Any):
    model = GaussianMixture(**OPTIONS).fit(X.astype(dtype))
    assert type(model.lower_bound_) is np.float64
    assert {type(a) for a in model.lower_bounds_} == {np.float64}
    assert model.lower_bound_ == model.lower_bounds_[-1]
    assert type(model.set_params(max_iter=0).fit(X.astype(dtype)).lower_bound_) is np.float64


def test_weights_of_single_precision_are_drawn_from():
    model = GaussianMixture(n_components=3, covariance_type="spherical", random_state=0)
    weights = np.array([0.3, 0.7000001, 1e-9], np.float32)
    assert weights[:2].sum(dtype=np.float64) > 1
    shaped = np.eye(3, 2, dtype=np.float32), np.ones(3, np.float32), np.ones(3, np.float32)
    model._set_parameters((weights, *shaped))
    x, component = model.sample(50)
    assert x.shape == (50, 2)
    assert set(component) == {0, 1}


# --- packages that take scikit-learn's ------------------------------------------------------------

installed = {name: importlib.util.find_spec(name) for name in ("skl2onnx", "skimage")}


@pytest.mark.slow
@pytest.mark.skipif(not installed["skl2onnx"], reason="skl2onnx is not installed")
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", OURS)
def test_skl2onnx_converts_them(name: str, kind: str):
    import onnxruntime  # type: ignore[import-not-found]
    import skl2onnx  # type: ignore[import-not-found]
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = OURS[name](covariance_type=kind, **OPTIONS).fit(X)
    piped = make_pipeline(StandardScaler(), OURS[name](covariance_type=kind, **OPTIONS)).fit(X)
    for one, options in ((model, {"score_samples": True}), (piped, None)):
        chosen = None if options is None else {id(one): options}
        file = skl2onnx.to_onnx(one, X[:1], options=chosen)
        session = onnxruntime.InferenceSession(file.SerializeToString())
        found = session.run(None, {"X": X})
        assert len(found) == (2 if options is None else 3)
        np.testing.assert_array_equal(found[0].ravel(), one.predict(X))
        np.testing.assert_allclose(found[1], one.predict_proba(X), atol=1e-9)
        if options:
            np.testing.assert_allclose(found[2].ravel(), one.score_samples(X), atol=1e-9)


@pytest.mark.slow
@pytest.mark.skipif(not installed["skimage"], reason="scikit-image is not installed")
def test_scikit_image_makes_fisher_vectors_of_them():
    from skimage.feature import fisher_vector  # type: ignore[import-not-found]

    classes = (GaussianMixture, sklearn.mixture.GaussianMixture)
    models = [cls(covariance_type="diag", **OPTIONS).fit(X) for cls in classes]
    found = [fisher_vector(X[:20], model) for model in models]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-8)
