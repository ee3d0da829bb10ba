"""How much of the mixture each component is."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from jaxgmm._lane.state import State
from jaxgmm._mixture.mixture import Mixture
from jaxgmm._numerics.calls import usage
from jaxgmm.plot._model import as_mixture
from jaxgmm.plot._style import INK, axes_or_new, style

_DRAWS = 4000


@usage("jaxgmm.plot.weights(key, result)")
def weights(
    key: Array, model: State | Mixture | Any, mass: float = 0.95, ax: Axes | None = None
) -> Axes:
    """The weights, with credible intervals after CAVI and SVI.

    The bar is the posterior mean. Its whisker goes from the ``(1 - mass) / 2`` to the
    ``(1 + mass) / 2`` quantile of 4,000 draws from q(pi). After EM, and for a `Mixture`, the bar is
    the estimate, and there is no whisker.

    Args:
        key: PRNG key for the draws.
        model: a fit, of which the best state counts, or a `Mixture`.
        mass: probability of the credible interval, between 0 and 1.
        ax: axes to draw on; by default pyplot's current ones if pyplot is in use, else new ones.

    Raises:
        ValueError: for the states of many lanes, and a mass outside (0, 1).

    Example:
        >>> import jax, jaxgmm, jaxgmm.plot
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> algorithm = jaxgmm.cavi(jaxgmm.default_prior(x, 2))
        >>> state = algorithm.init(jax.random.key(1), x, {"labels": [0, 1] * 50})
        >>> ax = jaxgmm.plot.weights(jax.random.key(2), state)
        >>> ax.get_ylabel()
        'weight, with 95 % credible interval'
    """
    model, own = as_mixture(model, "weights")
    if not 0 < mass < 1:
        raise ValueError(f"mass must be between 0 and 1, both excluded, but it is {mass}.")
    ax = axes_or_new(ax)
    value = np.nan_to_num(np.asarray(own.weights))
    number = np.arange(len(value))
    colours = [style(int(k)).colour for k in number]
    ax.bar(number, value, 0.7, color=colours, alpha=0.55)
    label = "weight"
    if isinstance(model, State) and not model.view.point:
        keys = jax.random.split(key, _DRAWS)
        draws = jnp.exp(jax.vmap(model.posterior.weights.sample)(keys))
        low, high = np.quantile(np.asarray(draws), [(1 - mass) / 2, (1 + mass) / 2], axis=0)
        ax.vlines(number, low, high, color=INK, linewidth=1.2)
        ends = {"marker": "_", "linestyle": "none", "color": INK, "markersize": 7}
        ax.plot(np.tile(number, 2), np.concatenate([low, high]), **ends)
        label = f"weight, with {100 * mass:g} % credible interval"
    ax.set(xlabel="component", ylabel=label)
    ax.set(xlim=(-0.8, len(value) - 0.2), ylim=(0, None))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=20, min_n_ticks=1))
    return ax
