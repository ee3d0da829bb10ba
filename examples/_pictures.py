"""What some examples' pictures share, on top of `jaxgmm.plot`: colours, ellipses, contours."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

import jaxgmm

# Okabe & Ito (2008): told apart with any kind of colour vision; a marker shape goes with each
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "^", "s", "D", "v", "P")
LIGHT, DARK = "#56B4E9", "#000000"


def new_figure(width: float, height: float) -> Figure:
    """A figure that belongs to no window, so that it needs no display and no closing."""
    return Figure(figsize=(width, height), layout="constrained")


def left_to_right(means: ArrayLike) -> np.ndarray:
    """Order of the components by their first feature: lanes number them as they like."""
    return np.argsort(np.asarray(means)[:, 0])


def components(
    ax: Axes, x: ArrayLike, labels: ArrayLike, order: np.ndarray, size: float = 14
) -> None:
    """Scatter the samples, with a colour and a marker for each component."""
    x, labels = np.asarray(x), np.asarray(labels)
    for rank, k in enumerate(order):
        own = x[labels == k]
        ax.scatter(*own.T, s=size, c=COLOURS[rank], marker=MARKERS[rank], alpha=0.55, linewidths=0)


def ellipse(
    ax: Axes, mean: ArrayLike, covariance: ArrayLike, deviations: float, **style: object
) -> None:
    """Draw where the Mahalanobis distance to ``mean`` is a number of standard deviations."""
    variances, axes = np.linalg.eigh(np.asarray(covariance, np.float64))
    width, height = 2 * deviations * np.sqrt(variances)
    angle = np.degrees(np.arctan2(axes[1, 0], axes[0, 0]))
    patch = Ellipse(tuple(np.asarray(mean)), width, height, angle=angle, fill=False)
    patch.set(**({"linewidth": 1.5} | style))
    ax.add_patch(patch)


def mixture_ellipses(ax: Axes, mixture: jaxgmm.Mixture, order: np.ndarray) -> None:
    """Mark the means, with ellipses at 1 (solid) and 2 (dashed) standard deviations."""
    for rank, k in enumerate(order):
        for deviations, line in ((1, "-"), (2, "--")):
            ellipse(
                ax,
                mixture.means[k],
                mixture.covariances[k],
                deviations,
                edgecolor=COLOURS[rank],
                linestyle=line,
                zorder=4,
            )
    mark_means(ax, mixture.means, label=None)


def mark_means(ax: Axes, means: ArrayLike, label: str | None) -> None:
    """Black crosses, outlined in white so that they show on points and on contours."""
    x, y = np.asarray(means).T
    ax.scatter(x, y, s=130, marker="X", c=DARK, edgecolors="white", zorder=5, label=label)


def limits(ax: Axes, x: ArrayLike, margin: float = 0.2) -> None:
    """Axes around the samples, with room for the ellipses."""
    low, high = np.min(np.asarray(x), axis=0), np.max(np.asarray(x), axis=0)
    room = margin * (high - low)
    ax.set(xlim=(low[0] - room[0], high[0] + room[0]), ylim=(low[1] - room[1], high[1] + room[1]))


def density_contours(ax: Axes, log_density: Callable[[jax.Array], jax.Array]) -> None:
    """Contours of a density over the axes as they are, each a third of the next one up."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    first, second = np.meshgrid(np.linspace(left, right, 120), np.linspace(low, high, 120))
    grid = jnp.asarray(np.stack([first.ravel(), second.ravel()], axis=1))
    density = np.exp(np.asarray(log_density(grid), np.float64)).reshape(first.shape)
    levels = density.max() * 3.0 ** np.arange(-4.5, 0)
    ax.contour(first, second, density, levels, colors="#777777", linewidths=0.7, zorder=3)
