"""Fits and log-evidences inside `jax.shard_map`; test_embedding.py runs it with two CPU devices."""

import functools
import json
import sys

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import AxisType, Mesh, PartitionSpec

import jaxgmm


def make_mesh(n_devices: int) -> Mesh:
    return jax.make_mesh((n_devices,), ("devices",), axis_types=(AxisType.Auto,))


def fits(mesh: Mesh, algorithm: jaxgmm.Algorithm, states: jaxgmm.State, sets: Array) -> Array:
    """Objectives (M, R) of R lanes on each of M data sets, which the devices share out."""
    spec = PartitionSpec("devices")

    @jax.jit
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(spec, spec), out_specs=spec, check_vma=False
    )
    def on_each(states: jaxgmm.State, sets: Array) -> Array:
        run = functools.partial(jaxgmm.run, algorithm)
        return jax.vmap(lambda lanes, x: run(lanes, x)[0].objective)(states, sets)

    return on_each(states, sets)


def training(mesh: Mesh, x: Array, potentials: jaxgmm.stats.Potentials) -> tuple[Array, Array]:
    """The log-evidence of rows that the devices share out, and its gradient in the means."""
    spec = PartitionSpec("devices")

    @jax.jit
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(spec,), out_specs=PartitionSpec(), check_vma=False
    )
    def on_each(x: Array) -> tuple[Array, Array]:
        value, slope = jax.value_and_grad(jaxgmm.stats.log_evidence, argnums=1)(x, potentials)
        return lax.psum((value, slope.mean), "devices")

    return on_each(x)


def problem() -> tuple[jaxgmm.Algorithm, jaxgmm.State, Array, jaxgmm.stats.Potentials]:
    """Four small data sets of two lanes each."""
    sets = jax.random.normal(jax.random.key(0), (4, 40, 2))
    sets = sets.at[:, :20].add(jnp.asarray([3.0, 1.0]))
    algorithm = jaxgmm.cavi(jaxgmm.default_prior(sets[0], 2, "diag"))
    keys = jax.random.split(jax.random.key(1), (4, 2))
    over_lanes = jax.vmap(algorithm.init, (0, None))
    states = jax.vmap(over_lanes)(keys, sets)
    return algorithm, states, sets, jaxgmm.views.Expectation().potentials(algorithm.prior)


def main(n_devices: int) -> None:
    algorithm, states, sets, potentials = problem()
    mesh = make_mesh(n_devices)
    value, slope = training(mesh, sets[0], potentials)
    found = {
        "devices": jax.device_count(),
        "objectives": fits(mesh, algorithm, states, sets).tolist(),
        "log-evidence": float(value),
        "slope": slope.tolist(),
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)
    main(2)
