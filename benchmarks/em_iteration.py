"""How long one EM iteration takes, full covariances, one lane."""

from typing import Any

from benchmarks._cases import run_cases

UNIT = "ms per iteration"
SHAPES = ((102400, 16, 32), (1024000, 4, 8), (40960, 64, 32))
QUICK_SHAPES = ((300, 3, 2),)


def measure(peers: list[str], *, quick: bool) -> list[dict[str, Any]]:
    """One row for each shape (N, D, K) and dtype."""
    shapes = QUICK_SHAPES if quick else SHAPES
    cases = [
        {"N": n, "D": d, "K": k, "R": 1, "dtype": dtype}
        for n, d, k in shapes
        for dtype in ("float32", "float64")
    ]
    return run_cases(cases, peers, iterations=2 if quick else 5, repeats=2 if quick else 5)
