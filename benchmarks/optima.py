"""How often a default fit ends at the best optimum that is known, and how long it takes.

The best known optima come from `benchmarks.best_known`. A fit is as good if its objective, by NumPy
in float64 at the returned parameters, is within 0.01 nats a sample, its status is CONVERGED, and
the optimum is none that `jaxgmm.is_degenerate` says it refuses (NumPy judges that once more).
scikit-learn's estimators are compared where they have the same objective: GaussianMixture with next
to no ``reg_covar`` for maximum likelihood, its spurious optima not counted, and
BayesianGaussianMixture with the same prior for CAVI with full covariances. Both have ``n_init=10``
and ``tol=1e-6``, in float64, at a fifth of the seeds. It has no counterpart of MAP.
"""

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxgmm
from benchmarks import _oracle as oracle
from benchmarks._measure import spread
from benchmarks._optima_problems import PROBLEMS, OptimumProblem
from benchmarks.best_known import algorithm_of, load
from jaxgmm import Status

UNIT = "ms per fit"
# Nats a sample below the best known optimum, within which a fit has found one as good.
NEAR = 0.01
LANES = {"jaxgmm": 16, "one lane": 1}


def measure(
    peers: list[str], *, quick: bool, only: list[str] | None = None, n_keys: int | None = None
) -> Iterator[dict[str, Any]]:
    """One row for each problem, as soon as it is measured."""
    known = load()
    n_keys = n_keys or (5 if quick else 50)
    names = ["faithful, 2", "tight group"] if quick else only or [p.name for p in PROBLEMS]
    for problem in PROBLEMS:
        if problem.name in names:
            best = known[problem.name]["objective"]
            yield _row(problem, best, n_keys, sklearn="sklearn" in peers)
            jax.clear_caches()


def _row(problem: OptimumProblem, best: float, n_keys: int, *, sklearn: bool) -> dict[str, Any]:
    x = problem.rows()
    found = {
        name: _summary(problem, x, best, jaxgmm_fits(problem, x, lanes, n_keys))
        for name, lanes in LANES.items()
    }
    if sklearn and (fits := sklearn_fits(problem, x, max(n_keys // 5, 2))):
        found["scikit-learn"] = _summary(problem, x, best, fits)
    ours = found["jaxgmm"]["milliseconds"]["median"]
    for name, one in found.items():
        if name != "jaxgmm":
            one["ratio"] = {k: v / ours for k, v in one["milliseconds"].items() if k != "runs"}
    words = (
        f"{name} {c['success']:.0%} ({c['converged']:.0%} converged), "
        f"{c['milliseconds']['median']:.4g} ms;"
        for name, c in found.items()
    )
    above = max(c["above"] for c in found.values())
    if above > 1e-3:
        words = (*words, f"a better optimum than on file: {above:+.4f} nats a sample")
    print(f"{problem.name}:", *words, file=sys.stderr, flush=True)
    case = {
        "data": problem.name,
        "kind": problem.kind,
        "N": len(x),
        "D": x.shape[1],
        "K": problem.n_components,
        "dtype": "float32",
    }
    return {"case": case, "best_known": best, "repeats": n_keys, "contenders": found}


def _summary(
    problem: OptimumProblem, x: np.ndarray, best: float, fits: list[tuple[float, float, str]]
) -> dict[str, Any]:
    """Of fits: milliseconds, objective, status."""
    times, objectives, statuses = zip(*fits, strict=True)
    gaps = [(objective - best) / len(x) for objective in objectives]
    good = [
        gap > -NEAR and status == "CONVERGED" for gap, status in zip(gaps, statuses, strict=True)
    ]
    return {
        "milliseconds": {**spread(list(times)), "runs": list(times)},
        "success": float(np.mean(good)),
        "converged": statuses.count("CONVERGED") / len(statuses),
        "statuses": {s: statuses.count(s) for s in sorted(set(statuses))},
        # of the fits that ended well
        "above": max(
            (g for g, s in zip(gaps, statuses, strict=True) if s == "CONVERGED"), default=0
        ),
        # nats a sample beside the best known; -inf and NaN have no place in JSON
        "gaps": [round(gap, 6) if np.isfinite(gap) else None for gap in gaps],
    }


def jaxgmm_fits(
    problem: OptimumProblem, x: np.ndarray, lanes: int, n_keys: int
) -> list[tuple[float, float, str]]:
    """Milliseconds, objective and status of default fits in float32, after one that compiles."""
    rows = jnp.asarray(x, jnp.float32)
    seen = np.asarray(rows, np.float64)
    algorithm = algorithm_of(problem, rows)
    fits = []
    for seed in [0, *range(n_keys)]:
        began = time.perf_counter()
        result = jaxgmm.fit(jax.random.key(seed), rows, algorithm, lanes, progress=False)
        state = jax.block_until_ready(result.best)
        milliseconds = 1e3 * (time.perf_counter() - began)
        status = Status(int(state.status)).name
        p = oracle.mode(oracle.read(state.posterior))
        spurious = problem.kind == "ML" and not oracle.clean(
            p, problem.covariance, len(seen) * p.weights
        )
        if status == "CONVERGED" and spurious:
            status = "SPURIOUS"
        fits.append((milliseconds, oracle.objective(seen, state), status))
    return fits[1:]


def sklearn_fits(
    problem: OptimumProblem, x: np.ndarray, n_seeds: int
) -> list[tuple[float, float, str]]:
    """The same of scikit-learn, in float64; nothing where its objective is another one."""
    one = _sklearn(problem, x)
    if one is None:
        return []
    fits = []
    for seed in range(n_seeds):
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                objective, status = one(seed)
            except ValueError:  # a covariance that is none
                objective, status = -np.inf, "FAILED"
        fits.append((1e3 * (time.perf_counter() - began), objective, status))
    return fits


def _sklearn(problem: OptimumProblem, x: np.ndarray) -> Callable[[int], tuple[float, str]] | None:
    from sklearn.mixture import BayesianGaussianMixture, GaussianMixture

    common = {"covariance_type": problem.covariance, "n_init": 10, "tol": 1e-6, "max_iter": 1000}
    common |= {"n_components": problem.n_components}
    tiny = 1e-10 * float(x.var(0).min())

    def ended(model: Any) -> str:
        return "CONVERGED" if model.converged_ else "MAX_ITERATIONS"

    if problem.kind == "ML":

        def likelihood(seed: int) -> tuple[float, str]:
            model = GaussianMixture(reg_covar=tiny, random_state=seed, **common).fit(x)
            p = oracle.from_sklearn(model, x.shape[1])
            counts = len(x) * p.weights
            status = ended(model) if oracle.clean(p, problem.covariance, counts) else "SPURIOUS"
            return oracle.log_likelihood(x, p), status

        return likelihood
    if problem.kind == "CAVI" and problem.covariance == "full":
        prior = oracle.read(algorithm_of(problem, jnp.asarray(x, jnp.float64)).prior)

        def bound(seed: int) -> tuple[float, str]:
            model = BayesianGaussianMixture(
                reg_covar=tiny,
                random_state=seed,
                weight_concentration_prior_type="dirichlet_distribution",
                weight_concentration_prior=float(prior.concentration[0]),
                mean_precision_prior=float(prior.kappa[0]),
                mean_prior=prior.mean[0],
                degrees_of_freedom_prior=float(prior.shape[0]),
                covariance_prior=prior.scale[0],
                **common,
            ).fit(x)
            nu = model.degrees_of_freedom_
            q = oracle.Distribution(
                "full",
                np.asarray(model.weight_concentration_),
                model.means_,
                model.mean_precision_,
                nu,
                model.covariances_ * nu[:, None, None],
            )
            return oracle.elbo(x, q, prior), ended(model)

        return bound
    return None
