"""Timing that can be believed: equal results first, then interleaved runs, ratios pair by pair."""

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, NamedTuple

import numpy as np


class DisagreementError(Exception):
    """Two contenders did not compute the same thing, so that their times mean nothing."""


class Run(NamedTuple):
    """One timed run: milliseconds per unit of work, and the arrays that it computed."""

    milliseconds: float
    parameters: tuple[np.ndarray, ...]


Contender = Callable[[], Run]


def difference(run: Run, reference: Run) -> float:
    """The largest difference of any parameter, relative to the largest entry of its array.

    Both lead with lanes; those that the run did are compared, which may be fewer.
    """
    gaps = []
    for exact, found in zip(reference.parameters, run.parameters, strict=True):
        exact = np.asarray(exact, np.float64)[: len(found)]
        gaps.append(np.max(np.abs(exact - np.asarray(found, np.float64))) / np.max(np.abs(exact)))
    # unlike Python's max, a NaN anywhere makes the whole NaN; a run may have nothing to compare
    return float(np.max(gaps)) if gaps else 0.0


def spread(values: list[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def compare(
    ours: Contender,
    peers: Mapping[str, Contender],
    repeats: int,
    *,
    reference: Run,
    tolerance: float,
    peer_tolerance: float,
) -> dict[str, Any]:
    """Run each contender ``repeats`` times in turn, ours before each round of the peers.

    The first run of each is a warm-up, which is not timed; it shows that the results are those of
    the ``reference``.

    Returns:
        For ``"jaxgmm"`` and each peer: ``milliseconds`` with its ``median``, ``min`` and ``max``,
        and the ``difference`` of its results; for a peer also ``ratio`` of its time to ours in the
        same round.

    Raises:
        DisagreementError: where parameters differ by more than the tolerance.
    """
    contenders = {"jaxgmm": ours, **peers}
    differences = {name: difference(run(), reference) for name, run in contenders.items()}
    for name, gap in differences.items():
        limit = tolerance if name == "jaxgmm" else peer_tolerance
        if not gap <= limit:
            raise DisagreementError(
                f"{name} differs from the reference by {gap:.2e}, more than {limit:.0e}."
            )
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            times[name].append(run().milliseconds)
    result: dict[str, Any] = {
        name: {
            "milliseconds": {**spread(values), "runs": values},
            "difference": differences[name],
        }
        for name, values in times.items()
    }
    for name in peers:
        ratios = [b / a for a, b in zip(times["jaxgmm"], times[name], strict=True)]
        result[name]["ratio"] = spread(ratios)
    return result
