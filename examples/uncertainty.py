"""How many components, and how sure are they? Tests and standard errors for Old Faithful.

A bootstrap likelihood-ratio test adds components until one more is no better than chance explains.
The standard errors of that fit come from three sources: the observed information, a parametric
bootstrap, which believes the model, and a weighted one, which believes the data.

    python examples/uncertainty.py --output uncertainty.png
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import jaxgmm
import jaxgmm.plot

DATA = Path(__file__).parent / "data" / "faithful.csv"
NAMES = ("eruption (minutes)", "wait for the next (minutes)")
LEVEL = 0.05


def draw_test(ax: Axes, test, names: tuple[str, str]) -> None:
    """The statistics under the null, and the one of the data."""
    ax.hist(test.replicates, 40, color="#D9D9D9", edgecolor="white", linewidth=0.5)
    ax.axvline(test.statistic, color="#D55E00", label=f"Old Faithful, p = {test.p_value:.3g}")
    ax.set(xlabel="2 log(likelihood ratio)", ylabel="replicates")
    ax.set_title(f"{names[0]} components against {names[1]}")
    ax.margins(y=0.2)  # room above the histogram
    ax.legend(loc="upper left", frameon=False)


def draw_means(ax: Axes, x: jax.Array, found) -> None:
    """The replicates of the means over the data."""
    ax.scatter(*np.asarray(x).T, s=4, c="#8C8C8C", linewidths=0, label="eruptions")
    for k in range(found.estimate.weights.shape[0]):
        means = np.asarray(found.replicates.means[:, k])
        colour = jaxgmm.plot.style(k).colour
        ax.scatter(*means.T, s=3, c=colour, alpha=0.3, linewidths=0)
        ax.scatter([], [], s=20, c=colour, label=f"mean {k}, replicates")
    jaxgmm.plot.ellipses(found.estimate, (0.5,), ax=ax, names=NAMES)
    ax.set(xlabel=NAMES[0], ylabel=NAMES[1])
    ax.set_title(f"{found.kind} bootstrap")
    handles, labels = ax.get_legend_handles_labels()
    shown = [i for i, label in enumerate(labels) if "replicates" in label or label == "eruptions"]
    ax.legend(
        [handles[i] for i in shown],
        [labels[i] for i in shown],
        loc="upper left",
        frameon=False,
        fontsize="small",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Test, fit, print the errors, save the picture."""
    parser = argparse.ArgumentParser(description="Old Faithful: tests and standard errors.")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    parser.add_argument("--replicates", type=int, default=999)
    arguments = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    key, x = jax.random.key(0), jnp.asarray(np.loadtxt(DATA, delimiter=",", skiprows=1))

    began, tests = time.perf_counter(), []
    for k in range(1, 10):
        null, alternative = (jaxgmm.em(jaxgmm.flat_prior(n, 2)) for n in (k, k + 1))
        test = jaxgmm.likelihood_ratio_test(key, x, null, alternative, arguments.replicates)
        tests.append(test)
        print(test.summary())
        if test.p_value > LEVEL:
            break
    print(f"components: {k}, after {time.perf_counter() - began:.1f} s, compilation too\n")

    algorithm = jaxgmm.em(jaxgmm.flat_prior(k, 2))
    state = jaxgmm.order_components(jaxgmm.fit(key, x, algorithm, tol=1e-9).best)
    errors = jaxgmm.standard_errors(state, x)
    print(errors.summary())
    for kind in ("parametric", "weighted"):
        began = time.perf_counter()
        found = jaxgmm.bootstrap(key, state, x, algorithm, arguments.replicates, kind)
        print(f"\n{found.summary()}\n({time.perf_counter() - began:.1f} s, compilation too)")
    lower, upper = (np.asarray(limit.weights) for limit in found.intervals())
    limits = zip(lower, upper, strict=True)
    print("\n95 % of the weights:", ", ".join(f"{a:.3f} to {b:.3f}" for a, b in limits))
    sure = jaxgmm.responsibilities(state, x).max(axis=1)
    print(f"eruptions whose component is uncertain by more than 10 %: {int((sure < 0.9).sum())}")

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_test(left, tests[1], ("two", "three"))
    draw_means(right, x, found)
    figure.savefig(arguments.output, dpi=110)
    print(f"picture: {arguments.output}")


if __name__ == "__main__":
    main()
