"""What a check must not refuse."""

import numpy as np
import pytest

from jaxgmm._numerics.checks import check_covariance


def test_variances_of_any_units_make_a_covariance(dtype: str) -> None:
    """Beside the largest variance the smallest one is less than rounding."""
    sd = np.geomspace(1e-8, 1e8, 5)
    correlation = 0.5 + 0.5 * np.eye(5)
    matrix = (correlation * sd * sd[:, None]).astype(dtype)
    assert check_covariance("covariance", matrix, 5).shape == (5, 5)
    correlation[0, 1:] = correlation[1:, 0] = 0.9
    with pytest.raises(ValueError, match="smallest eigenvalue of its correlations is -0"):
        check_covariance("covariance", correlation * sd * sd[:, None], 5)


def test_a_variance_of_zero_makes_none() -> None:
    with pytest.raises(ValueError, match="smallest eigenvalue of its correlations is 0"):
        check_covariance("covariance", np.diag([1.0, 0.0]))
