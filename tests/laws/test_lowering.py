"""The same programs lower for every platform, on a machine that has none of the accelerators."""

import jax
import jax.export
import jax.numpy as jnp
import optax
import pytest
from conftest import also_slow, parametrize

import jaxgmm
from jaxgmm import Prior

PLATFORMS = ["cpu", "cuda", "tpu"]
K, D = 3, 2
ALGORITHMS = {
    "em": lambda prior: jaxgmm.em(prior),
    "cavi": lambda prior: jaxgmm.cavi(prior),
    "svi, sample": lambda prior: jaxgmm.svi(
        prior, optax.adam, batch_size=16, learning_rate=0.01, view="sample"
    ),
    "svi, mode": lambda prior: jaxgmm.svi(prior, optax.adam, learning_rate=0.01, view="mode"),
    "svi, natural": lambda prior: jaxgmm.svi(prior, jaxgmm.natural_gradient(), batch_size=16),
}


def make_prior(covariance: str, dtype: str) -> Prior:
    x = jax.random.normal(jax.random.key(0), (50, D), dtype)
    matrix = jnp.eye(D, dtype=dtype) if covariance == "known" else covariance
    return jaxgmm.default_prior(x, K, matrix)


@parametrize(
    ("name", "covariance"),
    [(name, covariance) for name in ALGORITHMS for covariance in ("full", "known")],
    lambda name, covariance: covariance == "known" and name != "cavi",
)
def test_a_run_from_its_starts_lowers_everywhere(name: str, covariance: str):
    algorithm = ALGORITHMS[name](make_prior(covariance, "float32"))

    def program(seed: jax.Array, x: jax.Array) -> jax.Array:
        keys = jax.random.split(jax.random.key(seed), 4)
        states = jax.vmap(algorithm.init, (0, None))(keys, x)
        states, _ = jaxgmm.run(algorithm, states, x, max_iter=10)
        return states.objective, states.status

    x = jax.ShapeDtypeStruct((50, D), jnp.float32)
    seed = jax.ShapeDtypeStruct((), jnp.uint32)
    exported = jax.export.export(jax.jit(program), platforms=PLATFORMS)(seed, x)
    assert list(exported.platforms) == PLATFORMS
    assert exported.out_avals[0].shape == (4,)
    assert len(exported.mlir_module_serialized) > 0


@pytest.mark.parametrize("name", ["em", *also_slow("cavi", "svi, sample")])
def test_a_run_on_a_cpu_calls_no_batched_lapack(name: str):
    """Two such calls at once may wait for each other for ever (jaxlib 0.10)."""
    algorithm = ALGORITHMS[name](make_prior("full", "float32"))
    x = jax.random.normal(jax.random.key(0), (50, D), "float32")
    states = jax.vmap(algorithm.init, (0, None))(jax.random.split(jax.random.key(0), 4), x)

    def program(states: jaxgmm.State, x: jax.Array) -> jaxgmm.State:
        return jaxgmm.run(algorithm, states, x, max_iter=10)[0]

    lowered = jax.jit(program).trace(states, x).lower(lowering_platforms=("cpu",))
    assert "lapack" not in lowered.as_text()


@pytest.mark.parametrize("path", ["feature", "whitened", "auto"])
def test_the_gradient_of_the_e_step_lowers_everywhere(path: str):
    def program(x: jax.Array) -> jax.Array:
        p = jaxgmm.views.Expectation().potentials(make_prior("full", "float32"))
        return jnp.sum(jaxgmm.estep(x, p, path=path).scatter) + jaxgmm.stats.log_evidence(x, p)

    x = jax.ShapeDtypeStruct((50, D), jnp.float32)
    exported = jax.export.export(jax.jit(jax.grad(program)), platforms=PLATFORMS)(x)
    assert exported.out_avals[0].shape == (50, D)
