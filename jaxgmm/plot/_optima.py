"""The distinct optima of a fit."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from jaxgmm._fit.result import Result
from jaxgmm._lane.status import FAILED, Status
from jaxgmm._numerics.calls import described
from jaxgmm.plot._style import COLOURS, GREY, INK, axes_or_new, nats, remark


def optima(result: Result | Any, ax: Axes | None = None, *, tolerance: float | None = None) -> Axes:
    """How many lanes ended at each optimum, against its objective.

    The optima are those of `Result.optima`: only lanes that converged count, and objectives within
    ``tolerance`` nats are one optimum. The best optimum is a diamond. The picture shows the
    objective of the best optimum and of the optimum that most lanes found. Crosses on the axis are
    lanes that did not converge, where they ended; those that failed are left out.

    Args:
        result: from `jaxgmm.fit`; with ``racing=False`` every lane reaches its optimum.
        ax: axes to draw on; by default pyplot's current ones if pyplot is in use, else new ones.
        tolerance: in nats; by default ``result.resolution``.

    Raises:
        ValueError: if no lane converged.

    Example:
        >>> import jax, jaxgmm, jaxgmm.plot
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> algorithm = jaxgmm.em(jaxgmm.flat_prior(1, 2))
        >>> result = jaxgmm.fit(jax.random.key(1), x, algorithm, n_restarts=4)
        >>> jaxgmm.plot.optima(result).get_ylabel()
        'lanes'
    """
    if not isinstance(result, Result):
        raise ValueError(
            f"expected the Result of jaxgmm.fit(key, x, algorithm), but got {described(result)}."
        )
    found = result.optima(tolerance)
    if not found:
        raise ValueError(
            "no lane of this fit converged, so that none is at an optimum; raise max_iter or tol. "
            f"The lanes: {', '.join(f'{n} {s.name}' for s, n in result.statuses().items())}."
        )
    ax = axes_or_new(ax)
    objective, lanes = np.array(found).T
    ax.vlines(objective, 0, lanes, color=GREY, linewidth=1.5)
    ax.plot(objective[1:], lanes[1:], "o", color=COLOURS[0], markersize=7)
    ax.plot(objective[0], lanes[0], "D", color=COLOURS[1], markersize=9)
    room = 0.15 * np.ptp(objective) or 0.01 * abs(objective[0])
    left, right = objective[-1] - room, objective[0] + room
    others = _others(result)
    inside = others[(others >= left) & (others <= right)]
    if len(inside):
        label = f"did not converge ({len(inside)} of {len(others)} are in the picture)"
        ax.scatter(inside, 0 * inside, marker="x", c=INK, s=30, clip_on=False, label=label)
        ax.legend(frameon=False, fontsize="small", loc="upper left")
    for i in {0, int(np.argmax(lanes))}:
        # nothing is to the right of the best, and nothing as tall to the left of the tallest
        ax.annotate(
            nats(objective[i]) if i else f"best: {nats(objective[i])}",
            (objective[i], lanes[i]),
            (2, 8),
            textcoords="offset points",
            ha="right" if i else "center",
            fontsize="small",
        )
    n_lanes = len(result.states.status)
    name = "optimum" if len(found) == 1 else "optima"
    remark(ax, f"{int(lanes.sum())} of {n_lanes} lanes converged, to {len(found)} {name}")
    ax.set(xlabel="objective (nats)", ylabel="lanes", ylim=(0, 1.15 * lanes.max()))
    ax.set_xlim(left, right)
    ax.xaxis.set_major_locator(MaxNLocator(6, min_n_ticks=3))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


def _others(result: Result) -> np.ndarray:
    """Where the lanes ended that neither converged nor failed."""
    status = np.asarray(result.states.status)
    objective = np.asarray(result.states.objective, np.float64)
    left = ~np.isin(status, (Status.CONVERGED, *FAILED)) & np.isfinite(objective)
    return objective[left]
