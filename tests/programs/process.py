"""Run by test_mesh.py as one of two processes that hold half of the rows, or of the lanes, each."""

import json
import sys
from pathlib import Path

import jax

rank, port, axis = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=rank)

import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxgmm

FAITHFUL = Path(__file__).parents[2] / "examples" / "data" / "faithful.csv"
x = np.loadtxt(FAITHFUL, delimiter=",", skiprows=1)
mesh = jax.make_mesh((2,), (axis,), axis_types=(AxisType.Auto,))
rows = PartitionSpec("data" if axis == "data" else None)
mine = x[136 * rank : 136 * (rank + 1)] if axis == "data" else x
whole = jax.make_array_from_process_local_data(NamedSharding(mesh, rows), mine)
algorithm = jaxgmm.em(jaxgmm.flat_prior(3, 2))
result = jaxgmm.fit(jax.random.key(0), whole, algorithm, 16, mesh=mesh)
means = np.asarray(jaxgmm.mixture(result.best).means)
found = {
    "processes": jax.process_count(),
    "objective": np.asarray(result.states.objective).tolist(),
    "means": means.tolist(),
}
gaps = np.random.default_rng(1).uniform(size=x.shape) < 0.1
if axis == "data":
    own = slice(136 * rank, 136 * (rank + 1))
    parts = [np.where(gaps, np.nan, x)[own], np.full(x.shape, 0.01)[own], np.full(len(x), -1)[own]]
    spread = [NamedSharding(mesh, PartitionSpec("data")) for _ in parts]
    values, noise, labels = map(jax.make_array_from_process_local_data, spread, parts)
    for name, more in (("gaps", {}), ("noise", {"noise": noise, "labels": labels})):
        some = jaxgmm.Rows(values, missing="nan", **more)
        fit = jaxgmm.fit(jax.random.key(0), some, algorithm, 4, max_iter=20, moves=False, mesh=mesh)
        found[name] = float(fit.best.objective)
bad = np.where(np.arange(len(mine))[:, None] == 5 * (1 - rank), np.nan, mine)
if axis == "data":
    broken = jax.make_array_from_process_local_data(NamedSharding(mesh, rows), bad)
    try:
        jaxgmm.fit(jax.random.key(0), broken, algorithm, 16, mesh=mesh)
    except ValueError as error:
        found["error"] = str(error)
print("found " + json.dumps(found))
