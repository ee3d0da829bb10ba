"""What the estimators compile: few programs, which all fits of about as many rows share.

Everything runs in the samples' own precision: 64-bit types are enabled within a call, and nowhere
else.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import logsumexp, softmax

from jaxgmm._estep.assigned import from_labels, from_responsibilities
from jaxgmm._estep.data import Data
from jaxgmm._estep.log_evidence import row_log_evidence
from jaxgmm._estep.padded import padded_size, padded_values, padded_weight
from jaxgmm._estep.passes.common import Path
from jaxgmm._estep.potentials import Potentials
from jaxgmm._estep.rows import Rows
from jaxgmm._fit.driver import Driver, Limits
from jaxgmm._lane.state import State
from jaxgmm._lane.status import Status
from jaxgmm._mixture.density import labels_at, responsibilities_at
from jaxgmm._model.estimate import Estimate, given_estimate
from jaxgmm._model.prior import Prior
from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.programs import Program, effort_of, program
from jaxgmm._numerics.pytree import all_finite, replace
from jaxgmm._numerics.special import LOG_2PI
from jaxgmm.sklearn._rules import BayesianRule, GaussianRule, floor_of

P = ParamSpec("P")
T = TypeVar("T")
Rule = GaussianRule | BayesianRule


def with_x64(function: Callable[P, T]) -> Callable[P, T]:
    """The function with 64-bit types enabled while it runs, on its thread."""

    @wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> T:
        with jax.enable_x64(True):
            return function(*args, **kwargs)

    return inner


def padded(a: np.ndarray) -> Array:
    """The array with more rows, however many it has."""
    return padded_values(a, padded_size(len(a)))


def as_data(x: np.ndarray, weight: np.ndarray | None = None) -> Data:
    """The samples, with weights of 1 unless given, padded with rows of weight 0."""
    filled = np.ones(len(x), x.dtype) if weight is None else weight.astype(x.dtype)
    total = len(x) if weight is None else weight.sum(dtype=np.float64)
    # arrays made by NumPy: nothing is compiled for another shape
    return Data(
        rows=Rows(padded(x), padded_weight(filled, padded_size(len(x)))),
        centre=as_array(x.mean(axis=0, dtype=x.dtype)),
        total=as_array(total, x.dtype),
        scale=as_array(1, x.dtype),
    )


class Parameters(NamedTuple):
    """Given parameters of a start; None where the assignments say it."""

    weights: Any = None
    means: Any = None
    covariances: Any = None


def start(algorithm: Rule, data: Data, assigned: Array | None, given: Parameters) -> State:
    """A lane's state from labels ``(N,)`` or responsibilities ``(N, K)``, or given parameters."""
    effort = effort_of(data.x.size * algorithm.prior.n_components)
    return _start.on(effort, algorithm, data, assigned, given)()


@program()
def _start(algorithm: Rule, data: Data, assigned: Array | None, given: Parameters) -> State:
    prior = algorithm.prior
    k, kind = prior.n_components, prior.components.structure
    if assigned is None:
        q = prior
    else:
        weight = data.weight
        if assigned.ndim == 1:
            stats = from_labels(data.x, assigned, k, sample_weight=weight, structure=kind)
        else:
            stats = from_responsibilities(data.x, assigned, sample_weight=weight, structure=kind)
        q = algorithm.from_stats(stats)
    if any(a is not None for a in given):
        q = algorithm.view.posterior_at(prior, _completed(algorithm, q, given, data), data.total)
    return resume(algorithm, q, data)


def _completed(algorithm: Rule, q: Prior, given: Parameters, data: Data) -> Estimate:
    """The estimate of a posterior with those parameters that are given."""
    m = algorithm.view.estimate(q).separate()
    if given.covariances is not None:
        m = given_estimate(q.components.structure, m.weights, m.means, given.covariances)
    weights = m.weights if given.weights is None else given.weights
    # what the algorithm will add: the first E-step sees the given covariances themselves
    covariance = m.kind.regularise(m.covariance, -algorithm.reg_covar)
    return replace(
        m,
        weights=jnp.maximum(weights, floor_of(data.x) / data.total),
        means=m.means if given.means is None else given.means,
        covariance=covariance,
    )


@program()
def resume(algorithm: Rule, posterior: Prior, data: Data) -> State:
    """A lane's state at a posterior; one without a density has the status COLLAPSED."""
    key = jax.random.key(0)
    state = algorithm.begin(key, key, posterior, data)
    usable = all_finite(state.potentials)
    status = jnp.where(usable, Status.RUNNING, Status.COLLAPSED).astype(jnp.int32)
    return replace(state, status=status, memory=status)


def stack(states: list[State]) -> State:
    """The states of the lanes as one."""
    # in NumPy, which compiles nothing for another shape
    return jax.tree.map(lambda *a: as_array(np.stack([np.asarray(b) for b in a])), *states)


def iterate(
    algorithm: Rule, states: State, data: Data, max_iter: int, tol: float
) -> tuple[State, np.ndarray]:
    """All lanes to their ends, and the bounds after each iteration ``(T, R)``."""
    limits = Limits(min(max_iter, np.iinfo(np.int32).max), tol)
    driver = Driver(algorithm, data, limits, states.status.shape[0], history=True)
    progress, interrupted = driver.run(states, race=False)
    if interrupted:
        raise KeyboardInterrupt
    return progress.states(), progress.history()


# With fewer residuals than this the careful pass costs nothing, and half as long to compile.
_SMALL = 1 << 16


def path_for(x: np.ndarray, n_components: int) -> Path:
    """The E-step's path: for small data the careful one alone, which compiles sooner."""
    size = padded_size(len(x)) * x.shape[1] * n_components
    return "whitened" if size <= _SMALL else "auto"


class Description(NamedTuple):
    """What a fit found, in the shapes of its covariance type, and the constants of its logits."""

    weights: Any
    means: Any
    covariances: Any
    precisions_cholesky: Any
    const: Any


@program()
def describe(state: State) -> Description:
    """The estimate, or ``E[pi]``, ``E[mu]`` and ``E[Lambda]^-1``."""
    m = state.view.estimate(state.posterior)
    potentials = state.potentials
    return Description(m.weights, m.means, m.covariance, potentials.factor, potentials.const)


class Model(NamedTuple):
    """A fitted model as predictions take it: NumPy's `Potentials`."""

    const: np.ndarray
    mean: np.ndarray
    factor: np.ndarray
    structure: str


def log_norm(factor: np.ndarray, covariance_type: str, d: int) -> Any:
    """The log density of each normal distribution at its mean, from the factor of its precision."""
    if covariance_type in ("full", "tied"):
        log_det = np.log(np.diagonal(factor, axis1=-2, axis2=-1)).sum(axis=-1)
    else:
        log_det = np.log(factor).sum(axis=-1) if factor.ndim == 2 else d * np.log(factor)
    return log_det - 0.5 * d * LOG_2PI


# Multiplications up to which predictions are NumPy's: nothing is compiled for few samples.
_FEW = 1 << 20


def _few_logits(model: Model, x: np.ndarray) -> np.ndarray | None:
    """The logits of few samples ``(N, K)``, in 64 bits; None where they are many, or some are far.

    So far from all means that rounding is more than a nat, it takes care to rank the components.
    """
    if x.size * model.mean.shape[0] > _FEW:
        return None
    const, mean, factor = (np.asarray(a, np.float64) for a in model[:3])
    residual = np.asarray(x, np.float64) - mean[:, None]
    with np.errstate(all="ignore"):
        if model.structure == "diag":
            white = residual * factor[:, None]
        elif model.structure == "spherical":
            white = residual * factor[:, None, None]
        else:
            white = residual @ factor
        squares = (white**2).sum(axis=-1)
    if not (squares.min(axis=0) * np.finfo(x.dtype).eps < 1).all():
        return None
    return (const[:, None] - 0.5 * squares).T


def _by_row(program: Program, model: Model, x: np.ndarray) -> np.ndarray:
    potentials = Potentials(*(as_array(a, x.dtype) for a in model[:3]), structure=model.structure)
    call = program.on(effort_of(x.size * model.mean.shape[0]), potentials, padded(x))
    # a copy: what JAX returns is read-only
    return np.array(np.asarray(call())[: len(x)])


_log_norms = program()(lambda potentials, x: row_log_evidence(Rows(x), potentials))
_labels = program()(lambda potentials, x: labels_at(potentials, Rows(x)))
_responsibilities = program()(lambda potentials, x: responsibilities_at(potentials, Rows(x)))


@with_x64
def log_norms(model: Model, x: np.ndarray) -> np.ndarray:
    """log-sum-exp of each row's joint log densities, ``(N,)``."""
    logits = _few_logits(model, x)
    return (
        _by_row(_log_norms, model, x)
        if logits is None
        else logsumexp(logits, axis=1).astype(x.dtype)
    )


@with_x64
def labels(model: Model, x: np.ndarray) -> np.ndarray:
    """The most probable component of each row, ``(N,)``."""
    logits = _few_logits(model, x)
    return _by_row(_labels, model, x) if logits is None else logits.argmax(axis=1)


@with_x64
def responsibilities(model: Model, x: np.ndarray) -> np.ndarray:
    """The probability of each component for each row, ``(N, K)``."""
    logits = _few_logits(model, x)
    if logits is None:
        return _by_row(_responsibilities, model, x)
    return softmax(logits, axis=1).astype(x.dtype)
