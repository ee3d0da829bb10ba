"""EM with full covariances and restarts, and the traps that a published program falls into.

Draws 600 points from three Gaussians, fits them from 10 random starts under a loose relative
tolerance, as published, and from 256, and then tightly. What goes wrong in the published program is
shown going right here, a line each.

    python examples/system2_em.py --output system2_em.png
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxgmm
import jaxgmm.plot

K, N = 3, 600
WEIGHTS = np.array([0.5, 0.3, 0.2])
MEANS = np.array([[0.0, 0.0], [4.0, 1.0], [1.0, 5.0]])
COVARIANCES = np.array(
    [[[1.5, 0.6], [0.6, 1.0]], [[0.8, -0.5], [-0.5, 1.6]], [[2.0, 0.3], [0.3, 0.5]]]
)
RTOL = 1e-3


def draw(seed: int) -> tuple[jax.Array, np.ndarray]:
    """Points (N, D) and the components they came from (N,)."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(K, N, p=WEIGHTS)
    noise = np.linalg.cholesky(COVARIANCES)[labels] @ rng.standard_normal((N, 2, 1))
    return jnp.asarray(MEANS[labels] + noise[:, :, 0], jnp.float32), labels


def maximum_likelihood(n_components: int = K) -> jaxgmm.Algorithm:
    """EM under the flat prior, full covariances."""
    return jaxgmm.em(jaxgmm.flat_prior(n_components, 2))


def absolute_tolerance(x: jax.Array) -> float:
    """The tolerance per sample that stands for a relative one.

    ``tol`` is absolute, so that it means the same in any units of the data. A single Gaussian's
    log-likelihood, which one iteration gives exactly, is the scale.
    """
    single = jaxgmm.fit(jax.random.key(0), x, maximum_likelihood(1)).best
    return RTOL * abs(float(single.objective)) / x.shape[0]


def fit(x: jax.Array, n_restarts: int, tol: float, max_iter: int) -> jaxgmm.Result:
    """EM from random points of the data, every start to its end as it was published."""
    return jaxgmm.fit(
        jax.random.key(1),
        x,
        maximum_likelihood(),
        n_restarts,
        init="random_points",
        max_iter=max_iter,
        tol=tol,
        history=True,
        racing=False,
        moves=False,
    )


def row(name: str, result: jaxgmm.Result) -> str:
    """One line of the table."""
    objective, n_iter = np.asarray(result.states.objective), np.asarray(result.states.n_iter)
    lanes = ", ".join(f"{n} {status.name}" for status, n in result.statuses().items())
    return (
        f"{name:<22} {float(result.best.objective):>10.3f} {np.median(objective):>10.3f} "
        f"{objective.min():>10.3f} {int(np.median(n_iter)):>7} {n_iter.max():>5}   {lanes}"
    )


def log_likelihood_of_truth(x: jax.Array) -> float:
    """Of the parameters that the points were drawn with: below any good fit."""
    truth = maximum_likelihood().init(
        jax.random.key(0), x, {"parameters": (WEIGHTS, MEANS, COVARIANCES)}
    )
    return float(jaxgmm.elbo(truth, x))


def agreement(state: jaxgmm.State, x: jax.Array, labels: np.ndarray) -> float:
    """Share of the points whose most probable component is the one they came from."""
    truth = jaxgmm.Mixture(*(jnp.asarray(a, x.dtype) for a in (WEIGHTS, MEANS, COVARIANCES)))
    own = jaxgmm.align(state, truth)
    return float(np.mean(np.asarray(jaxgmm.predict(own, x)) == labels))


def integral(state: jaxgmm.State) -> float:
    """Of the fitted density over a square that holds all of it."""
    side, step = np.linspace(-12, 18, 301, retstep=True)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    density = np.exp(np.asarray(jaxgmm.log_prob(state, jnp.asarray(grid, jnp.float32))))
    return float(density.sum() * step**2)


def with_a_lone_point(x: jax.Array) -> jaxgmm.Result:
    """Ten given starts, in the last of which a component has one point: no covariance."""
    labels = np.random.default_rng(0).integers(0, K, (10, N))
    labels[9] = np.arange(N) % 2
    labels[9, 0] = 2
    return jaxgmm.fit(
        jax.random.key(0), x, maximum_likelihood(), 10, init={"labels": jnp.asarray(labels)}
    )


def print_traps(x: jax.Array, result: jaxgmm.Result) -> None:
    """What the published program gets wrong."""
    best, lone = result.best, with_a_lone_point(x)
    objective = np.asarray(result.states.objective)
    far = jaxgmm.log_prob(best, jnp.asarray([[1e4, -1e4]], jnp.float32))[0]
    hard = jaxgmm.stats.from_labels(x, jaxgmm.predict(best, x), K).entropy
    collapsed = jaxgmm.Status(int(lone.states.status[9]))
    going_on = sum(n for status, n in lone.statuses().items() if not status.failed)
    print("the published program ...              here:")
    print(
        f"keeps the smallest bound               kept {float(best.objective):.3f}, "
        f"the smallest is {objective.min():.3f}"
    )
    print(f"normalises by (2 pi)^N, not ^D         the density integrates to {integral(best):.4f}")
    print(f"overflows at far points                log density of one is {float(far):.4g}")
    print(
        f"never stops by its own rule            {int((objective > -np.inf).sum())} lanes did, "
        f"after at most {int(result.states.n_iter.max())} iterations"
    )
    print(f"makes NaN of 0 log 0                   entropy of hard labels is {float(hard):.1f}")
    print(
        f"must abandon a singular restart        {collapsed.name}, and {going_on} other lanes "
        "went on"
    )


def picture(x: jax.Array, result: jaxgmm.Result, output: Path) -> None:
    """Points by their most probable component, and how the lanes went."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    best = jaxgmm.order_components(result.best)
    jaxgmm.plot.points(best, x, ax=left)
    jaxgmm.plot.ellipses(best, ax=left)
    jaxgmm.plot.density(best, ax=left)
    left.set(title="Components, 50 % and 95 % of each", aspect="equal")
    jaxgmm.plot.traces(result, right)
    right.set(title="EM from random starts", ylabel="log-likelihood (nats)")
    figure.savefig(output, dpi=110)


def main(argv: Sequence[str] | None = None) -> None:
    """Fit loosely and tightly, print figures and traps, save a picture."""
    parser = argparse.ArgumentParser(description="EM with full covariances and restarts.")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    arguments = parser.parse_args(argv)

    x, labels = draw(seed=0)
    loose = absolute_tolerance(x)
    tight = fit(x, 256, 1e-7, 2000)
    print(f"N={N}, D=2, K={K}; relative tolerance {RTOL:g} is {loose:.2g} nats per sample\n")
    print("                             log-likelihood (nats)          iterations")
    print("fit                          best     median      worst  median  most   lanes")
    print(row("10 starts, loose", fit(x, 10, loose, 100)))
    print(row("256 starts, loose", fit(x, 256, loose, 100)))
    print(row("256 starts, tight", tight))
    print(f"{'true parameters':<22} {log_likelihood_of_truth(x):>10.3f}")
    print(f"\nassigned to their own component: {agreement(tight.best, x, labels):.1%}\n")
    print_traps(x, tight)
    picture(x, tight, arguments.output)
    print(f"\npicture: {arguments.output}")


if __name__ == "__main__":
    main()
