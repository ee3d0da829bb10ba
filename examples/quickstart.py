"""Old Faithful by EM, CAVI and SVI: 256 restarts of each, one table, one picture.

Reads the 272 eruptions from a CSV file, fits three Gaussians with full covariances by maximum
likelihood (EM), by coordinate-ascent variational inference (CAVI) and by reparameterised stochastic
variational inference (SVI), and draws what the best lane of each found.

    python examples/quickstart.py --output quickstart.png
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import jaxgmm
import jaxgmm.plot

DATA = Path(__file__).parent / "data" / "faithful.csv"
NAMES = ("eruption (minutes)", "wait for the next (minutes)")
N_COMPONENTS = 3
SVI_STEPS = 500


class Timed(NamedTuple):
    """A fit, and what it cost in seconds."""

    result: jaxgmm.Result
    compile: float
    run: float


def read(path: Path) -> jax.Array:
    """Duration of each eruption and the wait until the next, in minutes: (N, 2) float32."""
    return jnp.asarray(np.loadtxt(path, delimiter=",", skiprows=1), jnp.float32)


def decaying_adam(learning_rate: jax.Array) -> optax.GradientTransformation:
    """Adam with steps that shrink to nothing, so that SVI's noise dies out."""
    return optax.adam(optax.cosine_decay_schedule(learning_rate, SVI_STEPS))


def algorithms(x: jax.Array) -> dict[str, tuple[jaxgmm.Algorithm, int, float]]:
    """Each algorithm, with the most iterations it may do and its tolerance."""
    maximum_likelihood = jaxgmm.flat_prior(N_COMPONENTS, x.shape[1])
    prior = jaxgmm.default_prior(x, N_COMPONENTS)
    svi = jaxgmm.svi(prior, decaying_adam, batch_size=136, learning_rate=0.2)
    return {
        "EM": (jaxgmm.em(maximum_likelihood), 2000, 1e-7),
        "CAVI": (jaxgmm.cavi(prior), 2000, 1e-7),
        # the schedule says when to stop: tolerance 0 never does
        "SVI": (svi, SVI_STEPS, 0.0),
    }


def timed_fit(
    x: jax.Array, algorithm: jaxgmm.Algorithm, n_restarts: int, max_iter: int, tol: float
) -> Timed:
    """Fit for one iteration, which compiles all there is to compile, and then in earnest.

    Without the race of the lanes and the best one's moves, so that the picture shows where each of
    them ends by itself.
    """

    def fit(max_iter: int) -> tuple[jaxgmm.Result, float]:
        began = time.perf_counter()
        result = jaxgmm.fit(
            jax.random.key(0),
            x,
            algorithm,
            n_restarts,
            max_iter=max_iter,
            tol=tol,
            history=True,
            racing=False,
            moves=False,
        )
        return result, time.perf_counter() - began

    _, compile_seconds = fit(1)
    result, run_seconds = fit(max_iter)
    return Timed(result, compile_seconds, run_seconds)


def table(fits: dict[str, Timed]) -> str:
    """One row for each algorithm; median and worst are over the lanes that did not fail."""
    lines = [
        "            objective (nats)                  best lane's    seconds to",
        "algorithm        best    median     worst    iterations  compile    run   lanes",
    ]
    for name, (result, compile_seconds, run_seconds) in fits.items():
        statuses = np.asarray(result.states.status)
        usable = np.array([not jaxgmm.Status(int(s)).failed for s in statuses])
        objective = np.asarray(result.states.objective, np.float64)[usable]
        lanes = ", ".join(f"{n} {status.name}" for status, n in result.statuses().items())
        lines.append(
            f"{name:<9} {float(result.best.objective):>11.2f} {np.median(objective):>9.2f} "
            f"{objective.min():>9.2f} {int(result.best.n_iter):>13} "
            f"{compile_seconds:>8.1f} {run_seconds:>6.1f}   {lanes}"
        )
    return "\n".join(lines)


def picture(x: jax.Array, fits: dict[str, Timed], output: Path) -> None:
    """Above, what the best lane of each algorithm found; below, how all the lanes went."""
    figure = Figure(figsize=(13, 8), layout="constrained")
    axes = figure.subplots(2, len(fits))
    objectives = {"EM": "log-likelihood", "CAVI": "ELBO", "SVI": "ELBO (averaged)"}
    for (above, below), (name, timed) in zip(axes.T, fits.items(), strict=True):
        # from left to right: lanes number them as they like
        best = jaxgmm.order_components(timed.result.best)
        jaxgmm.plot.points(best, x, ax=above, names=NAMES, legend=False)
        jaxgmm.plot.ellipses(best, ax=above, names=NAMES)
        jaxgmm.plot.density(best, ax=above, names=NAMES)
        above.set_title(name)
        # an averaged objective means nothing before some iterations
        jaxgmm.plot.traces(timed.result, below, first=100 if name == "SVI" else 1)
        below.legend(loc="upper left" if name == "SVI" else "lower right", fontsize="small")
        below.set_ylabel(f"{objectives[name]} (nats)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle("Old Faithful, three components: ellipses hold 50 % and 95 % of each")
    figure.savefig(output, dpi=110)


def main(argv: Sequence[str] | None = None) -> None:
    """Fit, print the table, save the picture."""
    parser = argparse.ArgumentParser(description="Old Faithful by EM, CAVI and SVI.")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    parser.add_argument("--restarts", type=int, default=256, help="lanes of each algorithm")
    arguments = parser.parse_args(argv)

    x = read(DATA)
    fits = {
        name: timed_fit(x, algorithm, arguments.restarts, max_iter, tol)
        for name, (algorithm, max_iter, tol) in algorithms(x).items()
    }
    print(f"Old Faithful: N={x.shape[0]}, D={x.shape[1]}, K={N_COMPONENTS}, {x.dtype}\n")
    print(table(fits))
    print(
        "\nEM's objective is the log-likelihood, the others' bound the log evidence from below: "
        "SVI's more\ntightly, because it sums the assignments out. SVI stops where its learning "
        "rate reaches zero."
    )
    picture(x, fits, arguments.output)
    print(f"\npicture: {arguments.output}")


if __name__ == "__main__":
    main()
