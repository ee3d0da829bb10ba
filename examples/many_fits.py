"""Thousands of small fits in one program, by `jax.vmap` over data sets, beside scikit-learn's loop.

Each of 10,000 data sets of 200 points in the plane is fitted by EM with three components, from a
k-means start and by the stopping rule of scikit-learn's defaults. One function does it for one
data set, with `init` and `jaxgmm.run` as they are, and `jax.lax.map` takes it to all of them: a
chunk at a time by `jax.vmap`, since a loop under `vmap` goes on until its slowest lane is done, and
so a slow data set holds up its chunk alone. `jax.shard_map` shares the chunks out over the devices.

scikit-learn's loop is timed on some of the data sets, in turns with ours, and scaled: as it comes,
and with a single thread, which is faster for data this small. The two draw different random
numbers for their starts, so that on some data sets they end at different optima.

    python examples/many_fits.py --output many_fits.png
"""

import argparse
import functools
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, PartitionSpec
from matplotlib.figure import Figure
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

import jaxgmm
import jaxgmm.plot

# a CPU is one device unless told otherwise
jax.config.update("jax_num_cpu_devices", min(os.cpu_count() or 1, 8))

N, D, K = 200, 2, 3
REG_COVAR, TOL, MAX_ITER = 1e-6, 1e-3, 100  # scikit-learn's defaults
CHUNK = 64 if jax.default_backend() == "cpu" else 10_000
ROUNDS = 3


def draw(n_sets: int) -> np.ndarray:
    """Data sets of three anisotropic clusters each, near or far: (M, N, D) float32."""
    rng = np.random.default_rng(0)
    means = rng.uniform(-4, 4, (n_sets, K, D))
    factors = np.eye(D) + 0.4 * rng.standard_normal((n_sets, K, D, D))
    labels = rng.choice(K, (n_sets, N), p=(0.5, 0.3, 0.2))
    own = np.arange(n_sets)[:, None], labels
    noise = rng.standard_normal((n_sets, N, D))
    return (means[own] + np.einsum("mnij,mnj->mni", factors[own], noise)).astype(np.float32)


def fit(key: Array, x: Array) -> jaxgmm.State:
    """One data set."""
    algorithm = jaxgmm.em(jaxgmm.flat_prior(K, D), REG_COVAR)
    start = algorithm.init(key, x, "k-means")
    lanes = jax.tree.map(lambda a: a[None], start)
    lanes, _ = jaxgmm.run(algorithm, lanes, x, max_iter=MAX_ITER, tol=TOL)
    return jax.tree.map(lambda a: a[0], lanes)


@jax.jit
def fit_all(keys: Array, sets: Array) -> jaxgmm.State:
    """All data sets; every leaf leads with M."""
    mesh = jax.make_mesh((len(jax.devices()),), ("devices",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("devices")

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(spec, spec), out_specs=spec, check_vma=False
    )
    def share(keys: Array, sets: Array) -> jaxgmm.State:
        return jax.lax.map(lambda one: fit(*one), (keys, sets), batch_size=CHUNK)

    return share(keys, sets)


def fit_one_by_one(sets: np.ndarray) -> list[GaussianMixture]:
    """scikit-learn's loop."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of those that do not converge
        return [GaussianMixture(K, random_state=0).fit(x) for x in sets]


def seconds(function: Callable[..., Any], *args: Any) -> tuple[float, Any]:
    """How long it took, and its result."""
    began = time.perf_counter()
    out = jax.block_until_ready(function(*args))
    return time.perf_counter() - began, out


def scores(states: jaxgmm.State, sets: np.ndarray) -> np.ndarray:
    """scikit-learn's mean log-likelihood of each data set at our estimates."""
    weights, means, covariances = map(np.asarray, jax.vmap(jaxgmm.mixture)(states))
    out = []
    for i, x in enumerate(sets):
        model = GaussianMixture(K)
        model.weights_, model.means_, model.covariances_ = weights[i], means[i], covariances[i]
        model.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(covariances[i]))
        out.append(model.score(x))
    return np.asarray(out)


def main(argv: Sequence[str] | None = None) -> None:
    """Fit, time both in turns, compare the likelihoods, save a picture."""
    parser = argparse.ArgumentParser(description="10,000 data sets by one vmap.")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    parser.add_argument("--sets", type=int, default=10_000)
    parser.add_argument("--sample", type=int, default=50, help="of them, for scikit-learn's loop")
    arguments = parser.parse_args(argv)

    devices, n_sets = len(jax.devices()), arguments.sets - arguments.sets % len(jax.devices())
    data = draw(n_sets)
    sets, keys = jnp.asarray(data), jax.random.split(jax.random.key(0), n_sets)
    compiling, program = seconds(fit_all.lower(keys, sets).compile)
    print(f"{n_sets} data sets of ({N}, {D}), K={K}, on {devices} device(s)")
    print(f"compiled in {compiling:.1f} s")

    sample, ours, theirs, single = data[: arguments.sample], [], [], []
    for _ in range(ROUNDS):
        elapsed, states = seconds(program, keys, sets)
        ours.append(elapsed / n_sets)
        elapsed, models = seconds(fit_one_by_one, sample)
        theirs.append(elapsed / len(sample))
        with threadpool_limits(1):
            elapsed, models = seconds(fit_one_by_one, sample)
        single.append(elapsed / len(sample))
    mine, default, alone = (float(np.median(a)) for a in (ours, theirs, single))
    print("\n                                      a fit, ms   all of them, s   times ours")
    for name, each in (
        ("jaxgmm", mine),
        ("scikit-learn, as it comes", default),
        ("scikit-learn, one thread", alone),
    ):
        print(f"{name:<36} {1e3 * each:>10.3f} {each * n_sets:>16.2f} {each / mine:>12.1f}")

    few = jax.tree.map(lambda a: a[: len(sample)], states)
    # the objective is the bound that the last iteration improved, and a little below
    likelihood = np.asarray(jax.vmap(jaxgmm.log_prob)(few, sets[: len(sample)])).mean(axis=1)
    reference = np.asarray([m.score(x) for m, x in zip(models, sample, strict=True)])
    difference = likelihood - reference
    same = np.abs(difference) < 0.01
    gap = np.abs(scores(few, sample) - likelihood).max()
    better, worse = int((difference > 0.01).sum()), int((difference < -0.01).sum())
    statuses = np.bincount(np.asarray(states.status), minlength=len(jaxgmm.Status))
    named = ", ".join(f"{n} {jaxgmm.Status(i).name}" for i, n in enumerate(statuses) if n)
    print(f"\nstatuses                                 {named}")
    print("log-likelihood per point, in nats, of the data sets that both fitted")
    print(
        f"mean, ours and scikit-learn's            {likelihood.mean():.4f} {reference.mean():.4f}"
    )
    print(f"same optimum, within 0.01                {same.sum()} of {len(same)}")
    print(f"another one, ours better, worse          {better} {worse}")
    print(f"our estimates by scikit-learn, gap       {gap:.1e}")

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.axline((reference.mean(),) * 2, slope=1, color="black", linewidth=1)
    blue, orange = (jaxgmm.plot.style(i).colour for i in range(2))
    left.scatter(reference, likelihood, s=24, color=blue, alpha=0.7, linewidths=0)
    left.set(
        title=f"Log-likelihood per point, {len(sample)} data sets",
        xlabel="scikit-learn (nats)",
        ylabel="jaxgmm (nats)",
    )
    iterations = np.asarray(states.n_iter)
    right.hist(iterations, bins=np.arange(iterations.max() + 2) - 0.5, color=orange)
    right.set(
        yscale="log", title=f"Iterations of {n_sets} fits", xlabel="iterations", ylabel="fits"
    )
    figure.savefig(arguments.output, dpi=110)
    print(f"\npicture: {arguments.output}")


if __name__ == "__main__":
    main()
