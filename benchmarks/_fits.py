"""Whole fits, from random starts to the best estimate, as a user calls them in each library."""

import itertools
import time
import warnings
from typing import Any, NamedTuple

import numpy as np

from benchmarks._measure import Contender, Run
from benchmarks._problems import cores

MAX_ITER = 500


class FitProblem(NamedTuple):
    """Maximum likelihood with full covariances from random starts.

    Attributes:
        x: samples ``(N, D)``.
        n_components: K.
        restarts: starts of one fit, of which the best counts.
        timed: of these, how many a library does that does them one after the other; its time is
            scaled up to all of them.
        tol: change of the log-likelihood, in nats a sample, at which a start has converged.
    """

    x: np.ndarray
    n_components: int
    restarts: int
    timed: int
    tol: float


def jaxgmm_fit(problem: FitProblem) -> tuple[Contender, dict[str, Any]]:
    """The default `fit`: racing, moves and all; many lanes are shared out over the cores."""
    import jax

    import jaxgmm

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_num_cpu_devices", cores())
    n_devices = len(jax.devices())
    shared = n_devices > 1 and problem.restarts >= 16 * n_devices
    mesh = jax.make_mesh((n_devices,), ("restarts",)) if shared else None
    x = jax.device_put(problem.x)
    prior = jaxgmm.flat_prior(problem.n_components, x.shape[1], dtype=x.dtype)
    algorithm, seeds = jaxgmm.em(prior), itertools.count()

    def run() -> Run:
        key = jax.random.key(next(seeds))
        began = time.perf_counter()
        result = jaxgmm.fit(
            key, x, algorithm, problem.restarts, max_iter=MAX_ITER, tol=problem.tol, mesh=mesh
        )
        best = float(result.best.objective)
        seconds = time.perf_counter() - began
        return Run(1e3 * seconds, (np.array([best / len(problem.x)]),))

    return run, {"devices": n_devices if shared else 1}


def sklearn_fit(problem: FitProblem) -> tuple[Contender, dict[str, Any]]:
    """scikit-learn's GaussianMixture with its own starts, k-means, and ``n_init``."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    seeds = itertools.count()

    def run() -> Run:
        model = GaussianMixture(
            problem.n_components,
            n_init=problem.timed,
            tol=problem.tol,
            max_iter=MAX_ITER,
            random_state=next(seeds),
        )
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(problem.x)
        seconds = time.perf_counter() - began
        seconds *= problem.restarts / problem.timed
        return Run(1e3 * seconds, (np.array([model.score(problem.x)]),))

    return run, {}


def onedal_fit(problem: FitProblem) -> tuple[Contender, dict[str, Any]]:
    """oneDAL's EM from its own starts: the best of ten short runs, as it does by default."""
    import daal4py  # type: ignore[import-not-found]

    seeds, size = itertools.count(), len(problem.x)
    precision = "float" if problem.x.dtype == np.float32 else "double"

    def one(seed: int) -> float:
        common = {"nComponents": problem.n_components, "fptype": precision}
        start = daal4py.em_gmm_init(
            engine=daal4py.engines_mt19937(fptype=precision, seed=seed), **common
        ).compute(problem.x)
        algorithm = daal4py.em_gmm(
            maxIterations=MAX_ITER, accuracyThreshold=problem.tol * size, **common
        )
        found = algorithm.compute(problem.x, start.weights, start.means, start.covariances)
        return float(found.goalFunction[0, 0]) / size

    def run() -> Run:
        seed = next(seeds)
        began = time.perf_counter()
        best = max(one(1 + problem.timed * seed + i) for i in range(problem.timed))
        seconds = (time.perf_counter() - began) * problem.restarts / problem.timed
        return Run(1e3 * seconds, (np.array([best]),))

    return run, {}
