"""One feature: its quantiles, and those of the mixture that was fitted."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes
from scipy.special import betaincinv

from jaxgmm._lane.state import State
from jaxgmm._mixture.mixture import Mixture, check_fitted_samples
from jaxgmm._mixture.quantiles import quantile
from jaxgmm.plot._model import as_mixture, check_features, check_names, subset
from jaxgmm.plot._style import COLOURS, DARK, axes_or_new


def qq(
    model: State | Mixture | Any,
    x: ArrayLike,
    feature: int = 0,
    ax: Axes | None = None,
    *,
    mass: float = 0.95,
    names: Sequence[str] | None = None,
    legend: bool = True,
) -> Axes:
    """The quantiles of one feature against those of the mixture: of a good fit a straight line.

    The i-th smallest of N samples is drawn at the model's quantile of ``(i - 0.5) / N`` (Wilk &
    Gnanadesikan 1968). A band shows where each of them lies with probability ``mass`` if the model
    is right: its quantiles at those of the Beta(i, N + 1 - i) distribution. The quantiles are those
    of `jaxgmm.quantile`. Of samples that the model was fitted to, fewer than a share of ``1 -
    mass`` leave the band; of held-out samples about as many do.

    Args:
        model: a fit, of which the best state counts, or a `Mixture`.
        x: samples, ``(N, D)``; of many samples a random subset of 5,000 ranks is drawn.
        feature: the feature to draw.
        ax: axes to draw on; by default pyplot's current ones if pyplot is in use, else new ones.
        mass: of the band, for each sample by itself; between 0 and 1.
        names: names of all D features, with their units.
        legend: whether to draw a legend.

    Raises:
        ValueError: for the states of many lanes, samples of another width, a mass outside (0, 1),
            and a feature that the model does not have.

    Example:
        >>> import jax, jax.numpy as jnp, jaxgmm, jaxgmm.plot
        >>> mixture = jaxgmm.Mixture(jnp.ones(1), jnp.zeros((1, 1)), jnp.eye(1)[None])
        >>> x = jax.random.normal(jax.random.key(0), (100, 1))
        >>> ax = jaxgmm.plot.qq(mixture, x, names=["length (mm)"])
        >>> ax.get_xlabel()
        'length (mm), of the model'
    """
    model, own = as_mixture(model, "qq")
    if not 0 < mass < 1:
        raise ValueError(f"mass must be between 0 and 1, both excluded, but it is {mass}.")
    (chosen,) = check_features(feature, own.means.shape[1], 1)
    label = check_names(names, own.means.shape[1])[chosen]
    x = check_fitted_samples(model, x, "qq", values=False)[1]
    column = np.asarray(x[:, chosen], np.float64)
    n = len(column)
    drawn = subset(n)
    rank = drawn + 1.0
    limits = [betaincinv(rank, n + 1 - rank, p) for p in (0.5 - 0.5 * mass, 0.5 + 0.5 * mass)]
    at = np.stack([(rank - 0.5) / n, *limits])
    expected, low, high = np.asarray(quantile(model, at, chosen), np.float64)
    sample = np.sort(column)[drawn]

    ax = axes_or_new(ax)
    ax.fill_between(expected, low, high, color="#D9D9D9", linewidth=0, label=f"{100 * mass:g} %")
    ends = (expected[0], expected[-1])
    ax.plot(ends, ends, color=DARK, linewidth=1, label="equal")
    ax.scatter(expected, sample, s=8, c=COLOURS[0], linewidths=0, label="samples", zorder=3)
    ax.set(xlabel=f"{label}, of the model", ylabel=f"{label}, of the samples")
    if legend:
        ax.legend(loc="upper left", frameon=False)
    return ax
