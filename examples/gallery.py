"""Every picture of the documentation, each a few lines of `jaxgmm.plot`.

Old Faithful in the plane, and the iris flowers of scikit-learn for four dimensions. Each function
below draws one picture on a figure that it is given.

    python examples/gallery.py --output docs/pictures
"""

import argparse
import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from numpyro.infer import MCMC, NUTS, init_to_value
from PIL import Image
from sklearn.datasets import load_iris

import jaxgmm
import jaxgmm.numpyro
import jaxgmm.plot

jax.config.update("jax_enable_x64", True)

DATA = Path(__file__).parent / "data" / "faithful.csv"
PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
GEYSER = ("eruption (minutes)", "wait for the next (minutes)")
FLOWER = ("sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)")
WIDTH, DPI = 6, 100  # in inches and pixels per inch


def faithful() -> jax.Array:
    """Duration of each eruption and the wait until the next, in minutes: (272, 2)."""
    return jnp.asarray(np.loadtxt(DATA, delimiter=",", skiprows=1))


def iris() -> jax.Array:
    """Lengths and widths of 150 flowers, in centimetres: (150, 4)."""
    return jnp.asarray(np.asarray(load_iris(return_X_y=True)[0]))


@functools.cache
def all_lanes() -> jaxgmm.Result:
    """EM from 64 random starts, each to its end."""
    return jaxgmm.fit(
        jax.random.key(0),
        faithful(),
        jaxgmm.em(jaxgmm.flat_prior(3, 2)),
        n_restarts=64,
        init="random_points",
        max_iter=2000,
        history=True,
        racing=False,
        moves=False,
    )


@functools.cache
def three_components() -> jaxgmm.State:
    """Old Faithful by maximum likelihood, components from left to right."""
    algorithm = jaxgmm.em(jaxgmm.flat_prior(3, 2))
    return jaxgmm.order_components(jaxgmm.fit(jax.random.key(0), faithful(), algorithm, 16).best)


def mixture(figure: Figure) -> None:
    """Points by responsibility, ellipses of 50 and 95 % mass, density."""
    ax, state = figure.add_subplot(), three_components()
    jaxgmm.plot.points(state, faithful(), ax=ax, names=GEYSER)
    jaxgmm.plot.ellipses(state, ax=ax, names=GEYSER)
    jaxgmm.plot.density(state, ax=ax, names=GEYSER)
    ax.legend(loc="upper left", frameon=False, fontsize="small")


def density(figure: Figure) -> None:
    """The posterior predictive density, and what it predicts."""
    ax, x = figure.add_subplot(), faithful()
    state = jaxgmm.fit(jax.random.key(0), x, jaxgmm.cavi(jaxgmm.default_prior(x, 3)), 16).best
    jaxgmm.plot.density(state, ax=ax, names=GEYSER)
    ax.scatter(*x.T, s=5, c="black", linewidths=0, label="eruptions")
    ax.legend(loc="upper left", frameon=False)


def histogram(figure: Figure) -> None:
    """One feature of a fit to two."""
    jaxgmm.plot.histogram(three_components(), faithful(), 1, figure.add_subplot(), names=GEYSER)


def traces(figure: Figure) -> None:
    """Where 64 starts of EM went."""
    jaxgmm.plot.traces(all_lanes(), figure.add_subplot())


def optima(figure: Figure) -> None:
    """Where they ended."""
    jaxgmm.plot.optima(all_lanes(), figure.add_subplot())


def weights(figure: Figure) -> None:
    """Ten components under sparse weights, most of which CAVI empties."""
    x = faithful()
    weak = jaxgmm.default_prior(x, 10)
    prior = jaxgmm.Prior(jaxgmm.Dirichlet(jnp.full(10, 0.01)), weak.components)
    state = jaxgmm.fit(jax.random.key(0), x, jaxgmm.cavi(prior), 64, max_iter=2000).best
    state = jaxgmm.order_components(state, "weight")
    jaxgmm.plot.weights(jax.random.key(1), state, ax=figure.add_subplot())


def selection(figure: Figure) -> None:
    """How many components, and which covariances."""
    found = jaxgmm.select(jax.random.key(0), faithful(), range(1, 7))
    jaxgmm.plot.selection(found, figure.add_subplot())


def pairs(figure: Figure) -> None:
    """Four features of the iris flowers."""
    x = iris()
    state = jaxgmm.fit(jax.random.key(0), x, jaxgmm.em(jaxgmm.flat_prior(3, 4)), 64).best
    jaxgmm.plot.pairs(jaxgmm.order_components(state), x, figure=figure, names=FLOWER)


def qq(figure: Figure) -> None:
    """One component and three, against the same feature."""
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    one = jaxgmm.fit(jax.random.key(0), faithful(), jaxgmm.em(jaxgmm.flat_prior(1, 2))).best
    names = ("eruption (min)", "wait (min)")
    jaxgmm.plot.qq(one, faithful(), 1, left, names=names)
    jaxgmm.plot.qq(three_components(), faithful(), 1, right, names=names, legend=False)
    left.set_title("one component")
    right.set_title("three components")
    right.set_ylabel("")


def chain(figure: Figure) -> None:
    """How sure CAVI and NUTS are of the mean durations of three components."""
    x = faithful()
    prior = jaxgmm.default_prior(x, 3, "tied")
    found = jaxgmm.fit(jax.random.key(0), x, jaxgmm.cavi(prior), tol=1e-7)
    state = jaxgmm.order_components(found.best)
    start = init_to_value(values=jaxgmm.numpyro.init_values(state))
    nuts = NUTS(jaxgmm.numpyro.model, init_strategy=start)
    run = MCMC(nuts, num_warmup=300, num_samples=2000, progress_bar=False)
    run.run(jax.random.key(1), prior, x)
    draws = (run.get_samples()[name] for name in ("weights", "means", "covariances"))
    named = jax.vmap(jaxgmm.align, (0, None))(jaxgmm.Mixture(*draws), jaxgmm.mixture(state))
    cavi = jaxgmm.sample_posterior(jax.random.key(2), state, 20_000)
    ax, bins = figure.add_subplot(), np.linspace(1.9, 4.8, 117)
    for k in range(3):
        look = {"bins": bins, "density": True, "color": jaxgmm.plot.style(k).colour}
        ax.hist(named.means[:, k, 0], alpha=0.5, label=f"NUTS, {k}", **look)
        ax.hist(cavi.means[:, k, 0], histtype="step", label=f"CAVI, {k}", **look)
    ax.set(xlabel="mean duration of a component (minutes)", ylabel="density")
    ax.legend(frameon=False, fontsize="small", loc="upper center", ncols=3)


# each with its height in inches
DRAWN: tuple[tuple[Callable[[Figure], None], float], ...] = (
    (mixture, 4),
    (density, 4),
    (histogram, 4),
    (traces, 4),
    (optima, 4),
    (weights, 4),
    (selection, 4),
    (qq, 4),
    (pairs, 6),
    (chain, 4),
)


def save(figure: Figure, path: Path) -> None:
    """In 256 colours, which takes a third of the room."""
    with io.BytesIO() as file:
        figure.savefig(file, dpi=DPI)
        Image.open(file).convert("RGB").quantize(256).save(path, optimize=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw all, or those named."""
    known = {draw.__name__: (draw, height) for draw, height in DRAWN}
    parser = argparse.ArgumentParser(description="The pictures of the documentation.")
    parser.add_argument("names", nargs="*", default=list(known), help=", ".join(known))
    parser.add_argument("--output", type=Path, default=PICTURES)
    arguments = parser.parse_args(argv)

    arguments.output.mkdir(parents=True, exist_ok=True)
    for name in arguments.names:
        draw, height = known[name]
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure)
        path = arguments.output / f"{name}.png"
        save(figure, path)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
