"""What must hold of every case, and what does not, in words."""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxgmm
from benchmarks import _oracle as oracle
from jaxgmm import Status
from jaxgmm._numerics.pytree import replace

from . import search
from .cases import Case

# Nats a sample: what a lane that converged may be off by.
OFF = 1e-3
HUNDRED = 100


class Verdict(NamedTuple):
    """Of one case: ``failures`` are names of laws and details; ``status`` is that of the best."""

    case: Case
    status: str
    failures: list[tuple[str, str]]


def algorithm_of(case: Case) -> Any:
    b = case.bucket
    if b.algorithm == "ML":
        return jaxgmm.em(jaxgmm.flat_prior(b.k, b.d, b.covariance, dtype=b.dtype))
    prior = stretched(jaxgmm.default_prior(jnp.asarray(case.x), b.k, b.covariance), case)
    if b.algorithm == "SVI":
        return jaxgmm.svi(prior, jaxgmm.natural_gradient())
    return jaxgmm.em(prior) if b.algorithm == "MAP" else jaxgmm.cavi(prior)


def stretched(prior: Any, case: Case) -> Any:
    """The default prior with its numbers multiplied by ``case.stretch``."""
    concentration, kappa, degrees, scale = case.stretch
    c = prior.components
    wishart = case.bucket.covariance in ("full", "tied")
    fields = {"degrees_of_freedom": degrees, "scale": scale}
    if not wishart:
        fields = {"shape": degrees, "rate": scale}
    new = {
        name: getattr(c, name) * jnp.asarray(factor, case.bucket.dtype)
        for name, factor in {"mean_precision": kappa, **fields}.items()
    }
    weights = jaxgmm.Dirichlet(
        prior.weights.concentration * jnp.asarray(concentration, case.bucket.dtype)
    )
    return jaxgmm.Prior(weights, type(c)(mean=c.mean, **new))


def judge(case: Case) -> Verdict:
    """Fit the case, and hold the result against the laws."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            algorithm = algorithm_of(case)
            result = jaxgmm.fit(
                jax.random.key(case.seed),
                case.x,
                algorithm,
                case.bucket.lanes,
                sample_weight=case.weight,
                progress=False,
            )
    except ValueError as error:
        # float32 cannot hold all units, and the report counts what it refuses; float64 can
        sentence = str(error)[:80]
        refused = [("refused", sentence)] if case.bucket.dtype == "float64" else []
        return Verdict(case, f"refused: {sentence}", refused)
    except Exception as error:  # what a law is about
        return Verdict(case, "", [("exception", f"{type(error).__name__}: {str(error)[:200]}")])
    status = Status(int(result.best.status))
    failures = not_a_number(result) + off(case, result)
    if status == Status.CONVERGED and case.bucket.algorithm == "ML" and case.weight is None:
        failures += spurious(case, result.best)
    if status.failed:
        failures += lost(case, algorithm, status)
    elif case.bucket.k == 1 and status == Status.CONVERGED:
        failures += closed_form(case, algorithm, result.best)
    return Verdict(case, status.name, failures)


def not_a_number(result: Any) -> list[tuple[str, str]]:
    """No NaN in any leaf of any lane's state."""
    failures = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(result.states):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and bool(jnp.isnan(leaf).any()):
            failures.append(jax.tree_util.keystr(path))
    return [("NaN", ", ".join(failures))] if failures else []


def total(case: Case) -> float:
    """Samples: those of the weights, or N."""
    return len(case.x) if case.weight is None else float(case.weight.astype(np.float64).sum())


def off(case: Case, result: Any) -> list[tuple[str, str]]:
    """No lane has converged to an objective that NumPy does not confirm at its parameters."""
    x = case.x.astype(np.float64)
    weight = None if case.weight is None else case.weight.astype(np.float64)
    worst, where = 0.0, ""
    # not the memory, which may hold keys
    lanes = jax.device_get(replace(result.states, memory=()))
    for lane in np.flatnonzero(lanes.status == Status.CONVERGED):
        state = jax.tree.map(lambda a, i=lane: a[i], lanes)
        try:
            with np.errstate(all="ignore"):
                value = oracle.objective(x, state, weight=weight)
        except np.linalg.LinAlgError:
            value = np.nan
        gap = abs(float(state.objective) - value) / total(case) - resolution(case, state)
        if not gap <= max(worst, OFF):
            worst, where = gap, f"lane {lane}: {float(state.objective):.6g} is {value:.6g}"
    return [("off", where)] if where else []


def resolution(case: Case, state: Any) -> float:
    """Nats a sample by which the rounding of the means to the dtype alone moves the objective."""
    p = oracle.mode(oracle.read(state.posterior))
    ulp = 0.5 * np.finfo(case.bucket.dtype).eps * np.abs(p.means)
    with np.errstate(all="ignore"):
        # rounding points in every direction, the narrow ones across the columns included
        precisions = np.diagonal(np.linalg.pinv(p.covariances), axis1=1, axis2=2)
        each = (ulp**2 * precisions).sum(1)
    return float(np.nan_to_num(p.weights @ each))


def spurious(case: Case, state: Any) -> list[tuple[str, str]]:
    """The best optimum of a likelihood is none that the rule of `is_degenerate` clearly refuses."""
    p = oracle.mode(oracle.read(state.posterior))
    if oracle.clean(p, case.bucket.covariance, total(case) * p.weights, margin=2.0):
        return []
    return [("spurious", f"weights {np.round(p.weights, 4)}, of {total(case):.4g} samples")]


def problem_of(case: Case, algorithm: Any) -> search.Problem:
    n = len(case.x)
    weight = np.ones(n) if case.weight is None else case.weight.astype(np.float64)
    prior = oracle.read(algorithm.prior)
    point = case.bucket.algorithm in ("ML", "MAP")
    return search.Problem(case.x.astype(np.float64), weight, prior, point, least(case))


def lost(case: Case, algorithm: Any, status: Status) -> list[tuple[str, str]]:
    """A fit fails only where a hundred lanes of NumPy find no clean optimum.

    Rows that are all one and the same have no scale, and may fail under any prior.
    """
    if (case.x == case.x[0]).all() or flat(case):
        return []
    if search.finds_clean_optimum(problem_of(case, algorithm), HUNDRED, case.seed):
        return [("lost", f"{status.name}, where NumPy finds a clean optimum")]
    return []


def least(case: Case) -> float:
    """The least eigenvalue of correlations that is not lost to the rounding of their entries."""
    return float(16 * np.finfo(case.bucket.dtype).eps)


def flat(case: Case) -> bool:
    """Whether no likelihood's covariance of these data can be held in the dtype.

    See `least`.
    """
    b = case.bucket
    if b.algorithm != "ML" or b.covariance not in ("full", "tied") or b.d == 1:
        return False
    x = case.x[case.weight > 0] if case.weight is not None else case.x
    weight = None if case.weight is None else case.weight[case.weight > 0]
    covariance = np.cov(x.astype(np.float64).T, aweights=weight)
    with np.errstate(all="ignore"):
        return search.eigenvalue(covariance) < least(case)


def closed_form(case: Case, algorithm: Any, state: Any) -> list[tuple[str, str]]:
    """With one component the optimum is known: the posterior itself, and its mode."""
    x, weight, prior, *_ = problem_of(case, algorithm)
    q = search.update(x, weight[:, None], prior)
    with np.errstate(all="ignore"):
        if case.bucket.algorithm in ("ML", "MAP"):
            p = oracle.mode(q)
            best = oracle.log_likelihood(x, p, weight) + oracle.log_prior(p, prior)
        else:
            best = oracle.elbo(x, q, prior, weight)
        gap = (best - float(state.objective)) / total(case) - resolution(case, state)
    if gap <= OFF:
        return []
    return [("closed form", f"{float(state.objective):.6g}, but the optimum is {best:.6g}")]
