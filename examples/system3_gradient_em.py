"""Gradient EM: weights, means and covariances learnt by Adam on the marginal likelihood, no prior.

Draws 1000 points from three overlapping Gaussians and trains 100 random starts together, all of
them and not only the luckiest, in unconstrained coordinates: the weights on the simplex, the means,
the covariances by scales and unit Cholesky factors. EM on the same data says what there was to
find.

    python examples/system3_gradient_em.py --output system3_gradient_em.png
    python examples/system3_gradient_em.py --steps 1000 --learning-rate 0.01
"""

import argparse
import functools
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import jaxgmm
import jaxgmm.plot

# EM is slow here, and rounding in single precision would end it some 0.01 nats too early
jax.config.update("jax_enable_x64", True)

K, N = 3, 1000
WEIGHTS = np.array([2, 5, 1]) / 8
MEANS = np.array([[1.0, 2.0], [5.0, 6.0], [3.0, 1.0]])
COVARIANCES = np.array(
    [[[1.0, 0.2], [0.2, 1.5]], [[3.0, -0.3], [-0.3, 9.0]], [[1.2, 0.4], [0.4, 1.3]]]
)
# the second covariance as it was published, with -2 in one corner
PUBLISHED = np.array([COVARIANCES[0], [[3.0, -0.3], [-2.0, 9.0]], COVARIANCES[2]])


def draw(seed: int) -> jax.Array:
    """Points of the mixture: (N, D)."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(K, N, p=WEIGHTS)
    noise = np.linalg.cholesky(COVARIANCES)[labels] @ rng.standard_normal((N, 2, 1))
    return jnp.asarray(MEANS[labels] + noise[:, :, 0], jnp.float64)


def refusal(x: jax.Array) -> str:
    """What the library says to the published parameters."""
    algorithm = jaxgmm.em(jaxgmm.flat_prior(K, 2))
    try:
        algorithm.init(jax.random.key(0), x, {"parameters": (WEIGHTS, MEANS, PUBLISHED)})
    except ValueError as error:
        return str(error)
    raise AssertionError("an asymmetric covariance was accepted")


def gradient_em(learning_rate: float) -> jaxgmm.Algorithm:
    """The mode view with Adam's update."""
    return jaxgmm.svi(
        jaxgmm.flat_prior(K, 2),
        functools.partial(optax.adam, b1=0.8, b2=0.99),
        learning_rate=learning_rate,
        view="mode",
    )


def fit(
    x: jax.Array, algorithm: jaxgmm.Algorithm, n_restarts: int, max_iter: int, tol: float
) -> jaxgmm.Result:
    """All lanes from random points; tolerance 0 makes every one of ``max_iter`` steps."""
    return jaxgmm.fit(
        jax.random.key(0),
        x,
        algorithm,
        n_restarts,
        init="random_points",
        max_iter=max_iter,
        tol=tol,
        history=True,
    )


def luckiest_start(result: jaxgmm.Result) -> int:
    """The lane with the best objective before any training: the only one that was published."""
    return int(np.nanargmax(np.asarray(result.history)[0]))


def report(result: jaxgmm.Result, seconds: float, em: jaxgmm.Result) -> None:
    """Objectives, and the estimate beside EM's and the truth."""
    objective = np.asarray(result.states.objective, np.float64)
    lanes = ", ".join(f"{n} {status.name}" for status, n in result.statuses().items())
    best, target = float(result.best.objective), float(em.best.objective)
    print(f"lanes            {lanes}; {seconds:.0f} s")
    print(f"Adam, best       {best:.3f} nats")
    print(f"Adam, median     {np.median(objective):.3f}")
    print(f"Adam, worst      {objective.min():.3f}")
    print(f"luckiest start   {objective[luckiest_start(result)]:.3f}")
    print(f"EM, best         {target:.3f}")
    print(f"short of EM by   {target - best:.1e}")
    print("\n          weight   mean               covariance: variances, covariance")
    found = (("Adam", jaxgmm.mixture(result.best)), ("EM", jaxgmm.mixture(em.best)))
    truth = jaxgmm.Mixture(*(jnp.asarray(a) for a in (WEIGHTS, MEANS, COVARIANCES)))
    for name, mixture in (*found, ("truth", truth)):
        mixture = jaxgmm.order_components(mixture)
        for k in range(K):
            (a, b), (_, c) = np.asarray(mixture.covariances[k])
            mean = np.asarray(mixture.means[k])
            print(
                f"{name:<8} {float(mixture.weights[k]):>7.3f}   ({mean[0]:6.3f}, {mean[1]:6.3f})   "
                f"{a:6.3f}, {c:6.3f}, {b:6.3f}"
            )


def picture(x: jax.Array, result: jaxgmm.Result, em: jaxgmm.Result, output: Path) -> None:
    """Points, components and density, EM's means marked, and how the lanes went."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    adam = jaxgmm.order_components(result.best)
    jaxgmm.plot.points(adam, x, ax=left)
    jaxgmm.plot.ellipses(adam, ax=left)
    jaxgmm.plot.density(adam, ax=left)
    means = np.asarray(jaxgmm.mixture(em.best).means)
    rings = left.plot(*means.T, "ko", markersize=16, fillstyle="none", zorder=6, label="means, EM")
    left.set_title("Adam's mixture, 50 % and 95 % of each component")
    left.legend(handles=rings, loc="upper left", frameon=False)
    jaxgmm.plot.traces(result, right, first=10)
    right.axhline(float(em.best.objective), color="black", linestyle=":", zorder=0)
    right.set(title="Adam from random starts; dotted: EM", ylabel="log-likelihood (nats)")
    figure.savefig(output, dpi=110)


def main(argv: Sequence[str] | None = None) -> None:
    """Show the refusal, train, compare with EM, save a picture."""
    parser = argparse.ArgumentParser(description="Gradient EM: Adam on the marginal likelihood.")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--restarts", type=int, default=100)
    arguments = parser.parse_args(argv)

    x = draw(seed=0)
    print(f"the published covariances: ValueError: {refusal(x)}\n")
    began = time.perf_counter()
    algorithm = gradient_em(arguments.learning_rate)
    result = fit(x, algorithm, arguments.restarts, arguments.steps, 0.0)
    seconds = time.perf_counter() - began
    em = fit(x, jaxgmm.em(jaxgmm.flat_prior(K, 2)), arguments.restarts, 5000, 1e-10)
    report(result, seconds, em)
    picture(x, result, em, arguments.output)
    print(f"\npicture: {arguments.output}")


if __name__ == "__main__":
    main()
