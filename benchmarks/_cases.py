"""What the benchmarks of EM share: from a list of cases to the rows of a record."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks._contenders import jaxgmm_em, make_peers
from benchmarks._measure import compare
from benchmarks._problems import in_float64, make_problem

# Largest difference of the parameters from jaxgmm's in float64 on the same samples, relative to
# their array's largest entry: (jaxgmm, peer). In float32 scikit-learn's sums of 10^6
# responsibilities are off by 2e-3, where jaxgmm's are by 1e-5.
TOLERANCE = {"float32": (2e-4, 5e-3), "float64": (1e-9, 1e-9)}


def run_cases(
    cases: Sequence[Mapping[str, Any]], peers: list[str], *, iterations: int, repeats: int
) -> list[dict[str, Any]]:
    """Measure EM on each case (``N``, ``D``, ``K``, ``R`` and ``dtype``)."""
    rows = []
    for case in cases:
        problem = make_problem(
            case["N"],
            case["D"],
            case["K"],
            case["dtype"],
            iterations=iterations,
            n_restarts=case["R"],
        )
        tolerance, peer_tolerance = TOLERANCE[case["dtype"]]
        ours, compile_seconds = jaxgmm_em(problem)
        exact = ours if case["dtype"] == "float64" else jaxgmm_em(in_float64(problem))[0]
        found = compare(
            ours,
            make_peers(peers, problem),
            repeats,
            reference=exact(),
            tolerance=tolerance,
            peer_tolerance=peer_tolerance,
        )
        found["jaxgmm"]["compile_seconds"] = compile_seconds
        medians = (f"{name} {c['milliseconds']['median']:.4g} ms" for name, c in found.items())
        print(*(f"{k}={v}" for k, v in case.items()), *medians, file=sys.stderr, flush=True)
        rows.append(
            {"case": dict(case), "iterations": iterations, "repeats": repeats, "contenders": found}
        )
    return rows
