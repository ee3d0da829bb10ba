"""scikit-learn's names for a prior or posterior, and this library's distributions."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgmm._model.families import (
    Dirichlet,
    NormalGamma,
    NormalWishart,
    SphericalNormalGamma,
    StickBreaking,
    TiedNormalWishart,
)


def weights_of(
    concentration: np.ndarray | tuple[np.ndarray, np.ndarray], dtype: np.dtype
) -> Dirichlet | StickBreaking:
    """The weights with this ``weight_concentration_``: ``(K,)``, or two ``(K,)`` of the sticks."""
    if isinstance(concentration, tuple):
        # the last stick is not broken
        return StickBreaking(*(jnp.asarray(a[:-1], dtype) for a in concentration))
    return Dirichlet(jnp.asarray(concentration, dtype))


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
    k, d = mean.shape
    family: Any
    spread: tuple[np.ndarray, np.ndarray]
    if covariance_type == "full":
        family = NormalWishart
        spread = np.broadcast_to(degrees, (k,)), np.broadcast_to(scale, (k, d, d))
    elif covariance_type == "tied":
        family, spread = TiedNormalWishart, (degrees, scale)
    elif covariance_type == "diag":
        family = NormalGamma
        shape = np.broadcast_to(np.atleast_1d(degrees)[:, None] / 2, (k, d))
        spread = shape, np.broadcast_to(scale / 2, (k, d))
    else:
        family = SphericalNormalGamma
        spread = np.broadcast_to(d * degrees / 2, (k,)), np.broadcast_to(d * scale / 2, (k,))
    return family(*(jnp.asarray(a, dtype) for a in (mean, mean_precision, *spread)))


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
