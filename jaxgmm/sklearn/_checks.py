"""What is refused, and what is warned of, in scikit-learn's words."""

from typing import Any

import numpy as np
from sklearn.mixture._gaussian_mixture import _compute_precision_cholesky
from sklearn.utils.validation import _check_sample_weight

FLOATS: Any = [np.float64, np.float32]

NOT_CONVERGED = (
    "Best performing initialization did not converge. Try different init parameters, or increase "
    "max_iter, tol, or check for degenerate data."
)
OWN_STEPS = (
    "sample_weight was given, but {} replaces a step of scikit-learn's loop, which knows of no "
    "weights; leave them out, or repeat the rows."
)

# What scikit-learn's loop calls: whoever replaces one of them wants it called.
STEPS = {
    "_initialize_parameters",
    "_initialize",
    "_e_step",
    "_m_step",
    "_estimate_log_prob",
    "_estimate_log_weights",
    "_estimate_weighted_log_prob",
    "_estimate_log_prob_resp",
    "_compute_lower_bound",
    "_get_parameters",
    "_set_parameters",
}


def has_own_steps(model: Any, base: type) -> bool:
    """Whether the object, or a class of it below those that derive from the base, has a step."""
    if STEPS & vars(model).keys():
        return True
    for cls in type(model).__mro__:
        if base in cls.__bases__:
            return False
        if STEPS & vars(cls).keys():
            return True
    return False


def ill_defined(dtype: np.dtype) -> str:
    """What the installed scikit-learn says where a covariance is singular."""
    try:
        _compute_precision_cholesky(np.zeros((1, 1), dtype), "diag")
    except ValueError as error:
        return str(error)
    return "Some components have ill-defined empirical covariance."


def as_numpy(a: Any, name: str) -> Any:
    """An array of another library as NumPy's; anything else as it is.

    Raises:
        TypeError: for an array that NumPy cannot read, such as one on a GPU.
    """
    if isinstance(a, np.ndarray) or not hasattr(a, "__dlpack__"):
        return a
    try:
        return np.asarray(a) if hasattr(a, "__array__") else np.from_dlpack(a)
    except Exception as error:
        kind = f"{type(a).__module__}.{type(a).__qualname__}"
        raise TypeError(
            f"Expected {name} in the host's memory, but NumPy cannot read this {kind}: {error} "
            f"Copy it first: {name}.detach().cpu().numpy() of PyTorch, or cupy.asnumpy({name}) of "
            "CuPy."
        ) from error


def positive_rows(x: np.ndarray, sample_weight: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """The rows of positive weight, and their weights; a row of weight 0 is as if absent."""
    if sample_weight is None:
        return x, None
    weight: Any = _check_sample_weight(sample_weight, x, dtype=x.dtype, ensure_non_negative=True)
    return x[weight > 0], weight[weight > 0]


def check_number(x: np.ndarray, n_components: int) -> None:
    """Refuse fewer rows than components, or than two."""
    if len(x) < n_components:
        raise ValueError(
            "Expected n_samples >= n_components but got "
            f"n_components = {n_components}, n_samples = {len(x)}"
        )
    if len(x) < 2:
        raise ValueError(
            f"Found array with {len(x)} sample(s) of positive weight while a minimum of 2 is "
            "required."
        )
