"""Gradients of the log-evidence and of the statistics against finite differences."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Tolerance
from jax.flatten_util import ravel_pytree
from jax.test_util import check_grads
from naive_estep import D, K, naive, potentials, samples, stack

import jaxgmm
from jaxgmm._estep.log_evidence import row_log_evidence
from jaxgmm.stats import Potentials

N = 37
STRUCTURES = ("full", "tied")


def as_arrays(function: Any) -> Any:
    """Finite differences are taken in NumPy; the library wants JAX arrays."""

    def wrapped(*args: Any) -> jax.Array:
        return function(*jax.tree.map(jnp.asarray, args))

    return wrapped


def weights(n: int = N) -> jax.Array:
    return jnp.asarray(np.random.default_rng(3).uniform(0.2, 2, n))


def assert_gradients(function: Any, *args: Any) -> None:
    check_grads(as_arrays(function), args, order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_value(structure: str, dtype: str, tolerance: Tolerance):
    x, p, w = samples(dtype, N), potentials(dtype, structure), weights().astype(dtype)
    for weight in (None, w):
        value = jaxgmm.stats.log_evidence(x, p, weight)
        assert value.dtype == dtype
        expected = naive(x, p, weight)["log_evidence"]
        np.testing.assert_allclose(value, expected, rtol=tolerance.value)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_gradients(structure: str):
    x, p = samples(n=N), potentials(structure=structure)
    assert_gradients(lambda p: jaxgmm.stats.log_evidence(x, p), p)
    assert_gradients(lambda x: jaxgmm.stats.log_evidence(x, p), x)
    assert_gradients(jaxgmm.stats.log_evidence, x, p, weights())


@pytest.mark.parametrize("structure", STRUCTURES)
def test_gradients_inside_jit_vmap_and_scan(structure: str):
    x = samples(n=N)
    lanes = stack([potentials(structure=structure, seed=seed) for seed in range(3)])
    sets = jnp.stack([samples(n=N, seed=seed) for seed in range(3)])

    def over_lanes(x: jax.Array, lanes: Potentials, w: jax.Array) -> jax.Array:
        values = jax.vmap(jaxgmm.stats.log_evidence, (None, 0, None))(x, lanes, w)
        return jnp.sum(jnp.sin(values / 100))

    def over_sets(sets: jax.Array, lanes: Potentials) -> jax.Array:
        return jnp.sum(jnp.sin(jax.vmap(jaxgmm.stats.log_evidence)(sets, lanes) / 100))

    def scanned(x: jax.Array, lanes: Potentials, w: jax.Array) -> jax.Array:
        def body(total: jax.Array, p: Potentials) -> tuple[jax.Array, None]:
            return total + jnp.sin(jaxgmm.stats.log_evidence(x, p, w) / 100), None

        return jax.lax.scan(body, jnp.zeros(()), lanes)[0]

    assert_gradients(jax.jit(over_lanes), x, lanes, weights())
    assert_gradients(jax.jit(over_sets), sets, lanes)
    assert_gradients(jax.jit(scanned), x, lanes, weights())


def test_vmap_of_the_gradient_is_the_gradient_in_each_lane(dtype: str, tolerance: Tolerance):
    x = samples(dtype, N)
    lanes = [potentials(dtype, seed=seed) for seed in range(3)]
    gradient = jax.grad(jaxgmm.stats.log_evidence, argnums=(0, 1))
    together = jax.vmap(gradient, (None, 0))(x, stack(lanes))
    for i, p in enumerate(lanes):
        one = jax.tree.map(lambda a, i=i: a[i], together)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(gradient(x, p)), strict=True):
            assert a.dtype == dtype
            scale = float(jnp.max(jnp.abs(b)))
            np.testing.assert_allclose(a, b, atol=10 * tolerance.value * scale)


@pytest.mark.parametrize("structure", ["full", pytest.param("tied", marks=pytest.mark.slow)])
def test_hessians(structure: str):
    # forward over reverse, in potentials, rows and weights, with all mixed derivatives
    args = (potentials(structure=structure, k=2), samples(n=5), weights(5))
    flat, restore = ravel_pytree(args)

    def evidence(flat: jax.Array) -> jax.Array:
        p, x, w = restore(flat)
        return jaxgmm.stats.log_evidence(x, p, w)

    def plain(flat: jax.Array) -> jax.Array:
        p, x, w = restore(flat)
        return w @ row_log_evidence(jaxgmm.Rows(x), p)

    hessian, expected = (jax.jit(jax.hessian(f))(flat) for f in (evidence, plain))
    np.testing.assert_allclose(hessian, expected, atol=1e-11 * np.abs(expected).max())
    gradient, step = jax.jit(jax.grad(plain)), 1e-5
    for i in (0, 3, flat.size - 1):
        ahead, behind = (gradient(flat.at[i].add(s)) for s in (step, -step))
        np.testing.assert_allclose(expected[i], (ahead - behind) / (2 * step), atol=1e-6)


def test_the_hessian_of_log_prob():
    x, covariances = samples(n=N), jnp.stack([jnp.eye(D), 2 * jnp.eye(D)])
    m = jaxgmm.Mixture(jnp.array([0.4, 0.6]), samples(n=2), covariances)

    def total(means: jax.Array) -> jax.Array:
        return jnp.sum(jaxgmm.log_prob(m._replace(means=means), x))

    step, gradient, where = 1e-5, jax.grad(total), (0, 1)
    ahead, behind = (gradient(m.means.at[where].add(s)) for s in (step, -step))
    hessian = jax.hessian(total)(m.means)[where]
    np.testing.assert_allclose(hessian, (ahead - behind) / (2 * step), atol=1e-6)


def test_gradient_in_the_constants_is_the_count():
    x, p = samples(n=N), potentials()
    gradient = jax.grad(jaxgmm.stats.log_evidence, argnums=1)(x, p)
    np.testing.assert_allclose(gradient.const, naive(x, p)["count"], rtol=1e-12)


def test_gradients_with_a_component_of_zero_weight_are_finite():
    x, p = samples(n=N), potentials()
    p = Potentials(p.const.at[1].set(-jnp.inf), p.mean, p.factor, "full")
    for leaf in jax.tree.leaves(jax.grad(jaxgmm.stats.log_evidence, argnums=(0, 1))(x, p)):
        assert np.isfinite(leaf).all()


@pytest.mark.parametrize("path", ["feature", "whitened", "auto"])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_gradients_through_the_statistics(structure: str, path: str):
    x, p = samples(n=N), potentials(structure=structure)

    def summary(x: jax.Array, p: Potentials, w: jax.Array) -> jax.Array:
        stats = jaxgmm.estep(x, p, sample_weight=w, path=path, block_size=16)
        # each statistic with coefficients of its own, so that none can hide
        leaves = jax.tree.leaves(stats)
        return sum(
            jnp.sum(leaf * jnp.cos(i + jnp.arange(leaf.size)).reshape(leaf.shape)) / 100
            for i, leaf in enumerate(leaves)
        )

    assert_gradients(summary, x, p, weights())


def test_gradients_through_the_statistics_inside_jit_and_vmap():
    x = samples(n=N)
    lanes = stack([potentials(seed=seed) for seed in range(2)])

    def summary(x: jax.Array, lanes: Potentials) -> jax.Array:
        stats = jax.vmap(lambda p: jaxgmm.estep(x, p))(lanes)
        return jnp.sum(jnp.sin(stats.scatter / 100)) + jnp.sum(stats.entropy) + jnp.sum(stats.mean)

    assert_gradients(jax.jit(summary), x, lanes)


# --- the cost of a gradient -------------------------------------------------------------------


def loops(jaxpr: Any) -> Iterator[int]:
    """The lengths of all the scans in a program, at any depth."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation.params["length"]
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from loops(inner)


def passes(function: Any, *args: Any) -> int:
    """How many loops over the blocks of rows a program has."""
    n_blocks = args[0].shape[0] // 4096
    return sum(length >= n_blocks for length in loops(jax.make_jaxpr(function)(*args).jaxpr))


def flops(function: Any, *args: Any) -> float:
    return jax.jit(function).lower(*args).compile().cost_analysis()["flops"]


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_gradient_in_potentials_makes_no_second_pass(structure: str):
    x, p = samples(n=20_000), potentials(structure=structure)
    forward = passes(jaxgmm.stats.log_evidence, x, p)
    assert forward == 2  # the two branches of the choice, of which a lane runs one
    assert passes(jax.grad(jaxgmm.stats.log_evidence, 1), x, p) == forward
    assert passes(jax.grad(jaxgmm.stats.log_evidence, 0), x, p) > forward


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_gradient_in_potentials_costs_what_one_e_step_does(structure: str):
    x, p = samples(n=3000), potentials(structure=structure)
    # of the value alone the compiler drops the statistics, so the E-step is the measure
    one_pass = flops(jaxgmm.estep, x, p)
    assert one_pass > x.shape[0] * K * D
    assert flops(jax.value_and_grad(jaxgmm.stats.log_evidence, 1), x, p) < 1.02 * one_pass
    assert flops(jax.value_and_grad(jaxgmm.stats.log_evidence, (0, 1)), x, p) > 1.2 * one_pass


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_gradient_in_potentials_keeps_nothing_of_the_rows(structure: str):
    x, p = samples(n=20_000), potentials(structure=structure)
    _, pullback = jax.vjp(lambda p: jaxgmm.stats.log_evidence(x, p), p)
    assert max(leaf.size for leaf in jax.tree.leaves(pullback)) < x.shape[0]
