"""Optimisers of optax, which are functions: compared, pickled, and missing after a file."""

import functools
import pickle
from collections.abc import Callable
from typing import Any

from jax import Array


class Optimizer:
    """An optax transformation, or a function that makes one, which can be pickled.

    Functions inside of functions, as a finished transformation is, are no business of pickle's:
    they are given to cloudpickle, if that is installed.
    """

    def __init__(self, given: Any):
        self.given = given
        self.identity: Any = given

    @property
    def init(self) -> Callable[..., Any]:
        return self.given.init

    @property
    def update(self) -> Callable[..., Any]:
        return self.given.update

    def __repr__(self) -> str:
        return repr(self.given)

    def __hash__(self) -> int:
        return hash((type(self), self.identity))

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.identity == other.identity  # type: ignore[attr-defined]

    def __copy__(self) -> "Optimizer":
        return self

    def __deepcopy__(self, memo: Any) -> "Optimizer":
        return self

    def __reduce__(self) -> Any:
        try:
            pickle.dumps(self.given)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            return _unpickled, (type(self), _by_value(self.given, error))
        return type(self), (self.given,)


class Factory(Optimizer):
    """A function of the learning rate; equal ones do the same, so that they share programs."""

    def __init__(self, given: Callable[..., Any]):
        super().__init__(given)
        if isinstance(given, functools.partial):
            self.identity = (given.func, given.args, tuple(sorted(given.keywords.items())))

    def __call__(self, learning_rate: Array) -> Any:
        return self.given(learning_rate)


def _by_value(given: Any, error: Exception) -> bytes:
    try:
        import cloudpickle
    except ImportError:
        raise pickle.PicklingError(
            "this optimiser is made of functions that pickle cannot write. Give jaxgmm.svi what "
            "makes it, svi(prior, optax.adam, learning_rate=0.01), or install cloudpickle; or "
            "write a file with jaxgmm.save(path, result), which needs no optimiser."
        ) from error
    return cloudpickle.dumps(given)


def _unpickled(kind: type[Optimizer], raw: bytes) -> Optimizer:
    return kind(pickle.loads(raw))
