"""Pictures on your matplotlib axes: each function takes and returns axes.

The module needs matplotlib (``pip install "jaxgmm[plot]"``), and never imports pyplot. If your
program did, functions without ``ax`` draw on pyplot's current axes. `points`, `ellipses` and
`density` are layers: draw them on the same axes in any order. `points` names the components; call
``ax.legend()`` after the last layer for a legend of all. The other functions draw whole pictures.

Component k looks the same in all pictures. The first seven of twelve colours are those of Okabe &
Ito (2008), and no two of the others are closer, to people with any kind of colour vision. Each
has its own marker and line style, too.
To number the components from left to right, draw `jaxgmm.order_components` of the state.

Example:
    >>> import jax, jaxgmm
    >>> x = jax.random.normal(jax.random.key(0), (100, 2))
    >>> state = jaxgmm.fit(jax.random.key(1), x, jaxgmm.em(jaxgmm.flat_prior(1, 2))).best
    >>> names = ("length (mm)", "mass (g)")
    >>> ax = jaxgmm.plot.points(state, x, names=names)
    >>> ax = jaxgmm.plot.ellipses(state, ax=ax, names=names)
    >>> ax.get_xlabel()
    'length (mm)'
"""

try:
    import matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError(
        'jaxgmm.plot needs matplotlib; install it with pip install "jaxgmm[plot]".'
    ) from error

from jaxgmm.plot._density import density
from jaxgmm.plot._ellipses import ellipses
from jaxgmm.plot._histogram import histogram
from jaxgmm.plot._optima import optima
from jaxgmm.plot._pairs import pairs
from jaxgmm.plot._points import points
from jaxgmm.plot._qq import qq
from jaxgmm.plot._selection import selection
from jaxgmm.plot._style import Style, new_axes, style
from jaxgmm.plot._traces import traces
from jaxgmm.plot._weights import weights

__all__ = [
    "Style",
    "density",
    "ellipses",
    "histogram",
    "new_axes",
    "optima",
    "pairs",
    "points",
    "qq",
    "selection",
    "style",
    "traces",
    "weights",
]
