"""Gradients of statistics and of the log-evidence, on one device and on a mesh of two.

Prints the furthest that the gradients are from one another, relative to the largest.
"""

from typing import Any

import jax

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec as P

from jaxgmm._estep.data import Data, prepare
from jaxgmm._estep.estep import estep_on
from jaxgmm._estep.log_evidence import log_evidence_on
from jaxgmm._estep.rows import Rows
from jaxgmm._numerics.devices import automatic
from jaxgmm.stats import Potentials

rng = np.random.default_rng(0)
N, D, K = 40, 2, 3
ROWS = Rows(jnp.asarray(rng.normal(size=(N, D))), jnp.asarray(rng.uniform(0.5, 2, N)))
POTENTIALS = Potentials(
    jnp.asarray(rng.normal(size=K)),
    jnp.asarray(rng.normal(size=(K, D))),
    jnp.asarray(np.triu(rng.normal(size=(K, D, D))) + 2 * np.eye(D)),
    "full",
)
MESH = automatic(jax.make_mesh((2,), ("data",)))


def evidence(data: Data, potentials: Potentials) -> Array:
    return log_evidence_on(data, potentials)


def of_statistics(data: Data, potentials: Potentials) -> Array:
    stats = estep_on(data, potentials)
    sums = (jnp.sum(jnp.sin(stats.count)), jnp.sum(stats.mean**2), jnp.sum(stats.scatter))
    return sum(sums) + stats.entropy + 0.3 * stats.log_evidence


def on_mesh(function: Any) -> Any:
    """The same function, the rows over two devices."""

    def whole(rows: Rows, potentials: Potentials) -> Array:
        data = prepare(ROWS)

        def local(rows: Rows, potentials: Potentials) -> Array:
            part = Data(rows, data.centre, data.total, data.scale, axis="data")
            return function(part, potentials)

        return jax.shard_map(
            local, mesh=MESH, in_specs=(P("data"), P()), out_specs=P(), check_vma=False
        )(rows, potentials)

    return whole


def main() -> None:
    for function in (evidence, of_statistics):
        alone = jax.grad(lambda r, p, f=function: f(prepare(r), p), (0, 1))(ROWS, POTENTIALS)
        there = jax.jit(jax.grad(on_mesh(function), (0, 1)))(ROWS, POTENTIALS)
        gaps = jax.tree.map(
            lambda a, b: jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(a)), alone, there
        )
        print(function.__name__, max(float(gap) for gap in jax.tree.leaves(gaps)))


if __name__ == "__main__":
    main()
