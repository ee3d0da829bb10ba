"""How many components, and which covariances: every K from 1 to 9 under four families, by BIC.

On Old Faithful BIC takes three components with one covariance matrix for all of them, as mclust
does (2314.30; mclust prints it with the other sign).

    python examples/selection.py --output selection.png
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxgmm
import jaxgmm.plot

DATA = Path(__file__).parent / "data" / "faithful.csv"
NAMES = ("eruption (minutes)", "wait for the next (minutes)")


def main(argv: Sequence[str] | None = None) -> None:
    """Select, print the table, save the picture."""
    parser = argparse.ArgumentParser(description="Old Faithful: K and the covariances by BIC.")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    parser.add_argument("--largest", type=int, default=9, help="number of components to go up to")
    parser.add_argument("--tol", type=float, default=1e-7)
    arguments = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)

    x = jnp.asarray(np.loadtxt(DATA, delimiter=",", skiprows=1))
    began = time.perf_counter()
    sizes = range(1, arguments.largest + 1)
    selection = jaxgmm.select(jax.random.key(0), x, sizes, tol=arguments.tol)
    print(selection.summary())
    fits = len(selection.states)
    print(
        f"\n{fits} models, 16 lanes each, in {time.perf_counter() - began:.1f} s, compilation too"
    )

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    jaxgmm.plot.selection(selection, left)
    left.set_title(f"BIC of {fits} models")
    best = jaxgmm.order_components(selection.best)
    jaxgmm.plot.points(best, x, ax=right, names=NAMES)
    jaxgmm.plot.ellipses(best, ax=right, names=NAMES)
    jaxgmm.plot.density(best, ax=right, names=NAMES)
    right.set_title(f"{selection.covariance}, K={selection.n_components}: 50 % and 95 % of each")
    right.legend(loc="upper left", frameon=False, fontsize="small")
    figure.savefig(arguments.output, dpi=110)
    print(f"picture: {arguments.output}")


if __name__ == "__main__":
    main()
