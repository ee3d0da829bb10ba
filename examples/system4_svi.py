"""Reparameterised SVI in one dimension, with no prior: the assignments are summed out.

Draws 100 points from Normal(1, 1) and 100 from Normal(7, 2), and fits normal means, gamma scales
and Dirichlet weights by Adam (0.1) on one draw of them a step, 3000 steps, 64 lanes at once. The
prior is flat in means, standard deviations and weights, so that only the entropy of q is left of
the divergence. The library's family has its gamma on the precisions; the published one has it on
the standard deviations, and is written here with the library's pure functions, as a model of your
own would be. At this learning rate the iterates swing with the draws; their average does not.

    python examples/system4_svi.py --output system4_svi.png
"""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpyro.distributions import Dirichlet, Gamma, Normal

import jaxgmm
import jaxgmm.plot

K, LANES = 2, 64
MEANS, DEVIATIONS = (1.0, 7.0), (1.0, 2.0)


def draw(seed: int) -> Array:
    """The points, (200, 1)."""
    rng = np.random.default_rng(seed)
    halves = [rng.normal(m, s, 100) for m, s in zip(MEANS, DEVIATIONS, strict=True)]
    return jnp.asarray(np.concatenate(halves)[:, None], jnp.float32)


def no_prior() -> jaxgmm.Prior:
    """Flat over means, standard deviations and weights.

    A density proportional to 1 in sigma is one proportional to tau^(-3/2) in tau = sigma^-2: the
    gamma of shape -1/2 and rate 0.
    """
    return jaxgmm.Prior(
        weights=jaxgmm.Dirichlet(jnp.ones(K)),
        components=jaxgmm.IndependentNormalGamma(
            mean=jnp.zeros((K, 1)),
            precision=jnp.zeros((K, 1)),
            shape=jnp.full(K, -0.5),
            rate=jnp.zeros(K),
        ),
    )


def fit(x: Array, steps: int, *, average: bool) -> jaxgmm.Result:
    """The library's own: log q - log prior is taken at the draw, since no closed form is left."""
    algorithm = jaxgmm.svi(
        no_prior(), optax.adam, learning_rate=0.1, divergence="sampled", average=average
    )
    return jaxgmm.fit(jax.random.key(0), x, algorithm, LANES, "random_points", steps, tol=0.0)


class Guide(NamedTuple):
    """The published q, unconstrained: logarithms of all that is positive."""

    loc: Array
    log_width: Array
    log_shape: Array
    log_rate: Array
    log_concentration: Array

    def distributions(self) -> tuple[Normal, Gamma, Dirichlet]:
        return (
            Normal(self.loc, jnp.exp(self.log_width)),
            Gamma(jnp.exp(self.log_shape), jnp.exp(self.log_rate)),
            Dirichlet(jnp.exp(self.log_concentration)),
        )


def bound(guide: Guide, key: Array, x: Array) -> Array:
    """One draw's estimate of the bound: ``log p(x | draw)`` plus the entropies of q."""
    means, deviations, weights = guide.distributions()
    keys = jax.random.split(key, 3)
    mean, sigma, pi = means.sample(keys[0]), deviations.sample(keys[1]), weights.sample(keys[2])
    const = jnp.log(pi) - jnp.log(sigma) - 0.5 * jnp.log(2 * jnp.pi)
    potentials = jaxgmm.stats.Potentials(const, mean[:, None], 1 / sigma, "spherical")
    entropy = jnp.sum(means.entropy()) + jnp.sum(deviations.entropy()) + weights.entropy()
    return jaxgmm.stats.log_evidence(x, potentials) + entropy


@functools.partial(jax.jit, static_argnames="steps")
def fit_published(key: Array, x: Array, steps: int) -> tuple[Guide, Array]:
    """The published q in every lane, and the bound it ends with."""
    optimizer = optax.adam(0.1)

    def lane(key: Array) -> tuple[Guide, Array]:
        start_key, key = jax.random.split(key)
        loc = jax.random.choice(start_key, x[:, 0], (K,), replace=False)
        ones = jnp.zeros(K)
        guide = Guide(loc, ones, ones, ones, ones)

        def step(carry: Any, key: Array) -> Any:
            guide, memory = carry
            value, gradient = jax.value_and_grad(bound)(guide, key, x)
            updates, memory = optimizer.update(jax.tree.map(jnp.negative, gradient), memory)
            return (optax.apply_updates(guide, updates), memory), value

        keys = jax.random.split(key, steps)
        (guide, _), values = jax.lax.scan(step, (guide, optimizer.init(guide)), keys)
        return guide, jnp.mean(values[-100:])

    return jax.vmap(lane)(jax.random.split(key, LANES))


def report(name: str, means: np.ndarray, best: int, deviations: np.ndarray, bounds: Array) -> None:
    """The lanes' means, (R, K), and the best lane's estimate."""
    order = np.argsort(means[best])
    found = np.abs(np.sort(means, axis=1) - MEANS).max(axis=1) < 0.75
    low, high = np.sort(means, axis=1).min(axis=0), np.sort(means, axis=1).max(axis=0)
    print(f"{name}: lanes that found both   {found.sum()} of {len(means)}")
    print(f"{name}: best lane's means       " + " ".join(f"{m:.3f}" for m in means[best][order]))
    print(f"{name}: best lane's deviations  " + " ".join(f"{s:.3f}" for s in deviations[order]))
    print(f"{name}: best lane's bound       {float(bounds[best]):.2f} nats")
    ranges = ", ".join(f"{a:.2f} {b:.2f}" for a, b in zip(low, high, strict=True))
    print(f"{name}: lanes' means between    {ranges}")


def posteriors(left: Axes, right: Axes, state: jaxgmm.State) -> None:
    """Histograms of the means' and the standard deviations' posteriors."""
    draws = jaxgmm.sample_posterior(jax.random.key(1), state, 4000)
    for k in range(K):
        colour = jaxgmm.plot.style(k).colour
        style = {"bins": 50, "density": True, "alpha": 0.6, "color": colour}
        left.hist(np.asarray(draws.means)[:, k, 0], **style, label=f"component {k}")
        right.hist(np.sqrt(np.asarray(draws.covariances)[:, k, 0, 0]), **style)
        left.axvline(MEANS[k], color=colour, linestyle=":")
        right.axvline(DEVIATIONS[k], color=colour, linestyle=":")
    left.set(title="Posterior of the means; dotted: truth", xlabel=r"$\mu$", yticks=[])
    right.set(title="Posterior of the standard deviations", xlabel=r"$\sigma$", yticks=[])
    left.legend(fontsize="small")


def main(argv: Sequence[str] | None = None) -> None:
    """Fit both, print the figures, save a picture."""
    parser = argparse.ArgumentParser(description="Reparameterised SVI with no prior.")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    parser.add_argument("--steps", type=int, default=3000)
    arguments = parser.parse_args(argv)

    x = draw(seed=0)
    for name, average in (("last iterate", False), ("averaged", True)):
        result = fit(x, arguments.steps, average=average)
        means = np.asarray(result.states.posterior.components.mean)[..., 0]
        deviations = np.sqrt(np.asarray(jaxgmm.mixture(result.best).covariances)[:, 0, 0])
        report(name, means, result.best_index, deviations, result.states.objective)
    guides, bounds = fit_published(jax.random.key(0), x, arguments.steps)
    best = int(jnp.argmax(bounds))
    own = jax.tree.map(lambda a: a[best], guides)
    deviations = np.asarray(own.distributions()[1].mean)
    report("published q", np.asarray(guides.loc), best, deviations, bounds)

    figure = Figure(figsize=(14, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    state = jaxgmm.order_components(result.best)
    jaxgmm.plot.histogram(state, x, ax=left, bins=40, names=["$x$"])
    left.set_title("Predictive density")
    posteriors(middle, right, state)
    figure.savefig(arguments.output, dpi=110)
    print(f"\npicture: {arguments.output}")


if __name__ == "__main__":
    main()
