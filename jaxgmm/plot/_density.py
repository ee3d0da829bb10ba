"""The density of the mixture in the plane."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes

from jaxgmm._lane.state import State
from jaxgmm._mixture.mixture import Mixture
from jaxgmm._numerics.calls import usage
from jaxgmm.plot._model import (
    Parameters,
    as_mixture,
    check_features,
    check_names,
    component_log_densities,
    drawable,
    parameters,
    squared_radius,
)
from jaxgmm.plot._style import axes_or_new

_SIDE = 200  # points of the grid in each direction
_SHOWN = 0.99  # of the mass of each component that the limits hold


@usage("jaxgmm.plot.density(result)")
def density(
    model: State | Mixture | Any,
    features: Sequence[int] = (0, 1),
    ax: Axes | None = None,
    *,
    limits: Sequence[Any] | None = None,
    mass: Sequence[float] = (0.25, 0.5, 0.75, 0.95),
    names: Sequence[str] | None = None,
) -> Axes:
    """Filled contours of the density: the smallest regions that hold given masses.

    The regions are the highest-density regions of Hyndman (1996), for the part of the density
    inside the limits. For a state with two features it is the density of `jaxgmm.log_prob`, which
    after CAVI and SVI is the posterior predictive. For two of more features it is the marginal of
    `jaxgmm.mixture`.

    A component narrower than a cell of the grid (a two-hundredth of each side) is left out, because
    it would look like noise. `ellipses` shows it.

    Args:
        model: a fit, of which the best state counts, or a `Mixture`.
        features: the features of the horizontal and the vertical axis.
        ax: axes to draw on; by default pyplot's current ones if pyplot is in use, else new ones.
        limits: ``((left, right), (bottom, top))``; by default the limits of axes that already show
            something, or limits that contain each component's ellipse of 99 % mass.
        mass: masses between 0 and 1, the darkest region first.
        names: names of all D features, with their units.

    Raises:
        ValueError: for the states of many lanes, a mass outside (0, 1), limits of another shape,
            features that the model does not have, and a model without anything to draw.

    Example:
        >>> import jax.numpy as jnp, jaxgmm, jaxgmm.plot
        >>> mixture = jaxgmm.Mixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.eye(2)[None])
        >>> jaxgmm.plot.density(mixture, names=["length (mm)", "mass (g)"]).get_ylabel()
        'mass (g)'
    """
    model, own = as_mixture(model, "density")
    shares = np.sort(np.atleast_1d(np.asarray(mass, np.float64)))[::-1]
    if not ((shares > 0) & (shares < 1)).all():
        raise ValueError(f"mass must be between 0 and 1, both excluded, but it is {mass}.")
    chosen = check_features(features, own.means.shape[1], 2)
    labels = check_names(names, own.means.shape[1])
    flat = parameters(own, chosen)
    ax = axes_or_new(ax)
    box = _box(limits, ax, flat, np.sqrt(squared_radius(model, _SHOWN)))
    across, up = (np.linspace(low, high, _SIDE) for low, high in box)
    grid = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2)
    wide = _is_wide(flat, box)
    if not wide.any():
        raise ValueError(
            "no component has finite parameters, a weight and a width that shows between the "
            f"limits {[tuple(float(v) for v in side) for side in box]}; choose others, or another "
            "lane."
        )
    values = np.exp(component_log_densities(model, grid, chosen)[:, wide]).sum(axis=1)
    levels = _levels(values, shares)

    shades = colormaps["Greys"](np.linspace(0.18, 0.55, len(levels)))
    table = values.reshape(_SIDE, _SIDE)
    top = max(float(values.max()), levels[-1] * (1 + 1e-9))
    ax.contourf(across, up, table, [*levels, top], colors=shades, zorder=0)
    for share, shade in zip(shares[::-1], shades[::-1], strict=False):  # for the legend
        ax.scatter([], [], c=[shade], marker="s", s=50, label=f"{100 * share:g} % of the mass")
    ax.set(xlabel=labels[chosen[0]], ylabel=labels[chosen[1]])
    return ax


def _box(limits: Any, ax: Axes, flat: Parameters, radius: np.ndarray) -> np.ndarray:
    """((left, right), (bottom, top)), with ellipses of these radii."""
    if limits is not None:
        box = np.asarray(limits, np.float64)
        if box.shape != (2, 2) or not np.isfinite(box).all() or not (box[:, 0] < box[:, 1]).all():
            raise ValueError(
                "limits must be ((left, right), (bottom, top)), the smaller first, but they are "
                f"{limits}."
            )
        return box
    if ax.has_data():
        return np.array([sorted(ax.get_xlim()), sorted(ax.get_ylim())])
    known = drawable(flat)
    means = flat.means[known]
    variances = np.einsum("kii->ki", flat.covariances[known])
    reach = radius[known, None] * np.sqrt(np.maximum(variances, 0))
    if not reach.size or not (reach > 0).any(axis=0).all():
        return np.array([[-1.0, 1.0], [-1.0, 1.0]])
    return np.stack([(means - reach).min(axis=0), (means + reach).max(axis=0)], axis=1)


def _is_wide(flat: Parameters, box: np.ndarray) -> np.ndarray:
    """Which components a grid can show: their narrowest direction spans a cell."""
    known = drawable(flat)
    cell = (box[:, 1] - box[:, 0]) / _SIDE
    scaled = np.where(known[:, None, None], flat.covariances, 0) / np.outer(cell, cell)
    return known & (np.linalg.eigvalsh(scaled)[:, 0] > 0.25)


def _levels(values: np.ndarray, shares: np.ndarray) -> list[float]:
    """Densities above which there is each share of the mass, ascending."""
    ranked = np.sort(values)[::-1]
    total = np.cumsum(ranked)
    inside = np.searchsorted(total, shares * total[-1])
    levels = ranked[np.minimum(inside, len(ranked) - 1)]
    return [float(level) for level in np.unique(levels[levels > 0])]
