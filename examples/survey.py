"""A survey with weights and holes: what was not answered is integrated out, not made up.

2,000 answers of three kinds of households, of which one kind was asked four times as often as its
share, and a quarter of the numbers is missing. The fit takes the weights of the survey and the
likelihood of what was answered. Beside it stands the usual way out: each hole filled with its
column's mean.

    python examples/survey.py --output survey.png
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxgmm
import jaxgmm.plot

N = 2000
MEANS = np.array([[2.2, 12.0, 4.0], [4.0, 20.0, 15.0], [7.0, 45.0, 9.0]])
SHARES = np.array([0.5, 0.3, 0.2])
ASKED = np.array([1.0, 1.0, 4.0])  # how much more often than its share
NAMES = ("income (10,000 a year)", "spending (100 a month)", "savings (months)")


def survey() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The true answers, which of them are missing, and the weights of the survey."""
    rng = np.random.default_rng(0)
    chance = SHARES * ASKED / np.sum(SHARES * ASKED)
    kind = rng.choice(3, N, p=chance)
    factors = np.array([np.diag([0.5, 3.0, 1.5]), np.diag([0.8, 4.0, 4.0]), np.diag([1.2, 9, 3])])
    factors[:, 1, 0] = [1.5, 2.5, 7.0]  # who earns more spends more
    x = MEANS[kind] + np.einsum("nij,nj->ni", factors[kind], rng.standard_normal((N, 3)))
    missing = rng.uniform(size=x.shape) < 0.25
    weight = 1 / ASKED[kind]
    return x, missing, weight / weight.mean()


def fit(rows: jaxgmm.Rows) -> jaxgmm.Result:
    """Maximum likelihood with three components."""
    return jaxgmm.fit(jax.random.key(0), rows, jaxgmm.em(jaxgmm.flat_prior(3, 3)))


def error(result: jaxgmm.Result) -> tuple[float, float]:
    """Largest error of the means, in true standard deviations, and of the shares."""
    found = jaxgmm.mixture(jaxgmm.order_components(result, by="mean"))
    gap = (np.asarray(found.means) - MEANS) / np.std(MEANS, axis=0)
    return float(np.abs(gap).max()), float(np.abs(np.asarray(found.weights) - SHARES).max())


def main(output: Path) -> None:
    """Fit, print and draw."""
    x, missing, weight = survey()
    holes = np.where(missing, np.nan, x)
    filled = np.where(missing, np.nanmean(holes, axis=0), x)
    fits = {
        "complete": fit(jaxgmm.Rows(x, weight)),
        "with holes": fit(jaxgmm.Rows(holes, weight, missing="nan")),
        "holes filled with means": fit(jaxgmm.Rows(filled, weight)),
        "no weights": fit(jaxgmm.Rows(holes, missing="nan")),
    }
    print(fits["with holes"].summary())
    print("largest error of the means (in their standard deviation) and of the shares:")
    for name, result in fits.items():
        print(f"{name:24}", " ".join(f"{number:.3f}" for number in error(result)))

    rows = jaxgmm.Rows(holes, weight, missing="nan")
    draws = jaxgmm.impute(fits["with holes"], rows, key=jax.random.key(1), n_draws=5)
    print(f"spread of the imputed savings: {float(jnp.std(draws[0][missing[:, 2], 2])):.2f}")
    print(f"spread of the true ones: {np.std(x[missing[:, 2], 2]):.2f}")

    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    titles = {"with holes": "holes integrated out", "holes filled with means": "filled with means"}
    for ax, (name, title) in zip(axes, titles.items(), strict=True):
        shown = filled if "filled" in name else np.asarray(draws[0])
        ax.scatter(shown[:, 0], shown[:, 1], s=4, c="#B0B0B0", linewidths=0)
        named = jaxgmm.align(jaxgmm.mixture(fits[name]), jaxgmm.mixture(fits["complete"]))
        jaxgmm.plot.ellipses(jaxgmm.algebra.marginal(named, [0, 1]), ax=ax)
        ax.set(title=title, xlabel=NAMES[0], ylabel="")
    axes[0].set_ylabel(NAMES[1])
    figure.savefig(output, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    main(parser.parse_args().output)
