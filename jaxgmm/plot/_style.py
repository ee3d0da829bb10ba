"""How components look, the same in every picture."""

import sys
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

# Okabe & Ito (2008), without their yellow, which is too light for lines on paper; and five more,
# which were searched for such that no two are closer, to any kind of colour vision, than theirs are
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
    *("#AA66FF", "#550000", "#0000DD", "#992244", "#440077"),
)
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
# With more components than this a legend is longer than a picture, and numbers are beside them.
LEGIBLE = 8
INK, DARK, GREY, ALARM = "#000000", "#555555", "#8C8C8C", "#D55E00"


class Style(NamedTuple):
    """How a component is drawn: matplotlib's names of its colour, marker and line style."""

    colour: str
    marker: str
    line: str


def style(k: int) -> Style:
    """The look of component k.

    After twelve components the colours repeat, with other markers and lines. 48 components differ
    in colour or line, and 84 components differ in colour or marker.

    Example:
        >>> import jaxgmm.plot
        >>> jaxgmm.plot.style(0)
        Style(colour='#0072B2', marker='o', line='-')
    """
    turn = k // len(COLOURS)
    return Style(COLOURS[k % len(COLOURS)], MARKERS[(k + turn) % 7], LINES[(k + turn) % 4])


def new_axes(width: float = 6.0, height: float = 4.0) -> Axes:
    """Axes of a figure without a window; ``axes.figure.savefig(path)`` saves the figure.

    Args:
        width: in inches.
        height: in inches.

    Example:
        >>> import jaxgmm.plot
        >>> print(jaxgmm.plot.new_axes(3.0, 2.0).figure.get_size_inches())
        [3. 2.]
    """
    return Figure(figsize=(width, height), layout="constrained").add_subplot()


def axes_or_new(ax: Axes | None) -> Axes:
    """The given axes; else pyplot's current ones where the program uses pyplot, or new ones."""
    if ax is not None:
        return ax
    pyplot = sys.modules.get("matplotlib.pyplot")
    return new_axes() if pyplot is None else pyplot.gca()


def label_components(ax: Axes, places: dict[int, tuple[float, float]]) -> None:
    """The number of each component beside its place, in its colour: where a legend is too long."""
    for k, place in places.items():
        text = ax.annotate(str(k), place, (5, 4), textcoords="offset points", fontweight="bold")
        text.set(color=style(k).colour, zorder=6, clip_on=True)
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def nats(value: float) -> str:
    """An objective, with a minus sign as the axes have it."""
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def remark(ax: Axes, text: str) -> None:
    """A small sentence above the axes, on the right, where no title is."""
    ax.set_title(text, loc="right", fontsize="small", color=DARK)
