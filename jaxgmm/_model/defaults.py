"""The priors that most people take: the flat one, and a weak one from the data."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxgmm._estep.moments import expected_values, extents, weighted_mean
from jaxgmm._estep.padded import padded
from jaxgmm._estep.row_checks import check_rows
from jaxgmm._estep.rows import Rows, Samples, floats_of
from jaxgmm._model.families import FAMILIES, KNOWN, WEIGHTS
from jaxgmm._model.prior import Prior
from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.calls import usage
from jaxgmm._numerics.checks import (
    check_choice,
    check_covariance,
    check_positive_int,
    check_variances,
    is_traced,
)
from jaxgmm._numerics.devices import is_local
from jaxgmm._numerics.programs import program
from jaxgmm._numerics.pytree import replace
from jaxgmm._stream.stream import Stream

_KNOWN_HINT = "; for a known covariance pass the (D, D) matrix itself"


@usage("jaxgmm.flat_prior(n_components=3, n_features=x.shape[1])")
def flat_prior(
    n_components: int,
    n_features: int,
    covariance: str | Float[Array, "D D"] = "full",
    dtype: Any = None,
    *,
    weights: str = "dirichlet",
) -> Prior:
    """The improper prior under which the mode is exactly the maximum-likelihood estimate.

    Args:
        n_components: K.
        n_features: D.
        covariance: ``"full"``, ``"tied"``, ``"diag"``, ``"spherical"``, or a known covariance
            matrix ``(D, D)`` itself.
        dtype: of the leaves; by default JAX's default float.
        weights: ``"dirichlet"``, ``"dirichlet_process"`` (either makes the weights free), or
            ``"fixed"`` for equal ones.

    Raises:
        ValueError: for an unknown name, a matrix that is no covariance, sizes below 1.

    Example:
        >>> import jaxgmm
        >>> jaxgmm.flat_prior(3, 2).n_parameters
        17
    """
    call = "jaxgmm.flat_prior(n_components, n_features)"
    check_positive_int("n_components", n_components, call)
    check_positive_int("n_features", n_features, call)
    check_choice("weights", weights, WEIGHTS)
    kind, dtype = WEIGHTS[weights], jnp.result_type(float if dtype is None else dtype)
    if isinstance(covariance, str):
        check_choice("covariance", covariance, FAMILIES, _KNOWN_HINT)
        components = FAMILIES[covariance].flat(n_components, n_features, dtype)
        return Prior(kind.flat(n_components, dtype), components)
    matrix = check_covariance("covariance", as_array(covariance, dtype), n_features)
    components = KNOWN.flat(n_components, matrix)
    return Prior(kind.flat(n_components, matrix.dtype), components)


@usage("jaxgmm.default_prior(x, n_components=3)")
def default_prior(
    x: Samples | Stream,
    n_components: int,
    covariance: str | Float[Array, "D D"] = "full",
    weights: str = "dirichlet",
    *,
    sample_weight: ArrayLike | None = None,
) -> Prior:
    """A weak proper prior from the data's mean and covariance.

    For full covariances it is the prior of Fraley & Raftery (2007), with ``mean_precision = 0.01``,
    ``degrees_of_freedom = D + 2``, ``scale = var(x) / K^(2/D)`` and uniform weights. If the data do
    not vary in some direction, each variance is raised by a share of eps^(1/3), so that the prior
    exists. The result of a fit then names the column.

    Args:
        x: samples, ``(N, D)``, finite; or `Rows`, which also hold the weights; or a `Stream`, of
            which its sample of rows counts.
        n_components: K.
        covariance: ``"full"``, ``"tied"``, ``"diag"``, ``"spherical"``, or a known covariance
            matrix ``(D, D)`` itself.
        weights: of the components: ``"dirichlet"``, uniform on the simplex;
            ``"dirichlet_process"`` of concentration 1, truncated; or ``"fixed"``, equal ones.
        sample_weight: non-negative, ``(N,)``. A sample of weight 2 counts as two.

    Raises:
        ValueError: for bad samples, ones so small that the dtype cannot hold their variances, an
            unknown name, a matrix that is no covariance.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> prior = jaxgmm.default_prior(x, 3)
        >>> print(prior.components.degrees_of_freedom)
        [4. 4. 4.]
    """
    check_positive_int("n_components", n_components, "jaxgmm.default_prior(x, n_components)")
    check_choice("weights", weights, WEIGHTS, "; those of the samples are sample_weight")
    given = floats_of(x.sample() if isinstance(x, Stream) else x)
    rows = check_rows(given, sample_weight)
    dtype, d = rows.x.dtype, rows.n_features
    if isinstance(covariance, str):
        check_choice("covariance", covariance, FAMILIES, _KNOWN_HINT)
    else:
        covariance = check_covariance("covariance", as_array(covariance, dtype), d)
    middle, values = None, given.x if isinstance(given, Rows) else given
    if isinstance(values, np.ndarray) and values.dtype != dtype:
        # far from 0 the data themselves would be rounded to few values
        complete, _ = expected_values(values, rows.weight, rows.missing, rows.noise)
        middle = np.average(complete, axis=0, weights=rows.weight)
        rows = replace(rows, x=as_array(values - middle, dtype))
        middle = as_array(middle, dtype)
    name, matrix = (covariance, None) if isinstance(covariance, str) else ("", covariance)
    prior, extent, share = _default(padded(rows), middle, matrix, n_components, name, weights)
    if name and not is_traced(share) and is_local(share):
        extent, share = (np.asarray(a, np.float64) for a in (extent, share))
        variances = share * extent**2
        # a prior of large ones is right; whether a fit can sum them is for the fit to say
        check_variances(variances, (extent == 0) | (variances > 1), dtype)
    return prior


@program(static=("n_components", "covariance", "weights"))
def _default(
    rows: Rows,
    middle: Array | None,
    matrix: Array | None,
    n_components: int,
    covariance: str,
    weights: str,
) -> tuple[Prior, Array, Array]:
    """The default prior, as one program: of rows about a middle, and of a matrix that is known.

    With the extent of each feature, and its variance over the square of that, which is never tiny.
    """
    known = rows.completed()
    extent = extents(known.x, rows.weight)
    unit = jnp.where(extent > 0, extent, 1)[None]
    centred = known.x - weighted_mean(known.x, rows.weight)[None]
    share = weighted_mean((centred / unit) ** 2, rows.weight)
    kind = WEIGHTS[weights].flat(n_components, rows.x.dtype)
    name = FAMILIES[covariance].distribution.structure if covariance else "diag"
    mean, spread = rows.moments(name)
    mean = mean if middle is None else middle
    if matrix is not None:
        return Prior(kind, KNOWN.default(mean, matrix, n_components)), extent, share
    return Prior(kind, FAMILIES[covariance].default(mean, spread, n_components)), extent, share
