"""The libraries that compete: each makes a `Contender` of the same problem."""

import time
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import jax
import numpy as np

import jaxgmm
from benchmarks._measure import Contender, Run
from benchmarks._problems import Problem

# A peer that takes the lanes one at a time is timed on so many of them.
_PEER_LANES = 4


def jaxgmm_em(problem: Problem) -> tuple[Contender, float]:
    """The contender, and the seconds it took to trace and compile."""
    x = jax.device_put(problem.x)
    k, d = problem.starts[1].shape[1:]
    algorithm = jaxgmm.em(jaxgmm.flat_prior(k, d, dtype=x.dtype))
    # no jit: init looks at the samples, which checks them
    states = jax.vmap(lambda *start: algorithm.init(jax.random.key(0), x, parameters=start))(
        *problem.starts
    )

    def iterate(algorithm: Any, states: jaxgmm.State, x: jax.Array) -> jaxgmm.State:
        return jaxgmm.run(algorithm, states, x, max_iter=problem.iterations, tol=0.0)[0]

    began = time.perf_counter()
    compiled = jax.jit(iterate).lower(algorithm, states, x).compile()
    compile_seconds = time.perf_counter() - began

    def run() -> Run:
        jax.block_until_ready(states)
        began = time.perf_counter()
        final = jax.block_until_ready(compiled(algorithm, states, x))
        seconds = time.perf_counter() - began
        # a lane that stopped early would make the time a lie
        done = np.asarray(final.n_iter)
        if not (done == problem.iterations).all():
            raise RuntimeError(f"lanes did {done} iterations, not {problem.iterations}.")
        mixture = jax.vmap(jaxgmm.mixture)(final)
        work = problem.iterations * len(done)
        return Run(1e3 * seconds / work, tuple(np.asarray(a) for a in mixture))

    return run, compile_seconds


def sklearn_em(problem: Problem) -> Contender:
    """scikit-learn's GaussianMixture, one restart at a time.

    A fit ends with an E-step for the labels that belongs to no iteration. So the clock runs from
    the first E-step to the last M-step, which also leaves out the checks of the input.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    class TimedMixture(GaussianMixture):
        def _e_step(self, *args: Any, **kwargs: Any) -> Any:
            if not hasattr(self, "began"):
                self.began = time.perf_counter()
            return super()._e_step(*args, **kwargs)

        def _m_step(self, *args: Any, **kwargs: Any) -> None:
            super()._m_step(*args, **kwargs)
            self.ended = time.perf_counter()

    def fit(start: tuple[np.ndarray, ...]) -> tuple[float, Any]:
        weights, means, covariances = start
        model = TimedMixture(
            n_components=len(weights),
            tol=0.0,
            reg_covar=0.0,
            max_iter=problem.iterations,
            weights_init=weights,
            means_init=means,
            precisions_init=np.linalg.inv(covariances),
        )
        model.fit(problem.x)
        if model.n_iter_ != problem.iterations:
            raise RuntimeError(f"did {model.n_iter_} iterations, not {problem.iterations}.")
        return model.ended - model.began, model

    def run() -> Run:
        lanes = min(len(problem.starts[0]), _PEER_LANES)
        with warnings.catch_warnings():
            # it is asked not to converge
            warnings.simplefilter("ignore", ConvergenceWarning)
            fits = [fit(tuple(a[lane] for a in problem.starts)) for lane in range(lanes)]
        seconds = sum(taken for taken, _ in fits)
        found = (
            np.stack([m.weights_ for _, m in fits]),
            np.stack([m.means_ for _, m in fits]),
            np.stack([m.covariances_ for _, m in fits]),
        )
        return Run(1e3 * seconds / (problem.iterations * lanes), found)

    return run


# name on the command line: (name in a table, module that must be installed, maker)
PEERS: dict[str, tuple[str, str, Callable[[Problem], Contender]]] = {
    "sklearn": ("scikit-learn", "sklearn", sklearn_em),
}


def make_peers(names: list[str], problem: Problem) -> dict[str, Contender]:
    """The chosen peers, by their names in a table.

    Raises:
        ImportError: where one is not installed.
    """
    contenders = {}
    for name in names:
        title, module, make = PEERS[name]
        import_module(module)
        contenders[title] = make(problem)
    return contenders
