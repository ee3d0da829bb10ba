"""Programs of the host: how much effort they are compiled with, ahead of their call or not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting import compiled

from jaxgmm._numerics import programs
from jaxgmm._numerics.programs import Call, Effort, Program, effort_of, effort_of_loop


def cubes(x: jax.Array, *, power: int) -> jax.Array:
    return x**power


def test_effort_follows_from_the_work():
    assert [effort_of(1 << n) for n in (0, 20, 21)] == [Effort.QUICK, Effort.QUICK, Effort.FULL]
    assert [effort_of_loop(1 << n) for n in (18, 19)] == [Effort.LIGHT, Effort.FULL]


def test_a_call_is_worth_the_size_of_its_arguments(monkeypatch: pytest.MonkeyPatch):
    asked = []
    compile_ = programs._compiled

    def noted(function: object, static: tuple[str, ...], effort: Effort) -> object:
        asked.append(effort)
        return compile_(function, static, effort)  # type: ignore[arg-type]

    monkeypatch.setattr(programs, "_compiled", noted)
    program = Program(cubes, static=("power",))
    for size in (3, 3, 1 << 21):
        assert program(np.ones(size), power=3).shape == (size,)
    assert asked == [Effort.QUICK, Effort.FULL]


def test_inside_another_program_it_is_the_function():
    program = Program(cubes, static=("power",))
    assert float(jax.jit(lambda a: program(a, power=3).sum())(2 * jnp.ones(2))) == 16
    # also where nothing that it is given is traced
    assert float(jax.jit(lambda: program(np.full(2, 2.0), power=3).sum())()) == 16


def test_what_is_compiled_ahead_is_compiled_once():
    program = Program(cubes, static=("power",))
    shape = jax.ShapeDtypeStruct((11,), jnp.float64)
    compiled.clear()
    assert program.on(Effort.LIGHT, shape, power=5).is_new()
    assert not program.on(Effort.LIGHT, shape, power=5).is_new()
    program.on(Effort.LIGHT, shape, power=5).ahead()
    # the call waits for it
    found = program.on(Effort.LIGHT, jax.device_put(np.full(11, 2.0)), power=5)()
    np.testing.assert_array_equal(found, 32.0)
    assert compiled == ["jit(cubes)"]
    assert program.on(Effort.LIGHT, shape, power=5).shapes().shape == (11,)


def test_an_error_ahead_is_raised_by_the_call():
    def broken(x: jax.Array) -> jax.Array:
        raise ValueError("no such thing")

    program = Program(broken)
    program.on(Effort.QUICK, np.ones(2)).ahead()
    with pytest.raises(ValueError, match="no such thing"):
        program(np.ones(2))
    assert isinstance(program.on(Effort.QUICK, np.ones(2)), Call)


def test_options_that_a_newer_compiler_has_not_are_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(programs, "_TRIED", (0, 0))
    options = {"xla_backend_optimization_level": 1, "xla_no_such_option": True}
    monkeypatch.setitem(programs._OPTIONS, Effort.LIGHT, options)
    assert programs._options.__wrapped__(Effort.LIGHT) == {"xla_backend_optimization_level": 1}
