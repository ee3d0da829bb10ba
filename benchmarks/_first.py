"""``python -m benchmarks._first CASE [FOLDER]``: the first call in a process, as JSON.

Its milliseconds without the imports, and how many programs it compiled. With a folder the programs
are kept there. A case of scikit-learn's, whose name ends in ``sklearn``, does the same work.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.datasets import load_iris

CASES = {
    "1 lane, EM": ("em", 1),
    "16 lanes, EM": ("em", 16),
    "256 lanes, EM": ("em", 256),
    "16 lanes, CAVI": ("cavi", 16),
    "16 lanes, SVI": ("svi", 16),
    "select": ("select", 16),
    "estimator": ("estimator", 1),
    "estimator, K to 10": ("estimators", 1),
}
COVARIANCES = ("full", "tied", "diag", "spherical")
SIZES = range(1, 7)


def ours(x: np.ndarray, kind: str, lanes: int) -> Callable[[], Any]:
    """The call, when all is imported."""
    import jax
    import optax

    import jaxgmm
    from jaxgmm.sklearn import GaussianMixture

    key = jax.random.key(0)
    if kind == "em":
        return lambda: jaxgmm.fit(key, x, jaxgmm.em(jaxgmm.flat_prior(3, 4)), lanes)
    if kind == "cavi":
        return lambda: jaxgmm.fit(key, x, jaxgmm.cavi(jaxgmm.default_prior(x, 3)), lanes)
    if kind == "svi":
        optimizer = optax.adam(1e-2)
        return lambda: jaxgmm.fit(key, x, jaxgmm.svi(jaxgmm.default_prior(x, 3), optimizer), lanes)
    if kind == "select":
        return lambda: jaxgmm.select(key, x, SIZES, COVARIANCES, n_restarts=lanes)
    sizes = [3] if kind == "estimator" else range(1, 11)
    return lambda: [GaussianMixture(k).fit(x) for k in sizes]


def sklearn(x: np.ndarray, kind: str, lanes: int) -> Callable[[], Any]:
    """The same work by scikit-learn."""
    from sklearn.mixture import BayesianGaussianMixture, GaussianMixture

    if kind in ("em", "estimator"):
        return lambda: GaussianMixture(3, n_init=lanes, tol=1e-6, max_iter=500).fit(x)
    if kind == "estimators":
        return lambda: [GaussianMixture(k).fit(x) for k in range(1, 11)]
    if kind == "cavi":
        options = {"n_components": 3, "n_init": lanes, "tol": 1e-6, "max_iter": 500}
        return lambda: BayesianGaussianMixture(**options).fit(x)
    return lambda: [
        GaussianMixture(k, covariance_type=c, n_init=lanes, tol=1e-6, max_iter=500).fit(x).bic(x)
        for c in COVARIANCES
        for k in SIZES
    ]


def main(case: str, folder: str | None = None) -> None:
    x, programs = np.asarray(load_iris(return_X_y=True)[0], np.float32), []
    if case.endswith("sklearn"):
        call = sklearn(x, *CASES[case.removesuffix(", sklearn")])
    else:
        import jax

        import jaxgmm

        if folder is not None:
            jaxgmm.cache_programs(folder)
        call = ours(x, *CASES[case])
        jax.monitoring.register_event_duration_secs_listener(
            lambda event, *_, **__: (
                programs.append(event) if event.endswith("backend_compile_duration") else None
            )
        )
    began = time.perf_counter()
    call()
    seconds = time.perf_counter() - began
    json.dump({"milliseconds": 1e3 * seconds, "programs": len(programs)}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
