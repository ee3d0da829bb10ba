"""How long one EM iteration takes, full covariances, one lane."""

from typing import Any

from benchmarks._cases import run_cases

UNIT = "ms per iteration"
# The first three are those of the targets; then many components, and many features.
SHAPES = ((102400, 16, 32), (1024000, 4, 8), (40960, 64, 32), (102400, 8, 256), (20480, 128, 16))
QUICK_SHAPES = ((300, 3, 2),)


def measure(peers: list[str], *, quick: bool) -> list[dict[str, Any]]:
    """One row for each shape (N, D, K) and dtype."""
    return iterations(peers, quick=quick, algorithm="em")


def iterations(peers: list[str], *, quick: bool, algorithm: str) -> list[dict[str, Any]]:
    """The rows of an algorithm."""
    shapes = QUICK_SHAPES if quick else SHAPES
    cases = [
        {"N": n, "D": d, "K": k, "R": 1, "dtype": dtype}
        for n, d, k in shapes
        for dtype in ("float32", "float64")
    ]
    number, repeats = (2, 2) if quick else (5, 5)
    return run_cases(cases, peers, iterations=number, repeats=repeats, algorithm=algorithm)
