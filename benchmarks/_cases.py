"""What the benchmarks of EM and CAVI share: from a list of cases to the rows of a record."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib import import_module
from typing import Any

from benchmarks._contenders import OURS, PEERS
from benchmarks._measure import Run, compare
from benchmarks._problems import Problem, in_float64, make_problem
from benchmarks._worker import Worker

# Largest difference of the parameters from jaxgmm's in float64 on the same samples, relative to
# their array's largest entry: (jaxgmm, peer). In float32 the peers' sums of 10^6 responsibilities
# are off by 2e-3, where jaxgmm's are by 1e-5.
TOLERANCE = {"float32": (2e-4, 5e-3), "float64": (1e-9, 1e-9)}


def run_cases(
    cases: Sequence[Mapping[str, Any]],
    peers: list[str],
    *,
    iterations: int,
    repeats: int,
    algorithm: str = "em",
) -> list[dict[str, Any]]:
    """Measure each case (``N``, ``D``, ``K``, ``R`` and ``dtype``), every contender by itself."""
    chosen = [PEERS[name] for name in peers if algorithm in PEERS[name].makers]
    for peer in chosen:
        import_module(peer.package)  # a peer that is missing ends it before anything is measured
    rows = []
    for case in cases:
        problem = make_problem(
            case["N"],
            case["D"],
            case["K"],
            case["dtype"],
            iterations=iterations,
            n_restarts=case["R"],
            algorithm=algorithm,
        )
        tolerance, peer_tolerance = TOLERANCE[case["dtype"]]
        with ExitStack() as stack:
            ours = stack.enter_context(Worker(OURS, problem))
            theirs = {
                peer.title: stack.enter_context(Worker(peer.makers[algorithm], problem))
                for peer in chosen
                if peer.can(problem)
            }
            found = compare(
                ours,
                theirs,
                repeats,
                reference=ours() if case["dtype"] == "float64" else _exact(problem),
                tolerance=tolerance,
                peer_tolerance=peer_tolerance,
            )
        found["jaxgmm"].update(ours.about)
        medians = (f"{name} {c['milliseconds']['median']:.4g} ms" for name, c in found.items())
        print(*(f"{k}={v}" for k, v in case.items()), *medians, file=sys.stderr, flush=True)
        rows.append(
            {"case": dict(case), "iterations": iterations, "repeats": repeats, "contenders": found}
        )
    return rows


def _exact(problem: Problem) -> Run:
    with Worker(OURS, in_float64(problem)) as exact:
        return exact()
