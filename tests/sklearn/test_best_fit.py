"""Which initialisation is kept, what is said of it, and what is not warned of."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sklearn.mixture

from jaxgmm.sklearn import GaussianMixture

Rng = np.random.Generator
DATA: dict[str, Callable[[Rng], np.ndarray]] = {
    "spiked": lambda rng: np.append(np.zeros(40), rng.gamma(2, 2, 60))[:, None],
    "rounded": lambda rng: np.round(rng.normal([0] * 60 + [4] * 60), 1)[:, None],
    "outlying": lambda rng: np.concatenate([rng.normal(size=(100, 2)), rng.normal(0, 99, (3, 2))]),
    "few equal": lambda rng: np.concatenate([rng.normal(size=(110, 2)), np.full((6, 2), 2.5)]),
    "equal rows": lambda rng: np.repeat(rng.normal(size=(12, 2)), 10, axis=0),
    "heavy tails": lambda rng: rng.standard_t(1.5, size=(120, 2)),
}
SCALES = (1e-6, 1e-3, 1.0, 1e3, 1e6)
INITS = ("random", "kmeans", "k-means++", "random_from_data")


def outcome(cls: Any, x: np.ndarray, **options: Any) -> tuple[float, set[str]]:
    """The bound of a fit, NaN if it failed, and the warnings that it gave."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            bound = cls(n_components=2, **options).fit(x).lower_bound_
        except ValueError:
            # ill-defined covariances, as where the units leave nothing of reg_covar
            bound = np.nan
    return bound, {f"{w.category.__name__}: {w.message}"[:60] for w in caught}


ROWS = [
    pytest.param(
        name,
        scale,
        init,
        seed,
        marks=() if (name, init, seed) == ("few equal", INITS[-1], 0) else pytest.mark.slow,
    )
    for name in DATA
    for scale in SCALES
    for init in INITS
    for seed in range(3)
]


@pytest.mark.parametrize(("name", "scale", "init", "seed"), ROWS)
def test_more_initialisations_are_no_worse_in_any_units(
    name: str, scale: float, init: str, seed: int
):
    x = scale * DATA[name](np.random.default_rng(seed))
    options = {"init_params": init, "random_state": seed}
    (one, few), (ten, many) = (outcome(GaussianMixture, x, n_init=n, **options) for n in (1, 10))
    if not np.isnan(one):
        assert ten >= one - 1e-9
    # and where scikit-learn is silent, they are
    for n_init, ours in ((1, few), (10, many)):
        theirs = outcome(sklearn.mixture.GaussianMixture, x, n_init=n_init, **options)[1]
        assert ours <= theirs


@pytest.mark.parametrize("kind", ["full", "spherical"])
def test_components_that_reg_covar_makes_are_named(kind: str):
    x = DATA["spiked"](np.random.default_rng(0))
    options = {"covariance_type": kind, "random_state": 0, "n_init": 10}
    spiked = GaussianMixture(2, init_params="random", **options).fit(x)
    np.testing.assert_array_equal(spiked.regularised_, spiked.covariances_.ravel() < 2e-6)
    assert spiked.regularised_.sum() == 1
    # in units in which reg_covar is more than all of the variance
    small = GaussianMixture(2, init_params="random", **options).fit(1e-6 * x)
    assert small.regularised_.all()
    large = GaussianMixture(2, init_params="random", **options).fit(x[40:])
    assert not large.regularised_.any()
