"""Every two features of a mixture in more than two dimensions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure, SubFigure

from jaxgmm._estep.rows import Samples
from jaxgmm._lane.state import State
from jaxgmm._mixture.mixture import Mixture, check_fitted_samples
from jaxgmm._numerics.calls import usage
from jaxgmm.plot._ellipses import ellipses
from jaxgmm.plot._histogram import histogram
from jaxgmm.plot._model import (
    as_mixture,
    check_features,
    check_names,
    subset,
)
from jaxgmm.plot._points import points

_MOST = 8


@usage("jaxgmm.plot.pairs(result, x)")
def pairs(
    model: State | Mixture | Any,
    x: Samples,
    features: Sequence[int] | None = None,
    figure: Figure | SubFigure | None = None,
    *,
    mass: Sequence[float] = (0.5, 0.95),
    names: Sequence[str] | None = None,
) -> np.ndarray:
    """The `histogram` of each feature on the diagonal; `points` and `ellipses` of each pair below.

    Args:
        model: a fit, of which the best state counts, or a `Mixture`.
        x: samples, ``(N, D)``; of more than 5,000 samples `points` draws a subset.
        features: two or more features to draw, in this order; by default all, at most 8.
        figure: a `Figure` or `SubFigure` without axes; by default a new figure, which is
            ``axes[0, 0].figure``.
        mass: masses of the ellipses.
        names: names of all D features, with their units.

    Returns:
        The axes, ``(F, F)`` for F features. The axes above the diagonal are empty and hidden; the
        legend is there.

    Raises:
        ValueError: as `points`; and for fewer than two features, or more than eight.

    Example:
        >>> import jax, jax.numpy as jnp, jaxgmm, jaxgmm.plot
        >>> mixture = jaxgmm.Mixture(jnp.ones(1), jnp.zeros((1, 3)), jnp.eye(3)[None])
        >>> x = jax.random.normal(jax.random.key(0), (100, 3))
        >>> jaxgmm.plot.pairs(mixture, x).shape
        (3, 3)
    """
    model, own = as_mixture(model, "pairs")
    x = check_fitted_samples(model, x, "pairs", values=False)[1]
    d = own.means.shape[1]
    wanted = range(d) if features is None else features
    n = len(wanted)
    if not 2 <= n <= _MOST:
        raise ValueError(
            f"a pair plot shows 2 to {_MOST} features, but this would be of {n}; choose some with "
            "features=, or draw one with jaxgmm.plot.histogram."
        )
    chosen = check_features(wanted, d, n)
    labels = check_names(names, d)
    if figure is None:
        side = max(1.9 * n, 4.5)
        figure = Figure(figsize=(side, side), layout="constrained")
    rows = subset(x.shape[0])
    drawn = x[rows]
    axes = figure.subplots(n, n, sharex="col", squeeze=False)
    for i, j in np.ndindex(n, n):
        ax: Any = axes[i, j]
        if i < j:
            ax.axis("off")
            continue
        if i == j:
            histogram(model, x, chosen[i], ax, names=labels, legend=False)
            ax.set(ylabel="", yticks=[])
        else:
            points(model, drawn, (chosen[j], chosen[i]), ax, names=labels, legend=False)
            ellipses(model, mass, (chosen[j], chosen[i]), ax, names=labels)
        if i < n - 1:
            ax.set_xlabel("")
            ax.tick_params(labelbottom=False)
        if j > 0:
            ax.set_ylabel("")
            ax.tick_params(labelleft=False)
    handles, texts = axes[1, 0].get_legend_handles_labels()
    title = f"{len(rows):,} of {x.shape[0]:,} samples" if len(rows) < x.shape[0] else None
    # of the figure: the grid makes no room for it
    figure.legend(handles, texts, loc="upper right", frameon=False, title=title)
    return axes
