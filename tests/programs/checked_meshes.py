"""Functions of rows on JAX's default meshes: a checked `jax.shard_map`, and explicit axes.

Its arguments are families. Prints the furthest that each function is from what one device gives,
relative to the largest value.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import jax

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import Array, lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxgmm
from jaxgmm.stats import log_evidence

ROWS, WHOLE = PartitionSpec("data"), PartitionSpec()
rng = np.random.default_rng(0)
# so many features that factors are computed in a loop, so many rows that a pass has blocks
X = rng.normal(size=(600, 3)) + 4 * rng.integers(0, 2, (600, 1))
WEIGHT = rng.uniform(0.5, 2, 600)


def gap(found: Any, expected: Any) -> float:
    gaps = jax.tree.map(lambda a, b: np.max(np.abs(a - b)) / np.max(np.abs(b)), found, expected)
    return max(float(a) for a in jax.tree.leaves(gaps))


def summed(weighted: bool) -> dict[str, Callable[..., Any]]:
    """Functions of rows, and of a distribution that all devices share, that add over the rows."""

    def evidence(x: Array, weight: Array, q: jaxgmm.Prior) -> Array:
        potentials = jaxgmm.views.Expectation().potentials(q)
        return log_evidence(x, potentials, weight if weighted else None)

    def counts(x: Array, weight: Array, q: jaxgmm.Prior) -> tuple[Array, Array]:
        potentials = jaxgmm.views.Expectation().potentials(q)
        rows = jaxgmm.Rows(x, weight if weighted else None)
        found = [jaxgmm.estep(rows, potentials, path=p) for p in ("feature", "whitened")]
        return found[0].count, found[1].log_evidence

    return {"evidence": evidence, "counts": counts}


def in_shard_map(family: str) -> dict[str, float]:
    prior = jaxgmm.default_prior(X, 2, family)
    state = jaxgmm.cavi(prior).init(jax.random.key(0), X)
    q, mesh = state.posterior, jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    out = {}
    for weighted in (False, True):
        for name, function in summed(weighted).items():

            def everywhere(x: Array, w: Array, q: jaxgmm.Prior, f: Any = function) -> Any:
                return lax.psum(f(x, w, q), "data")

            there = jax.shard_map(
                everywhere, mesh=mesh, in_specs=(ROWS, ROWS, WHOLE), out_specs=WHOLE
            )
            key = f"{family} {name}{' weighted' * weighted}"
            out[key] = gap(jax.jit(there)(X, WEIGHT, q), function(X, WEIGHT, q))
        slope = jax.grad(summed(weighted)["evidence"], (0, 2))
        # what all devices share has the slope of the whole sum, without another word
        there = jax.shard_map(
            slope, mesh=mesh, in_specs=(ROWS, ROWS, WHOLE), out_specs=(ROWS, WHOLE)
        )
        key = f"{family} slope{' weighted' * weighted}"
        out[key] = gap(jax.jit(there)(X, WEIGHT, q), slope(jnp.asarray(X), WEIGHT, q))
    return out


def on_explicit_axes() -> dict[str, float]:
    place = NamedSharding(jax.make_mesh((2,), ("data",)), ROWS)
    x, weight = jax.device_put(X, place), jax.device_put(WEIGHT, place)
    out = {}
    for make in (jaxgmm.em, jaxgmm.cavi):
        start = {"means": X[:2]}
        state = make(jaxgmm.default_prior(X, 2)).init(jax.random.key(0), X, start)
        for f in (jaxgmm.bic, jaxgmm.aic, jaxgmm.icl, jaxgmm.elbo):
            out[f"{make.__name__} {f.__name__}"] = gap(f(state, x), f(state, X))
            found = f(state, x, sample_weight=weight)
            expected = f(state, X, sample_weight=WEIGHT)
            out[f"{make.__name__} {f.__name__} weighted"] = gap(found, expected)
        for f in (jaxgmm.log_prob, jaxgmm.responsibilities, jaxgmm.predict):
            out[f"{make.__name__} {f.__name__}"] = gap(f(state, x), f(state, X))
        scores = [jaxgmm.outlier_scores(jax.random.key(1), state, rows) for rows in (x, X)]
        out[f"{make.__name__} outlier_scores"] = gap(*scores)
    return out


def runs(everything: bool) -> dict[str, float]:
    """`init` and `run`, with lanes of their own on each device, and with rows of their own."""
    prior = jaxgmm.default_prior(X, 2)
    algorithms = {"em": jaxgmm.em(prior)}
    if everything:
        algorithms |= {
            "squarem": jaxgmm.squarem(jaxgmm.cavi(prior)),
            "gradients": jaxgmm.svi(prior, optax.adam(0.1), view="expectation"),
        }
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    keys, half = jax.random.split(jax.random.key(0), 4), X.shape[0] // 2

    def go(algorithm: Any, keys: Array, x: Array) -> Any:
        states = jax.vmap(algorithm.init, (0, None))(keys, x)
        return jaxgmm.run(algorithm, states, x, max_iter=5, history_length=3)

    out = {}
    for name, algorithm in algorithms.items():
        for axes in ((ROWS, WHOLE), (WHOLE, ROWS)):
            there = jax.shard_map(
                go,
                mesh=mesh,
                in_specs=(WHOLE, *axes),
                out_specs=(ROWS, PartitionSpec(None, "data")),
            )
            states, history = jax.jit(there)(algorithm, keys, X)
            if axes[0] == ROWS:
                expected = jax.jit(go)(algorithm, keys, X)[1]
            else:
                parts = [jax.jit(go)(algorithm, keys, x)[1] for x in (X[:half], X[half:])]
                expected = np.concatenate(parts, axis=1)
            key = f"{name}, {'lanes' if axes[0] == ROWS else 'rows'} of its own"
            out[key] = gap(history, expected)
            assert int(states.n_iter.min()) > 1
    fit = jax.shard_map(
        lambda key, x: jaxgmm.fit(key, x, algorithms["em"]).states.objective,
        mesh=mesh,
        in_specs=(WHOLE, ROWS),
        out_specs=ROWS,
    )
    with pytest.raises(ValueError, match=r"call jaxgmm.run\(algorithm, states, x\) there"):
        fit(keys[0], X)
    return out


if __name__ == "__main__":
    found = on_explicit_axes() | runs(len(sys.argv) > 2)
    for family in sys.argv[1:]:
        found |= in_shard_map(family)
    json.dump(found, sys.stdout)
