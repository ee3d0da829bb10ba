"""scikit-learn's names for a prior or posterior, and this library's distributions."""

from typing import Any

import jax
import numpy as np

from jaxgmm._model.families import FAMILIES, WEIGHTS
from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.programs import program


def weights_of(concentration: Any, dtype: np.dtype) -> Any:
    """The weights with this ``weight_concentration_``: ``(K,)``, or two ``(K,)`` of the sticks."""
    if isinstance(concentration, tuple):
        # the last stick is not broken
        sticks = (as_array(a[:-1], dtype) for a in concentration)
        return WEIGHTS["dirichlet_process"](*sticks)
    return WEIGHTS["dirichlet"](as_array(concentration, dtype))


def components_of(
    covariance_type: str,
    mean: np.ndarray,
    mean_precision: np.ndarray,
    degrees: np.ndarray,
    scale: np.ndarray,
    dtype: np.dtype,
) -> Any:
    """The components with these parameters.

    Args:
        covariance_type: names the family.
        mean: ``(K, D)``.
        mean_precision: ``(K,)``.
        degrees: of freedom, ``(K,)`` or a scalar.
        scale: ``degrees`` times what is ``E[Lambda]^-1``, of the covariance type's shape, or that
            of one component.
        dtype: of the leaves.
    """
    given = tuple(np.asarray(a, dtype) for a in (mean, mean_precision, degrees, scale))
    return _components(given, covariance_type=covariance_type)


@program(static=("covariance_type",))
def _components(given: tuple[jax.Array, ...], *, covariance_type: str) -> Any:
    return FAMILIES[covariance_type].of_degrees(*given)


def is_singular(spread: Any, dtype: np.dtype) -> bool:
    """Whether a covariance, or any of some variances, is 0 to the precision of the dtype."""
    spread = np.asarray(spread)
    if spread.ndim < 2:
        return bool((spread <= 0).any())
    sd = np.sqrt(np.diagonal(spread))
    if (sd == 0).any():
        return True
    correlation = spread / np.outer(sd, sd)
    smallest = np.linalg.eigvalsh(correlation)[0]
    return bool(smallest <= 64 * np.finfo(dtype).eps)


def covariance_of(x: np.ndarray, weight: np.ndarray, covariance_type: str) -> Any:
    """The covariance of samples with likelihood weights, of divisor ``sum(weight) - 1``.

    Raises:
        ValueError: where the weights sum to 1 or less.
    """
    total = weight.sum(dtype=np.float64)
    if total <= 1:
        raise ValueError(
            f"Expected a sample_weight whose sum, the number of observations, is above 1, but got "
            f"{total:.5g}: there is no default covariance_prior for so few. Scale the weights to "
            "the number of samples (sample_weight * len(X) / sum(sample_weight)), or give "
            "covariance_prior."
        )
    centred = x - np.average(x, axis=0, weights=weight)
    if covariance_type in ("full", "tied"):
        return centred.T @ (weight[:, None] * centred) / (total - 1)
    variances = weight @ centred**2 / (total - 1)
    return variances.mean() if covariance_type == "spherical" else variances
