"""Where the components are, and how wide."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse

from jaxgmm._lane.state import State
from jaxgmm._mixture.mixture import Mixture, has_background
from jaxgmm._numerics.calls import usage
from jaxgmm.plot._model import (
    as_mixture,
    check_features,
    check_names,
    drawable,
    parameters,
    squared_radius,
)
from jaxgmm.plot._style import axes_or_new, style


@usage("jaxgmm.plot.ellipses(result)")
def ellipses(
    model: State | Mixture | Any,
    mass: Sequence[float] = (0.5, 0.95),
    features: Sequence[int] = (0, 1),
    ax: Axes | None = None,
    *,
    names: Sequence[str] | None = None,
) -> Axes:
    """The mean of each component, and the ellipses that hold given masses of it.

    The ellipses are those of the marginal of the two features,
    ``(x - mean)^T covariance^-1 (x - mean) = -2 log(1 - mass)``, with the quantile of chi-square
    with two degrees of freedom on the right. After CAVI and SVI the covariance is
    ``E[Lambda]^-1``, as in `jaxgmm.mixture`. Those of Student-t components are of the scales, wider
    by the quantile of their own distribution.

    A component with less than a hundredth of the mixture is drawn in thin lines. A component
    without weight is left out, and so are a background and a component whose parameters are not
    finite, as in a failed lane. If a covariance is singular, its ellipse is a line.

    Args:
        model: a fit, of which the best state counts, or a `Mixture`.
        mass: masses between 0 and 1, with one ellipse for each.
        features: the features of the horizontal and the vertical axis.
        ax: axes to draw on; by default pyplot's current ones if pyplot is in use, else new ones.
        names: names of all D features, with their units.

    Raises:
        ValueError: for the states of many lanes, a mass outside (0, 1), and features that the model
            does not have.

    Example:
        >>> import jax.numpy as jnp, jaxgmm, jaxgmm.plot
        >>> mixture = jaxgmm.Mixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.eye(2)[None])
        >>> from matplotlib.figure import Figure
        >>> ax = jaxgmm.plot.ellipses(mixture, [0.95], ax=Figure().subplots())
        >>> print(f"{ax.patches[0].width / 2:.3f}")
        2.448
    """
    model, own = as_mixture(model, "ellipses")
    shares = np.atleast_1d(np.asarray(mass, np.float64))
    if not ((shares > 0) & (shares < 1)).all():
        raise ValueError(f"mass must be between 0 and 1, both excluded, but it is {mass}.")
    chosen = check_features(features, own.means.shape[1], 2)
    labels = check_names(names, own.means.shape[1])

    ax = axes_or_new(ax)
    flat = parameters(own, chosen)
    drawn = drawable(flat)
    drawn[0] &= not has_background(model)
    radii = [np.sqrt(squared_radius(model, share)) for share in shares]
    for k in np.flatnonzero(drawn):
        colour, marker, line = style(int(k))
        width = 1.6 if flat.weights[k] >= 0.01 else 0.7
        variances, vectors = np.linalg.eigh(flat.covariances[k])
        sides = 2 * np.sqrt(np.maximum(variances, 0))
        angle = math.degrees(math.atan2(vectors[1, 0], vectors[0, 0]))
        mean = (float(flat.means[k, 0]), float(flat.means[k, 1]))
        for radius in radii:
            patch = Ellipse(mean, *(radius[k] * sides), angle=angle, fill=False, zorder=4)
            patch.set(edgecolor=colour, linestyle=line, linewidth=width)
            ax.add_patch(patch)
        ax.plot(*mean, marker, color=colour, markersize=8, markeredgecolor="white", zorder=5)
    ax.autoscale_view()
    ax.set(xlabel=labels[chosen[0]], ylabel=labels[chosen[1]])
    return ax
