"""Run by test_mesh.py in a process with four CPU devices: every mesh against one device."""

import functools
import json
import sys
from pathlib import Path
from typing import Any

import jax

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)

import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

import jaxgmm
from jaxgmm._numerics import programs

programs._OPTIONS[programs.Effort.LIGHT] = {}  # as conftest.py has it

FAITHFUL = Path(__file__).parents[2] / "examples" / "data" / "faithful.csv"
KEY = jax.random.key(0)
# 271 rows, 5 and 17 lanes: nothing divides by anything
x = jnp.asarray(np.loadtxt(FAITHFUL, delimiter=",", skiprows=1)[:271])
weight = jnp.asarray(np.random.default_rng(0).uniform(0.5, 2, 271))
MESHES = {
    "data": jax.make_mesh((4,), ("data",)),
    "restarts": jax.make_mesh((4,), ("restarts",)),
    "both": jax.make_mesh((2, 2), ("restarts", "data")),
}
lost = np.random.default_rng(1).uniform(size=(271, 2)) < 0.2
rows = jaxgmm.Rows(
    jnp.where(lost, jnp.nan, x),
    weight,
    "nan",
    noise=jnp.asarray(0.01 * np.random.default_rng(2).uniform(size=(271, 2))),
    labels=jnp.where(jnp.arange(271) < 20, (x[:, 0] > 3).astype(int), -1),
)
gaps = jaxgmm.Rows(rows.x, missing="nan")
em = jaxgmm.em(jaxgmm.flat_prior(3, 2))
CASES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "race and moves": ("data", em, {"n_restarts": 17}),
    "race": ("both", em, {"n_restarts": 17, "moves": False}),
    "lanes": ("restarts", em, {"n_restarts": 17, "moves": False}),
    "weights": ("both", em, {"n_restarts": 5, "sample_weight": weight, "moves": False}),
    "gaps": (
        "data",
        jaxgmm.em(jaxgmm.default_prior(gaps, 3)),
        {"x": gaps, "n_restarts": 5, "moves": False},
    ),
    "gaps, errors and labels": ("both", em, {"x": rows, "n_restarts": 5, "moves": False}),
    "cavi": (
        "data",
        jaxgmm.cavi(jaxgmm.default_prior(x, 3, "tied", "dirichlet_process")),
        {"n_restarts": 5, "moves": False, "history": True},
    ),
    "truncated": (
        "both",
        jaxgmm.em(jaxgmm.default_prior(x, 9, "diag"), truncation=2),
        {"n_restarts": 5, "sample_weight": weight, "history": True},
    ),
    "svi": (
        "restarts",
        jaxgmm.svi(jaxgmm.default_prior(x, 3), optax.adam, 64, learning_rate=0.05),
        {"n_restarts": 5, "max_iter": 20},
    ),
}


def gap(a: Any, b: Any) -> float:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.max(np.abs(np.asarray(u) - np.asarray(v)))) for u, v in pairs)


def compare(name: str) -> dict[str, Any]:
    mesh, algorithm, options = CASES[name]
    options = {"x": x, **options}
    one = jaxgmm.fit(KEY, algorithm=algorithm, **options)
    several = jaxgmm.fit(KEY, algorithm=algorithm, mesh=MESHES[mesh], **options)
    found = {
        "objective": gap(one.states.objective, several.states.objective),
        "posterior": gap(one.states.posterior, several.states.posterior),
        "same status": one.statuses() == several.statuses(),
        "iterations": gap(one.states.n_iter, several.states.n_iter),
    }
    if one.history is not None:
        assert several.history is not None
        assert one.history.shape == several.history.shape
        rows = np.nan_to_num(one.history), np.nan_to_num(several.history)
        found["history"] = float(np.abs(rows[0] - rows[1]).max())
    return found


def on_the_mesh_already() -> dict[str, Any]:
    mesh = MESHES["data"]
    placed = jax.device_put(x[:268], NamedSharding(mesh, PartitionSpec("data")))
    one = jaxgmm.fit(KEY, x[:268], em, 2, moves=False)
    several = jaxgmm.fit(KEY, placed, em, 2, moves=False, mesh=mesh)
    return {"objective": gap(one.states.objective, several.states.objective)}


def pure() -> dict[str, Any]:
    """`run` inside a jitted program."""
    keys = jax.random.split(KEY, 3)
    states = jax.vmap(em.init, (0, None))(keys, x)

    @functools.partial(jax.jit, static_argnames="mesh")
    def go(states: jaxgmm.State, mesh: Any) -> Any:
        return jaxgmm.run(em, states, x, max_iter=9, tol=0.0, history_length=9, mesh=mesh)

    one, several = go(states, None), go(states, MESHES["both"])
    return {
        "objective": gap(one[0].objective, several[0].objective),
        "history": gap(one[1], several[1]),
    }


def collectives() -> int:
    """All-reductions in the compiled loop: those of one pass, and not one a lane or a block."""
    from jaxgmm._estep.rows import Rows
    from jaxgmm._fit.launch import start_lanes
    from jaxgmm._fit.mesh import advance_on, check_mesh, spread_rows
    from jaxgmm._fit.whitening import Whitening

    mesh = check_mesh(MESHES["data"], em)
    coordinates = Whitening(x, Rows(x), em)
    data, states = start_lanes(KEY, em, 4, "k-means++", coordinates, Rows(x))()
    data = spread_rows(data, mesh)
    limits = (jnp.asarray(9, jnp.int32), jnp.asarray(1e-3), jnp.asarray(9, jnp.int32))
    lowered = advance_on(mesh, 0).lower(em, states, data, *limits)
    return lowered.as_text().count("stablehlo.all_reduce")


if __name__ == "__main__":
    extra = {"placed": on_the_mesh_already, "pure": pure, "collectives": collectives}
    out = {name: extra[name]() if name in extra else compare(name) for name in sys.argv[1:]}
    json.dump(out, sys.stdout)
