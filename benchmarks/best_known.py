"""``python -m benchmarks.best_known [NAME...]``: the best optimum of each problem, by brute force.

All in float64: many lanes from every kind of start, default fits with moves, and swaps, in which a
component of the best optimum so far is put on random rows. What counts has converged and is not
degenerate, is taken on to a tolerance of 1e-9, and is evaluated by NumPy. A better optimum than the
one on file replaces it; the lanes that were tried add up.
"""

import argparse
import functools
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxgmm
from benchmarks import _oracle as oracle
from benchmarks._optima_problems import PROBLEMS, OptimumProblem
from jaxgmm import Status

BEST_KNOWN = Path(__file__).parent / "results" / "best_known.json"
STARTS = ("k-means++", "random_points", "random_responsibilities")
TOL = 1e-9


def algorithm_of(problem: OptimumProblem, x: jax.Array) -> Any:
    """The algorithm, with the prior in the dtype of ``x``."""
    k, family = problem.n_components, problem.covariance
    if problem.kind == "ML":
        return jaxgmm.em(jaxgmm.flat_prior(k, x.shape[1], family, dtype=x.dtype))
    prior = jaxgmm.default_prior(x, k, family)
    return jaxgmm.em(prior) if problem.kind == "MAP" else jaxgmm.cavi(prior)


def load() -> dict[str, Any]:
    """What is on file, by the problem's name."""
    return json.loads(BEST_KNOWN.read_text()) if BEST_KNOWN.exists() else {}


class Search:
    """The best clean optimum of a problem so far, and what was tried."""

    def __init__(self, problem: OptimumProblem, lanes: int):
        self.x = jnp.asarray(problem.rows(), jnp.float64)
        self.algorithm = algorithm_of(problem, self.x)
        self.lanes = lanes
        self.best: Any = None
        self.objective = -np.inf
        self.tried: dict[str, int] = {}
        self.found: dict[str, Any] = {}
        self._run = jax.jit(
            lambda algorithm, states, x, max_iter, tol: jaxgmm.run(
                algorithm, states, x, max_iter=max_iter, tol=tol
            )[0]
        )
        self._degenerate = jax.jit(jax.vmap(jaxgmm.is_degenerate))
        self._from_responsibilities = jax.jit(
            jax.vmap(
                lambda r: self.algorithm.init(
                    jax.random.key(0), self.x, {"responsibilities": r / r.sum(1, keepdims=True)}
                )
            )
        )
        self._begin = functools.cache(
            lambda start: jax.jit(jax.vmap(lambda key: self.algorithm.init(key, self.x, start)))
        )

    def random(self, seed: int, start: str) -> bool:
        keys = jax.random.split(jax.random.key(seed), self.lanes)
        return self._judge(start, seed, self._finish(self._begin(start)(keys)))

    def fit(self, seed: int) -> bool:
        result = jaxgmm.fit(jax.random.key(seed), self.x, self.algorithm, 16, progress=False)
        return self._judge("fit", seed, result.states)

    def swaps(self, seed: int) -> bool:
        """Lanes that begin at the best, but for one to three components on random rows."""
        if self.best is None:
            return False
        rng = np.random.default_rng(seed)
        x = np.asarray(self.x)
        n, k = len(x), self.algorithm.prior.n_components
        mixture = oracle.mode(oracle.read(self.best.posterior))
        joint = oracle.log_joint(x, mixture)
        joint = joint - joint.max(1, keepdims=True)
        kept = np.exp(joint) / np.exp(joint).sum(1, keepdims=True)
        scaled = (x - x.mean(0)) / x.std(0)
        out = np.repeat(kept[None], self.lanes, 0)
        for one in out:
            for _ in range(rng.choice([1, 1, 1, 2, 3])):
                dying, centre = rng.integers(k), rng.integers(n)
                few = int(np.exp(rng.uniform(np.log(x.shape[1] + 2), np.log(2 * n / k + 8))))
                near = np.argsort(((scaled - scaled[centre]) ** 2).sum(1))[: min(few, n)]
                others = np.delete(np.arange(k), dying)
                if k > 1:
                    share = one[:, others] + 1e-9
                    one[:, others] = share / share.sum(1, keepdims=True)
                one[:, dying] = 0
                one[near] *= 0.1
                one[near, dying] = 0.9
                one /= one.sum(1, keepdims=True)
        states = self._from_responsibilities(jnp.asarray(out))
        return self._judge("swaps", seed, self._finish(states))

    def _finish(self, states: Any, max_iter: int = 1000, tol: float = 1e-6) -> Any:
        return self._run(self.algorithm, states, self.x, max_iter, tol)

    def _judge(self, method: str, seed: int, states: Any) -> bool:
        """Keep the best of the lanes if it is better; whether it was."""
        n = states.status.shape[0]
        self.tried[method] = self.tried.get(method, 0) + n
        ended = np.isin(np.asarray(states.status), (Status.CONVERGED, Status.MAX_ITERATIONS))
        usable = ended & ~np.asarray(self._degenerate(states))
        objective = np.where(usable, np.asarray(states.objective), -np.inf)
        better = False
        for lane in np.argsort(-objective)[:64]:
            if objective[lane] <= self.objective + 1e-6 * len(self.x):
                break
            one = jax.tree.map(lambda a, i=lane: a[i], states)
            if not self._clean(one):
                continue
            one = self._polish(one)
            if one is None or float(one.objective) <= self.objective:
                continue
            self.best, self.objective, better = one, float(one.objective), True
            self.found = {"method": method, "seed": seed, "lane": int(lane)}
        return better

    def _polish(self, state: Any) -> Any:
        """The lane to a tight tolerance; None if it ends badly."""
        again = self.algorithm.init(jax.random.key(0), self.x, state)
        again = jax.tree.map(lambda a: jnp.asarray(a)[None], again)
        states = self._finish(again, 20_000, TOL)
        one = jax.tree.map(lambda a: a[0], states)
        good = one.status == Status.CONVERGED and not jaxgmm.is_degenerate(one)
        return one if good and self._clean(one) else None

    def _clean(self, state: Any) -> bool:
        """By NumPy, with the rule of `jaxgmm.is_degenerate`; under a proper prior all are."""
        q, family = oracle.read(state.posterior), oracle.read(self.algorithm.prior)
        if family.proper:
            return True
        p = oracle.mode(q)
        return oracle.clean(p, q.family, len(self.x) * p.weights)


def search(problem: OptimumProblem, seconds: float, lanes: int, first: int) -> dict[str, Any]:
    """The record of a problem after about so many seconds."""
    began = time.perf_counter()
    found = Search(problem, lanes)
    seed = first
    while time.perf_counter() - began < seconds or found.best is None:
        for start in STARTS:
            found.random(seed, start)
        for i in range(2):
            found.fit(100_000 + 10 * seed + i)
        without = 0
        while without < 3 and time.perf_counter() - began < seconds:
            without = 0 if found.swaps(seed) else without + 1
            seed += 1
        seed += 1
        if seed > first + 1000 or time.perf_counter() - began > 10 * seconds:
            break
    x = np.asarray(found.x)
    return {
        "objective": None if found.best is None else oracle.objective(x, found.best),
        "n_samples": len(x),
        "n_parameters": int(found.algorithm.prior.n_parameters),
        "found_by": found.found,
        "lanes_tried": found.tried,
        "seconds": round(time.perf_counter() - began, 1),
    }


def merge(old: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """The better of two records of a problem, with the lanes of both."""
    if old is None:
        return new
    better = (new["objective"] or -np.inf) > (old["objective"] or -np.inf) + 1e-6 * new["n_samples"]
    tried = {
        method: old["lanes_tried"].get(method, 0) + new["lanes_tried"].get(method, 0)
        for method in old["lanes_tried"] | new["lanes_tried"]
    }
    seconds = round(old["seconds"] + new["seconds"], 1)
    return (new if better else old) | {"lanes_tried": tried, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seconds", type=float, default=60, help="of each problem")
    parser.add_argument("--lanes", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--missing", action="store_true", help="only what is not on file")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    for problem in PROBLEMS:
        if options.names and problem.name not in options.names:
            continue
        if options.missing and problem.name in load():
            continue
        new = search(problem, options.seconds, options.lanes, options.seed)
        known = load()
        old = known.get(problem.name, {}).get("objective")
        known[problem.name] = merge(known.get(problem.name), new)
        BEST_KNOWN.write_text(json.dumps(known, indent=1) + "\n")
        print(problem.name, old, new, flush=True)
        jax.clear_caches()


if __name__ == "__main__":
    main()
