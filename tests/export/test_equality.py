"""Fits that are equal to the bit: after a file, after pickle, as pytrees."""

import copy
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxgmm
from jaxgmm import Result, Selection
from jaxgmm._lane.state import initial_state
from jaxgmm._lane.status import Status
from jaxgmm.views import Expectation

PRIOR = jaxgmm.flat_prior(3, 2)


def algorithms() -> dict[str, Any]:
    prior = jaxgmm.flat_prior(3, 2)
    sampled: dict[str, Any] = {"divergence": "sampled"}
    return {
        "em": jaxgmm.em(prior),
        "squarem": jaxgmm.squarem(jaxgmm.em(prior)),
        "finished": jaxgmm.svi(prior, optax.adam(0.1), **sampled),
        "factory": jaxgmm.svi(prior, optax.adam, learning_rate=0.1, **sampled),
        "lambda": jaxgmm.svi(prior, lambda r: optax.sgd(r), learning_rate=0.1, **sampled),
        "natural": jaxgmm.svi(prior, jaxgmm.natural_gradient(), view="mode"),
    }


def states(*objectives: float) -> jaxgmm.State:
    state = initial_state(PRIOR, PRIOR, Expectation(), memory=jax.random.key(3))
    lanes = jax.tree.map(lambda a: jnp.stack([a] * len(objectives)), state)
    converged = jnp.full(len(objectives), int(Status.CONVERGED), jnp.int32)
    return replace(lanes, objective=jnp.asarray(objectives), status=converged)


def result(algorithm: Any, *objectives: float) -> Result:
    history = np.full((4, len(objectives)), np.nan)
    return Result(algorithm, states(*objectives), history, False, ("a note",), precision=1e-9)


def selection(bic: float = 2.5) -> Selection:
    state = jax.tree.map(lambda a: a[0], states(-1.0))
    row = {"covariance": "full", "n_components": 3, "bic": bic, "cv": np.nan, "state": state}
    return Selection("bic", [row], False)


@pytest.mark.parametrize("name", algorithms())
def test_what_is_pickled_is_the_same(name: str):
    own = result(algorithms()[name], -1.0, -2.0)
    for package in (pickle, cloudpickle):
        found = package.loads(package.dumps(own))
        assert found.states == own.states
        # other functions: an optimiser that is written by value is another one
        assert (found == own) == (name not in ("finished", "lambda"))
    assert copy.copy(own) == own
    assert copy.deepcopy(own) == own
    if name in ("finished", "lambda", "factory"):
        optimizer = found.algorithm.transformation()
        memory = optimizer.init({"a": jnp.ones(2)})
        with jax.numpy_dtype_promotion("standard"):  # as optax needs
            step, _ = optimizer.update({"a": jnp.ones(2)}, memory, {"a": jnp.ones(2)})
        np.testing.assert_allclose(step["a"], -0.1, rtol=1e-5)


def test_an_optimiser_that_cannot_be_pickled_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    own = result(algorithms()["finished"], -1.0)
    assert pickle.loads(pickle.dumps(own.states)) == own.states
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(pickle.PicklingError, match=r"learning_rate=0\.01.*jaxgmm\.save\(path"):
        pickle.dumps(own)
    pickle.dumps(algorithms()["factory"])


def test_a_file_gives_back_an_equal_fit(tmp_path: Path):
    path, em = tmp_path / "fit", algorithms()["em"]
    for fit in (result(em, -1.0, -2.0), selection(), em, PRIOR, jaxgmm.mixture(mixture())):
        jaxgmm.save(path, fit)
        assert jaxgmm.load(path) == fit
    made = result(algorithms()["finished"], -1.0)
    jaxgmm.save(path, made)
    assert jaxgmm.load(path) != made
    assert jaxgmm.load(path).states == made.states
    assert jaxgmm.load(path, optimizer=made.algorithm.optimizer).algorithm == made.algorithm


def mixture() -> jaxgmm.Mixture:
    return jaxgmm.Mixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.eye(2)[None])


def test_what_differs_is_not_equal():
    em = algorithms()["em"]
    own = result(em, -1.0, -2.0)
    others = [
        result(em, -1.0, -2.0 + 1e-15),
        result(em, -1.0),
        result(algorithms()["natural"], -1.0, -2.0),
        replace(own, notes=()),
        replace(own, interrupted=True),
        replace(own, history=None),
        replace(own, precision=0.0),
        replace(own, states=replace(own.states, memory=jax.random.split(jax.random.key(4), 2))),
        jax.tree.map(lambda a: np.asarray(a, np.float32) if a is own.history else a, own),
        own.states,
        None,
    ]
    for other in others:
        assert own != other
    assert own == replace(own, history=own.history.copy())
    assert selection() == selection()
    assert selection() != selection(2.25)
    assert hash(own) == hash(result(em, -1.0, -2.0))
    assert mixture() == mixture()
    assert mixture() != mixture()._replace(means=jnp.ones((1, 2)))
    zero = replace(PRIOR, weights=jaxgmm.Dirichlet(jnp.zeros(3)))
    assert zero != replace(PRIOR, weights=jaxgmm.Dirichlet(-jnp.zeros(3)))


def test_a_result_is_a_pytree():
    own = result(algorithms()["em"], -2.0, -1.0, -3.0)
    there = jax.jit(lambda r: (r.best.objective, r.best_index))(own)
    assert (float(there[0]), int(there[1])) == (-1.0, own.best_index) == (-1.0, 1)
    doubled = jax.tree.map(lambda a: a, own)
    assert isinstance(doubled, Result)
    assert doubled == own
    assert jax.device_get(own) == own
    failed = replace(own.states, status=jnp.asarray([1, int(Status.COLLAPSED), 1], jnp.int32))
    traced = jax.jit(lambda s: replace(own, states=s).best.objective)(failed)
    assert float(traced) == -2.0
    assert replace(own, states=failed).best_index == 0
    # as every function of a fit takes it
    assert jaxgmm.mixture(own) == jaxgmm.mixture(own.best)
    assert jaxgmm.mixture(selection()) == jaxgmm.mixture(selection().best)
