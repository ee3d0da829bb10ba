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
from jax import Array
from jax.typing import ArrayLike
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from numpyro.infer import MCMC, NUTS, init_to_value

import jaxgmm
import jaxgmm.numpyro
import jaxgmm.plot

K, PLANTS, NOISE = 2, 120, 0.6
TIMES = np.linspace(-1.0, 1.0, 8)
WEIGHTS = np.array([0.6, 0.4])
MEANS = np.array([[0.0, 2.0], [1.0, 0.5]])
SDS = np.array([[0.3, 0.25], [0.25, 0.3]])
NAMES = ("intercept", "slope")


def draw(seed: int) -> Array:
    """Measurements, (plants, times), class after class."""
    rng = np.random.default_rng(seed)
    own = (np.arange(PLANTS) >= WEIGHTS[0] * PLANTS).astype(int)
    effects = MEANS[own] + SDS[own] * rng.standard_normal((PLANTS, 2))
    lines = effects[:, :1] + effects[:, 1:] * TIMES
    return jnp.asarray(lines + NOISE * rng.standard_normal(lines.shape), jnp.float32)


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


def variances(sds: np.ndarray) -> np.ndarray:
    """Diagonal covariances, (K, 2, 2)."""
    return sds[:, :, None] ** 2 * np.eye(2, dtype=sds.dtype)


def panel(ax: Axes, mixture: jaxgmm.Mixture, effects: ArrayLike) -> None:
    """The plants' effects by responsibility, and the classes beside the true ones."""
    jaxgmm.plot.points(mixture, effects, ax=ax, names=NAMES)
    jaxgmm.plot.ellipses(mixture, [0.95], ax=ax, names=NAMES)
    radius = np.sqrt(-2 * np.log(1 - 0.95))
    for mean, sd in zip(MEANS, SDS, strict=True):
        width, height = 2 * radius * sd
        truth = Ellipse(tuple(mean), width, height, fill=False, linestyle=":", linewidth=2)
        truth.set_zorder(6)
        ax.add_patch(truth)
    ax.plot([], [], "k:", linewidth=2, label="the truth")
    ax.legend(fontsize="small", loc="lower left")
    ax.label_outer()


def main(argv: Sequence[str] | None = None) -> None:
    """Fit, sample, print the check, save a picture."""
    parser = argparse.ArgumentParser(description="A mixture inside a larger NumPyro model.")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    arguments = parser.parse_args(argv)

    y = draw(0)
    lines = least_squares(y)
    prior = jaxgmm.default_prior(lines, K, "diag")
    state = jaxgmm.fit(jax.random.key(0), lines, jaxgmm.cavi(prior), 16).best
    began = time.perf_counter()
    chain = sample(prior, state, y)
    draws = {name: np.asarray(a) for name, a in chain.get_samples().items()}
    seconds = time.perf_counter() - began

    fit = jaxgmm.mixture(state)
    order = np.argsort(np.asarray(fit.means)[:, 0])
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

    whole = (draws["weights"].mean(axis=0)[order], means.mean(axis=0), variances(sds.mean(axis=0)))
    figure = Figure(figsize=(12, 5.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    panel(left, jaxgmm.order_components(fit), lines)
    left.set_title("Each plant's own least squares")
    panel(right, jaxgmm.Mixture(*map(jnp.asarray, whole)), draws["effects"].mean(axis=0))
    right.set_title("In the whole model")
    figure.suptitle("Two classes of plants: ellipses hold 95 % of each")
    figure.savefig(arguments.output, dpi=110)
    print(f"\npicture: {arguments.output}")


if __name__ == "__main__":
    main()
