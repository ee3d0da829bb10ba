"""How the time of an EM iteration grows with N, K, D and R; a picture on logarithmic axes."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._contenders import OURS
from benchmarks._measure import spread
from benchmarks._problems import make_problem
from benchmarks._worker import Worker

UNIT = "ms per iteration of all lanes"
# Where nothing else varies: N, D, K, R.
_BASE = {"N": 100_000, "D": 4, "K": 8, "R": 1}
AXES = {
    "N": (1_000, 10_000, 100_000, 1_000_000, 10_000_000),
    "K": (2, 8, 32, 128, 512),
    "D": (1, 4, 16, 64, 128),
    "R": (1, 4, 16, 64, 256, 1024),
}
# Many lanes are for small data, and many features for few components.
_INSTEAD: dict[str, dict[str, int]] = {"R": {"N": 10_000}, "D": {"N": 20_000}}
QUICK_AXES = {"N": (200, 400), "R": (1, 2)}


def measure(peers: list[str], *, quick: bool) -> list[dict[str, Any]]:
    """One row for each value on each axis, float32."""
    rows = []
    for axis, values in (QUICK_AXES if quick else AXES).items():
        for value in values:
            case = _BASE | _INSTEAD.get(axis, {}) | {axis: value}
            size = case["N"] * case["K"] * case["R"] * case["D"]
            iterations = 2 if quick else int(np.clip(3e9 / size, 3, 200))
            problem = make_problem(
                case["N"],
                case["D"],
                case["K"],
                "float32",
                iterations=iterations,
                n_restarts=case["R"],
            )
            with Worker(OURS, problem) as ours:
                ours()
                times = [ours().milliseconds * case["R"] for _ in range(2 if quick else 5)]
            found = {"jaxgmm": {"milliseconds": {**spread(times), "runs": times}, **ours.about}}
            median = found["jaxgmm"]["milliseconds"]["median"]
            print(f"{axis}={value}: {median:.4g} ms", file=sys.stderr, flush=True)
            rows.append(
                {
                    "case": {"axis": axis, **case, "dtype": "float32"},
                    "iterations": iterations,
                    "repeats": len(times),
                    "contenders": found,
                }
            )
    return rows


def curves(record: dict[str, Any]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each axis its values and the median times."""
    out = {}
    for axis in dict.fromkeys(row["case"]["axis"] for row in record["rows"]):
        own = [row for row in record["rows"] if row["case"]["axis"] == axis]
        out[axis] = (
            np.array([row["case"][axis] for row in own], float),
            np.array([row["contenders"]["jaxgmm"]["milliseconds"]["median"] for row in own]),
        )
    return out


def draw(record: dict[str, Any], path: Path) -> None:
    """The four curves, with the slope between each two points."""
    from matplotlib.figure import Figure

    found = curves(record)
    figure = Figure(figsize=(3.2 * len(found), 3.2), layout="constrained")
    names = {"N": "samples N", "K": "components K", "D": "features D", "R": "lanes R"}
    for ax, (axis, (values, times)) in zip(
        np.ravel(figure.subplots(1, len(found))), found.items(), strict=True
    ):
        ax.loglog(values, times, "o-", color="#0072B2")
        slopes = np.diff(np.log(times)) / np.diff(np.log(values))
        for i, slope in enumerate(slopes):
            middle = np.sqrt(values[i] * values[i + 1]), np.sqrt(times[i] * times[i + 1])
            ax.annotate(f"{slope:.2f}", middle, (6, -8), textcoords="offset points", fontsize=8)
        base = _BASE | _INSTEAD.get(axis, {})
        rest = ", ".join(f"{name}={value:,}" for name, value in base.items() if name != axis)
        ax.set(xlabel=names[axis], ylabel=UNIT)
        ax.set_title(rest, fontsize=9)
        ax.margins(0.08, 0.12)
    figure.savefig(path, dpi=110)
