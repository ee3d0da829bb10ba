"""Processes that fit, and keep their fits, until they are killed at a random moment each.

``python kept.py folder n every seconds what`` makes n folders in the folder, kills each process up
to so many seconds after its first checkpoint has begun, and prints how many of the processes had
not ended; ``what`` is "rows" or "stream". They are forked before JAX has run, because to import it
takes longest.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

# as conftest.py has it, so that programs are found in the cache and round alike
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_enable_x64", True)

import jaxgmm
from jaxgmm._numerics import programs

programs._OPTIONS[programs.Effort.LIGHT] = {}

# Of the fits that are killed: some tenths of a second.
EFFORT = 3.0


def data() -> np.ndarray:
    """Two clusters that overlap, (60, 1)."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(0, 1, 40), rng.normal(3, 0.7, 20)])[:, None]


def fitted(**options: Any) -> jaxgmm.Result:
    """A fit with a race, a history and moves."""
    algorithm = jaxgmm.em(jaxgmm.flat_prior(3, 1, "spherical"))
    given = {"effort": 0.5, "tol": 1e-8, "history": True, "progress": False, **options}
    return jaxgmm.fit(jax.random.key(0), data(), algorithm, **given)


def streamed(**options: Any) -> jaxgmm.Result:
    """A fit of a stream, with a history, of some hundred passes."""
    algorithm = jaxgmm.em(jaxgmm.flat_prior(3, 1, "spherical"))
    given = {"max_iter": 400, "tol": 0.0, "history": True, "progress": False, **options}
    return jaxgmm.fit(jax.random.key(0), stream(), algorithm, 4, **given)


def stream() -> jaxgmm.Stream:
    return jaxgmm.Stream(data(), 20, sample_size=40)


def killed(path: Path, rng: random.Random, every: int | str, seconds: float, what: str) -> bool:
    """Whether the process of a fit was killed before it ended."""
    pid = os.fork()
    if pid == 0:
        try:
            if what == "stream":
                streamed(checkpoint=path, every=every)
            else:
                fitted(effort=EFFORT, checkpoint=path, every=every)
        finally:
            os._exit(0)
    stages = path / "stages"
    while not (stages.exists() and any(stages.iterdir())):
        time.sleep(0.001)
    time.sleep(rng.uniform(0, seconds))
    os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    folder, n, every, seconds, what = Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
    every, rng = int(every) if every.isdigit() else every, random.Random(0)
    print(sum(killed(folder / str(i), rng, every, float(seconds), what) for i in range(n)))
