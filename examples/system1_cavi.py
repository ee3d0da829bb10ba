"""CAVI with a known identity covariance: a published run, digit by digit.

Model: pi ~ Dirichlet(1, 1, 1); mu_k ~ Normal(0, I); z_n ~ Categorical(pi); x_n ~ Normal(mu_z, I).
The mean field q(z) q(pi) q(mu) starts from the means of random clusters and is swept in the order
z, pi, mu. Data, start and the published bound after every sweep are in data/cavi_60x2.npz.

    python examples/system1_cavi.py --output system1_cavi.png
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import jaxgmm
import jaxgmm.plot

jax.config.update("jax_enable_x64", True)  # the published trace is in double precision

DATA = Path(__file__).parent / "data" / "cavi_60x2.npz"
K = 3
# the published run stops when a sweep adds less than this to the bound, in nats for all points
LEAST_RISE = 1e-5


def model(means: jax.Array) -> jaxgmm.Prior:
    """Independent q(pi) and q(mu) with these means; at means of 0 it is the prior."""
    unit = jnp.ones(K, means.dtype)
    covariance = jnp.eye(means.shape[1], dtype=means.dtype)
    return jaxgmm.Prior(
        weights=jaxgmm.Dirichlet(unit),
        components=jaxgmm.KnownCovariance(means, mean_precision=unit, covariance=covariance),
    )


def cluster_means(x: jax.Array, labels: np.ndarray) -> jax.Array:
    """Mean of the points with each label: (K, D)."""
    return jnp.stack([jnp.mean(x[labels == k], axis=0) for k in range(K)])


def bound_at_start(x: jax.Array, start: jaxgmm.Prior, prior: jaxgmm.Prior) -> float:
    """The bound before the first sweep, with uniform q(z)."""
    uniform = jnp.full((x.shape[0], K), 1 / K, x.dtype)
    stats = jaxgmm.stats.from_responsibilities(x, uniform, structure=prior.components.structure)
    penalty = jaxgmm.views.kl_divergence(start, prior)
    return float(jaxgmm.bound(stats, jaxgmm.views.Expectation().potentials(start), penalty))


def fit(x: jax.Array, start: jaxgmm.Prior, prior: jaxgmm.Prior) -> jaxgmm.Result:
    """Sweep from the given posterior until the bound rests."""
    return jaxgmm.fit(
        jax.random.key(0),  # not used: the start is given, and CAVI draws nothing
        x,
        jaxgmm.cavi(prior),
        init={"posterior": start},
        tol=LEAST_RISE / x.shape[0],
        history=True,
    )


def rows(values: np.ndarray) -> str:
    """Vectors as people write them."""
    return ", ".join(
        "(" + ", ".join(f"{v:.4f}" for v in row) + ")" for row in np.atleast_2d(values)
    )


def report(result: jaxgmm.Result, trace: np.ndarray, published: np.ndarray) -> None:
    """Every figure that was published, and how far the whole trace is from the published one."""
    weights, means = result.best.posterior.weights, result.best.posterior.components
    assert isinstance(weights, jaxgmm.Dirichlet)
    assert isinstance(means, jaxgmm.KnownCovariance)
    mixture = jaxgmm.mixture(result.best)
    status = jaxgmm.Status(int(result.best.status))
    print(f"ELBO at the start   {trace[0]:.3f}")
    print(f"ELBO at the end     {trace[-1]:.7f}")
    print(f"sweeps              {int(result.best.n_iter)}  {status.name}")
    print(f"E[mu]               {rows(np.asarray(mixture.means))}")
    variance = 1 / np.asarray(means.mean_precision)
    print(f"Cov[mu], diagonals  {', '.join(f'{v:.4f}' for v in variance)}")
    print(f"E[pi]               {', '.join(f'{w:.4f}' for w in np.asarray(mixture.weights))}")
    print(f"concentration       {rows(np.asarray(weights.concentration))}")
    if len(trace) == len(published):
        furthest = np.abs(trace - published).max()
        print(f"trace               {len(trace)} bounds, at most {furthest:.1e} from the published")
    else:
        print(f"trace               {len(trace)} bounds, but {len(published)} were published")


def draw_trace(ax: Axes, trace: np.ndarray, published: np.ndarray) -> None:
    """The bound against the sweep, over the published one."""
    ax.plot(published, "o", color="skyblue", markersize=9, label="published")
    ax.plot(trace, ".-", color="black", linewidth=1.2, label="this run")
    ax.set(title="Bound", xlabel="sweep (0 is the start)", ylabel="ELBO (nats)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="lower right")


def picture(
    x: jax.Array, state: jaxgmm.State, trace: np.ndarray, published: np.ndarray, output: Path
) -> None:
    """Clusters with the predictive density, and the trace."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    state = jaxgmm.order_components(state)
    jaxgmm.plot.points(state, x, ax=left)
    jaxgmm.plot.ellipses(state, ax=left)
    jaxgmm.plot.density(state, ax=left)
    left.set(title="Clusters, 50 % and 95 % of each", aspect="equal")
    left.legend(fontsize="small")
    draw_trace(right, trace, published)
    figure.savefig(output, dpi=110)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the published fit, print its figures, save a picture."""
    parser = argparse.ArgumentParser(description="CAVI with a known identity covariance.")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    arguments = parser.parse_args(argv)

    with np.load(DATA) as data:
        x = jnp.asarray(data["X"], jnp.float64)
        labels, published = data["init_clusters"], data["elbo_trace"]
    prior = model(jnp.zeros((K, x.shape[1]), x.dtype))
    start = model(cluster_means(x, labels))
    result = fit(x, start, prior)
    trace = np.concatenate([[bound_at_start(x, start, prior)], np.asarray(result.history)[:, 0]])
    report(result, trace, published)
    picture(x, result.best, trace, published, arguments.output)
    print(f"picture: {arguments.output}")


if __name__ == "__main__":
    main()
