"""Truncated posteriors beside exact EM: time and objective of equal passes; and very large K.

Both begin at the same posterior, and take a pass in turn, in one process. The exact passes are all
on the feature path. By itself EM takes the whitened one, ten times as slow or more, where a
component is narrow beside the data's spread, as some are here.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxgmm
from benchmarks._measure import spread
from jaxgmm._numerics.pytree import pytree

UNIT = "ms per pass"
# N, D, K, components that a row keeps, passes, and the standard deviation of the clusters' centres
# in units of the clusters' own.
BESIDE = ((1_000_000, 16, 10_000, 5, 7, 3.0),)
ALONE = ((1_000_000, 16, 50_000, 5, 4, 3.0),)
QUICK_BESIDE = ((2_000, 4, 50, 3, 3, 2.0),)
QUICK_ALONE = ((2_000, 4, 50, 3, 3, 2.0),)


@pytree
class FeatureEM(jaxgmm.EM):
    """EM that never takes the whitened path."""

    path = "feature"


def clusters(n: int, d: int, k: int, apart: float) -> jax.Array:
    """K spherical clusters of about as many rows, float32."""
    rng = np.random.default_rng(0)
    centres = apart * rng.normal(size=(k, d)).astype(np.float32)
    x = centres[rng.integers(0, k, n)]
    return jnp.asarray(x + rng.normal(size=(n, d)).astype(np.float32))


def measure(peers: list[str], *, quick: bool) -> Iterator[dict[str, Any]]:
    """One row for each shape, diagonal covariances, MAP-EM under the default prior, float32."""
    for shape in QUICK_BESIDE if quick else BESIDE:
        yield beside_exact(*shape)
    for shape in QUICK_ALONE if quick else ALONE:
        # a process of its own, so that the most memory resident is this fit's
        command = [sys.executable, "-m", "benchmarks.truncated", *map(str, shape)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        yield json.loads(done.stdout.splitlines()[-1])


def beside_exact(n: int, d: int, k: int, c: int, passes: int, apart: float) -> dict[str, Any]:
    """A row of passes that both do in turn."""
    x = clusters(n, d, k, apart)
    prior = jaxgmm.default_prior(x, k, "diag")
    exact = FeatureEM(prior, jaxgmm.views.Mode(jnp.zeros((), x.dtype)))
    algorithms = {"jaxgmm": jaxgmm.em(prior, truncation=c), "exact": exact}
    start = jax.jit(algorithms["exact"].init)(jax.random.key(0), x).posterior
    states, steps, seconds, loads = {}, {}, {}, []
    for name, algorithm in algorithms.items():
        states[name] = algorithm.init(jax.random.key(1), x, {"posterior": start})
        began = time.perf_counter()
        steps[name] = jax.jit(algorithm.step).lower(states[name], x).compile()
        seconds[name] = time.perf_counter() - began
    times: dict[str, list[float]] = {name: [] for name in algorithms}
    objectives: dict[str, list[float]] = {name: [] for name in algorithms}
    for i in range(passes):
        loads.append(os.getloadavg()[0])
        for name in algorithms:
            began = time.perf_counter()
            states[name] = jax.block_until_ready(steps[name](states[name], x))
            times[name].append(1e3 * (time.perf_counter() - began))
            objectives[name].append(float(states[name].objective) / n)
        print(
            f"pass {i}: exact {times['exact'][-1]:.0f} ms {objectives['exact'][-1]:.4f}, truncated "
            f"{times['jaxgmm'][-1]:.0f} ms {objectives['jaxgmm'][-1]:.4f}, load {loads[-1]:.1f}",
            file=sys.stderr,
            flush=True,
        )
    last, ours = objectives["exact"][-1], objectives["jaxgmm"][-1]
    found: dict[str, Any] = {
        name: {
            # the first pass of the truncated one looks for every row's best component among all
            "milliseconds": {**spread(times[name][1:]), "runs": times[name]},
            "nats per sample": objectives[name],
            "compile_seconds": seconds[name],
        }
        for name in algorithms
    }
    ratios = [b / a for a, b in zip(times["jaxgmm"][1:], times["exact"][1:], strict=True)]
    found["exact"]["ratio"] = spread(ratios)
    found["exact"]["ratio of sums"] = sum(times["exact"]) / sum(times["jaxgmm"])
    found["exact"]["ratio of sums after the first"] = sum(times["exact"][1:]) / sum(
        times["jaxgmm"][1:]
    )
    return {
        "case": case_of(n, d, k, c, apart),
        "iterations": passes,
        "repeats": passes - 1,
        "objective beside exact": (ours - last) / abs(last),
        "load": loads,
        "contenders": found,
    }


def case_of(n: int, d: int, k: int, c: int, apart: float) -> dict[str, Any]:
    return {"N": n, "D": d, "K": k, "C": c, "R": 1, "apart": apart, "dtype": "float32"}


def alone(n: int, d: int, k: int, c: int, passes: int, apart: float) -> dict[str, Any]:
    """A row of a whole fit with its start: time of a pass, seconds in all and memory."""
    import resource

    x = clusters(n, d, k, apart)
    algorithm = jaxgmm.em(jaxgmm.default_prior(x, k, "diag"), truncation=c)
    load, times, values = os.getloadavg()[0], [], []
    began = time.perf_counter()
    state = jax.block_until_ready(jax.jit(algorithm.init)(jax.random.key(0), x))
    started = time.perf_counter() - began
    step = jax.jit(algorithm.step).lower(state, x).compile()
    for _ in range(passes):
        before = time.perf_counter()
        state = jax.block_until_ready(step(state, x))
        times.append(1e3 * (time.perf_counter() - before))
        values.append(float(state.objective) / n)
    ours = {
        "milliseconds": {**spread(times[1:]), "runs": times},
        "nats per sample": values,
        "start, seconds": started,
    }
    return {
        "case": case_of(n, d, k, c, apart),
        "iterations": passes,
        "repeats": passes - 1,
        "peak resident, GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "load": [load, os.getloadavg()[0]],
        "contenders": {"jaxgmm": ours},
    }


if __name__ == "__main__":
    n, d, k, c, passes = map(int, sys.argv[1:6])
    print(json.dumps(alone(n, d, k, c, passes, float(sys.argv[6]))))
