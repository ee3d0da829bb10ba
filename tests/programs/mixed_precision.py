"""A float32 fit and a float64 one in one process, in the order of the argument; prints "done"."""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import jaxgmm

# more than one block of rows, whose loop is then compiled with the features' indices as constants
X = np.random.default_rng(0).normal(size=(50_000, 1))


def fit(dtype: str) -> None:
    x = jnp.asarray(X, dtype)
    algorithm = jaxgmm.em(jaxgmm.flat_prior(2, 1, dtype=dtype))
    assert jaxgmm.fit(jax.random.key(0), x, algorithm, max_iter=3).best.prior.dtype == dtype


for name in sys.argv[1].split(","):
    with jax.enable_x64(name == "float64"):
        fit(name)
print("done")
