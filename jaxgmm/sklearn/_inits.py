"""Where fits start: scikit-learn's four ways, with the random numbers that it would draw."""

from typing import Any, NamedTuple

import numpy as np
from sklearn.cluster import KMeans, kmeans_plusplus


class Assignment(NamedTuple):
    """Rows of the data, and the components they are given to at the start.

    Attributes:
        rows: ``(M, D)``: all samples, or one for each component.
        to: labels ``(M,)``, or responsibilities ``(M, K)``.
    """

    rows: np.ndarray
    to: np.ndarray


def assign(
    x: np.ndarray,
    weight: np.ndarray | None,
    n_components: int,
    init_params: str,
    random_state: np.random.RandomState,
) -> Assignment:
    """A start of one lane.

    Args:
        x: samples, ``(N, D)``.
        weight: ``(N,)``, positive; None for weights of 1.
        n_components: K.
        init_params: ``"kmeans"``, ``"k-means++"``, ``"random"`` or ``"random_from_data"``.
        random_state: goes on from lane to lane.
    """
    if init_params == "kmeans":
        settings: dict[str, Any] = {"n_init": 1, "random_state": random_state}
        if weight is not None:
            settings["tol"] = 1e-4 * _variance(x, weight) / (_variance(x) or 1)
        found = KMeans(n_components, **settings).fit(x, sample_weight=weight)
        return Assignment(x, np.asarray(found.labels_, np.int32))
    if init_params == "random":
        draws = random_state.uniform(size=(len(x), n_components)).astype(x.dtype)
        return Assignment(x, draws / draws.sum(axis=1, keepdims=True))
    if init_params == "random_from_data":
        share = None if weight is None else weight / weight.sum(dtype=np.float64)
        chosen = random_state.choice(len(x), size=n_components, replace=False, p=share)
    else:
        more: dict[str, Any] = {"sample_weight": weight, "random_state": random_state}
        chosen = kmeans_plusplus(x, n_components, **more)[1]
    # one sample each: the covariances are reg_covar alone, or the prior's
    return Assignment(x[chosen], np.arange(n_components, dtype=np.int32))


def _variance(x: np.ndarray, weight: np.ndarray | None = None) -> float:
    """The mean variance of the features, in which k-means measures its tolerance, unweighted."""
    mean = np.average(x, axis=0, weights=weight)
    return float(np.mean(np.average((x - mean) ** 2, axis=0, weights=weight)))
