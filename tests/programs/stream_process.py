"""Run by test_processes.py as one of several processes, each with a share of the rows to stream."""

import json
import sys
import time
from pathlib import Path

import jax

rank, count, port, what = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(
    f"127.0.0.1:{port}", count, rank, heartbeat_timeout_seconds=20, shutdown_timeout_seconds=20
)

import numpy as np

import jaxgmm

FAITHFUL = Path(__file__).parents[2] / "examples" / "data" / "faithful.csv"
x = np.loadtxt(FAITHFUL, delimiter=",", skiprows=1)
# unequal shares; with four processes the third one's is empty
edges = {1: [0, 272], 2: [0, 100, 272], 4: [0, 100, 150, 150, 272]}[count]
mine = x[edges[rank] : edges[rank + 1]]


def batches():
    for i in range(0, len(mine), 30):
        yield mine[i : i + 30]
    batches.passes += 1
    if what == "killed" and batches.passes > 2:
        if rank == count - 1:
            print("about to die", flush=True)
            sys.stdout.flush()
            time.sleep(60)  # it is killed now
        time.sleep(0.1)


batches.passes = 0


def failing():
    yield from batches()
    if rank == 1:
        raise OSError("the disk is gone")


if what == "failing":
    try:
        jaxgmm.Stream(failing).survey()
    except Exception as error:
        print("found " + json.dumps(f"{type(error).__name__}: {error}"))
    sys.exit()

stream = jaxgmm.Stream(batches, 64)
algorithm = jaxgmm.em(jaxgmm.default_prior(stream, 3))
tol = 0.0 if what == "killed" else 1e-8
try:
    result = jaxgmm.fit(jax.random.key(0), stream, algorithm, 4, tol=tol, progress=False)
except jaxgmm.StreamError as error:
    print("found " + json.dumps(f"StreamError: {error}"), flush=True)
    raise
means = np.asarray(jaxgmm.mixture(result).means)
weights = np.asarray(jaxgmm.mixture(result).weights)
found = {
    "n_samples": stream.n_samples,
    "objective": float(result.best.objective),
    "n_iter": int(result.best.n_iter),
    "means": means[np.argsort(weights)].tolist(),
}
print("found " + json.dumps(found))
