"""A variational autoencoder whose prior is a mixture, trained with it by gradients.

The encoder maps each of scikit-learn's 1797 digits, 8 x 8 pixels of 17 levels, to a Gaussian over a
few latent features, and the decoder those to the pixels' binomial distributions. The evidence
lower bound, ``E_q[log p(x | z) + log p(z) - log q(z | x)]``, needs of its prior nothing but the log
density of draws. For a mixture `jaxgmm.stats.log_evidence` gives it, with its gradient in the draws
and in the mixture's potentials. The same network with a standard normal prior is trained beside
it, and both are judged on digits that neither has seen.

    python examples/vae.py --output vae.png
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import jaxgmm
import jaxgmm.plot

LEVELS = 16  # of a pixel, beside 0
LATENT, HIDDEN, K = 8, 256, 20
BATCH = 128
HELD_OUT = 360


class Gaussians(NamedTuple):
    """A mixture of diagonal Gaussians in coordinates that are free."""

    logits: Array
    mean: Array
    log_sd: Array

    def potentials(self) -> jaxgmm.stats.Potentials:
        """``log pi_k + log Normal(z | mean_k, sd_k^2)`` as the library takes it."""
        constant = 0.5 * self.mean.shape[-1] * jnp.log(2 * jnp.pi)
        const = jax.nn.log_softmax(self.logits) - jnp.sum(self.log_sd, axis=-1) - constant
        return jaxgmm.stats.Potentials(const, self.mean, jnp.exp(-self.log_sd), "diag")


class Model(NamedTuple):
    """Everything that is trained."""

    encoder: list[tuple[Array, Array]]
    decoder: list[tuple[Array, Array]]
    prior: Gaussians


def dense(key: Array, widths: Sequence[int]) -> list[tuple[Array, Array]]:
    """Layers of a network, at He et al.'s (2015) start."""
    keys = jax.random.split(key, len(widths) - 1)
    shapes = list(itertools.pairwise(widths))
    return [
        (jax.random.normal(k, (a, b)) * jnp.sqrt(2 / a), jnp.zeros(b))
        for k, (a, b) in zip(keys, shapes, strict=True)
    ]


def network(layers: list[tuple[Array, Array]], x: Array) -> Array:
    """Affine maps with rectifiers between them."""
    for matrix, bias in layers[:-1]:
        x = jax.nn.relu(x @ matrix + bias)
    matrix, bias = layers[-1]
    return x @ matrix + bias


def start(key: Array, n_components: int) -> Model:
    """Random networks, and a prior of one standard normal, or of many about it."""
    encoder_key, decoder_key, prior_key = jax.random.split(key, 3)
    mean = jax.random.normal(prior_key, (n_components, LATENT))
    prior = Gaussians(
        jnp.zeros(n_components), mean * (n_components > 1), jnp.zeros((n_components, LATENT))
    )
    return Model(
        dense(encoder_key, (64, HIDDEN, 2 * LATENT)),
        dense(decoder_key, (LATENT, HIDDEN, 64)),
        prior,
    )


def draw(key: Array, model: Model, x: Array) -> tuple[Array, Array]:
    """A reparameterised draw of z for each image, and its log q(z | x)."""
    mean, log_sd = jnp.split(network(model.encoder, x / LEVELS), 2, axis=-1)
    noise = jax.random.normal(key, mean.shape)
    log_q = -0.5 * noise**2 - log_sd - 0.5 * jnp.log(2 * jnp.pi)
    return mean + jnp.exp(log_sd) * noise, jnp.sum(log_q, axis=-1)


def log_likelihood(model: Model, x: Array, z: Array) -> Array:
    """log p(x | z) of each image: binomial pixels, normalised."""
    logits = network(model.decoder, z)
    factorial = jax.scipy.special.gammaln
    ways = factorial(LEVELS + 1.0) - factorial(x + 1) - factorial(LEVELS - x + 1)
    return jnp.sum(ways + x * logits - LEVELS * jax.nn.softplus(logits), axis=-1)


def loss(model: Model, key: Array, x: Array) -> Array:
    """Minus the evidence lower bound per image, by one draw."""
    z, log_q = draw(key, model, x)
    log_prior = jaxgmm.stats.log_evidence(z, model.prior.potentials())
    return -(jnp.sum(log_likelihood(model, x, z) - log_q) + log_prior) / len(x)


@jax.jit
def bounds(key: Array, model: Model, x: Array) -> tuple[Array, Array]:
    """The evidence lower bound per image, and the importance-weighted one of 100 draws.

    The second (Burda, Grosse & Salakhutdinov 2016) is closer to the log evidence.
    """
    potentials = model.prior.potentials()
    # one row's log density at a time, for many draws of all the rows
    log_density = jax.vmap(lambda z: jaxgmm.stats.log_evidence(z[None], potentials))

    def one(key: Array) -> Array:
        z, log_q = draw(key, model, x)
        return log_likelihood(model, x, z) + log_density(z) - log_q

    weights = jax.lax.map(one, jax.random.split(key, 100))
    tight = jax.nn.logsumexp(weights, axis=0) - jnp.log(100.0)
    return jnp.mean(weights), jnp.mean(tight)


def train(seed: int, x: Array, n_components: int, n_epochs: int) -> Model:
    """Adam on the bound; a prior of one component stays the standard normal."""
    steps = n_epochs * (len(x) // BATCH)
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    start_key, train_key = jax.random.split(jax.random.key(seed))
    model = start(start_key, n_components)

    def step(carry: tuple[Any, Any], key: Array) -> tuple[tuple[Any, Any], None]:
        model, memory = carry
        rows_key, draw_key = jax.random.split(key)
        rows = x[jax.random.choice(rows_key, len(x), (BATCH,), replace=False)]
        slope = jax.grad(loss)(model, draw_key, rows)
        if n_components == 1:
            slope = slope._replace(prior=jax.tree.map(jnp.zeros_like, slope.prior))
        updates, memory = optimizer.update(slope, memory)
        return (optax.apply_updates(model, updates), memory), None

    @jax.jit
    def run(model: Model) -> Model:
        keys = jax.random.split(train_key, steps)
        return jax.lax.scan(step, (model, optimizer.init(model)), keys)[0][0]

    return run(model)


def main(argv: Sequence[str] | None = None) -> None:
    """Train both for each seed, print the held-out bounds, save a picture."""
    parser = argparse.ArgumentParser(description="A mixture as the prior of an autoencoder.")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args(argv)

    pixels, _ = load_digits(return_X_y=True)
    digits = np.random.default_rng(0).permutation(np.asarray(pixels, np.float32))
    train_x, test_x = jnp.asarray(digits[HELD_OUT:]), jnp.asarray(digits[:HELD_OUT])
    print(f"{len(train_x)} digits to train on, {len(test_x)} held out; nats per image")
    print("            bound, held out              importance-weighted, held out")
    print("seed     normal   mixture      gain     normal   mixture      gain")
    found, model = [], None
    for seed in range(arguments.seeds):
        row = []
        for n_components in (1, K):
            model = train(seed, train_x, n_components, arguments.epochs)
            row.append(np.asarray(bounds(jax.random.key(100 + seed), model, test_x)))
        (normal, normal_tight), (mixture, tight) = row
        print(
            f"{seed:<5} {normal:>9.3f} {mixture:>9.3f} {mixture - normal:>9.3f}"
            f"  {normal_tight:>9.3f} {tight:>9.3f} {tight - normal_tight:>9.3f}"
        )
        found.append((normal, mixture))
    assert model is not None
    picture(model, np.asarray(found), arguments.output)
    print(f"\npicture: {arguments.output}")


def picture(model: Model, found: np.ndarray, output: Path) -> None:
    """Digits drawn from each component of the mixture, a row each, and the bounds."""
    per_row, prior = 16, model.prior
    order = np.argsort(-np.asarray(prior.logits))
    noise = jax.random.normal(jax.random.key(0), (len(order), per_row, LATENT))
    z = prior.mean[order, None] + jnp.exp(prior.log_sd[order, None]) * noise
    pixels = np.asarray(jax.nn.sigmoid(network(model.decoder, z)))
    sheet = pixels.reshape(len(order), per_row, 8, 8).transpose(0, 2, 1, 3)
    sheet = np.pad(sheet, ((0, 0), (0, 1), (0, 0), (0, 1))).reshape(len(order) * 9, per_row * 9)
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(sheet, cmap="gray_r", interpolation="nearest")
    left.set(xticks=[], yticks=[], title="Draws from the prior, a component in each row")
    left.set_ylabel("components, by weight")
    for seed, pair in enumerate(found):
        colour, marker, line = jaxgmm.plot.style(seed)
        look = {"color": colour, "marker": marker, "linestyle": line}
        right.plot([0, 1], pair, **look, label=f"seed {seed}")
    right.set(xticks=[0, 1], xticklabels=["standard normal", "mixture"], xlim=(-0.3, 1.3))
    right.set(title="Bound on digits held out", ylabel="nats per image")
    right.grid(alpha=0.3)
    right.legend()
    figure.savefig(output, dpi=110)


if __name__ == "__main__":
    main()
