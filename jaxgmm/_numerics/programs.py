"""Programs that the host calls, each compiled with as much effort as it is worth.

XLA optimises as if every program ran for hours. One that runs once or twice, such as that of the
starts or of a check, is compiled in a quarter of the time without these optimisations. The loop
over few samples is compiled in two thirds of the time, and then takes 7% longer. What is worth how
much follows from the shapes alone, so that results repeat.
"""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
_LIGHT_LOOP = 1 << 18


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

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it, compiled for going through its arguments about once."""
        work = sum(int(np.size(a)) for a in jax.tree.leaves(args))
        return self.on(effort_of(work), *args, **kwargs)()

    def on(self, effort: Effort, *args: Any, **kwargs: Any) -> "Call":
        """The call with these arguments."""
        if _is_tracing():
            return Call(self._function, args, kwargs)
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(args)):
            effort = Effort.FULL  # under vmap or grad alone: options are for whole programs
        return Call(self._of(effort if on_cpu() else Effort.FULL), args, kwargs)


class Call:
    """A function with its arguments, to be called once or compiled ahead of that.

    Args:
        function: compiled.
        args: its arguments; for `ahead` alone shapes will do in place of arrays.
        kwargs: static ones.
    """

    def __init__(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]):
        self.function, self.args, self.kwargs = function, args, kwargs

    def __call__(self) -> Any:
        """The result; a compilation that has begun ahead of it is waited for."""
        check_process()
        if _begun and (future := _begun.pop(self._signature(), None)) is not None:
            future.exception()
        return self.function(*self.args, **self.kwargs)

    def shapes(self) -> Any:
        """The shapes of the result."""
        return self.function.eval_shape(*self.args, **self.kwargs)

    def ahead(self) -> None:
        """Begin to compile it, in a thread of its own.

        Only what is traced in JAX's default context is found again by the call. An error stays
        unseen here, and is raised by the call.
        """
        signature = self._signature()
        if signature not in _begun:
            _begun[signature] = _threads().submit(self._compile)

    def is_new(self) -> bool:
        """Whether this process asks this for the first time about a call of these shapes."""
        signature = self._signature()
        new = signature not in _known
        _known.add(signature)
        return new

    def _compile(self) -> None:
        self.function.lower(*self.args, **self.kwargs).compile()

    def _signature(self) -> Any:
        leaves, structure = jax.tree.flatten((self.args, self.kwargs))
        arrays = tuple((np.shape(a), str(getattr(a, "dtype", type(a)))) for a in leaves)
        return id(self.function), structure, arrays


# Calls that have been asked about; and those compiled ahead that have not been made yet.
_known: set[Any] = set()
_begun: dict[Any, Future] = {}


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=2, thread_name_prefix="jaxgmm-compile")


class _Process:
    """Whether this process has run programs, and whether one that had was forked into it."""

    used = False
    forked = False


def check_process() -> None:
    """Refuse a forked process, in which JAX would wait for ever for threads that it has not."""
    if _Process.forked:
        raise RuntimeError(
            "this process was forked from one in which JAX had run, and JAX does not work in it; "
            "start processes with multiprocessing.get_context('spawn') or 'forkserver', or in "
            "joblib with the backend 'loky'."
        )
    _Process.used = True


def check_untraced(what: str, instead: str, *values: Any) -> None:
    """Refuse to do the host's work inside of a program, or of a transformation."""
    if _is_tracing() or any(isinstance(a, Tracer) for a in jax.tree.leaves(values)):
        raise ValueError(
            f"{what} is the host's work, and cannot be traced by jax.jit, jax.vmap, jax.grad or "
            f"jax.shard_map; {instead}."
        )


def _after_fork() -> None:
    # a forked process has no threads but the one that forked
    _Process.forked = _Process.used
    _begun.clear()
    _threads.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def program(*, static: Sequence[str] = ()) -> Callable[[Callable[..., Any]], Program]:
    """A decorator: `Program` with static arguments."""
    return functools.partial(Program, static=static)


def _is_tracing() -> bool:
    # inside a program what is put on a device becomes a part of the program
    return isinstance(jax.device_put(np.zeros((), np.int32)), Tracer)


def _compiled(function: Callable[..., Any], static: tuple[str, ...], effort: Effort) -> Any:
    return jax.jit(function, static_argnames=static, compiler_options=_options(effort) or None)


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
