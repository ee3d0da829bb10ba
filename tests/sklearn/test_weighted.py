"""Likelihood weights: a weight counts rows."""

from typing import Any

import numpy as np
import pytest
import sklearn
from conftest import clusters
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jaxgmm.sklearn import BayesianGaussianMixture, GaussianMixture

TYPES = ("full", "tied", "diag", "spherical")
X = np.asarray(clusters(n=150))
# few of weight 0, and as many repeated rows as share the programs of other tests
WEIGHT = np.random.default_rng(0).choice([0, 1, 1, 1, 2, 3], size=150)
REPEATED = np.repeat(X, WEIGHT, axis=0)
OPTIONS: dict[str, Any] = {"n_components": 3, "random_state": 1, "tol": 1e-5}
FITTED = ("weights_", "means_", "covariances_", "lower_bound_", "n_iter_")
POSTERIOR = ("mean_precision_", "degrees_of_freedom_", "mean_prior_", "covariance_prior_")

ROWS = [
    pytest.param(
        cls,
        kind,
        init,
        marks=() if kind == "full" and init == "kmeans" else pytest.mark.slow,
    )
    for cls in (GaussianMixture, BayesianGaussianMixture)
    for kind in TYPES
    for init in ("kmeans", "k-means++")
]


def assert_equal_fits(a: Any, b: Any) -> None:
    for name in FITTED + (POSTERIOR if isinstance(a, BayesianGaussianMixture) else ()):
        np.testing.assert_allclose(
            getattr(a, name), getattr(b, name), rtol=1e-8, atol=1e-8, err_msg=name
        )


@pytest.mark.parametrize(("cls", "kind", "init"), ROWS)
def test_a_weight_counts_rows(cls: Any, kind: str, init: str):
    n_init = 1 if init == "kmeans" else 3
    options = {**OPTIONS, "covariance_type": kind, "init_params": init, "n_init": n_init}
    weighted = cls(**options).fit(X, sample_weight=WEIGHT)
    repeated = cls(**options).fit(REPEATED)
    assert repeated.n_iter_ > 2
    assert_equal_fits(weighted, repeated)
    # a row that does not count is one that is not there
    present = WEIGHT > 0
    absent = cls(**options).fit(X[present], sample_weight=WEIGHT[present])
    assert_equal_fits(weighted, absent)
    labels = cls(**options).fit_predict(X, sample_weight=WEIGHT)
    np.testing.assert_array_equal(labels, weighted.predict(X))
    objectives = [float(model.to_state().objective) for model in (weighted, repeated)]
    assert objectives[0] == pytest.approx(objectives[1], rel=1e-10)


def test_weights_of_one_are_none_and_their_scale_is_no_matter():
    plain = GaussianMixture(**OPTIONS).fit(X)
    assert_equal_fits(GaussianMixture(**OPTIONS).fit(X, sample_weight=np.ones(150)), plain)
    weighted = GaussianMixture(**OPTIONS).fit(X, sample_weight=WEIGHT)
    scaled = GaussianMixture(**OPTIONS).fit(X, None, list(WEIGHT / 70))
    assert_equal_fits(scaled, weighted)
    assert not np.allclose(weighted.means_, plain.means_, atol=1e-3)


def test_weights_reach_a_step_of_a_pipeline_as_scikit_learns_do():
    expected = GaussianMixture(**OPTIONS).fit(StandardScaler().fit_transform(X), None, WEIGHT)
    pipe = make_pipeline(StandardScaler(), GaussianMixture(**OPTIONS))
    pipe.fit(X, gaussianmixture__sample_weight=WEIGHT)
    assert_equal_fits(pipe[-1], expected)
    with sklearn.config_context(enable_metadata_routing=True):
        with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
            pipe.fit(X, sample_weight=WEIGHT)
        routed = GaussianMixture(**OPTIONS).set_fit_request(sample_weight=True)
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        assert_equal_fits(make_pipeline(scaler, routed).fit(X, sample_weight=WEIGHT)[-1], expected)


def test_weights_that_are_none_are_refused():
    model, bayesian = GaussianMixture(**OPTIONS), BayesianGaussianMixture(**OPTIONS)
    for weight, match in (
        (-np.ones(150), "[Nn]egative"),
        (np.ones(149), r"sample_weight.shape == \(149,\)"),
        (np.zeros(150), "zero|n_samples = 0"),
        (np.eye(150)[0] + np.eye(150)[1], "n_components = 3, n_samples = 2"),
        (np.full(150, np.nan), "NaN"),
    ):
        with pytest.raises(ValueError, match=match):
            model.fit(X, sample_weight=weight)
    with pytest.raises(ValueError, match=r"1 sample.* of positive weight while a minimum of 2"):
        GaussianMixture().fit(X, sample_weight=np.eye(150)[0])
    with pytest.raises(ValueError, match=r"is above 1, but got 0\.5.*give covariance_prior"):
        bayesian.fit(X, sample_weight=np.full(150, 0.5 / 150))
