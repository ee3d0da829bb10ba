"""Programs that the host calls, each compiled with as much effort as it is worth.

XLA optimises as if every program ran for hours. One that runs once or twice, such as that of the
starts or of a check, is compiled in a quarter of the time without these optimisations, and the loop
over few samples in two thirds. What is worth how much follows from the shapes alone, so that
results repeat.
"""

import functools
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import jax
import jaxlib
import numpy as np
from jax.core import Tracer

from jaxgmm._numerics.devices import on_cpu

# The newest jaxlib whose options these are known to be; of a newer one each is tried first.
_TRIED = (0, 11)
# Elements that a program goes through up to which optimisation costs more than it saves: of one
# that runs about once, and of one that iterates.
_LIGHT = 1 << 20
_LIGHT_LOOP = 1 << 16


class Effort(Enum):
    """What a program on a CPU is compiled for."""

    QUICK = "to run once"
    LIGHT = "to run a while"
    FULL = "to run long"


_OPTIONS: dict[Effort, dict[str, Any]] = {
    Effort.QUICK: {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
        "xla_cpu_use_fusion_emitters": False,
    },
    Effort.LIGHT: {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False},
    Effort.FULL: {},
}


def effort_of(work: int) -> Effort:
    """The effort for a program that runs about once and goes through so many elements."""
    return Effort.QUICK if work <= _LIGHT else Effort.FULL


def effort_of_loop(work: int) -> Effort:
    """The effort for a program that iterates over so many elements."""
    return Effort.LIGHT if work <= _LIGHT_LOOP else Effort.FULL


class Program:
    """A function that the host calls, compiled for each effort.

    Inside another program it is the function itself.

    Args:
        function: as for `jax.jit`.
        static: names of its static arguments.
    """

    def __init__(self, function: Callable[..., Any], static: Sequence[str] = ()):
        functools.update_wrapper(self, function)
        self._function = function
        self._of = functools.cache(functools.partial(_compiled, function, tuple(static)))

    def with_effort(self, effort: Effort) -> Any:
        """The compiled function."""
        if _is_tracing():
            return self._function
        return self._of(effort if on_cpu() else Effort.FULL)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """With the least effort."""
        return self.with_effort(Effort.QUICK)(*args, **kwargs)


def program(*, static: Sequence[str] = ()) -> Callable[[Callable[..., Any]], Program]:
    """A decorator: `Program` with static arguments."""
    return functools.partial(Program, static=static)


def _is_tracing() -> bool:
    # inside a program what is put on a device becomes a part of the program
    return isinstance(jax.device_put(np.zeros((), np.int32)), Tracer)


def _compiled(function: Callable[..., Any], static: tuple[str, ...], effort: Effort) -> Any:
    return jax.jit(function, static_argnames=static, compiler_options=_options(effort))


@functools.cache
def _options(effort: Effort) -> dict[str, Any]:
    """The options of an effort that this version of XLA has."""
    options = _OPTIONS[effort]
    if jaxlib.version.__version_info__[:2] <= _TRIED:
        return options
    return {name: value for name, value in options.items() if _exists(name, value)}


def _exists(name: str, value: Any) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except RuntimeError:  # "no such compile option"
        return False
    return True
