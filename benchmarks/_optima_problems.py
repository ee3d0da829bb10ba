"""Problems with many optima: popular data, and synthetic ones with a difficulty each.

Each is made from nothing but fixed seeds. They are others than those of tests/fit/test_optima.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

DATA = Path(__file__).parents[1] / "examples" / "data"


class OptimumProblem(NamedTuple):
    """What is fitted, how.

    Attributes:
        name: in tables.
        rows: makes the samples, ``(N, D)`` float64.
        n_components: K.
        covariance: the family.
        kind: ``"ML"`` (EM, flat prior); ``"MAP"`` (EM) or ``"CAVI"``, under the default prior.
    """

    name: str
    rows: Callable[[], np.ndarray]
    n_components: int
    covariance: str = "full"
    kind: str = "ML"


def _sklearn(name: str, *, standardised: bool = False) -> Callable[[], np.ndarray]:
    def rows() -> np.ndarray:
        from sklearn import datasets

        x = np.asarray(getattr(datasets, f"load_{name}")().data, np.float64)
        return (x - x.mean(0)) / x.std(0) if standardised else x

    return rows


def _principal(name: str, n: int) -> Callable[[], np.ndarray]:
    """The first principal components, with fixed signs."""

    def rows() -> np.ndarray:
        x = _sklearn(name)()
        x = x - x.mean(0)
        axes = np.linalg.svd(x, full_matrices=False)[2][:n]
        axes *= np.sign(axes[np.arange(n), np.abs(axes).argmax(1)])[:, None]
        return x @ axes.T

    return rows


def faithful() -> np.ndarray:
    """Old Faithful, (272, 2)."""
    return np.loadtxt(DATA / "faithful.csv", delimiter=",", skiprows=1)


def tight_group() -> np.ndarray:
    """Three points close together, far from 77 others: (80, 2)."""
    rng = np.random.default_rng(0)
    group = np.array([[0.0, 0.0], [0.6, 0.1], [0.2, 0.7]]) + 9.0
    return np.concatenate([rng.standard_normal((77, 2)), group])


def two_and_a_tight_group() -> np.ndarray:
    """The same beside two clusters of 40 and 37 that overlap: (80, 2)."""
    x = tight_group()
    x[:40] -= [2.5, 0.0]
    return x


def thirty() -> np.ndarray:
    """Thirty round clusters at random places of a square, (1500, 2)."""
    rng = np.random.default_rng(1)
    means = rng.uniform(0, 30, (30, 2))
    return means[np.arange(1500) % 30] + 0.8 * rng.standard_normal((1500, 2))


def overlapping() -> np.ndarray:
    """Fifteen clusters in ten dimensions that overlap, (3000, 10)."""
    rng = np.random.default_rng(2)
    means, x = 1.2 * rng.standard_normal((15, 10)), rng.standard_normal((3000, 10))
    labels = rng.integers(0, 15, 3000)
    for j in range(15):
        x[labels == j] *= np.exp(rng.uniform(-0.5, 0.3, 10))
    return x + means[labels]


def earthquakes() -> np.ndarray:
    """Latitude, longitude, depth and magnitude of made-up earthquakes near Fiji, (1000, 4).

    Two arcs of epicentres, whose depth grows to the west; magnitudes in tenths, from 4 on.
    """
    rng = np.random.default_rng(3)
    second = rng.uniform(size=1000) < 0.3
    along = rng.beta(2, 2, 1000)
    depth = np.where(rng.uniform(size=1000) < 0.5, 80 + 60 * rng.gamma(1.5, 1.0, 1000), 0)
    depth = np.where(depth == 0, rng.normal(560, 45, 1000), depth)
    depth = np.where(second, rng.gamma(6, 35.0, 1000), depth)
    latitude = np.where(second, -11 - 9 * along, -16 - 12 * along)
    longitude = np.where(second, 166 + 7 * along, 185 - 2 * along - depth / 130)
    latitude, longitude = latitude + rng.normal(0, 0.7, 1000), longitude + rng.normal(0, 0.5, 1000)
    magnitude = np.round(4 + rng.exponential(0.45, 1000), 1)
    columns = np.round(latitude, 2), np.round(longitude, 2), np.round(depth), magnitude
    return np.stack(columns, axis=1)


def stripes() -> np.ndarray:
    """Five long parallel clusters, (1000, 2)."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((1000, 2)) * [10.0, 0.4]
    x[:, 1] += 2.0 * (np.arange(1000) % 5)
    return x


def unbalanced() -> np.ndarray:
    """Shares from 0.6 down to 0.01, (2000, 2)."""
    rng = np.random.default_rng(5)
    means = np.array([[0, 0], [6, 0], [0, 6], [6, 6], [3, 10], [10, 3], [-6, 3]], float)
    counts = [1200, 400, 200, 100, 50, 30, 20]
    return np.repeat(means, counts, 0) + rng.standard_normal((2000, 2))


def background() -> np.ndarray:
    """Five clusters in uniform noise, (900, 2)."""
    rng = np.random.default_rng(6)
    means = rng.uniform(-8, 8, (5, 2))
    clusters = means[np.arange(600) % 5] + 0.5 * rng.standard_normal((600, 2))
    return np.concatenate([clusters, rng.uniform(-12, 12, (300, 2))])


def rings() -> np.ndarray:
    """Two concentric rings, (800, 2)."""
    rng = np.random.default_rng(7)
    angle = rng.uniform(0, 2 * np.pi, 800)
    radius = np.where(np.arange(800) % 2, 2.0, 6.0) + 0.25 * rng.standard_normal(800)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def lognormal() -> np.ndarray:
    """Skew in all of three features, (800, 3)."""
    rng = np.random.default_rng(8)
    return np.exp(0.8 * rng.standard_normal((800, 3)) @ (np.eye(3) + 0.3))


def elongated() -> np.ndarray:
    """Two clusters a hundred times as long as wide, side by side, rotated: (600, 2)."""
    rng = np.random.default_rng(9)
    x = rng.standard_normal((600, 2)) * [100.0, 1.0]
    x[300:, 1] += 7
    c, s = np.cos(0.6), np.sin(0.6)
    return x @ np.array([[c, s], [-s, c]])


def heavy_tails() -> np.ndarray:
    """Three clusters of Student's t with 2.5 degrees of freedom, (900, 2)."""
    rng = np.random.default_rng(10)
    means = np.array([[0, 0], [8, 0], [4, 7]], float)
    return means[np.arange(900) % 3] + rng.standard_t(2.5, (900, 2))


def shared_shape() -> np.ndarray:
    """Eight clusters of one correlated shape in four dimensions, (800, 4)."""
    rng = np.random.default_rng(11)
    factor = np.linalg.qr(rng.standard_normal((4, 4)))[0] * np.array([3.0, 1.0, 0.5, 0.2])
    labels = rng.integers(0, 8, 800)
    return (1.5 * rng.standard_normal((8, 4)))[labels] + rng.standard_normal((800, 4)) @ factor.T


PROBLEMS = (
    OptimumProblem("iris, 3", _sklearn("iris"), 3),
    OptimumProblem("iris, 4", _sklearn("iris"), 4),
    OptimumProblem("iris, 5", _sklearn("iris"), 5),
    OptimumProblem("iris, 5, MAP", _sklearn("iris"), 5, kind="MAP"),
    OptimumProblem("iris, 4, CAVI", _sklearn("iris"), 4, kind="CAVI"),
    OptimumProblem("iris, 5, CAVI", _sklearn("iris"), 5, kind="CAVI"),
    OptimumProblem("iris, 4, diag", _sklearn("iris"), 4, "diag"),
    OptimumProblem("tight group", tight_group, 2),
    OptimumProblem("tight group, MAP", tight_group, 2, kind="MAP"),
    OptimumProblem("two and a tight group", two_and_a_tight_group, 3),
    OptimumProblem("two and a tight group, MAP", two_and_a_tight_group, 3, kind="MAP"),
    OptimumProblem("digits, 10 axes", _principal("digits", 10), 10),
    OptimumProblem("digits, 10 axes, MAP", _principal("digits", 10), 10, kind="MAP"),
    OptimumProblem("digits, 10 axes, spherical", _principal("digits", 10), 12, "spherical"),
    OptimumProblem("thirty clusters", thirty, 30),
    OptimumProblem("overlapping", overlapping, 15),
    OptimumProblem("wine, 3, MAP", _sklearn("wine", standardised=True), 3, kind="MAP"),
    OptimumProblem("wine, 5, MAP", _sklearn("wine", standardised=True), 5, kind="MAP"),
    OptimumProblem("wine, 4, diag, CAVI", _sklearn("wine", standardised=True), 4, "diag", "CAVI"),
    OptimumProblem("earthquakes", earthquakes, 4),
    OptimumProblem("faithful, 2", faithful, 2),
    OptimumProblem("faithful, 3", faithful, 3),
    OptimumProblem("stripes", stripes, 5),
    OptimumProblem("unbalanced", unbalanced, 7),
    OptimumProblem("background, MAP", background, 6, kind="MAP"),
    OptimumProblem("rings", rings, 10),
    OptimumProblem("lognormal", lognormal, 4),
    OptimumProblem("elongated, tied", elongated, 2, "tied"),
    OptimumProblem("shared shape, tied", shared_shape, 8, "tied"),
    OptimumProblem("heavy tails, CAVI", heavy_tails, 5, kind="CAVI"),
    OptimumProblem("diabetes", _sklearn("diabetes"), 3),
    OptimumProblem(
        "breast cancer, MAP", _sklearn("breast_cancer", standardised=True), 2, kind="MAP"
    ),
)
