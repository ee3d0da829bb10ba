"""The data that every contender is given, and the starts that it begins from."""

from typing import NamedTuple

import numpy as np

Parameters = tuple[np.ndarray, np.ndarray, np.ndarray]

# Radius of the means in standard deviations of a component: neighbours overlap at every D.
_RADIUS = 4.0


class Problem(NamedTuple):
    """EM with full covariances from given starts, for a fixed number of iterations.

    Attributes:
        x: samples ``(N, D)``.
        starts: weights ``(R, K)``, means ``(R, K, D)`` and covariances ``(R, K, D, D)``.
        iterations: of each lane.
    """

    x: np.ndarray
    starts: Parameters
    iterations: int


def make_problem(
    n_samples: int,
    n_features: int,
    n_components: int,
    dtype: str,
    *,
    iterations: int,
    n_restarts: int = 1,
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
    return Problem(x.astype(dtype), (weights, start_means, covariances), iterations)


def in_float64(problem: Problem) -> Problem:
    """The very same samples and starts, with room for more digits."""
    weights, means, covariances = (a.astype(np.float64) for a in problem.starts)
    return Problem(problem.x.astype(np.float64), (weights, means, covariances), problem.iterations)
