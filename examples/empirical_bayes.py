"""Empirical Bayes: how sparse should the weights be? The data choose the concentration.

Points of five clusters of unequal size are fitted with fifteen components of known covariance and
weights from Dirichlet(alpha, ..., alpha). CAVI's bound at its optimum is a function of alpha, and
by the envelope theorem its derivative is the partial one, which `jaxgmm.prior_gradient` gives with
one pass over the data: nothing is differentiated through the fit. Adam follows it in log alpha, and
the fit is warm-started at every step, all in one compiled loop. A grid of separate fits shows the
curve that was climbed.

    python examples/empirical_bayes.py --output empirical_bayes.png
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from matplotlib.figure import Figure

import jaxgmm
import jaxgmm.plot

# derivatives of a bound of some thousand nats, by differences of digammas
jax.config.update("jax_enable_x64", True)

K = 15
SIZES = (220, 130, 80, 50, 20)
CENTRES = np.array([[0.0, 0.0], [6.0, 1.0], [2.0, 6.0], [-5.0, 4.0], [-4.0, -4.0]])


def draw(seed: int) -> Array:
    """The points, (500, 2)."""
    rng = np.random.default_rng(seed)
    parts = [c + rng.standard_normal((n, 2)) for c, n in zip(CENTRES, SIZES, strict=True)]
    return jnp.asarray(np.concatenate(parts))


def with_concentration(prior: jaxgmm.Prior, alpha: Array) -> jaxgmm.Prior:
    """The prior with every concentration equal to alpha."""
    return jaxgmm.Prior(jaxgmm.Dirichlet(jnp.broadcast_to(alpha, (K,))), prior.components)


def refit(prior: jaxgmm.Prior, state: jaxgmm.State, x: Array) -> jaxgmm.State:
    """CAVI under another prior, from where a state is."""
    algorithm = jaxgmm.cavi(prior)
    state = algorithm.init(jax.random.key(0), x, state)
    lanes, _ = jaxgmm.run(algorithm, jax.tree.map(lambda a: a[None], state), x, tol=1e-9)
    return jax.tree.map(lambda a: a[0], lanes)


class Climb(NamedTuple):
    """What was seen on the way, each (T,)."""

    alpha: Array
    bound: Array
    slope: Array


@jax.jit
def climb(state: jaxgmm.State, x: Array) -> tuple[jaxgmm.State, Climb]:
    """120 steps of Adam in log alpha from alpha = 1."""
    optimizer = optax.adam(0.1)
    log_alpha = jnp.zeros(())

    def step(carry, _: None):
        state, log_alpha, memory = carry
        alpha = jnp.exp(log_alpha)
        state = refit(with_concentration(state.prior, alpha), state, x)
        # one number in all the leaves: their derivatives add up; and by log alpha, times alpha
        slope = alpha * jnp.sum(jaxgmm.prior_gradient(state, x).weights.concentration)
        updates, memory = optimizer.update(-slope, memory)
        seen = Climb(alpha, state.objective, slope)
        return (state, log_alpha + updates, memory), seen

    start = (state, log_alpha, optimizer.init(log_alpha))
    (state, _, _), path = jax.lax.scan(step, start, length=120)
    return state, path


@jax.jit
def curve(state: jaxgmm.State, alphas: Array, x: Array) -> Array:
    """The bound of a fit of its own at every alpha."""

    def one(alpha: Array) -> Array:
        return refit(with_concentration(state.prior, alpha), state, x).objective

    return jax.lax.map(one, alphas)


def main(argv: Sequence[str] | None = None) -> None:
    """Learn alpha, print the figures, save a picture."""
    parser = argparse.ArgumentParser(description="The data choose a concentration.")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    arguments = parser.parse_args(argv)

    x = draw(seed=0)
    prior = jaxgmm.default_prior(x, K, jnp.eye(2))
    first = jaxgmm.fit(jax.random.key(0), x, jaxgmm.cavi(prior), 64, tol=1e-9, max_iter=5000).best
    state, path = climb(first, x)
    alphas = jnp.geomspace(0.02, 2.0, 41)
    bounds = curve(state, alphas, x)
    top = int(jnp.argmax(bounds))
    used = int(jnp.sum(state.posterior.weights.concentration - path.alpha[-1] > 0.5))

    print(f"bound at alpha = 1            {float(path.bound[0]):.3f} nats")
    print(f"alpha learnt                  {float(path.alpha[-1]):.4f}")
    print(f"bound there                   {float(path.bound[-1]):.3f}")
    print(f"slope there, by log alpha     {float(path.slope[-1]):.1e}")
    print(f"best alpha of a grid          {float(alphas[top]):.4f}")
    print(f"components in use             {used}")

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = ("$x_1$", "$x_2$")
    state = jaxgmm.order_components(state, "weight")
    jaxgmm.plot.points(state, x, ax=left, names=names)
    jaxgmm.plot.density(state, ax=left, names=names)
    left.set_title(rf"Fit with $\alpha$ learnt: {used} of {K} components")
    handles, _ = left.get_legend_handles_labels()
    left.legend(handles=handles[K:], loc="lower right", fontsize="small")  # of the density
    colour = jaxgmm.plot.style(1).colour
    right.plot(alphas, bounds, color="black", label="separate fits")
    right.plot(path.alpha, path.bound, "o-", color=colour, markersize=4, label="Adam's path")
    right.set(xscale="log", title="CAVI's bound at its optimum", xlabel=r"$\alpha$", ylabel="nats")
    right.legend()
    figure.savefig(arguments.output, dpi=110)
    print(f"\npicture: {arguments.output}")


if __name__ == "__main__":
    main()
