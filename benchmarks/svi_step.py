"""How long one step of minibatch SVI takes on system 5, by one lane and by 64."""

import sys
from contextlib import ExitStack
from typing import Any

from benchmarks._contenders import PEERS
from benchmarks._measure import compare
from benchmarks._svi import make_problem
from benchmarks._worker import Worker

UNIT = "ms per step of all lanes"
LANES = (1, 64)
# Means, in deviations of a cluster, after as many steps with other draws and minibatches.
TOLERANCE = 0.1


def measure(peers: list[str], *, quick: bool) -> list[dict[str, Any]]:
    """One row for each number of lanes; NumPyro does one."""
    steps, repeats = (20, 2) if quick else (2000, 5)
    rows = []
    for lanes in LANES[:1] if quick else LANES:
        problem = make_problem(3000, lanes, 500, steps)
        with ExitStack() as stack:
            ours = stack.enter_context(Worker("benchmarks._svi:jaxgmm_svi", problem))
            theirs = {}
            for peer in (PEERS[name] for name in peers if "svi" in PEERS[name].makers):
                if lanes == 1:
                    worker = Worker(peer.makers["svi"], problem)
                    theirs[peer.title] = stack.enter_context(worker)
            found = compare(
                ours,
                theirs,
                repeats,
                reference=ours(),
                tolerance=TOLERANCE,
                peer_tolerance=TOLERANCE,
            )
        found["jaxgmm"].update(ours.about)
        medians = (f"{name} {c['milliseconds']['median']:.4g} ms" for name, c in found.items())
        print(f"R={lanes}", *medians, file=sys.stderr, flush=True)
        case = {"N": 3000, "batch": 500, "R": lanes, "dtype": "float32"}
        rows.append({"case": case, "iterations": steps, "repeats": repeats, "contenders": found})
    return rows
