"""EM on whatever device JAX has, as a share of what that device can do at best."""

import sys
from typing import Any

import jax

from benchmarks._ceilings import CeilingProblem, least_milliseconds
from benchmarks._contenders import OURS
from benchmarks._measure import spread
from benchmarks._problems import make_problem
from benchmarks._worker import Worker

UNIT = "ms per restart and iteration (of the ceiling)"
CASES = (
    {"N": 1_000_000, "D": 32, "K": 64, "R": 1, "covariance": "full"},
    {"N": 1_000_000, "D": 128, "K": 1024, "R": 1, "covariance": "diag"},
    {"N": 1_000_000, "D": 128, "K": 1024, "R": 1, "covariance": "spherical"},
    {"N": 10_240, "D": 4, "K": 8, "R": 1024, "covariance": "full"},
)
QUICK_CASES = ({"N": 500, "D": 3, "K": 2, "R": 1, "covariance": "diag"},)
# A CPU does a hundredth of what an accelerator does: it is given a tenth of the rows.
_CPU_ROWS = 100_000


def measure(peers: list[str], *, quick: bool) -> list[dict[str, Any]]:
    """One row for each case and dtype."""
    rows = []
    cpu = jax.default_backend() == "cpu"
    order = 256 if quick else 2048 if cpu else 8192
    length = 10**5 if quick else 10**8
    for dtype in ("float32", "float64"):
        with Worker("benchmarks._ceilings:ceilings", CeilingProblem(dtype, order, length)) as best:
            about = best.about
        for shape in QUICK_CASES if quick else CASES:
            case: dict[str, Any] = {**shape, "dtype": dtype}
            if cpu:
                case["N"] = min(case["N"], _CPU_ROWS)
            rows.append(_row(case, about, quick=quick))
    return rows


def _row(case: dict[str, Any], about: dict[str, Any], *, quick: bool) -> dict[str, Any]:
    iterations, repeats = 3, 2 if quick else 5
    problem = make_problem(
        case["N"],
        case["D"],
        case["K"],
        case["dtype"],
        iterations=iterations,
        n_restarts=case["R"],
        covariance=case["covariance"],
    )
    with Worker(OURS, problem) as ours:
        ours()
        times = [ours().milliseconds for _ in range(repeats)]
        found = {"milliseconds": {**spread(times), "runs": times}, **ours.about}
    least = least_milliseconds(case, about)
    found["share"] = least / found["milliseconds"]["median"]
    found["ceilings"] = about
    words = f"{found['milliseconds']['median']:.4g} ms, {found['share']:.0%} of the ceiling"
    print(case, words, file=sys.stderr, flush=True)
    return {
        "case": case,
        "iterations": iterations,
        "repeats": repeats,
        "contenders": {"jaxgmm": found},
    }
