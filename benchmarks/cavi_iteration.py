"""How long one CAVI iteration takes, full covariances, one lane."""

from typing import Any

from benchmarks import em_iteration

UNIT = "ms per iteration"


def measure(peers: list[str], *, quick: bool) -> list[dict[str, Any]]:
    """One row for each shape (N, D, K) of `em_iteration` and dtype."""
    return em_iteration.iterations(peers, quick=quick, algorithm="cavi")
