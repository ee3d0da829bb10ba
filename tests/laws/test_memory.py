"""A fit never holds an N x K array."""

import json
import subprocess
import sys
import textwrap

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
        result = jaxgmm.fit(
            jax.random.key(0), x, algorithm, init="k-means++", max_iter=3, tol=0, progress=False
        )
        return int(result.best.n_iter)

    rng = np.random.default_rng(0)
    fit(jnp.asarray(rng.standard_normal((1000, {D}), np.float32)))  # imports and compiler
    before = peak()
    x = jnp.asarray(rng.standard_normal(({N}, {D}), np.float32))
    n_iter = fit(x)
    print(json.dumps(dict(grown=peak() - before, data=x.nbytes, n_iter=n_iter)))
    """
)


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
