"""The samples, coloured by responsibility."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from jaxgmm._estep.rows import Samples
from jaxgmm._lane.state import State
from jaxgmm._mixture.mixture import Mixture, check_fitted_samples
from jaxgmm._numerics.calls import usage
from jaxgmm.plot._model import (
    as_mixture,
    check_features,
    check_names,
    drawable,
    parameters,
    shares,
    subset,
)
from jaxgmm.plot._style import (
    GREY,
    INK,
    LEGIBLE,
    axes_or_new,
    label_components,
    remark,
    style,
)

# A sample whose most probable component has less than this is outlined.
_SURE = 0.75
# From screen values to light, in which a blend of two colours is darker than neither.
_GAMMA = 2.2


@usage("jaxgmm.plot.points(result, x)")
def points(
    model: State | Mixture | Any,
    x: Samples,
    features: Sequence[int] = (0, 1),
    ax: Axes | None = None,
    *,
    names: Sequence[str] | None = None,
    legend: bool = True,
) -> Axes:
    """The samples: markers show the most probable component, colours show all components.

    The colour of a sample blends the colours of the components by its responsibilities. If the
    largest responsibility is below 0.75, the sample has a black outline, which is visible in print,
    too. Of more than 5,000 samples a random subset of 5,000 is drawn. It is always the same subset,
    and a remark above the axes mentions it. In a PDF or SVG, more than 1,000 samples are an image.

    Args:
        model: a fit, of which the best state counts, or a `Mixture`; all features count for the
            colours.
        x: samples, ``(N, D)``.
        features: the features of the horizontal and the vertical axis.
        ax: axes to draw on; by default pyplot's current ones if pyplot is in use, else new ones.
        names: names of all D features, with their units.
        legend: whether to name the components: up to eight in a legend; of more, those that have
            samples by numbers beside their means. ``ax.legend()`` after other layers makes one of
            them all.

    Raises:
        ValueError: for the states of many lanes, samples of another width, and features that the
            model does not have.

    Example:
        >>> import jax, jax.numpy as jnp, jaxgmm, jaxgmm.plot
        >>> mixture = jaxgmm.Mixture(jnp.ones(1), jnp.zeros((1, 3)), jnp.eye(3)[None])
        >>> x = jax.random.normal(jax.random.key(0), (100, 3))
        >>> print(jaxgmm.plot.points(mixture, x, features=(0, 2)).get_ylabel())
        x[:, 2]
    """
    model, own = as_mixture(model, "points")
    n_components, n_features = own.means.shape
    x = check_fitted_samples(model, x, "points", values=False)[1]
    chosen = check_features(features, n_features, 2)
    labels = check_names(names, n_features)
    n_samples, rows = x.shape[0], subset(x.shape[0])
    x = x[rows]
    share = np.asarray(shares(model, x), np.float64)
    known = np.isfinite(share).all(axis=1)
    place = np.asarray(x, np.float64)[:, list(chosen)]
    light = np.array([to_rgb(style(k).colour) for k in range(n_components)]) ** _GAMMA

    ax = axes_or_new(ax)
    size, alpha, outline = _look(len(rows))
    common = {"s": size, "alpha": alpha, "rasterized": len(rows) > 1000, "zorder": 2}
    most = np.argmax(share, axis=1)
    for k in range(n_components):
        mine = known & (most == k)
        if mine.any():
            unsure = share[mine, k] < _SURE
            ax.scatter(
                *place[mine].T,
                c=np.clip(share[mine] @ light, 0, 1) ** (1 / _GAMMA),
                marker=style(k).marker,
                edgecolors=INK,
                linewidths=np.where(unsure, outline, 0).tolist(),
                **common,
            )
        # for the legend, in the component's pure colour
        ax.scatter([], [], c=style(k).colour, marker=style(k).marker, s=30, label=f"component {k}")
    if not known.all():
        label = "undefined responsibilities"
        ax.scatter(*place[~known].T, c=GREY, marker=".", label=label, **common)
    if len(rows) < n_samples:
        remark(ax, f"{len(rows):,} of {n_samples:,} samples")
    ax.set(xlabel=labels[chosen[0]], ylabel=labels[chosen[1]])
    if legend and n_components <= LEGIBLE:
        ax.legend(frameon=False, fontsize="small")
    elif legend:
        flat = parameters(own, chosen)
        # components without samples may all have one mean, that of the prior
        numbered = np.intersect1d(most[known], np.flatnonzero(drawable(flat)))
        label_components(ax, {int(k): tuple(flat.means[k]) for k in numbered})
    return ax


def _look(n: int) -> tuple[float, float, float]:
    """Area of a marker, its opacity, and the width of its outline: less of all for a crowd."""
    return (18.0, 0.8, 0.6) if n <= 500 else (12.0, 0.6, 0.4) if n <= 2000 else (6.0, 0.5, 0.25)
