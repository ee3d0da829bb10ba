"""Files: what they hold, and that it is equal to the last bit, in another process too."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from algorithms import FAMILIES, WEIGHTS, components
from conftest import clusters
from programs.persist_load import go_on, outputs, plain

import jaxgmm
from jaxgmm import Prior, Result, State
from jaxgmm._algorithms.monitor import Noisy
from jaxgmm._algorithms.stochastic import Memory
from jaxgmm._export.encoding import _OBJECTS, MissingOptimizer
from jaxgmm._export.files import load, save
from jaxgmm._fit.selection import Selection
from jaxgmm._lane.state import initial_state
from jaxgmm._model import families
from jaxgmm._model.coordinates import coordinates_of
from jaxgmm.views import Expectation

PROGRAM = Path(__file__).parents[1] / "programs" / "persist_load.py"


def model(family: str = "diag", weights: str = "dirichlet", dtype: str = "float64") -> Prior:
    return Prior(WEIGHTS[weights](dtype), components(family, dtype, proper=True))


def state_of(prior: Prior, record: Any = (), memory: Any = ()) -> State:
    """A state whose posterior is its prior."""
    return initial_state(prior, prior, Expectation(), record, memory)


def lanes_of(tree: Any) -> Any:
    return jax.tree.map(lambda a: jnp.stack([a, a]), tree)


def with_optimizer_state(optimizer: Any) -> State:
    """The state of an SVI with this optimiser, before its first step."""
    prior = model()
    coordinates = coordinates_of(prior, Expectation())
    memory = Memory(
        key=jax.random.key(1),
        order_key=jax.random.key(2, impl="rbg"),
        coordinates=coordinates,
        optimizer_state=optimizer.init(coordinates),
    )
    return state_of(prior, Noisy().begin(prior.dtype), memory)


def assert_same(a: Any, b: Any) -> None:
    """One structure, and leaves of one kind, dtype and weakness, equal to the last bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert type(u) is type(v)
        if not hasattr(u, "dtype"):
            assert u == v
            continue
        assert u.dtype == v.dtype
        assert u.shape == v.shape
        assert getattr(u, "weak_type", None) == getattr(v, "weak_type", None)
        assert np.asarray(plain(u)).tobytes() == np.asarray(plain(v)).tobytes()


def round_trip(path: Path, obj: Any) -> Any:
    save(path, obj)
    return load(path)


# --- round trips --------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.fit"


def test_every_prior_and_state(path: Path, dtype: str):
    # a file may hold what is in the registry, and nothing else
    for family in (name for name, kind in FAMILIES.items() if kind in families.ALL):
        for weights in WEIGHTS:
            prior = model(family, weights, dtype)
            assert_same(round_trip(path, prior), prior)
    state = state_of(model("full", dtype=dtype))
    assert_same(round_trip(path, state), state)
    states = lanes_of(state)
    assert_same(round_trip(path, states), states)


def test_algorithms_and_everything_else(path: Path):
    prior = model("full")
    things = {
        "em": jaxgmm.em(prior, reg_covar=1e-3),
        "squarem": jaxgmm.squarem(jaxgmm.cavi(prior)),
        "annealed": jaxgmm.annealed(jaxgmm.em(prior)),
        "natural": jaxgmm.svi(prior, jaxgmm.natural_gradient(0.5), 10, average=True),
        "schedule": jaxgmm.svi(prior, jaxgmm.natural_gradient()),  # its step size is None
        "mixture": jaxgmm.mixture(state_of(prior)),
        "nothing": [(), {}, None, True, 3, 0.1, "a b", float("inf")],
    }
    assert_same(round_trip(path, things), things)


def test_every_kind_of_array(path: Path):
    odd = np.array([np.nan, -np.inf, -0.0, 5e-324, np.pi])
    with jax.enable_x64(False):
        narrow = jnp.full((2, 2), 0.5)
    things = {
        "float64": jnp.asarray(odd),
        "float32": jnp.asarray(odd, jnp.float32),
        "bfloat16": jnp.asarray(odd, jnp.bfloat16),
        "float16": jnp.asarray(odd, jnp.float16),
        "integers": (jnp.arange(3), jnp.arange(3, dtype=jnp.uint8)),
        "booleans": jnp.asarray([True, False]),
        "empty": jnp.zeros((0, 2)),
        "weak": (jnp.full(3, 1.5), jnp.asarray(7), narrow),
        "keys": (jax.random.key(3), jax.random.split(jax.random.key(4, impl="rbg"), 2)),
        "numpy": (np.asfortranarray(odd[:4].reshape(2, 2)), np.arange(3)),
        # names that would be one, and one that the format has a use for
        "a.b": jnp.ones(1),
        "a": {"b": jnp.zeros(1)},
        "__metadata__": jnp.ones(1),
    }
    assert all(a.weak_type for a in things["weak"])
    found = round_trip(path, things)
    assert_same(found, things)
    assert found["numpy"][0].flags.writeable


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "adam": lambda: optax.adam(0.1),
    "momentum": lambda: optax.sgd(0.1, momentum=0.9),
    "schedule": lambda: optax.adamw(optax.cosine_decay_schedule(0.1, 100)),
    "chain": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.amsgrad(0.1)),
    "hyperparameters": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
    "lbfgs": lambda: optax.lbfgs(),
    "wrapped": lambda: optax.apply_if_finite(optax.MultiSteps(optax.lion(0.1), 2), 3),
    "parts": lambda: optax.multi_transform(
        {"fast": optax.rmsprop(0.1), "still": optax.set_to_zero()},
        {"weights": "still", "components": "fast"},
    ),
    "contributed": lambda: optax.contrib.schedule_free(optax.sgd(0.1), 0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_states(path: Path, name: str):
    with jax.numpy_dtype_promotion("standard"):
        state = with_optimizer_state(OPTIMIZERS[name]())
    assert_same(round_trip(path, state), state)


class OwnState(optax.EmptyState):
    """An optimiser's state of a user's own."""


def test_what_no_file_can_hold(path: Path):
    own = optax.GradientTransformation(lambda params: OwnState(), optax.identity().update)
    state = with_optimizer_state(own)
    with pytest.raises(ValueError, match=r"memory.optimizer_state: test_persist\.OwnState is no"):
        save(path, state)
    assert not path.exists()
    # what the message says to do
    assert round_trip(path, dataclasses.replace(state, memory=())).memory == ()
    with pytest.raises(ValueError, match=r"save g: builtins\.function is none of the types"):
        save(path, {"f": 1, "g": save})
    with pytest.raises(ValueError, match="cannot save array, which is traced"):
        jax.jit(lambda a: save(path, a))(1.0)
    with pytest.raises(ValueError, match="its dtype complex128 has no place in a file"):
        save(path, jnp.asarray(1j))


def test_objects_have_no_other_attributes(path: Path):
    result = Result(jaxgmm.cavi(model()), lanes_of(state_of(model())), None, True, ("a note",))
    state = {"state": state_of(model())}
    rows = [{"covariance": c, "bic": v, "n_components": 3, **state} for c, v in (("full", 1.5),)]
    kind, names = _OBJECTS["Selection"]
    assert type(selection := Selection("bic", rows, False)) is kind
    assert set(vars(selection)) == set(names)
    found = round_trip(path, result)
    assert found.summary() == result.summary()
    assert_same(found.states, result.states)


def test_selection(path: Path):
    numbers = dict.fromkeys(("n_parameters", "bic", "aic"), 0.0)
    rows: list[dict[str, Any]] = [
        {"covariance": c, "n_components": k, **numbers, "status": 1, "state": state_of(model(c))}
        for c, k in (("full", 1), ("spherical", 2))
    ]
    rows[1]["bic"] = np.nan
    chosen = Selection("bic", rows, False)
    found = round_trip(path, chosen)
    assert found.summary() == chosen.summary()
    assert found.table.keys() == chosen.table.keys()
    for name, column in chosen.table.items():
        assert found.table[name].dtype == column.dtype
        np.testing.assert_array_equal(found.table[name], column)
    assert_same(found.states, chosen.states)
    assert_same(found.best, chosen.best)


# --- another process ----------------------------------------------------------------------------


def begun(name: str) -> Result:
    """Two lanes, some iterations into a fit."""
    x = clusters(n=40)
    if name == "svi":
        algorithm = jaxgmm.svi(model(), optax.adam, 15, learning_rate=0.05, view="expectation")
        states = lanes_of(with_optimizer_state(optax.adam(0.05)))
        states, history = go_on(algorithm, states, x)
        return Result(algorithm, states, np.asarray(history), False, ())
    algorithm = jaxgmm.cavi(jaxgmm.default_prior(x, 2))
    return jaxgmm.fit(jax.random.key(0), x, algorithm, 2, max_iter=5, history=True)


@pytest.mark.parametrize("name", ["svi", pytest.param("cavi", marks=pytest.mark.slow)])
def test_another_process_gives_equal_bits(tmp_path: Path, name: str):
    x = clusters(n=40)
    np.save(tmp_path / "x.npy", np.asarray(x))
    result = begun(name)
    save(tmp_path / f"{name}.fit", result)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, str(PROGRAM), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    expected = outputs(result, x)
    with np.load(tmp_path / f"{name}.npz") as found:
        assert set(found) == set(expected)
        for what, value in expected.items():
            assert found[what].tobytes() == np.asarray(value).tobytes(), what


def test_an_svi_needs_its_optimizer_for_its_steps_only(path: Path):
    algorithm = jaxgmm.svi(model(), optax.adam, 15, learning_rate=0.05, average=True)
    state = with_optimizer_state(optax.adam(0.05))
    result = Result(algorithm, lanes_of(state), np.ones((3, 2)), False, ())
    save(path, result)
    found = load(path)
    assert found.summary() == result.summary()
    np.testing.assert_array_equal(found.history, result.history)
    assert found.algorithm.optimizer == MissingOptimizer()
    with pytest.raises(ValueError, match=r"jaxgmm.load\(path, optimizer=...\)"):
        jax.eval_shape(found.algorithm.step, found.best, clusters(n=40))
    # such a result can be saved again, and is whole once it is loaded with the optimiser
    save(path, found)
    whole = load(path, optimizer=optax.adam)
    assert_same(whole.algorithm, algorithm)
    made = jaxgmm.svi(model(), optax.adam(0.05))
    save(path, made)
    assert_same(load(path, optimizer=made.optimizer), made)
    with pytest.raises(ValueError, match=r"a.fit: optimizer must be an optax transformation"):
        load(path, optimizer=optax.adam)
    save(path, jaxgmm.cavi(model()))
    with pytest.raises(ValueError, match="no SVI that optimizer= is for; leave it out"):
        load(path, optimizer=optax.adam)
