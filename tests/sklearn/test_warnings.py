"""Never more warnings than scikit-learn's, on the data and settings of its own examples."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import sklearn.mixture
from sklearn.datasets import load_iris, make_blobs

import jaxgmm.sklearn


def stretched(shift: tuple[float, float], n: int = 500) -> np.ndarray:
    """A correlated cluster and a round one, as in the ellipsoids and in model selection."""
    rng = np.random.RandomState(0)
    one = rng.randn(n, 2) @ np.array([[0.0, -0.1], [1.7, 0.4]])
    return np.concatenate([one, 0.7 * rng.randn(n, 2) + np.array(shift)])


def sine() -> np.ndarray:
    """A hundred points along a noisy sine."""
    rng = np.random.RandomState(0)
    place = 4 * np.pi / 100 * np.arange(100) - 6
    noise = rng.normal(0, [0.1, 0.2], (100, 2))
    return np.stack([place + noise[:, 0], 3 * (np.sin(place) + noise[:, 1])], axis=1)


def bands() -> np.ndarray:
    """Three flat clusters above one another, of the concentration priors."""
    rng = np.random.RandomState(2)
    parts = zip((-0.7, 0.0, 0.7), (0.7, 0.5, 0.5), (200, 500, 200), strict=True)
    return np.concatenate(
        [rng.multivariate_normal([0, y], np.diag([v, 0.1]), n) for y, v, n in parts]
    )


def four() -> np.ndarray:
    """A hundred rows of four normals, of the covariances."""
    rng = np.random.RandomState(4)
    labels = rng.choice(4, 100, p=[0.3, 0.3, 0.3, 0.1])
    means = np.array([(0, 0), (-2, 2), (-3, -2), (5, 0)])
    covariances = np.array([np.eye(2), np.diag([1, 5]), [[3, 1], [1, 3]], np.eye(2)])
    return np.array([rng.multivariate_normal(means[k], covariances[k]) for k in labels])


def settings() -> Iterator[tuple[str, np.ndarray, str, dict[str, Any]]]:
    """Example, data, class and parameters."""
    kinds = ("spherical", "tied", "diag", "full")
    yield "ellipsoids", stretched((-6, 3)), "GaussianMixture", {"n_components": 5}
    yield "ellipsoids", stretched((-6, 3)), "BayesianGaussianMixture", {"n_components": 5}
    iris, chosen = load_iris(), {"n_components": 3, "max_iter": 20, "random_state": 0}
    means = np.array([iris.data[iris.target == k].mean(0) for k in range(3)])
    for kind in kinds:
        more = {**chosen, "covariance_type": kind}
        yield "covariances", iris.data, "GaussianMixture", {**more, "means_init": means}
        yield "covariances", four(), "GaussianMixture", {**more, "n_components": 4}
        for k in range(1, 7):
            own = {"n_components": k, "covariance_type": kind, "random_state": 0}
            yield "selection", stretched((-4, 1)), "GaussianMixture", own
    for kind, values in (
        ("dirichlet_distribution", (0.001, 1, 1000)),
        ("dirichlet_process", (1, 1000, 100_000)),
    ):
        for value in values:
            yield "concentration", bands(), "BayesianGaussianMixture", {
                "n_components": 6, "reg_covar": 0, "init_params": "random", "max_iter": 1500,
                "mean_precision_prior": 0.8, "random_state": 2,
                "weight_concentration_prior_type": kind, "weight_concentration_prior": value,
            }  # fmt: skip
    yield "sine", sine(), "GaussianMixture", {"n_components": 10, "max_iter": 100}
    for value, init in ((1e-2, "random"), (1e2, "kmeans")):
        yield "sine", sine(), "BayesianGaussianMixture", {
            "n_components": 10, "weight_concentration_prior": value, "init_params": init,
            "mean_precision_prior": 1e-2, "covariance_prior": np.eye(2), "random_state": 2,
            "max_iter": 100,
        }  # fmt: skip
    blobs = make_blobs(n_samples=4000, centers=4, cluster_std=0.6, random_state=0)[0][:, ::-1]
    for init in ("kmeans", "random_from_data", "k-means++", "random"):
        own = {"n_components": 4, "init_params": init, "tol": 1e-9, "random_state": 1234}
        for limit in (1, 2000):
            yield "initialisation", blobs, "GaussianMixture", {**own, "max_iter": limit}


def n_warnings(module: Any, name: str, parameters: dict[str, Any], x: np.ndarray) -> int:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        getattr(module, name)(**parameters).fit(x).predict(x)
    return len(caught)


@pytest.mark.slow
def test_examples_warn_no_more_than_with_scikit_learn():
    more, total = [], [0, 0]
    for example, x, name, parameters in settings():
        theirs, ours = (
            n_warnings(module, name, parameters, x) for module in (sklearn.mixture, jaxgmm.sklearn)
        )
        total[0], total[1] = total[0] + theirs, total[1] + ours
        if ours > theirs:
            more.append((example, name, parameters, theirs, ours))
    print("warnings of scikit-learn and of jaxgmm:", total)
    assert total[0] > 0  # where it does warn, so may we
    assert not more
