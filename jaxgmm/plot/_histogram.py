"""One feature: its histogram, and the density that was fitted to it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from jaxgmm._estep.rows import Samples
from jaxgmm._lane.state import State
from jaxgmm._mixture.mixture import Mixture, check_fitted_samples
from jaxgmm._numerics.calls import usage
from jaxgmm._numerics.checks import check_positive_int
from jaxgmm.plot._model import (
    Parameters,
    as_mixture,
    check_features,
    check_names,
    component_log_densities,
    drawable,
    parameters,
)
from jaxgmm.plot._style import DARK, LEGIBLE, axes_or_new, label_components, style


@usage("jaxgmm.plot.histogram(result, x, feature=0)")
def histogram(
    model: State | Mixture | Any,
    x: Samples,
    feature: int = 0,
    ax: Axes | None = None,
    *,
    bins: int | None = None,
    names: Sequence[str] | None = None,
    legend: bool = True,
) -> Axes:
    """The density of one feature over its histogram, with a curve for each component.

    For a state with one feature it is the density of `jaxgmm.log_prob`, which after CAVI and SVI is
    the posterior predictive. For one of more features it is the marginal of `jaxgmm.mixture`. The
    curves of the components add up to it. If a component is so narrow that its peak would flatten
    the histogram, as in a collapsed lane, the axis ends at twice the tallest bar.

    Args:
        model: a fit, of which the best state counts, or a `Mixture`.
        x: samples, ``(N, D)``; all of them are counted.
        feature: the feature to draw.
        ax: axes to draw on; by default pyplot's current ones if pyplot is in use, else new ones.
        bins: number of bars; by default the square root of N, between 10 and 80.
        names: names of all D features, with their units.
        legend: whether to name the curves: of up to eight components in a legend, of more by their
            numbers at the peaks.

    Raises:
        ValueError: for the states of many lanes, samples of another width, and a feature that the
            model does not have.

    Example:
        >>> import jax, jax.numpy as jnp, jaxgmm, jaxgmm.plot
        >>> mixture = jaxgmm.Mixture(jnp.ones(1), jnp.zeros((1, 1)), jnp.eye(1)[None])
        >>> x = jax.random.normal(jax.random.key(0), (100, 1))
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> ax = jaxgmm.plot.histogram(mixture, x, names=["length (mm)"], ax=ax)
        >>> [line.get_label() for line in ax.lines]
        ['density', 'component 0']
    """
    model, own = as_mixture(model, "histogram")
    (chosen,) = check_features(feature, own.means.shape[1], 1)
    label = check_names(names, own.means.shape[1])[chosen]
    x = check_fitted_samples(model, x, "histogram", values=False)[1]
    column = np.asarray(x[:, chosen], np.float64)
    root = min(max(math.isqrt(len(column)), 10), 80)
    n_bins = root if bins is None else check_positive_int("bins", bins)

    ax = axes_or_new(ax)
    heights, _, _ = ax.hist(
        column, n_bins, density=True, color="#D9D9D9", edgecolor="white", linewidth=0.5
    )
    flat = parameters(own, [chosen])
    grid = _grid(column, flat)
    curves = np.exp(component_log_densities(model, grid[:, None], [chosen]))
    total = curves.sum(axis=1)
    # so wide that it still shows where one component is all of it
    ax.plot(grid, total, color=DARK, linewidth=3, label="density")
    known = [int(k) for k in np.flatnonzero(drawable(flat))]
    for k in known:
        colour, _, line = style(k)
        ax.plot(grid, curves[:, k], line, color=colour, linewidth=1.5, label=f"component {k}")
    tallest = float(np.max(heights))
    if total.max() > 2 * tallest:
        ax.set_ylim(0, 2 * tallest)
    ax.set(xlabel=label, ylabel="density")
    if legend and len(known) <= LEGIBLE:
        ax.legend(frameon=False)
    elif legend:
        peaks = np.minimum(curves.max(axis=0), 0.94 * ax.get_ylim()[1])
        at = grid[np.argmax(curves, axis=0)]
        label_components(ax, {k: (float(at[k]), float(peaks[k])) for k in known})
    return ax


def _grid(column: np.ndarray, own: Parameters) -> np.ndarray:
    """Where to evaluate the density: over the samples, and closely about each mean."""
    low, high = column.min(), column.max()
    room = 0.08 * (high - low) or 1.0
    low, high = low - room, high + room
    known = drawable(own)
    sd = np.sqrt(np.maximum(own.covariances[known, 0, 0], 0))
    near = own.means[known, 0, None] + sd[:, None] * np.linspace(-4, 4, 81)
    grid = np.concatenate([np.linspace(low, high, 400), near.ravel()])
    return np.unique(grid[(grid >= low) & (grid <= high)])
