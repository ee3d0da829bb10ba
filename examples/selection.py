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
from _pictures import components, left_to_right, limits, mixture_ellipses, new_figure

import jaxgmm
import jaxgmm.plot

DATA = Path(__file__).parent / "data" / "faithful.csv"


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

    figure = new_figure(11, 4.5)
    left, right = figure.subplots(1, 2)
    jaxgmm.plot.selection(selection, left)
    mixture = jaxgmm.mixture(selection.best)
    order = left_to_right(mixture.means)
    limits(right, x)
    components(right, x, jaxgmm.predict(selection.best, x), order)
    mixture_ellipses(right, mixture, order)
    title = f"{selection.covariance}, K={selection.n_components}"
    right.set(title=title, xlabel="eruption (minutes)", ylabel="wait for the next (minutes)")
    figure.savefig(arguments.output, dpi=110)
    print(f"picture: {arguments.output}")


if __name__ == "__main__":
    main()
