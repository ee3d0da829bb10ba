"""What costs a compilation, and what does not."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from conftest import clusters, parametrize
from counting import compiled

import jaxgmm

K = 3
x = clusters(n=80)
FLAT = jaxgmm.flat_prior(K, 2)
PROPER = jaxgmm.default_prior(x, K)


def fit(algorithm: jaxgmm.Algorithm, n_restarts: int = 4, **changes: Any) -> list[str]:
    """The programs that a fit compiled."""
    compiled.clear()
    options = {"max_iter": 5, "tol": 1e-3, "racing": False, "moves": False, **changes}
    jaxgmm.fit(jax.random.key(0), x, algorithm, n_restarts, **options)
    return list(compiled)


def adam(rate: float, **given: Any) -> jaxgmm.Algorithm:
    return jaxgmm.svi(PROPER, optax.adam, 20, learning_rate=rate, view="expectation", **given)


def test_the_count_counts():
    compiled.clear()
    jax.jit(lambda a: a * 3.25 + 1)(jnp.ones(7))
    assert len([name for name in compiled if "lambda" in name]) == 1


def test_256_lanes_cost_one_compilation():
    programs = fit(jaxgmm.em(FLAT), 256)
    assert len([name for name in programs if "advance_lanes" in name]) == 1
    assert len([name for name in programs if "_random_start" in name]) == 1
    # for any number of iterations, with their chunks of any length
    assert fit(jaxgmm.em(FLAT), 256, max_iter=900, tol=0.0) == []


def test_a_race_compiles_a_program_for_each_size_of_batch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jaxgmm._fit.race._LARGE", 0)
    monkeypatch.setattr("jaxgmm._fit.race._SAVED", 0)
    # one of its own, that no other test has compiled
    algorithm = jaxgmm.cavi(jaxgmm.default_prior(x, 4))
    options = {"max_iter": 2000, "tol": 1e-8, "racing": True}
    programs = fit(algorithm, 256, **options)
    # 256 lanes, 64, 16 and 4: far below log2(256)
    assert 2 <= len([name for name in programs if "advance_lanes" in name]) <= 4
    assert fit(algorithm, 256, **options) == []


def test_moves_use_the_program_of_16_lanes():
    algorithm = jaxgmm.em(jaxgmm.default_prior(x, 4))
    options = {"max_iter": 2000, "tol": 1e-8}
    programs = fit(algorithm, 16, **options)
    assert len([name for name in programs if "advance_lanes" in name]) == 1
    programs = fit(algorithm, 16, moves=True, **options)
    assert not [name for name in programs if "advance_lanes" in name]
    assert "moved_lanes" in " ".join(programs)
    assert fit(algorithm, 16, moves=True, **options) == []


def test_lanes_are_traced_once(monkeypatch: pytest.MonkeyPatch):
    advance = jaxgmm.CAVI.advance
    limited = chex.assert_max_traces(advance, n=1)
    monkeypatch.setattr(jaxgmm.CAVI, "advance", lambda *args: limited(*args))
    fit(jaxgmm.cavi(PROPER), 9, max_iter=40, tol=0.0)


def test_a_start_and_an_iteration_are_a_program_each():
    algorithm = jaxgmm.em(jaxgmm.default_prior(x, 7))
    compiled.clear()
    state = algorithm.init(jax.random.key(0), x)
    assert len([name for name in compiled if "_random_state" in name]) == 1
    state = algorithm.step(state, x)
    assert len([name for name in compiled if "_stepped" in name]) == 1
    assert len(compiled) <= 5, compiled  # the check of the rows
    compiled.clear()
    algorithm.step(algorithm.init(jax.random.key(1), x), x)
    assert compiled == []


def strong() -> jaxgmm.Prior:
    components = PROPER.components
    return replace(PROPER, components=replace(components, mean=components.mean + 1))


CHANGES: dict[str, tuple[Callable[[], list[str]], Callable[[], list[str]]]] = {
    "tol": (lambda: fit(jaxgmm.em(FLAT)), lambda: fit(jaxgmm.em(FLAT), tol=1e-7)),
    "tol of 0": (lambda: fit(jaxgmm.em(FLAT)), lambda: fit(jaxgmm.em(FLAT), tol=0.0)),
    "max_iter": (lambda: fit(jaxgmm.em(FLAT)), lambda: fit(jaxgmm.em(FLAT), max_iter=77)),
    "reg_covar": (
        lambda: fit(jaxgmm.em(FLAT)),
        lambda: fit(jaxgmm.em(FLAT, reg_covar=0.1)),
    ),
    "from maximum likelihood to MAP": (
        lambda: fit(jaxgmm.em(FLAT)),
        lambda: fit(jaxgmm.em(PROPER)),
    ),
    "the prior of CAVI": (
        lambda: fit(jaxgmm.cavi(PROPER)),
        lambda: fit(jaxgmm.cavi(strong())),
    ),
    "learning_rate": (lambda: fit(adam(0.1)), lambda: fit(adam(0.01))),
    "the step of a natural gradient": (
        lambda: fit(jaxgmm.svi(PROPER, jaxgmm.natural_gradient(0.5), 20)),
        lambda: fit(jaxgmm.svi(PROPER, jaxgmm.natural_gradient(0.1), 20)),
    ),
    "the schedule of a natural gradient": (
        lambda: fit(jaxgmm.svi(PROPER, jaxgmm.natural_gradient(), 20)),
        lambda: fit(jaxgmm.svi(PROPER, jaxgmm.natural_gradient(delay=9.0, forgetting=1.0), 20)),
    ),
    "an equal optimiser": (
        lambda: fit(partial_adam(0.8)),
        lambda: fit(partial_adam(0.8)),
    ),
}


def partial_adam(b1: float) -> jaxgmm.Algorithm:
    make = functools.partial(optax.adam, b1=b1)
    return jaxgmm.svi(PROPER, make, 20, learning_rate=0.1, view="expectation")


SLOW_CHANGES = {"learning_rate", "the step of a natural gradient", "an equal optimiser"}


@parametrize(["change"], [[change] for change in CHANGES], lambda change: change in SLOW_CHANGES)
def test_a_change_of_numbers_costs_no_compilation(change: str):
    first, second = CHANGES[change]
    first()
    assert second() == []


def test_another_optimiser_costs_one():
    fit(partial_adam(0.8))
    programs = fit(partial_adam(0.7))
    assert len([name for name in programs if "advance_lanes" in name]) == 1


@pytest.mark.parametrize("kind", ["em", "cavi"])
def test_a_fit_is_few_programs(kind: str):
    compiled.clear()
    if kind == "em":
        algorithm = jaxgmm.em(jaxgmm.flat_prior(5, 2))
    else:
        algorithm = jaxgmm.cavi(jaxgmm.default_prior(x, 5))
    jaxgmm.fit(jax.random.key(0), x, algorithm)
    # the prior and its check, into the coordinates of the fit, starts, loop, moves and back; of
    # collapsed lanes, which start again, a few more
    print(len(compiled), compiled)
    # "stage" converts a number, once in a process: another test may have done it
    assert len([name for name in compiled if name != "jit(stage)"]) <= 7
    compiled.clear()
    jaxgmm.fit(jax.random.key(1), x, algorithm, tol=1e-7)
    assert compiled == []
    # fewer lanes share the program of the moves
    jaxgmm.fit(jax.random.key(0), x, algorithm, 3)
    assert "advance_lanes" not in " ".join(compiled)


def test_a_fit_after_compile_for_compiles_nothing():
    algorithm = jaxgmm.cavi(jaxgmm.default_prior(x, 6))
    jaxgmm.compile_for(algorithm, len(x))
    compiled.clear()
    jaxgmm.fit(jax.random.key(0), x, algorithm)
    assert compiled == []
