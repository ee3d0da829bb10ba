"""What a fit needs beyond the data: the most memory ever resident, less what was before it."""

import subprocess
import sys
from typing import Any

from benchmarks._measure import spread

UNIT = "MB beyond the data"
SHAPES = ((100_000, 8, 64), (1_000_000, 8, 64), (4_000_000, 8, 64), (1_000_000, 32, 16))
QUICK_SHAPES = ((1_000, 2, 2),)

_PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
import jaxgmm
n, d, k = map(int, sys.argv[1:])
x = jax.block_until_ready(jax.random.normal(jax.random.key(0), (n, d)))
algorithm = jaxgmm.em(jaxgmm.flat_prior(k, d))
small = x[: 10 * k]
jaxgmm.fit(jax.random.key(1), small, algorithm, max_iter=3, moves=False)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
    1024 if sys.platform != "darwin" else 1024**2
)
before = peak()
jaxgmm.fit(jax.random.key(1), x, algorithm, max_iter=3, moves=False)
print(peak() - before)
"""


def measure(peers: list[str], *, quick: bool) -> list[dict[str, Any]]:
    """One row for each shape, float32; a small fit comes first, so that code does not count."""
    rows = []
    for n, d, k in QUICK_SHAPES if quick else SHAPES:
        arguments = [sys.executable, "-c", _PROGRAM, *map(str, (n, d, k))]
        values = []
        for _ in range(1 if quick else 3):
            done = subprocess.run(arguments, check=True, capture_output=True, text=True)
            values.append(float(done.stdout.split()[-1]))
        case = {"N": n, "D": d, "K": k, "R": 1, "dtype": "float32", "x, MB": n * d * 4 / 2**20}
        found = {"jaxgmm": {"megabytes": {**spread(values), "runs": values}}}
        print(
            f"N={n}: {found['jaxgmm']['megabytes']['median']:.4g} MB", file=sys.stderr, flush=True
        )
        rows.append({"case": case, "iterations": 3, "repeats": len(values), "contenders": found})
    return rows
