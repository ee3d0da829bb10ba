"""Stars with measurement errors and a background: the density of the true velocities.

Velocities of 3,000 stars in two streams and a wide halo; each star has an error of its own, often
larger than a stream is wide, and one of twenty is no star of these at all: its velocity may be any.
With the variances of the errors the fit is that of the true velocities (extreme deconvolution:
Bovy, Hogg & Roweis 2011), and with a background the strays widen no component. Beside it stand a
fit without the background, and one that takes the noisy values for true.

    python examples/stars.py --output stars.png
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxgmm
import jaxgmm.plot

N = 3000
MEANS = np.array([[-20.0, -10.0], [15.0, 5.0], [0.0, -5.0]])
SPREADS = np.array([[[4.0, 0], [2, 3]], [[3.0, 0], [-2, 4]], [[30.0, 0], [5, 20]]])
SHARES = np.array([0.35, 0.35, 0.3])
STRAYS, LIMIT = 0.05, 250.0


def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """True velocities in km/s, and which are those of strays."""
    kind = rng.choice(3, n, p=SHARES)
    x = MEANS[kind] + np.einsum("nij,nj->ni", SPREADS[kind], rng.standard_normal((n, 2)))
    stray = rng.random(n) < STRAYS
    return np.where(stray[:, None], rng.uniform(-LIMIT, LIMIT, x.shape), x), stray


def clusters_of(fitted: jaxgmm.Result | jaxgmm.Mixture) -> jaxgmm.Mixture:
    """The mixture of the last three components: all but a background."""
    weights, means, covariances = (a[-3:] for a in jaxgmm.mixture(fitted))
    return jaxgmm.Mixture(weights / jnp.sum(weights), means, covariances)


def main(output: Path) -> None:
    """Fit, print and draw."""
    rng = np.random.default_rng(0)
    truth, stray = draw(rng, N)
    sd = rng.gamma(2.0, 4.0, truth.shape)  # km/s, of each star and direction
    observed = truth + sd * rng.standard_normal(truth.shape)

    clusters = jaxgmm.flat_prior(3, 2)
    rows = jaxgmm.Rows(observed, noise=sd**2)
    both = jaxgmm.em(jaxgmm.with_background(clusters, rows))
    fits = {
        "errors and background": jaxgmm.fit(jax.random.key(0), rows, both),
        "errors alone": jaxgmm.fit(jax.random.key(0), rows, jaxgmm.em(clusters)),
        "values taken for true": jaxgmm.fit(jax.random.key(0), observed, jaxgmm.em(clusters)),
    }
    best = fits["errors and background"]
    print(best.summary())
    found = np.asarray(jaxgmm.responsibilities(best, rows))[:, 0] > 0.5
    print(f"strays: {stray.sum()}, of which {found[stray].sum()} are found, beside")
    share = float(jaxgmm.mixture(best).weights[0])
    print(f"{found[~stray].sum()} other stars; a share of {share:.3f}")
    others, _ = draw(rng, 10_000)
    print("mean log density of other stars without errors, nats:")
    for name, result in fits.items():
        print(f"{name:24} {float(jnp.mean(jaxgmm.log_prob(result, others))):.3f}")
    exact = jaxgmm.Mixture(
        jnp.asarray(SHARES, jnp.float32),
        jnp.asarray(MEANS, jnp.float32),
        jnp.asarray(SPREADS @ SPREADS.swapaxes(1, 2), jnp.float32),
    )
    inside = jnp.exp(jaxgmm.log_prob(exact, others))
    exact_log = jnp.log((1 - STRAYS) * inside + STRAYS / (2 * LIMIT) ** 2)
    print(f"{'the truth':24} {float(jnp.mean(exact_log)):.3f}")
    better = np.asarray(jaxgmm.impute(best, rows))
    print("root mean square error of a velocity, km/s:")
    for name, values in {"as observed": observed, "given the fit": better}.items():
        print(f"{name:24} {np.sqrt(np.mean((values - truth) ** 2)):.2f}")

    figure = Figure(figsize=(15, 4.4), layout="constrained")
    axes = figure.subplots(1, 4, sharex=True, sharey=True)
    shown = {
        "true velocities": (truth, exact),
        "observed: errors and background": (observed, best),
        "observed: errors alone": (observed, fits["errors alone"]),
        "observed: taken for true": (observed, fits["values taken for true"]),
    }
    for ax, (title, (values, fitted)) in zip(axes, shown.items(), strict=True):
        ax.scatter(*values.T, s=2, c="#B0B0B0", linewidths=0)
        jaxgmm.plot.ellipses(jaxgmm.align(clusters_of(fitted), exact), ax=ax)
        ax.set(title=title, xlabel="u (km/s)", ylabel="", xlim=(-90, 90), ylim=(-70, 60))
    axes[0].set_ylabel("v (km/s)")
    figure.savefig(output, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    main(parser.parse_args().output)
