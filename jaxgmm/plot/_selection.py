"""The criterion of a selection, curve by curve."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from jaxgmm._fit.selection import CRITERIA, Selection
from jaxgmm._numerics.calls import described
from jaxgmm.plot._style import INK, axes_or_new, style

_NAMES = {
    "bic": "BIC (smaller is better)",
    "aic": "AIC (smaller is better)",
    "icl": "ICL (smaller is better)",
    "elbo": "ELBO (nats, larger is better)",
    "cv": "held-out log-density (nats per sample, larger is better)",
}


def selection(selection: Selection, ax: Axes | None = None) -> Axes:
    """The criterion against the number of components, with a line for each covariance.

    A ring marks the best model. With ``"cv"`` bars show a standard error. Where the worst models
    would make all others look flat, the axis ends before them, and an arrow at its edge stands for
    each.

    Args:
        selection: from `jaxgmm.select`.
        ax: axes to draw on; by default pyplot's current ones if pyplot is in use, else new ones.

    Example:
        >>> import jax, jaxgmm, jaxgmm.plot
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> found = jaxgmm.select(jax.random.key(1), x, range(1, 4), "spherical")
        >>> print(jaxgmm.plot.selection(found).get_xlabel())
        number of components K
    """
    if not isinstance(selection, Selection):
        raise ValueError(
            "expected the Selection of jaxgmm.select(key, x, range(1, 6)), but got "
            f"{described(selection)}."
        )
    ax = axes_or_new(ax)
    name = selection.criterion
    table = selection.table
    limits = _without_the_worst(selection)
    for i, (covariance, (k, value)) in enumerate(selection.curves().items()):
        outside = limits is not None and not ((value > limits[0]) & (value < limits[1])).any()
        colour, marker, line = style(i)
        look = {
            "color": colour,
            "marker": marker,
            "linestyle": line,
            "markersize": 5,
            "label": f"{covariance} (beyond the axis)" if outside else covariance,
        }
        if name == "cv":
            error = table["cv_error"][table["covariance"] == covariance]
            ax.errorbar(k, value, error, capsize=3, **look)
        else:
            ax.plot(k, value, **look)
        if limits is not None:
            _arrows(ax, k, value, limits, colour)
    best = selection.best_index
    ax.scatter(
        [table["n_components"][best]],
        [table[name][best]],
        s=180,
        facecolors="none",
        edgecolors=INK,
        linewidths=1.5,
        zorder=5,
        label=f"best: {selection.covariance}, K={selection.n_components}",
    )
    if limits is not None:
        ax.set_ylim(*limits)
    ax.set(xlabel="number of components K", ylabel=_NAMES[name])
    chosen = np.unique(table["n_components"])
    ax.set_xlim(chosen[0] - 0.3, chosen[-1] + 0.3)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False)
    return ax


def _arrows(ax: Axes, k: np.ndarray, value: np.ndarray, limits: Any, colour: str) -> None:
    """An arrow at the edge for each model beyond it, on the side on which it is."""
    for edge, beyond, marker in zip(
        limits, (value < limits[0], value > limits[1]), "v^", strict=True
    ):
        if beyond.any():
            at = np.full(int(beyond.sum()), edge)
            ax.scatter(k[beyond], at, c=colour, marker=marker, s=40, clip_on=False, zorder=4)


def _without_the_worst(selection: Selection) -> tuple[float, float] | None:
    """Limits that show the better half of all values and as much again, if that leaves some out."""
    sign = CRITERIA[selection.criterion]
    loss = sign * selection.table[selection.criterion]
    loss = np.sort(loss[np.isfinite(loss)])
    low, middle = loss[0], np.median(loss)
    high = middle + (middle - low)
    if loss[-1] <= high + (high - low):
        return None
    low = low - 0.08 * (high - low)
    return (float(low), float(high)) if sign > 0 else (float(-high), float(-low))
