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
    x: np.ndarray, n_components: int, init_params: str, random_state: np.random.RandomState
) -> Assignment:
    """A start of one lane.

    Args:
        x: samples, ``(N, D)``.
        n_components: K.
        init_params: ``"kmeans"``, ``"k-means++"``, ``"random"`` or ``"random_from_data"``.
        random_state: goes on from lane to lane.
    """
    if init_params == "kmeans":
        settings: dict[str, Any] = {"n_init": 1, "random_state": random_state}
        found = KMeans(n_components, **settings).fit(x)
        return Assignment(x, np.asarray(found.labels_, np.int32))
    if init_params == "random":
        draws = random_state.uniform(size=(len(x), n_components)).astype(x.dtype)
        return Assignment(x, draws / draws.sum(axis=1, keepdims=True))
    if init_params == "random_from_data":
        chosen = random_state.choice(len(x), size=n_components, replace=False)
    else:
        chosen = kmeans_plusplus(x, n_components, random_state=random_state)[1]
    # one sample each: the covariances are reg_covar alone, or the prior's
    return Assignment(x[chosen], np.arange(n_components, dtype=np.int32))
