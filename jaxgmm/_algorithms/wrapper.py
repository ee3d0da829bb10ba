"""What wraps an algorithm that ascends, and nests."""

from typing import Any

from jax import Array

from jaxgmm._algorithms.base import Algorithm
from jaxgmm._algorithms.monitor import Monitor
from jaxgmm._estep.data import Data
from jaxgmm._estep.stats import Stats
from jaxgmm._lane.state import State
from jaxgmm._model.prior import Prior
from jaxgmm._model.views import View
from jaxgmm._numerics.affine import Affine
from jaxgmm._numerics.calls import described
from jaxgmm._numerics.pytree import replace


class Wrapper(Algorithm):
    """An algorithm around another, ``inner``, whose model, view and judgement are its own.

    It wraps any algorithm that `Algorithm.ascends`, another wrapper included.
    """

    inner: Any

    @property
    def prior(self) -> Prior:  # type: ignore[override]
        return self.inner.prior

    @property
    def view(self) -> View:  # type: ignore[override]
        return self.inner.view

    @property
    def monotone(self) -> bool | Array:
        return self.inner.monotone

    @property
    def ascends(self) -> bool:
        return self.inner.ascends

    @property
    def monitor(self) -> Monitor:
        return self.inner.monitor

    @property
    def races(self) -> bool:
        return self.inner.races

    @property
    def core(self) -> Algorithm:
        return self.inner.core

    def with_prior(self, prior: Prior) -> Any:
        return replace(self, inner=self.inner.with_prior(prior))

    def mapped(self, to: Affine) -> Any:
        return replace(self, inner=self.inner.mapped(to))

    def remember(self, key: Array, shared_key: Array, posterior: Prior) -> Any:
        return self.inner.remember(key, shared_key, posterior)

    def remember_again(self, memory: Any, posterior: Prior) -> Any:
        return self.inner.remember_again(memory, posterior)

    def expect(self, state: State, data: Data, beta: Array | None = None) -> Stats:
        return self.inner.expect(state, data, beta)

    def maximise(self, state: State, stats: Stats) -> State:
        return self.inner.maximise(state, stats)

    def steady(self, state: State) -> bool | Array:
        return self.inner.steady(state)


def check_ascends(wrapper: str, algorithm: Any) -> None:
    """Refuse what is no algorithm that a wrapper can wrap."""
    if not isinstance(algorithm, Algorithm) or not algorithm.ascends:
        raise ValueError(
            f"{wrapper} wraps the algorithms of jaxgmm.em and jaxgmm.cavi, plain or wrapped and "
            f"without a truncation, but it was given {described(algorithm)}; call "
            f"jaxgmm.{wrapper}(jaxgmm.em(prior))."
        )
