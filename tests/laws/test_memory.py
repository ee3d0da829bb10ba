"""A fit never holds an N x K array, and no matrices of diagonal or spherical covariances."""

import json
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import parametrize

import jaxgmm

N, D, K = 1_000_000, 8, 64
ALLOWANCE = 300e6  # bytes beside the data; N x K in float32 is 256e6

PROGRAM = textwrap.dedent(
    f"""
    import json, resource, sys
    import numpy as np
    import jax, jax.numpy as jnp
    import jaxgmm

    def peak():
        # kibibytes on Linux, bytes on macOS
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def fit(x):
        algorithm = jaxgmm.em(jaxgmm.flat_prior({K}, {D}, dtype="float32"))
        options = dict(init="k-means++", max_iter=3, tol=0, moves=False, progress=False)
        result = jaxgmm.fit(jax.random.key(0), x, algorithm, 2, **options)
        return int(result.best.n_iter)

    rng = np.random.default_rng(0)
    fit(jnp.asarray(rng.standard_normal((1000, {D}), np.float32)))  # imports and compiler
    before = peak()
    x = jnp.asarray(rng.standard_normal(({N}, {D}), np.float32))
    n_iter = fit(x)
    print(json.dumps(dict(grown=peak() - before, data=x.nbytes, n_iter=n_iter)))
    """
)


@pytest.mark.slow
def test_peak_memory_of_a_million_rows():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["n_iter"] == 3
    # NumPy's copy of the data, which the program makes itself, is there as well
    beside = figures["grown"] - figures["data"]
    assert beside < ALLOWANCE, f"{beside / 1e6:.0f} MB beside the data"


WRAPPERS = {"plain": lambda a: a, "squarem": jaxgmm.squarem, "annealed": jaxgmm.annealed}


@pytest.mark.parametrize("covariance", ["spherical", "diag"])
@parametrize(
    ("make", "wrapper"),
    [("em", "plain"), ("cavi", "plain"), ("em", "squarem")],
    lambda *row: row != ("em", "plain"),
)
def test_diagonal_models_make_no_matrices(make: str, wrapper: str, covariance: str):
    """Of 16 lanes of 20 components matrices of 300 features would take 115 MB a piece."""
    k, d, lanes = 20, 300, 16
    x = jnp.asarray(np.random.default_rng(0).normal(size=(400, d)), "float32")
    prior = jaxgmm.default_prior(x, k, covariance)
    algorithm = WRAPPERS[wrapper](getattr(jaxgmm, make)(prior))
    keys = jax.random.split(jax.random.key(0), lanes)
    states = jax.eval_shape(jax.vmap(algorithm.init, (0, None)), keys, x)
    program = jax.jit(jaxgmm.run).lower(algorithm, states, x).compile()
    temporaries = program.memory_analysis().temp_size_in_bytes
    assert temporaries < 30e6, f"{temporaries / 1e6:.0f} MB"


@pytest.mark.slow
def test_a_diagonal_fit_of_many_features_runs():
    rng = np.random.default_rng(0)
    centres = 3 * rng.normal(size=(10, 2000)).astype(np.float32)
    labels = rng.integers(0, 10, 20_000)
    x = centres[labels] + rng.normal(size=(20_000, 2000)).astype(np.float32)
    algorithm = jaxgmm.em(jaxgmm.flat_prior(10, 2000, "diag", "float32"))
    best = jaxgmm.fit(jax.random.key(0), x, algorithm, 16, max_iter=30, moves=False).best
    assert best.posterior.components.mean.shape == (10, 2000)
    assert np.isfinite(best.objective)
