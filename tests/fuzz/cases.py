"""A case from a seed: the size and the model from its bucket, the data from its kind.

The 27 seeds of a bucket share compiled programs, and have one kind of data each.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Rng = np.random.Generator
Draw = Callable[[Rng, int, int, int], np.ndarray]

SAMPLES = (7, 30, 30, 150, 150, 150, 600, 600, 600)
FEATURES = (1, 2, 5, 12)
COMPONENTS = (1, 2, 3, 6)
COVARIANCES = ("full", "tied", "diag", "spherical")
ALGORITHMS = ("ML", "MAP", "CAVI", "ML", "MAP", "CAVI", "SVI")
DTYPES = ("float32", "float64")
LANES = (16, 16, 1)


class Bucket(NamedTuple):
    """What the compiled programs depend on."""

    n: int
    d: int
    k: int
    covariance: str
    algorithm: str
    dtype: str
    lanes: int
    weighted: bool


class Case(NamedTuple):
    """A fit to be judged.

    Attributes:
        seed: of the case; the fit's key as well.
        bucket: sizes and model.
        kind: of data, a name of `KINDS`.
        x: ``(N, D)`` in the dtype.
        weight: ``(N,)`` in the dtype, or None.
        stretch: of the default prior's concentration, mean precision, degrees of freedom and scale.
    """

    seed: int
    bucket: Bucket
    kind: str
    x: np.ndarray
    weight: np.ndarray | None
    stretch: tuple[float, float, float, float]


def bucket_of(number: int) -> Bucket:
    """The bucket of that number."""
    rng = np.random.default_rng([14, number])
    return Bucket(
        int(rng.choice(SAMPLES)),
        int(rng.choice(FEATURES)),
        int(rng.choice(COMPONENTS)),
        str(rng.choice(COVARIANCES)),
        str(rng.choice(ALGORITHMS)),
        str(rng.choice(DTYPES)),
        int(rng.choice(LANES)),
        bool(rng.uniform() < 1 / 3),
    )


def case_of(seed: int) -> Case:
    """The case of a seed."""
    number, which = divmod(seed, len(KINDS))
    bucket, kind = bucket_of(number), list(KINDS)[which]
    rng = np.random.default_rng([15, seed])
    x = KINDS[kind](rng, bucket.n, bucket.d, bucket.k).astype(bucket.dtype)
    weight = _weights(rng, bucket.n, extreme=kind == "extreme weights") if bucket.weighted else None
    stretch = (1.0, 1.0, 1.0, 1.0)
    if kind == "extreme priors":
        powers = 10 ** rng.uniform([0, -6, 0, -6], [3, 4, 2, 6])
        stretch = tuple(float(p) for p in powers)
    return Case(
        seed, bucket, kind, x, None if weight is None else weight.astype(bucket.dtype), stretch
    )


def _weights(rng: Rng, n: int, *, extreme: bool) -> np.ndarray:
    if not extreme:
        return rng.uniform(0.5, 2, n)
    sizes = [
        lambda: 10 ** rng.uniform(-6, 6, n),  # a few rows are everything
        lambda: rng.uniform(0.5, 2, n) / n,  # a density on a grid
        lambda: 1e6 * rng.uniform(0.5, 2, n),
        lambda: np.where(rng.uniform(size=n) < 0.5, 0.0, 1.0),
    ]
    return sizes[rng.integers(len(sizes))]()


# --- kinds of data ----------------------------------------------------------------------------


def clusters(rng: Rng, n: int, d: int, k: int) -> np.ndarray:
    """Round ones that overlap a little."""
    means = 3 * rng.standard_normal((k, d))
    return means[rng.integers(0, k, n)] + rng.standard_normal((n, d))


def anisotropic(rng: Rng, n: int, d: int, k: int) -> np.ndarray:
    x, labels = rng.standard_normal((n, d)), rng.integers(0, k, n)
    means = 2 * rng.standard_normal((k, d))
    for j in range(k):
        rotation = np.linalg.qr(rng.standard_normal((d, d)))[0]
        x[labels == j] = x[labels == j] @ (rotation * np.exp(rng.uniform(-1.5, 1, d))).T
    return x + means[labels]


def unbalanced(rng: Rng, n: int, d: int, k: int) -> np.ndarray:
    shares = 0.3 ** np.arange(k)
    labels = rng.choice(k, n, p=shares / shares.sum())
    return 5 * rng.standard_normal((k, d))[labels] + rng.standard_normal((n, d))


def superfluous(rng: Rng, n: int, d: int, k: int) -> np.ndarray:
    """One normal, whatever K is."""
    return rng.standard_normal((n, d))


def column_scales(rng: Rng, n: int, d: int, k: int) -> np.ndarray:
    """From 1e-3 to 1e3, one by one."""
    return clusters(rng, n, d, k) * 10 ** rng.uniform(-3, 3, d)


def wild_column_scales(rng: Rng, n: int, d: int, k: int) -> np.ndarray:
    return clusters(rng, n, d, k) * 10 ** rng.uniform(-6, 5, d)


def offset(rng: Rng, n: int, d: int, k: int) -> np.ndarray:
    """Up to 1e4 deviations away from 0."""
    return clusters(rng, n, d, k) + 10 ** rng.uniform(2, 4, d)


def far_offset(rng: Rng, n: int, d: int, k: int) -> np.ndarray:
    """1e5 to 1e6 deviations: float32 has a few values left for each column."""
    return clusters(rng, n, d, k) + 10 ** rng.uniform(5, 6, d)


def tiny(rng: Rng, n: int, d: int, k: int) -> np.ndarray:
    return clusters(rng, n, d, k) * 10 ** rng.uniform(-30, -3)


def large(rng: Rng, n: int, d: int, k: int) -> np.ndarray:
    return clusters(rng, n, d, k) * 10 ** rng.uniform(3, 12)


def huge(rng: Rng, n: int, d: int, k: int) -> np.ndarray:
    return clusters(rng, n, d, k) * 10 ** rng.uniform(15, 30)


def heavy_tails(rng: Rng, n: int, d: int, k: int) -> np.ndarray:
    """Student's t with 2 degrees of freedom."""
    return 3 * rng.standard_normal((k, d))[rng.integers(0, k, n)] + rng.standard_t(2, (n, d))


def cauchy(rng: Rng, n: int, d: int, k: int) -> np.ndarray:
    return rng.standard_cauchy((n, d))


def lognormal(rng: Rng, n: int, d: int, k: int) -> np.ndarray:
    return np.exp(rng.uniform(0.5, 2) * rng.standard_normal((n, d)))


def rounded(rng: Rng, n: int, d: int, k: int) -> np.ndarray:
    """To tenths of a deviation."""
    return np.round(clusters(rng, n, d, k), 1)


def counts(rng: Rng, n: int, d: int, k: int) -> np.ndarray:
    """Small whole numbers, with many ties."""
    return rng.poisson(rng.uniform(0.5, 8, (k, d))[rng.integers(0, k, n)]).astype(float)


def duplicates(rng: Rng, n: int, d: int, k: int) -> np.ndarray:
    """Every row five times."""
    return np.resize(clusters(rng, max(n // 5, 2), d, k), (n, d))


def spike(rng: Rng, n: int, d: int, k: int) -> np.ndarray:
    """A tenth of the rows are one and the same."""
    x = rng.standard_normal((n, d))
    x[: max(n // 10, 2)] = 10.0
    return x


def constant_column(rng: Rng, n: int, d: int, k: int) -> np.ndarray:
    x = clusters(rng, n, d, k)
    x[:, rng.integers(d)] = rng.choice([0.0, 0.1, 1e3])
    return x


def collinear(rng: Rng, n: int, d: int, k: int) -> np.ndarray:
    """The last column is a sum of the others; of one column, a straight grid."""
    x = clusters(rng, n, d, k)
    x[:, -1] = x[:, :-1].sum(1) if d > 1 else np.arange(n)
    return x


def near_collinear(rng: Rng, n: int, d: int, k: int) -> np.ndarray:
    """The same, and noise of 1e-2 to 1e-4."""
    x = collinear(rng, n, d, k)
    x[:, -1] += 10 ** rng.uniform(-4, -2) * rng.standard_normal(n)
    return x


def one_hot(rng: Rng, n: int, d: int, k: int) -> np.ndarray:
    return np.eye(d)[rng.integers(0, d, n)] if d > 1 else rng.integers(0, 2, (n, 1)).astype(float)


def far_outlier(rng: Rng, n: int, d: int, k: int) -> np.ndarray:
    """One row, 1e2 to 1e6 deviations away."""
    x = clusters(rng, n, d, k)
    x[0] = 10 ** rng.uniform(2, 6) * rng.standard_normal(d)
    return x


def tight_group(rng: Rng, n: int, d: int, k: int) -> np.ndarray:
    """As few rows as make a covariance, close together and far from all others."""
    x = rng.standard_normal((n, d))
    few = min(d + 2, n // 2)
    x[:few] = 20 + 0.3 * rng.standard_normal((few, d))
    return x


def narrow(rng: Rng, n: int, d: int, k: int) -> np.ndarray:
    """Half of the rows in a cluster of deviation 1e-2 to 1e-4, in the middle of the others."""
    x = rng.standard_normal((n, d))
    x[: n // 2] *= 10 ** rng.uniform(-4, -2)
    return x


KINDS: dict[str, Draw] = {
    "clusters": clusters,
    "anisotropic": anisotropic,
    "unbalanced": unbalanced,
    "superfluous": superfluous,
    "column scales": column_scales,
    "wild column scales": wild_column_scales,
    "offset": offset,
    "far offset": far_offset,
    "tiny": tiny,
    "large": large,
    "huge": huge,
    "heavy tails": heavy_tails,
    "cauchy": cauchy,
    "lognormal": lognormal,
    "rounded": rounded,
    "counts": counts,
    "duplicates": duplicates,
    "spike": spike,
    "constant column": constant_column,
    "collinear": collinear,
    "near-collinear": near_collinear,
    "one-hot": one_hot,
    "far outlier": far_outlier,
    "tight group": tight_group,
    "narrow": narrow,
    # see `case_of`; without weights, or under the flat prior, these are clusters once more
    "extreme weights": clusters,
    "extreme priors": clusters,
}
