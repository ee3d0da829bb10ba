"""System 5 by minibatch SVI: the same model, guide, optimiser, batch and start in each library."""

import time
from typing import Any, NamedTuple

import numpy as np

from benchmarks._measure import Contender, Run

K, LEARNING_RATE = 3, 1e-3
_CENTRES = np.array([[-2.0, -4.0], [2.0, 0.0], [-2.0, 4.0]])


class SVIProblem(NamedTuple):
    """Three clusters of unit variance, and the number of Adam's steps.

    The priors are mu ~ Normal(0, 1), sigma^-2 ~ Gamma(5, 5), weights ~ Dirichlet(2, 2, 2); q has
    the same factors; a draw and a minibatch a step.

    Attributes:
        x: samples ``(N, 2)``.
        lanes: R.
        batch: rows of a minibatch.
        steps: of each lane.
    """

    x: np.ndarray
    lanes: int
    batch: int
    steps: int


def make_problem(n_samples: int, lanes: int, batch: int, steps: int) -> SVIProblem:
    noise = np.random.default_rng(49).standard_normal((n_samples, 2))
    x = noise + _CENTRES[np.arange(n_samples) % K]
    return SVIProblem(x.astype(np.float32), lanes, batch, steps)


def start(lanes: int) -> dict[str, np.ndarray]:
    """The hyperparameters of q where the lanes begin, near the clusters: each leads with R."""
    ones = np.ones((lanes, K, 2), np.float32)
    nudges = 0.3 * np.random.default_rng(1).standard_normal((lanes, K, 2))
    return {
        "concentration": np.full((lanes, K), 20.0, np.float32),
        "mean": (_CENTRES + nudges).astype(np.float32),
        "precision": 100 * ones,
        "shape": 20 * ones,
        "rate": 20 * ones,
    }


def _posterior(fields: dict[str, Any]) -> Any:
    import jaxgmm

    fields = dict(fields)
    weights = jaxgmm.Dirichlet(fields.pop("concentration"))
    return jaxgmm.Prior(weights, jaxgmm.IndependentNormalGamma(**fields))


def jaxgmm_svi(problem: SVIProblem) -> tuple[Contender, dict[str, Any]]:
    """All lanes in one loop, shuffling included."""
    import jax
    import jax.numpy as jnp
    import optax

    import jaxgmm

    ones = jnp.ones((K, 2))
    prior = jaxgmm.Prior(
        jaxgmm.Dirichlet(jnp.full(K, 2.0)),
        jaxgmm.IndependentNormalGamma(0 * ones, ones, 5 * ones, 5 * ones),
    )
    algorithm = jaxgmm.svi(prior, optax.adam, problem.batch, learning_rate=LEARNING_RATE)
    x = jax.device_put(problem.x)
    keys = jax.random.split(jax.random.key(0), problem.lanes)
    q = jax.tree.map(jnp.asarray, _posterior(start(problem.lanes)))
    states = jax.vmap(lambda key, q: algorithm.init(key, x, {"posterior": q}))(keys, q)

    def iterate(algorithm: Any, states: Any, x: Any) -> Any:
        return jaxgmm.run(algorithm, states, x, max_iter=problem.steps, tol=0.0)[0]

    began = time.perf_counter()
    compiled = jax.jit(iterate).lower(algorithm, states, x).compile()
    about = {"compile_seconds": time.perf_counter() - began}

    def run() -> Run:
        began = time.perf_counter()
        final = jax.block_until_ready(compiled(algorithm, states, x))
        seconds = time.perf_counter() - began
        if not (np.asarray(final.n_iter) == problem.steps).all():
            raise RuntimeError("a lane stopped early.")
        means = np.asarray(final.posterior.components.mean)
        return Run(1e3 * seconds / problem.steps, (means,))

    return run, about


def numpyro_svi(problem: SVIProblem) -> tuple[Contender, dict[str, Any]]:
    """NumPyro's `SVI.run`, its own loop, for the first lane."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    import optax
    from numpyro.distributions import constraints
    from numpyro.infer import SVI, Trace_ELBO

    x = jax.device_put(problem.x)
    first = {name: jnp.asarray(a[0]) for name, a in start(1).items()}
    positive = constraints.positive

    def sites(p: dict[str, Any]) -> tuple[Any, Any, Any]:
        weights = numpyro.sample("weights", dist.Dirichlet(p["concentration"]))
        tau = numpyro.sample("tau", dist.Gamma(p["shape"], p["rate"]).to_event(2))
        mu = numpyro.sample("mu", dist.Normal(p["mean"], p["precision"] ** -0.5).to_event(2))
        return weights, tau, mu

    def model(x: Any) -> None:
        ones = jnp.ones((K, 2))
        weights, tau, mu = sites(
            {
                "concentration": jnp.full(K, 2.0),
                "mean": 0 * ones,
                "precision": ones,
                "shape": 5 * ones,
                "rate": 5 * ones,
            }
        )
        parts = dist.Normal(mu, tau**-0.5).to_event(1)
        mixture = dist.MixtureSameFamily(dist.Categorical(weights), parts)
        with numpyro.plate("rows", len(x), subsample_size=problem.batch) as rows:
            numpyro.sample("x", mixture, obs=x[rows])

    def guide(x: Any) -> None:
        sites(
            {
                name: numpyro.param(
                    name, value, constraint=constraints.real if name == "mean" else positive
                )
                for name, value in first.items()
            }
        )
        numpyro.plate("rows", len(x), subsample_size=problem.batch)

    svi = SVI(model, guide, optax.adam(LEARNING_RATE), Trace_ELBO())
    key = jax.random.key(0)
    svi.run(key, problem.steps, x, progress_bar=False)  # compiles

    def run() -> Run:
        began = time.perf_counter()
        result = svi.run(key, problem.steps, x, progress_bar=False)
        jax.block_until_ready(result.params)
        seconds = time.perf_counter() - began
        return Run(1e3 * seconds / problem.steps, (np.asarray(result.params["mean"])[None],))

    return run, {}
