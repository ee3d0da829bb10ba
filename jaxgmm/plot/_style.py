"""How components look, the same in every picture."""

from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe & Ito (2008), without their yellow, which is too light for lines on paper
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
INK, DARK, GREY, ALARM = "#000000", "#555555", "#8C8C8C", "#D55E00"


class Style(NamedTuple):
    """How a component is drawn: matplotlib's names of its colour, marker and line style."""

    colour: str
    marker: str
    line: str


def style(k: int) -> Style:
    """The look of component k.

    After seven components the colours repeat, with other markers and lines. 28 components differ in
    colour or line, and 49 components differ in colour or marker.

    Example:
        >>> import jaxgmm.plot
        >>> jaxgmm.plot.style(0)
        Style(colour='#0072B2', marker='o', line='-')
    """
    turn = k // len(COLOURS)
    return Style(COLOURS[k % 7], MARKERS[(k + turn) % 7], LINES[k % 4])


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


def nats(value: float) -> str:
    """An objective, with a minus sign as the axes have it."""
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def remark(ax: Axes, text: str) -> None:
    """A small sentence above the axes, on the right, where no title is."""
    ax.set_title(text, loc="right", fontsize="small", color=DARK)
