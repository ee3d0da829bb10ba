"""A mixture-density network: a network whose output is a mixture for every row.

The inverse problem of Bishop 1994: ``x = t + 0.3 sin(2 pi t) + noise`` is a function of t, but t is
not one of x, which has up to three answers. A network maps each x to the potentials of a mixture
over t, and is trained on ``log p(t | x)``: this is `jaxgmm.stats.log_evidence` of one row at its
own potentials, under `jax.vmap` and `jax.grad`. The same network with one Gaussian, which is
least-squares regression with a noise that varies, is trained beside it; it averages the answers.

    python examples/mixture_density.py --output mixture_density.png
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from matplotlib.figure import Figure

import jaxgmm
import jaxgmm.plot

K, HIDDEN, STEPS = 5, 32, 2000
NOISE = 0.05
Layers = list[tuple[Array, Array]]


def draw(key: Array, n: int) -> tuple[Array, Array]:
    """Questions x and answers t, ``(n,)`` each; t is uniform between 0 and 1."""
    answer_key, noise_key = jax.random.split(key)
    t = jax.random.uniform(answer_key, (n,))
    x = t + 0.3 * jnp.sin(2 * jnp.pi * t) + NOISE * jax.random.normal(noise_key, (n,))
    return x, t


def start(key: Array, n_components: int) -> Layers:
    """Two hidden layers, and weights, means and widths of the components, spread over [0, 1]."""
    widths = (1, HIDDEN, HIDDEN, 3 * n_components)
    keys = jax.random.split(key, len(widths) - 1)
    layers = [
        (jax.random.normal(k, (a, b)) / jnp.sqrt(a), jnp.zeros(b))
        for k, a, b in zip(keys, widths[:-1], widths[1:], strict=True)
    ]
    matrix, bias = layers[-1]
    means = (jnp.arange(n_components) + 0.5) / n_components
    bias = bias.at[n_components : 2 * n_components].set(means).at[2 * n_components :].set(-1.0)
    return [*layers[:-1], (0.1 * matrix, bias)]


def potentials(layers: Layers, x: Array) -> jaxgmm.stats.Potentials:
    """The mixture over t that the network makes of one x, a scalar."""
    hidden = x[None]
    for matrix, bias in layers[:-1]:
        hidden = jnp.tanh(hidden @ matrix + bias)
    matrix, bias = layers[-1]
    logits, mean, log_sd = jnp.split(hidden @ matrix + bias, 3)
    const = jax.nn.log_softmax(logits) - log_sd - 0.5 * jnp.log(2 * jnp.pi)
    return jaxgmm.stats.Potentials(const, mean[:, None], jnp.exp(-log_sd)[:, None], "diag")


def log_density(layers: Layers, x: Array, t: Array) -> Array:
    """``log p(t | x)`` of each row, in nats: ``(n,)``."""

    def one(x: Array, t: Array) -> Array:
        return jaxgmm.stats.log_evidence(t[None, None], potentials(layers, x))

    return jax.vmap(one)(x, t)


@jax.jit
def train(layers: Layers, x: Array, t: Array) -> Layers:
    """Adam on all the rows."""
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, STEPS))

    def step(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
        layers, memory = carry
        slope = jax.grad(lambda layers: -jnp.mean(log_density(layers, x, t)))(layers)
        updates, memory = optimizer.update(slope, memory)
        return (optax.apply_updates(layers, updates), memory), None

    return jax.lax.scan(step, (layers, optimizer.init(layers)), length=STEPS)[0][0]


def best_possible(x: Array, t: Array) -> Array:
    """The mean log density of the truth, ``p(t | x)`` by a fine grid over t."""
    grid = jnp.linspace(0, 1, 4001)

    def log_joint(x: Array, t: Array) -> Array:
        return -0.5 * ((x - t - 0.3 * jnp.sin(2 * jnp.pi * t)) / NOISE) ** 2

    log_total = jax.vmap(lambda x: jax.nn.logsumexp(log_joint(x, grid)))(x) - jnp.log(grid.size)
    return jnp.mean(log_joint(x, t) - log_total)


def main(argv: Sequence[str] | None = None) -> None:
    """Train both, print the held-out log densities, save a picture."""
    parser = argparse.ArgumentParser(description="A network with mixtures as its output.")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    arguments = parser.parse_args(argv)

    train_key, test_key, network_key = jax.random.split(jax.random.key(0), 3)
    x, t = draw(train_key, 1000)
    new_x, new_t = draw(test_key, 2000)
    trained = {n: train(start(network_key, n), x, t) for n in (1, K)}
    held_out = {n: float(jnp.mean(log_density(trained[n], new_x, new_t))) for n in trained}
    # there the answers are 0.174, 0.5 and 0.826, as likely as x is slow to change with t
    middle = potentials(trained[K], jnp.asarray(0.5))
    near = jnp.abs(middle.mean[:, 0] - jnp.asarray([[0.174], [0.5], [0.826]])) < 0.1
    weights = jnp.exp(middle.const - jnp.log(middle.factor[:, 0])) * jnp.sqrt(2 * jnp.pi)

    print("log density held out, nats per row")
    print(f"one Gaussian            {held_out[1]:.3f}")
    print(f"{K} components            {held_out[K]:.3f}")
    print(f"the truth               {float(best_possible(new_x, new_t)):.3f}")
    shown = " ".join(f"{float(mass):.2f}" for mass in near.astype(weights.dtype) @ weights)
    print(f"weights near the three answers to x = 0.5:  {shown}  (the truth: 0.24 0.51 0.24)")

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    lines = jnp.linspace(-0.1, 1.1, 400)
    levels = jnp.linspace(-0.1, 1.1, 800)
    for ax, n in zip(figure.subplots(1, 2, sharey=True), (1, K), strict=True):
        rows = jax.vmap(lambda x, n=n: log_density(trained[n], jnp.full_like(levels, x), levels))
        density = np.exp(np.asarray(rows(lines))).T
        ax.pcolormesh(lines, levels, np.minimum(density, 8), cmap="Blues", rasterized=True)
        ax.scatter(x[:500], t[:500], s=5, c=jaxgmm.plot.style(1).colour, alpha=0.6, linewidths=0)
        name = "one Gaussian" if n == 1 else f"{K} components"
        ax.set(title=f"{name}: {held_out[n]:.2f} nats per row", xlabel="$x$", ylabel="$t$")
        ax.label_outer()
    figure.suptitle("Density of the answers given the question, and the data")
    figure.savefig(arguments.output, dpi=110)
    print(f"\npicture: {arguments.output}")


if __name__ == "__main__":
    main()
