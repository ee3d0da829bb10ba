"""What a compiled fit needs beyond the data: the most memory resident, less what was before it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks._measure import spread

UNIT = "MB beyond the data"
SHAPES = ((100_000, 8, 64), (1_000_000, 8, 64), (4_000_000, 8, 64), (1_000_000, 32, 16))
QUICK_SHAPES = ((1_000, 2, 2),)

_PROGRAM = """
import re, sys
import jax, jax.numpy as jnp
import jaxgmm
n, d, k = map(int, sys.argv[1:])

def resident(field):
    return int(re.search(field + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024

def fit():
    jaxgmm.fit(jax.random.key(1), x, algorithm, max_iter=3, moves=False)

x = jax.block_until_ready(jax.random.normal(jax.random.key(0), (n, d)))
algorithm = jaxgmm.em(jaxgmm.flat_prior(k, d))
fit()  # what compiling takes is not a fit's
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak starts anew: making the data had one of its own
before = resident("VmRSS")
fit()
print(resident("VmHWM") - before)
"""


def measure(peers: list[str], *, quick: bool) -> list[dict[str, Any]]:
    """One row for each shape, float32."""
    if not Path("/proc/self/clear_refs").exists():
        raise RuntimeError("memory is measured through /proc/self/clear_refs, which is Linux's.")
    rows = []
    for n, d, k in QUICK_SHAPES if quick else SHAPES:
        arguments = [sys.executable, "-c", _PROGRAM, *map(str, (n, d, k))]
        values = []
        for _ in range(1 if quick else 3):
            done = subprocess.run(arguments, check=True, capture_output=True, text=True)
            values.append(float(done.stdout.split()[-1]))
        case = {
            "N": n,
            "D": d,
            "K": k,
            "R": 1,
            "dtype": "float32",
            "x, MB": round(n * d * 4 / 2**20, 1),
        }
        found = {"jaxgmm": {"megabytes": {**spread(values), "runs": values}}}
        print(
            f"N={n}: {found['jaxgmm']['megabytes']['median']:.4g} MB", file=sys.stderr, flush=True
        )
        rows.append({"case": case, "iterations": 3, "repeats": len(values), "contenders": found})
    return rows
