"""A background: one more component, of a density that is the same everywhere."""

from typing import Any

import jax
import numpy as np

from jaxgmm._estep.row_checks import check_rows
from jaxgmm._estep.rows import Rows, Samples
from jaxgmm._estep.structures import structure
from jaxgmm._model.checks import check_prior, check_width
from jaxgmm._model.freeze import freeze
from jaxgmm._model.prior import Prior
from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.calls import usage
from jaxgmm._numerics.checks import check_positive, is_traced
from jaxgmm._numerics.devices import is_local
from jaxgmm._numerics.programs import check_untraced
from jaxgmm._numerics.pytree import replace

_CALL = "jaxgmm.with_background(prior, x)"


@usage(_CALL)
def with_background(prior: Prior, x: Samples, *, volume: float | None = None) -> Prior:
    """The prior with one component more, number 0, for samples that belong to no cluster.

    The density of the background is ``1 / volume``, wherever a sample is, and its weight is learnt
    with the others (Banfield & Raftery 1993; Fraley & Raftery 1998). So outliers neither widen a
    cluster nor make one of their own. The volume is that of the box that holds the data: the
    smaller of the box along the features and the one along the principal axes of the standardised
    features, as `hypvol` of mclust has it of raw ones. The clusters keep their prior and have the
    numbers from 1 on.

    Everything else works as before. `predict` gives 0 for samples of the background,
    `responsibilities` has a column for it, `log_prob`, `bic` and the bounds count it, and `sample`
    draws from its box. Its position and its volume are known, see `freeze`, and only its weight is
    a parameter. A `Mixture` has normal components alone: in `mixture` and in what takes a mixture,
    component 0 is the normal distribution with the mean and the covariance of the box.

    Of rows with missing values or noise the box of what was observed is that of the covariance of
    what was observed: exact for boxes along the features and without noise.

    Args:
        prior: the model of the clusters, not traced, with `Dirichlet` weights and covariances that
            the components do not share.
        x: samples ``(N, D)``, or `Rows`; those of weight 0 do not count.
        volume: of the box, in the units of the data, in place of that of the data.

    Returns:
        A prior of K + 1 components.

    Raises:
        ValueError: for a prior that is none, that has a background, or whose weights are broken
            sticks or known; shared covariances; bad samples; a feature that does not vary; a volume
            that is not positive; and while tracing.

    Example:
        >>> import jax, jax.numpy as jnp, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (200, 2))
        >>> x = x.at[:10].set(jax.random.uniform(jax.random.key(1), (10, 2), minval=-30, maxval=30))
        >>> prior = jaxgmm.with_background(jaxgmm.flat_prior(1, 2), x)
        >>> result = jaxgmm.fit(jax.random.key(2), x, jaxgmm.em(prior))
        >>> print(jaxgmm.mixture(result).weights.round(2))
        [0.05 0.95]
    """
    check_untraced("with_background", "make the prior outside of it", prior, volume)
    prior = check_prior(prior, "with_background")
    rows = check_rows(x)
    check_width(prior.components.mean, rows.x, "the prior")
    if prior.background:
        raise ValueError("the prior has a background already, as component 0.")
    if prior.components.precisions.shared:
        raise ValueError(
            f"the components of {type(prior.components).__name__} share their covariance, which a "
            'background has not; use covariance="full", "diag" or "spherical".'
        )
    if prior.weights.ordered or not hasattr(prior.weights, "kept"):
        raise ValueError(
            f"a background needs weights that it can share, but those of the prior are "
            f"{type(prior.weights).__name__}; use Dirichlet weights, and jaxgmm.freeze(prior, "
            "weights=...) of what it returns for weights that are known."
        )
    if volume is not None:
        check_positive("volume", volume)
    kind = prior.components.structure
    centre, covariance = _box(rows, structure(kind).separate, kind == "spherical", volume)
    # the clusters' prior is that of the component after which each is made
    order = np.concatenate([[0], np.arange(prior.n_components)])
    components = prior.components
    own = {n: as_array(np.asarray(a)[order]) for n, a in components.own_fields().items()}
    tails = jax.tree.map(lambda a: as_array(np.asarray(a)[order]), prior.tails)
    more = replace(
        prior,
        weights=prior.weights.kept(order),
        components=replace(components, **own),
        tails=tails,
    )
    known = freeze(more, means=centre[None], covariances=covariance[None], components=[0])
    return replace(known, background=True)


def _box(rows: Rows, kind: str, alike: bool, volume: Any) -> tuple[np.ndarray, np.ndarray]:
    """Centre and covariance of the box, the covariance as the structure keeps it."""
    values = _values(rows)
    d = values.shape[1]
    low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    sides, centre = high - low, low + (high - low) / 2
    flat = np.flatnonzero(~(sides > 0))
    if flat.size:
        raise ValueError(
            f"the box of the data has no volume, because column(s) "
            f"{', '.join(map(str, flat[:10]))} of x do not vary; drop them."
        )
    edges, log_volume = np.diag(sides), np.sum(np.log(sides))
    if kind == "full" and rows.is_complete and len(values) > d:
        scaled = (values - centre) / sides
        axes = np.linalg.svd(scaled - scaled.mean(axis=0), full_matrices=False)[2]
        place = scaled @ axes.T
        low, high = place.min(axis=0), place.max(axis=0)
        shrunk = np.sum(np.log(np.maximum(high - low, np.finfo(float).tiny)))
        if shrunk < 0 and (high > low).all():
            edges, log_volume = sides[:, None] * axes.T * (high - low), log_volume + shrunk
            centre = centre + sides * ((low + high) / 2 @ axes)
    if volume is not None:
        edges = edges * np.exp((np.log(float(volume)) - log_volume) / d)
        log_volume = np.log(float(volume))
    if alike:
        return centre, np.asarray(np.exp(2 * log_volume / d) / 12)
    if kind != "full":
        return centre, np.diag(edges) ** 2 / 12
    return centre, edges @ edges.T / 12


def _values(rows: Rows) -> np.ndarray:
    """The values that count, in 64 bits, NaN where one is missing."""
    if is_traced(rows) or not is_local(rows.x):
        raise ValueError(
            "with_background looks at all of the data, of which this process has only a part; give "
            "it rows that every process has, such as a sample of the data."
        )
    values = np.asarray(rows.x, np.float64)
    if rows.missing is not None:
        values = np.where(np.asarray(rows.missing), np.nan, values)
    return values if rows.weight is None else values[np.asarray(rows.weight) > 0]
