"""Whether two versions of jaxgmm give the same results: ``python -m benchmarks.versions CHECKOUT``.

Runs the same fits with this version and with that of another checkout, each in a process of its own
and in float64, and prints how far their objectives and tables are from one another.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def results() -> dict[str, Any]:
    """Objectives and tables by name: Old Faithful by all algorithms, families and a selection."""
    import jax

    jax.config.update("jax_enable_x64", True)

    import jax.numpy as jnp
    import numpy as np
    import optax

    import jaxgmm

    x = jnp.asarray(
        np.loadtxt(ROOT / "examples" / "data" / "faithful.csv", delimiter=",", skiprows=1)
    )
    key, k, d = jax.random.key(0), 3, x.shape[1]
    independent = jaxgmm.IndependentNormalGamma
    mean, spread = x.mean(axis=0), jnp.cov(x.T)

    def components(name: str, *, proper: bool) -> Any:
        if name in ("independent diag", "independent spherical"):
            spherical = name.endswith("spherical")
            if proper:
                return independent.default(mean, spread, k, spherical=spherical)
            return independent.flat(k, d, spherical=spherical)
        covariance: Any = jnp.diag(jnp.diag(spread)) / 4 if name == "known" else name
        prior = jaxgmm.default_prior(x, k, covariance)
        return (prior if proper else jaxgmm.flat_prior(k, d, covariance)).components

    families = ("full", "tied", "diag", "spherical", "known")
    families = (*families, "independent diag", "independent spherical")
    out: dict[str, Any] = {"file": jaxgmm.__file__}
    for name in families:
        flat, proper = (
            jaxgmm.Prior(jaxgmm.Dirichlet(jnp.ones(k)), components(name, proper=p))
            for p in (False, True)
        )
        algorithms = {
            "EM": jaxgmm.em(flat),
            "CAVI": jaxgmm.cavi(proper),
            "natural": jaxgmm.svi(proper, jaxgmm.natural_gradient(), 64),
            "SVI": jaxgmm.svi(proper, optax.adam, 64, learning_rate=0.02),
        }
        for what, algorithm in algorithms.items():
            best = jaxgmm.fit(key, x, algorithm, 16, max_iter=300, moves=False).best
            out[f"{what}, {name}"] = float(best.objective)
    for what, algorithm in {
        "EM with moves": jaxgmm.em(jaxgmm.flat_prior(k, d)),
        "CAVI with moves": jaxgmm.cavi(jaxgmm.default_prior(x, k)),
        "SQUAREM": jaxgmm.squarem(jaxgmm.em(jaxgmm.flat_prior(k, d))),
        "annealed": jaxgmm.annealed(jaxgmm.cavi(jaxgmm.default_prior(x, k))),
    }.items():
        out[what] = float(jaxgmm.fit(key, x, algorithm, 16).best.objective)
    for criterion in ("bic", "elbo"):
        selection = jaxgmm.select(key, x, range(1, 5), criterion=criterion)
        name, size = selection.table["covariance"], selection.table["n_components"]
        for c, n, value in zip(name, size, selection.table[criterion], strict=True):
            out[f"{criterion}, {c}, K={n}"] = float(value)
    return out


def run(checkout: Path) -> dict[str, Any]:
    """The results of a checkout's version."""
    # the checkout first: the folder that a process starts in comes before all others
    path = os.pathsep.join([str(checkout), str(ROOT / "benchmarks")])
    program = "import json, versions; print(json.dumps(versions.results()))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, help="of the other version")
    checkout = parser.parse_args().checkout.resolve()
    other, own = run(checkout), run(ROOT)
    if not Path(str(other.pop("file"))).is_relative_to(checkout) or checkout == ROOT:
        raise SystemExit(f"{checkout} is no checkout of another version of jaxgmm.")
    print(f"other version: {checkout}; this one: {own.pop('file')}")
    furthest = 0.0
    for name, value in own.items():
        gap = abs(value - other[name]) / max(abs(other[name]), 1)
        furthest = max(furthest, gap)
        print(f"{name:<32} {other[name]:>18.9f} {value:>18.9f} {gap:>10.1e}")
    print(f"furthest from one another, relative: {furthest:.1e}")


if __name__ == "__main__":
    main()
