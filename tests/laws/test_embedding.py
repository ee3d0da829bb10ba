"""Pieces of the library inside a user's own programs: jit, vmap, grad, scan and shard_map."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import Array, lax
from programs import embedding_devices as devices

import jaxgmm
from jaxgmm._algorithms.fixed_point import fixed_point
from jaxgmm._numerics.pytree import take

Problem = tuple[jaxgmm.Algorithm, jaxgmm.State, Array, jaxgmm.stats.Potentials]


@pytest.fixture(scope="module")
def problem() -> Problem:
    return jax.jit(devices.problem)()


@pytest.fixture(scope="module")
def alone(problem: Problem) -> jaxgmm.State:
    """Each data set by a program of its own run: (M, R)."""
    algorithm, states, sets, _ = problem
    run = jax.jit(lambda lanes, x: jaxgmm.run(algorithm, lanes, x)[0])
    found = [run(take(states, i), x) for i, x in enumerate(sets)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)


def test_a_vmap_over_data_sets_is_a_run_on_each(problem: Problem, alone: jaxgmm.State):
    algorithm, states, sets, _ = problem
    run = jax.jit(jax.vmap(lambda lanes, x: jaxgmm.run(algorithm, lanes, x)[0]))
    found = run(states, sets)
    # each data set stops where it would by itself, while the others go on
    assert len(np.unique(alone.n_iter)) > 2
    np.testing.assert_array_equal(found.n_iter, alone.n_iter)
    np.testing.assert_array_equal(found.status, alone.status)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_a_scan_carries_a_fit_from_one_data_set_to_the_next(problem: Problem):
    algorithm, states, sets, _ = problem
    first = take(states, 0)

    def next_set(lanes: jaxgmm.State, x: Array) -> tuple[jaxgmm.State, Array]:
        lanes = jax.vmap(lambda s: algorithm.init(jax.random.key(0), x, s))(lanes)
        lanes, _ = jaxgmm.run(algorithm, lanes, x)
        return lanes, lanes.objective

    _, found = jax.jit(lambda lanes: lax.scan(next_set, lanes, sets))(first)
    by_hand, expected = first, []
    step = jax.jit(next_set)
    for x in sets:
        by_hand, objective = step(by_hand, x)
        expected.append(objective)
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-9)


def test_an_encoder_and_a_mixture_are_trained_together(problem: Problem):
    """The log-evidence of what a network makes of the data, by optax, all in one program."""
    *_, sets, potentials = problem
    x = sets[0]
    optimizer = optax.sgd(0.05)

    def loss(parameters: tuple[Array, jaxgmm.stats.Potentials]) -> Array:
        matrix, mixture = parameters
        # the density of x itself: without the determinant the map would shrink for ever
        log_volume = jnp.linalg.slogdet(matrix)[1]
        return -jaxgmm.stats.log_evidence(x @ matrix, mixture) / len(x) - log_volume

    def step(carry: tuple, _: None) -> tuple[tuple, Array]:
        parameters, memory = carry
        value, slope = jax.value_and_grad(loss)(parameters)
        updates, memory = optimizer.update(slope, memory)
        return (optax.apply_updates(parameters, updates), memory), value

    @jax.jit
    def train(parameters: tuple[Array, jaxgmm.stats.Potentials]) -> tuple[tuple, Array]:
        (parameters, _), losses = lax.scan(
            step, (parameters, optimizer.init(parameters)), length=100
        )
        return parameters, losses

    start = (jnp.eye(2), potentials)
    _, losses = train(start)
    assert losses[-1] < losses[0] - 0.05
    slope = jax.jit(jax.grad(loss))(start)
    h, direction = 1e-5, jnp.asarray([[0.3, -1.0], [0.5, 0.2]])
    ahead, behind = (jax.jit(loss)((start[0] + s * direction, potentials)) for s in (h, -h))
    np.testing.assert_allclose(jnp.sum(slope[0] * direction), (ahead - behind) / (2 * h), rtol=1e-6)


@pytest.mark.slow
def test_gradients_of_many_fits_in_one_program(problem: Problem):
    """`run` and `fixed_point` inside a loss, over lanes and data sets, under jit, vmap and grad."""
    algorithm, states, sets, _ = problem

    def spread(lanes: jaxgmm.State, x: Array) -> Array:
        lanes, _ = jaxgmm.run(algorithm, lanes, x, tol=0.0, max_iter=1500)
        lanes = jax.vmap(lambda s: fixed_point(algorithm, s, x))(lanes)
        return jnp.sum(lanes.posterior.components.mean**2)

    together = jax.jit(jax.grad(lambda sets: jnp.sum(jax.vmap(spread)(states, sets))))(sets)
    h = 1e-4
    direction = jnp.asarray(np.random.default_rng(0).standard_normal(sets.shape))
    values = jax.jit(jax.vmap(spread))
    ahead, behind = values(states, sets + h * direction), values(states, sets - h * direction)
    found = jnp.sum(together * direction, axis=(1, 2))
    # the differences' own error, of the order of h^2
    np.testing.assert_allclose(found, (ahead - behind) / (2 * h), rtol=1e-5, atol=1e-5)


def check_devices(found: dict, problem: Problem, alone: jaxgmm.State) -> None:
    *_, sets, potentials = problem
    np.testing.assert_allclose(found["objectives"], alone.objective, rtol=1e-9)
    value, slope = jax.value_and_grad(jaxgmm.stats.log_evidence, argnums=1)(sets[0], potentials)
    np.testing.assert_allclose(found["log-evidence"], value, rtol=1e-12)
    np.testing.assert_allclose(found["slope"], slope.mean, rtol=1e-9, atol=1e-12)


def test_inside_shard_map(problem: Problem, alone: jaxgmm.State):
    mesh = devices.make_mesh(1)
    algorithm, states, sets, potentials = problem
    value, slope = devices.training(mesh, sets[0], potentials)
    objectives = devices.fits(mesh, algorithm, states, sets)
    found = {"objectives": objectives, "log-evidence": value, "slope": slope}
    check_devices(found, problem, alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    "families", [["full"], pytest.param(["tied", "diag", "spherical"], marks=pytest.mark.slow)]
)
def test_checked_shard_maps_and_explicit_axes_give_what_one_device_gives(families: list[str]):
    """Both are JAX's defaults, ``check_vma`` of `jax.shard_map` and the axes of `jax.make_mesh`."""
    program = Path(devices.__file__).with_name("checked_meshes.py")
    done = subprocess.run(
        [sys.executable, str(program), *families],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 24 + 6 * len(families) + (2 if len(families) == 1 else 6)
    assert max(found.values()) < 1e-10, found


@pytest.mark.slow
def test_inside_shard_map_on_two_devices(problem: Problem, alone: jaxgmm.State):
    done = subprocess.run(
        [sys.executable, str(Path(devices.__file__))],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["devices"] == 2
    check_devices(found, problem, alone)
