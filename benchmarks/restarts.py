"""What one more restart costs: EM, full covariances, R lanes over the same samples."""

from typing import Any

from benchmarks._cases import run_cases

UNIT = "ms per restart and iteration"
SHAPE = (10240, 4, 8)
LANES = (1, 16, 256, 1024)
QUICK_SHAPE = (300, 3, 2)
QUICK_LANES = (3,)


def measure(peers: list[str], *, quick: bool) -> list[dict[str, Any]]:
    """One row for each number of lanes and dtype."""
    n, d, k = QUICK_SHAPE if quick else SHAPE
    cases = [
        {"N": n, "D": d, "K": k, "R": lanes, "dtype": dtype}
        for dtype in ("float32", "float64")
        for lanes in (QUICK_LANES if quick else LANES)
    ]
    return run_cases(cases, peers, iterations=2 if quick else 10, repeats=2 if quick else 5)
