"""Run by test_persist.py in a process of its own: what a saved fit gives after it was loaded."""

import functools
import sys
from pathlib import Path
from typing import Any

import jax

import jaxgmm
from jaxgmm._export.files import load

go_on = jax.jit(functools.partial(jaxgmm.run, max_iter=5, history_length=5))


def outputs(result: Any, x: jax.Array) -> dict[str, jax.Array]:
    """What every function gives, and where the fit goes on to."""
    state = result.best
    out = {
        "log_prob": jaxgmm.log_prob(state, x),
        "responsibilities": jaxgmm.responsibilities(state, x),
        "predict": jaxgmm.predict(state, x),
        "sample": jaxgmm.sample(jax.random.key(7), state, 20)[0],
        "bic": jaxgmm.bic(state, x),
        "elbo": jaxgmm.elbo(state, x),
    }
    states, history = go_on(result.algorithm, result.states, x)
    leaves = enumerate(jax.tree.leaves(states))
    return out | {"history": history} | {f"run {i}": plain(a) for i, a in leaves}


def plain(a: jax.Array) -> jax.Array:
    """The array, or the data of a key."""
    is_key = jax.numpy.issubdtype(a.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(a) if is_key else a


if __name__ == "__main__":
    # the settings of the process that saved, since another program may round differently
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_enable_x64", True)
    import numpy as np
    import optax

    folder = Path(sys.argv[1])
    x = jax.numpy.asarray(np.load(folder / "x.npy"))
    for path in sorted(folder.glob("*.fit")):
        optimizer = optax.adam if path.stem == "svi" else None
        found = outputs(load(path, optimizer=optimizer), x)
        np.savez(folder / f"{path.stem}.npz", **{k: np.asarray(v) for k, v in found.items()})
