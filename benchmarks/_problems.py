"""The data that every contender is given, and the starts that it begins from."""

import os
from typing import NamedTuple

import numpy as np

Parameters = tuple[np.ndarray, np.ndarray, np.ndarray]

# Radius of the means in standard deviations of a component: neighbours overlap at every D.
_RADIUS = 4.0


class Problem(NamedTuple):
    """EM or CAVI from given starts, for a fixed number of iterations.

    Attributes:
        x: samples ``(N, D)``.
        starts: weights ``(R, K)``, means ``(R, K, D)`` and covariances ``(R, K, D, D)``.
        iterations: of each lane.
        algorithm: ``"em"``, of maximum likelihood, or ``"cavi"``.
        covariance: the family; the peers have full ones only.
    """

    x: np.ndarray
    starts: Parameters
    iterations: int
    algorithm: str = "em"
    covariance: str = "full"

    def labels(self) -> np.ndarray:
        """The nearest of each lane's means, where CAVI starts: ``(R, N)``."""
        means = self.starts[1].astype(np.float64)
        # in blocks of rows: N x K distances of all of them would be gigabytes
        blocks = np.array_split(self.x.astype(np.float64), max(1, len(self.x) // 8192))
        squares = (means**2).sum(-1)[:, None, :]
        near = [np.argmin(squares - 2 * b @ means.swapaxes(-1, -2), axis=-1) for b in blocks]
        return np.concatenate(near, axis=-1).astype(np.int32)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def make_problem(
    n_samples: int,
    n_features: int,
    n_components: int,
    dtype: str,
    *,
    iterations: int,
    n_restarts: int = 1,
    algorithm: str = "em",
    covariance: str = "full",
) -> Problem:
    """Samples of a mixture with correlated features; starts near its means, each its own way.

    The samples of both dtypes are the same but for rounding.
    """
    rng = np.random.default_rng(0)
    k, d = n_components, n_features
    means = rng.standard_normal((k, d)) * (_RADIUS / np.sqrt(d))
    factors = np.eye(d) + 0.3 * rng.standard_normal((k, d, d)) / np.sqrt(d)
    labels = np.sort(rng.integers(0, k, n_samples))
    x = rng.standard_normal((n_samples, d))
    for j in range(k):
        rows = labels == j
        x[rows] = x[rows] @ factors[j].T + means[j]
    rng.shuffle(x)
    nudges = 0.3 * rng.standard_normal((n_restarts, k, d))
    starts = (
        np.full((n_restarts, k), 1 / k),
        means + nudges,
        np.broadcast_to(1.5 * np.eye(d), (n_restarts, k, d, d)),
    )
    weights, start_means, covariances = (a.astype(dtype) for a in starts)
    starts = (weights, start_means, covariances)
    return Problem(x.astype(dtype), starts, iterations, algorithm, covariance)


def in_float64(problem: Problem) -> Problem:
    """The very same samples and starts, with room for more digits."""
    weights, means, covariances = (a.astype(np.float64) for a in problem.starts)
    return problem._replace(x=problem.x.astype(np.float64), starts=(weights, means, covariances))
