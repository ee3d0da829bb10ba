"""What the device can do at best, measured: products a second, and bytes a second."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks._measure import Contender, Run


class CeilingProblem(NamedTuple):
    """The size of what is multiplied and copied."""

    dtype: str
    order: int
    length: int


def ceilings(problem: CeilingProblem) -> tuple[Contender, dict[str, Any]]:
    """Says ``flops`` a second of a square product in full precision, and ``bytes`` a second."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    a = jnp.ones((problem.order, problem.order), problem.dtype)
    b = jnp.ones(problem.length, problem.dtype)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    copy = jax.jit(lambda b: b + 1)
    flops = 2 * problem.order**3 / _best(lambda: product(a))
    # read and written
    moved = 2 * b.nbytes / _best(lambda: copy(b))
    about = {"flops": flops, "bytes": moved, "device": jax.devices()[0].device_kind}
    return lambda: Run(0.0, ()), about


def _best(function: Callable[[], Any], repeats: int = 7) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function().block_until_ready()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def least_milliseconds(case: dict[str, Any], about: dict[str, float]) -> float:
    """The tighter of the two ceilings for an EM iteration of one lane, in ms.

    Two products of the features with the weights and with the responsibilities, 4 N F K
    operations; and the samples read once for all lanes.
    """
    n, d, k, lanes = (case[name] for name in ("N", "D", "K", "R"))
    widths = {"full": (d + 1) * (d + 2) // 2, "diag": 2 * d + 1, "spherical": d + 2}
    features = widths[case["covariance"]]
    size = np.dtype(case["dtype"]).itemsize
    products = 4 * n * features * k / about["flops"]
    reading = n * d * size / lanes / about["bytes"]
    return 1e3 * max(products, reading)
