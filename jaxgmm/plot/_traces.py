"""How the lanes of a fit climbed, and what became of them."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullFormatter

from jaxgmm._fit.result import Result
from jaxgmm._lane.status import Status
from jaxgmm._numerics.calls import described
from jaxgmm._numerics.checks import check_positive_int
from jaxgmm.plot._style import ALARM, GREY, INK, axes_or_new, nats

# Colour and line; and the marker at the end of a lane that must not be used.
_LOOKS = {
    Status.RUNNING: ("#E69F00", "-."),
    Status.CONVERGED: ("#56B4E9", "-"),
    Status.MAX_ITERATIONS: ("#009E73", "--"),
    Status.DROPPED: (GREY, ":"),
    Status.NONFINITE: ("#CC79A7", "-"),
    Status.COLLAPSED: (ALARM, "-"),
    Status.DECREASED: ("#0072B2", "-"),
}
_ENDS = {Status.NONFINITE: "s", Status.COLLAPSED: "X", Status.DECREASED: "v"}


def traces(result: Result | Any, ax: Axes | None = None, *, first: int = 1) -> Axes:
    """The objective of every lane against the iteration, coloured by status; the best is black.

    The vertical axis shows the range in which the lanes end, because the climb from the starts is
    far longer. The end of a failed lane has a mark. The mark is at the edge of the axes if the lane
    ends outside, as it may on a spike of the likelihood, far above the best lane. A dashed line
    shows the final objective of the best lane if it differs from the end of its trace: moves may
    raise it after the last recorded iteration. From 30 iterations on, the axis of iterations is
    logarithmic.

    Args:
        result: from `jaxgmm.fit` with ``history=True``.
        ax: axes to draw on; by default pyplot's current ones if pyplot is in use, else new ones.
        first: first iteration to draw; the noisy objective of a stochastic algorithm means little
            before it is averaged over some iterations.

    Raises:
        ValueError: for a result without a history, or one with fewer iterations than ``first``.

    Example:
        >>> import jax, jaxgmm, jaxgmm.plot
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> algorithm = jaxgmm.em(jaxgmm.flat_prior(1, 2))
        >>> result = jaxgmm.fit(jax.random.key(1), x, algorithm, n_restarts=4, history=True)
        >>> jaxgmm.plot.traces(result).get_xlabel()
        'iteration'
    """
    history = _history(result, first)
    iteration = np.arange(first, first + len(history))
    ends = _ends(iteration, history)
    status = np.asarray(result.states.status)
    low, high = _limits(result, ends[:, 1])

    ax = axes_or_new(ax)
    for code in (code for code in _LOOKS if (status == code).any()):
        lanes = status == code
        (colour, line), mark = _LOOKS[code], _ENDS.get(code, "")
        look: dict[str, Any] = {"linewidth": 0.7 if lanes.sum() > 20 else 1.0, "alpha": 0.7}
        look["rasterized"] = lanes.sum() > 50
        ax.plot(iteration, history[:, lanes], line, color=colour, **look)
        if mark:
            across, up = ends[lanes].T
            # not clipped, so that a marker on the edge is drawn whole
            look = {"color": colour, "markersize": 7, "clip_on": False, "zorder": 4}
            ax.plot(across, np.clip(up, low, high), mark, **look)
        ax.plot([], [], line, marker=mark, color=colour, label=f"{lanes.sum()} {code.name}")

    best = result.best_index
    value, end = float(result.states.objective[best]), ends[best]
    ax.plot(iteration, history[:, best], color=INK, linewidth=1.8, zorder=3)
    ax.plot(*end, "o", color=INK, markersize=6, zorder=5)
    ax.plot([], [], "o-", color=INK, linewidth=1.8, label=f"best lane: {nats(float(end[1]))}")
    if abs(value - end[1]) > 1e-6 * abs(value):
        ax.axhline(value, color=INK, linewidth=1.0, linestyle="--", label=f"finally: {nats(value)}")
    if len(iteration) < 30:
        ax.set_xlim(first - 0.5, iteration[-1] + 0.5)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    else:
        ax.set(xscale="log", xlim=(first, 1.15 * iteration[-1]))
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="iteration", ylabel="objective (nats)", ylim=(low, high))
    ax.legend(loc="lower right", fontsize="small")
    return ax


def _history(result: Any, first: int) -> np.ndarray:
    """The recorded objectives from an iteration on, (T, R); NaN where a lane did none."""
    if not isinstance(result, Result):
        raise ValueError(
            f"expected the Result of jaxgmm.fit(key, x, algorithm), but got {described(result)}."
        )
    if result.history is None:
        raise ValueError(
            "this result has no history to draw; fit again with jaxgmm.fit(..., history=True)."
        )
    check_positive_int("first", first)
    if first > len(result.history):
        raise ValueError(
            f"first={first} is beyond the {len(result.history)} iterations of this fit; begin "
            "earlier."
        )
    history = np.asarray(result.history, np.float64)[first - 1 :]
    return np.where(np.isfinite(history), history, np.nan)


def _ends(iteration: np.ndarray, history: np.ndarray) -> np.ndarray:
    """The last iteration of every lane and its objective, (R, 2); NaN of one that did none."""
    done = np.isfinite(history)
    last = np.where(done, np.arange(len(history))[:, None], 0).max(axis=0)
    value = history[last, np.arange(history.shape[1])]
    return np.stack([np.where(done.any(axis=0), iteration[last], np.nan), value], axis=1)


def _limits(result: Result, ends: np.ndarray) -> tuple[float, float]:
    """From well below the worst lane that did not fail to just above the best."""
    kept = slice(None) if result.failed.all() else ~result.failed
    final = np.asarray(result.states.objective, np.float64)
    shown = np.concatenate([final[kept], ends[kept]])
    shown = shown[np.isfinite(shown)]
    if not len(shown):
        return -1.0, 1.0
    top = float(shown.max())
    spread = max(top - float(shown.min()), 1e-3 * abs(top), 1e-3)
    return top - 1.5 * spread, top + 0.12 * spread
