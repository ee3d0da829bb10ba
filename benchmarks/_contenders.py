"""The libraries that compete: each turns the same problem into a contender.

A maker returns the contender and what is to be said about it. It runs in a process of its own, see
`_worker`, and imports there what only it needs.
"""

import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks._measure import Contender, Run
from benchmarks._problems import Problem, cores

Made = tuple[Contender, dict[str, Any]]

# A peer that takes the lanes one at a time is timed on so many of them.
_PEER_LANES = 4


def jaxgmm_mixture(problem: Problem) -> Made:
    """EM or CAVI, all lanes together, on one device or on one for each core, as is faster.

    Says the seconds it took to trace and compile, and the number of devices.
    """
    import jax

    import jaxgmm

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_num_cpu_devices", cores())
    x = jax.device_put(problem.x)
    weights, means, covariances = (jax.numpy.asarray(a) for a in problem.starts)
    k, d = means.shape[1:]
    if problem.algorithm == "em":
        algorithm = jaxgmm.em(jaxgmm.flat_prior(k, d, problem.covariance, x.dtype))
        given: dict[str, Any] = {"parameters": (weights, means, covariances)}
    else:
        algorithm = jaxgmm.cavi(_prior(problem))
        given = {"labels": jax.numpy.asarray(problem.labels())}
    # no jit: init looks at the samples, which checks them
    states = jax.vmap(lambda given: algorithm.init(jax.random.key(0), x, given))(given)
    numbers = sorted({1, len(jax.devices())})
    made = [_on_devices(problem, algorithm, states, x, number) for number in numbers]
    if len(made) > 1:
        made.sort(key=lambda one: min(one[0]().milliseconds for _ in range(4)))
    return made[0]


def _on_devices(problem: Problem, algorithm: Any, states: Any, x: Any, number: int) -> Made:
    """The lanes shared out over so many devices; or the rows, where there are too few lanes."""
    import jax

    import jaxgmm

    lanes = len(problem.starts[0])
    axis = "restarts" if lanes % number == 0 else "data"
    mesh = jax.make_mesh((number,), (axis,)) if number > 1 else None

    def iterate(algorithm: Any, states: jaxgmm.State, x: jax.Array) -> jaxgmm.State:
        return jaxgmm.run(algorithm, states, x, max_iter=problem.iterations, tol=0.0, mesh=mesh)[0]

    began = time.perf_counter()
    compiled = jax.jit(iterate).lower(algorithm, states, x).compile()
    about = {"compile_seconds": time.perf_counter() - began, "devices": number}
    # where the program wants them: moving them is no part of an iteration
    (algorithm, states, x), _ = jax.device_put(
        ((algorithm, states, x), {}), compiled.input_shardings
    )

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
        work = problem.iterations * lanes
        return Run(1e3 * seconds / work, tuple(np.asarray(a) for a in mixture))

    return run, about


def _prior(problem: Problem) -> Any:
    """The prior of CAVI: proper, the same for every component, and written out for the peers."""
    import jax.numpy as jnp

    import jaxgmm

    k, d = problem.starts[1].shape[1:]
    dtype = problem.x.dtype
    return jaxgmm.Prior(
        jaxgmm.Dirichlet(jnp.full(k, 1.0, dtype)),
        jaxgmm.NormalWishart(
            jnp.zeros((k, d), dtype),
            jnp.full(k, 1.0, dtype),
            jnp.full(k, d + 2.0, dtype),
            jnp.broadcast_to(jnp.eye(d, dtype=dtype), (k, d, d)),
        ),
    )


def sklearn_mixture(problem: Problem) -> Made:
    """scikit-learn's GaussianMixture or BayesianGaussianMixture, one restart at a time.

    A fit ends with an E-step for the labels that belongs to no iteration. So the clock runs from
    the first E-step to the last M-step, which also leaves out the checks of the input.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import BayesianGaussianMixture, GaussianMixture

    class Clock:
        def _e_step(self, *args: Any, **kwargs: Any) -> Any:
            if not hasattr(self, "began"):
                self.began = time.perf_counter()
            return super()._e_step(*args, **kwargs)  # type: ignore[misc]

        def _m_step(self, *args: Any, **kwargs: Any) -> None:
            super()._m_step(*args, **kwargs)  # type: ignore[misc]
            self.ended = time.perf_counter()

    class TimedMixture(Clock, GaussianMixture):
        pass

    class TimedBayesianMixture(Clock, BayesianGaussianMixture):
        lane = 0

        def _initialize_parameters(self, X: Any, *_: Any, **__: Any) -> None:  # noqa: N803
            labels = problem.labels()[self.lane]
            self._initialize(X, np.eye(self.n_components, dtype=X.dtype)[labels])

    k, d = problem.starts[1].shape[1:]
    common = {"n_components": k, "tol": 0.0, "reg_covar": 0.0, "max_iter": problem.iterations}

    def fit(lane: int) -> tuple[float, tuple[np.ndarray, ...]]:
        if problem.algorithm == "em":
            weights, means, covariances = (a[lane] for a in problem.starts)
            model: Any = TimedMixture(
                weights_init=weights,
                means_init=means,
                precisions_init=np.linalg.inv(covariances),
                **common,
            )
        else:
            model = TimedBayesianMixture(
                weight_concentration_prior_type="dirichlet_distribution",
                weight_concentration_prior=1.0,
                mean_prior=np.zeros(d, problem.x.dtype),
                mean_precision_prior=1.0,
                degrees_of_freedom_prior=d + 2.0,
                covariance_prior=np.eye(d, dtype=problem.x.dtype),
                **common,
            )
            model.lane = lane
        with warnings.catch_warnings():
            # it is asked not to converge
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(problem.x)
        if model.n_iter_ != problem.iterations:
            raise RuntimeError(f"did {model.n_iter_} iterations, not {problem.iterations}.")
        seconds = model.ended - model.began
        return seconds, (model.weights_, model.means_, model.covariances_)

    return _one_by_one(problem, fit), {}


def onedal_em(problem: Problem) -> Made:
    """oneDAL's EM, one restart at a time, in the samples' own precision."""
    import daal4py  # type: ignore[import-not-found]

    algorithm = daal4py.em_gmm(
        nComponents=problem.starts[1].shape[1],
        fptype="float" if problem.x.dtype == np.float32 else "double",
        maxIterations=problem.iterations,
        accuracyThreshold=0.0,
        covarianceStorage="full",
    )

    def fit(lane: int) -> tuple[float, tuple[np.ndarray, ...]]:
        weights, means, covariances = (a[lane] for a in problem.starts)
        start = weights[None], means, list(covariances)
        began = time.perf_counter()
        found = algorithm.compute(problem.x, *start)
        seconds = time.perf_counter() - began
        if int(found.nIterations[0, 0]) != problem.iterations:
            raise RuntimeError(f"did {found.nIterations} iterations, not {problem.iterations}.")
        # copies: the next fit writes into the same memory
        parameters = np.array(found.weights[0]), np.array(found.means), np.stack(found.covariances)
        return seconds, parameters

    return _one_by_one(problem, fit), {}


def gmmx_em(problem: Problem) -> Made:
    """GMMX's EM, one restart at a time."""
    import jax
    from gmmx import EMFitter, GaussianMixtureModelJax  # type: ignore[import-not-found]

    x = jax.device_put(problem.x)
    fitter = EMFitter(max_iter=problem.iterations, tol=0.0, reg_covar=0.0)

    def fit(lane: int) -> tuple[float, tuple[np.ndarray, ...]]:
        weights, means, covariances = (jax.numpy.asarray(a[lane]) for a in problem.starts)
        start = GaussianMixtureModelJax.from_squeezed(means, covariances, weights)
        began = time.perf_counter()
        found = fitter.fit(x, start)
        jax.block_until_ready(found.gmm)
        seconds = time.perf_counter() - began
        if int(found.n_iter) != problem.iterations:
            raise RuntimeError(f"did {found.n_iter} iterations, not {problem.iterations}.")
        model = found.gmm
        return seconds, (model.weights_numpy, model.means_numpy, model.covariances.values_numpy)

    return _one_by_one(problem, fit), {}


def _one_by_one(
    problem: Problem, fit: Callable[[int], tuple[float, tuple[np.ndarray, ...]]]
) -> Contender:
    """The contender that fits some of the lanes in turn."""

    def run() -> Run:
        done = min(len(problem.starts[0]), _PEER_LANES)
        fits = [fit(lane) for lane in range(done)]
        seconds = sum(taken for taken, _ in fits)
        found = tuple(np.stack(arrays) for arrays in zip(*(f for _, f in fits), strict=True))
        return Run(1e3 * seconds / (problem.iterations * done), found)

    return run


class Peer(NamedTuple):
    """A peer and what it can do.

    Attributes:
        title: its name in a table.
        package: what is imported.
        makers: by algorithm.
        dtypes: that it computes in.
        largest: entries N K D^2, for one that has them all in memory.
    """

    title: str
    package: str
    makers: dict[str, str]
    dtypes: tuple[str, ...] = ("float32", "float64")
    largest: float = float("inf")

    def can(self, problem: Problem) -> bool:
        """Whether it takes the dtype, and the memory of an ordinary machine suffices for it."""
        k, d = problem.starts[1].shape[1:]
        small = len(problem.x) * k * d * d <= self.largest
        return small and problem.x.dtype in self.dtypes


OURS = "benchmarks._contenders:jaxgmm_mixture"
PEERS = {
    "sklearn": Peer(
        "scikit-learn",
        "sklearn",
        {
            "em": "benchmarks._contenders:sklearn_mixture",
            "cavi": "benchmarks._contenders:sklearn_mixture",
            "fit": "benchmarks._fits:sklearn_fit",
        },
    ),
    "onedal": Peer(
        "oneDAL",
        "daal4py",
        {"em": "benchmarks._contenders:onedal_em", "fit": "benchmarks._fits:onedal_fit"},
    ),
    "gmmx": Peer(
        "GMMX", "gmmx", {"em": "benchmarks._contenders:gmmx_em"}, ("float32",), largest=1e9
    ),
    "numpyro": Peer("NumPyro", "numpyro", {"svi": "benchmarks._svi:numpyro_svi"}),
}
