"""What is refused, and what is warned of, in scikit-learn's words."""

from typing import Any

import numpy as np
from sklearn.utils import check_array

FLOATS: Any = [np.float64, np.float32]

_ILL_DEFINED = (
    "Fitting the mixture model failed because some components have ill-defined empirical "
    "covariance (for instance caused by singleton or collapsed samples). Try to decrease the "
    "number of components, increase reg_covar, or scale the input data."
)
_ILL_DEFINED_SINGLE = (
    " The numerical accuracy can also be improved by passing float64 data instead of float32."
)
NOT_CONVERGED = (
    "Best performing initialization did not converge. Try different init parameters, or increase "
    "max_iter, tol, or check for degenerate data."
)
DEGENERATE = (
    "Every initialization ended with a component that rests on too few samples, or whose "
    "covariance vanishes in some direction: its likelihood is an artefact. Decrease the number of "
    "components, increase reg_covar, or use BayesianGaussianMixture."
)


def ill_defined(dtype: np.dtype) -> str:
    """What to say where a covariance is singular."""
    return _ILL_DEFINED + (_ILL_DEFINED_SINGLE if dtype == np.float32 else "")


def check_shape(a: np.ndarray, shape: tuple[int, ...], name: str) -> None:
    """Refuse an array of another shape, as scikit-learn does."""
    if a.shape != shape:
        raise ValueError(
            f"The parameter '{name}' should have the shape of {shape}, but got {a.shape}"
        )


def check_floats(a: Any, *, allow_nd: bool = False) -> np.ndarray:
    """An array of floats, finite, as scikit-learn checks the parameters that are arrays."""
    return check_array(a, dtype=FLOATS, ensure_2d=False, allow_nd=allow_nd)


def check_positive_definite(a: np.ndarray, covariance_type: str) -> None:
    """Refuse what is no precision, or covariance, of its type: ``(D, D)``, ``(D,)`` or scalars."""
    if covariance_type in ("full", "tied"):
        if not np.allclose(a, a.T) or (np.linalg.eigvalsh(a) <= 0).any():
            raise ValueError(
                f"'{covariance_type} precision' should be symmetric, positive-definite"
            )
    elif (a <= 0).any():
        raise ValueError(f"'{covariance_type} precision' should be positive")
