"""Fits whose first lanes all end at spikes of the likelihood."""

import jax
import numpy as np
import pytest
from conftest import also_slow

import jaxgmm
from jaxgmm import Status


def test_optima_that_no_seeds_lead_to_are_found(dtype: str) -> None:
    """Of many components on a straight grid: wide ones, on top of one another."""
    x = np.linspace(0, 1, 30, dtype=dtype)[:, None]
    algorithm = jaxgmm.em(jaxgmm.flat_prior(6, 1, "spherical", dtype))
    result = jaxgmm.fit(jax.random.key(0), x, algorithm, n_restarts=1, moves=False, progress=False)
    assert result.best.status == Status.CONVERGED
    assert not jaxgmm.is_degenerate(result.best)


@pytest.mark.parametrize("covariance", ["full", *also_slow("tied", "diag", "spherical")])
def test_where_there_is_no_clean_optimum_the_fit_says_so(covariance: str) -> None:
    """Two values, and a component for each of them."""
    x = np.repeat([[0.0], [1.0]], 20, axis=0)
    algorithm = jaxgmm.em(jaxgmm.flat_prior(2, 1, covariance))
    result = jaxgmm.fit(jax.random.key(0), x, algorithm, n_restarts=2, moves=False, progress=False)
    assert result.best.status == Status.COLLAPSED
