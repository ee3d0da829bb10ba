"""A mixture inside a larger NumPyro model: growth curves whose effects come from two classes.

Every plant is measured eight times, with noise, and grows along a line of its own. The plants'
intercepts and slopes are draws from a mixture of two normal distributions. A fit of the mixture to
the lines that least squares gives takes their noise for variation between plants; the whole model,
in which the lines are latent and jaxgmm's model is their prior, does not. NUTS starts from the fit.

    python examples/numpyro_model.py --output numpyro_model.png
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from _pictures import COLOURS, DARK, components, ellipse, left_to_right, limits, new_figure
from jax import Array
from numpyro.infer import MCMC, NUTS, init_to_value

import jaxgmm
import jaxgmm.numpyro

K, PLANTS, NOISE = 2, 120, 0.6
TIMES = np.linspace(-1.0, 1.0, 8)
WEIGHTS = np.array([0.6, 0.4])
MEANS = np.array([[0.0, 2.0], [1.0, 0.5]])
SDS = np.array([[0.3, 0.25], [0.25, 0.3]])


def draw(seed: int) -> tuple[Array, np.ndarray]:
    """Measurements, (plants, times), and the classes, cluster after cluster."""
    rng = np.random.default_rng(seed)
    own = (np.arange(PLANTS) >= WEIGHTS[0] * PLANTS).astype(int)
    effects = MEANS[own] + SDS[own] * rng.standard_normal((PLANTS, 2))
    lines = effects[:, :1] + effects[:, 1:] * TIMES
    return jnp.asarray(lines + NOISE * rng.standard_normal(lines.shape), jnp.float32), own


def least_squares(y: Array) -> Array:
    """The line of each plant by itself, (plants, 2)."""
    design = np.stack([np.ones_like(TIMES), TIMES], axis=1)
    return jnp.asarray(np.linalg.lstsq(design, np.asarray(y).T, rcond=None)[0].T, y.dtype)


def growth(prior: jaxgmm.Prior, y: Array) -> None:
    """The whole model: the mixture is the distribution of the effects."""
    mixture = jaxgmm.numpyro.model(prior)
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    with numpyro.plate("plants", len(y)):
        effects: Any = numpyro.sample("effects", mixture)
        lines = effects[:, :1] + effects[:, 1:] * jnp.asarray(TIMES, y.dtype)
        numpyro.sample("y", dist.Normal(lines, noise).to_event(1), obs=y)


def sample(prior: jaxgmm.Prior, state: jaxgmm.State, y: Array) -> MCMC:
    """NUTS from the fit: its parameters, and the lines that it was made from."""
    start = {**jaxgmm.numpyro.init_values(state), "effects": least_squares(y), "noise": NOISE}
    kernel = NUTS(growth, init_strategy=init_to_value(values=start))
    chain = MCMC(kernel, num_warmup=200, num_samples=500, progress_bar=False)
    chain.run(jax.random.key(0), prior, y, extra_fields=("diverging",))
    return chain


def line_of(name: str, values: np.ndarray) -> None:
    """Print a line of the table."""
    print(f"{name:<24}" + " ".join(f"{value:8.3f}" for value in np.ravel(values)))


def main(argv: Sequence[str] | None = None) -> None:
    """Fit, sample, print the check, save a picture."""
    parser = argparse.ArgumentParser(description="A mixture inside a larger NumPyro model.")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    arguments = parser.parse_args(argv)

    y, own = draw(0)
    lines = least_squares(y)
    prior = jaxgmm.default_prior(lines, K, "diag")
    state = jaxgmm.fit(jax.random.key(0), lines, jaxgmm.cavi(prior), 16).best
    began = time.perf_counter()
    chain = sample(prior, state, y)
    draws = {name: np.asarray(a) for name, a in chain.get_samples().items()}
    seconds = time.perf_counter() - began

    fit = jaxgmm.mixture(state)
    order = left_to_right(fit.means)
    fit_sds = np.sqrt(np.diagonal(np.asarray(fit.covariances), axis1=1, axis2=2))[order]
    sds = (draws["precisions"] ** -0.5)[:, order]
    means = draws["means"][:, order]
    diverged = int(np.sum(chain.get_extra_fields()["diverging"]))
    print(f"NUTS                    500 draws in {seconds:.0f} s, {diverged} divergences")
    print("intercept and slope of the first class, and of the second")
    line_of("means, true", MEANS)
    line_of("means, fit", np.asarray(fit.means)[order])
    line_of("means, whole model", means.mean(axis=0))
    line_of("sds, true", SDS)
    line_of("sds, fit", fit_sds)
    line_of("sds, whole model", sds.mean(axis=0))
    low, high = np.quantile(sds, [0.025, 0.975], axis=0)
    line_of("sds, 95% from", low)
    line_of("sds, 95% to", high)
    line_of("noise", draws["noise"].mean())

    figure = new_figure(12, 5.5)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    panels = (
        (left, lines, "Each plant's own least squares", fit.means[order], fit_sds),
        (right, draws["effects"].mean(axis=0), "In the whole model", means.mean(0), sds.mean(0)),
    )
    for ax, points, title, centres, widths in panels:
        components(ax, points, own, np.arange(K))
        limits(ax, lines, margin=0.05)
        for k in range(K):
            style = {"edgecolor": COLOURS[k], "zorder": 4}
            ellipse(ax, centres[k], np.diag(widths[k] ** 2), 2, **style)
            truth = {"edgecolor": DARK, "linestyle": ":", "zorder": 5}
            ellipse(ax, MEANS[k], np.diag(SDS[k] ** 2), 2, **truth)
        ax.plot([], [], color=DARK, linestyle=":", label="true, 2 standard deviations")
        ax.plot([], [], color=COLOURS[0], label="estimated")
        ax.set(title=title, xlabel="intercept", ylabel="slope")
        ax.legend(fontsize="small", loc="lower left")
    figure.savefig(arguments.output, dpi=110)
    print(f"\npicture: {arguments.output}")


if __name__ == "__main__":
    main()
