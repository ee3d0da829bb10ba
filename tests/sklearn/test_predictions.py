"""Predictions of few samples, which compile nothing, and of many."""

import multiprocessing
from typing import Any

import numpy as np
import pytest
from conftest import clusters
from counting import compiled

from jaxgmm.sklearn import BayesianGaussianMixture, GaussianMixture

X = np.asarray(clusters(n=120))
METHODS = ("predict", "predict_proba", "score_samples")
MODELS = [
    *((GaussianMixture, kind) for kind in ("full", "tied", "diag", "spherical")),
    (BayesianGaussianMixture, "full"),
]


@pytest.mark.parametrize(("mixture", "kind"), MODELS)
def test_few_samples_compile_nothing_and_are_as_many(
    mixture: Any, kind: str, monkeypatch: pytest.MonkeyPatch
):
    options = {"n_components": 3, "random_state": 0, "max_iter": 5, "tol": 1e-1}
    model = mixture(covariance_type=kind, **options).fit(X)
    compiled.clear()
    few = [getattr(model, name)(X[:7]) for name in METHODS]
    assert compiled == []
    monkeypatch.setattr("jaxgmm.sklearn._programs._FEW", 0)
    many = [getattr(model, name)(X[:7]) for name in METHODS]
    for a, b in zip(few, many, strict=True):
        assert a.dtype.kind == b.dtype.kind
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_far_samples_are_ranked_with_care():
    model = GaussianMixture(2, covariance_type="spherical", random_state=0).fit(X)
    far = np.array([[1e12, 3.0], [-1e12, 3.0]])
    found = model.predict_proba(far)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    # the widest component explains what is far from all of them
    assert set(model.predict(far)) == {int(np.argmax(model.covariances_))}


def test_a_posterior_that_somebody_sets_is_the_one_that_predicts():
    model = BayesianGaussianMixture(n_components=3, random_state=0, max_iter=5, tol=1e-1).fit(X)
    before = model.predict_proba(X[:5])
    model.means_ = model.means_[::-1].copy()
    assert not np.allclose(model.predict_proba(X[:5]), before)


# JAX warns whenever a process is forked
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:os.fork")
def test_a_forked_process_predicts():
    model = GaussianMixture(3, random_state=0, max_iter=5, tol=1e-1).fit(X)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        found = pool.map_async(model.predict, [X[:9]]).get(timeout=60)
        # a fit says what is the matter in place of waiting for ever
        with pytest.raises(RuntimeError, match=r"forked.*'spawn'"):
            pool.apply_async(model.fit, (X,)).get(timeout=60)
    np.testing.assert_array_equal(found[0], model.predict(X[:9]))
