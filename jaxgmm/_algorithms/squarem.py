"""SQUAREM: extrapolation of EM and CAVI, guarded so that the bound never goes down."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jaxgmm._algorithms.base import Wrapper
from jaxgmm._algorithms.cavi import CAVI
from jaxgmm._algorithms.em import EM
from jaxgmm._estep.estep import Data
from jaxgmm._lane.state import State
from jaxgmm._model.coordinates import coordinates_of, posterior_of
from jaxgmm._model.prior import Prior
from jaxgmm._numerics.linalg import diagonal
from jaxgmm._numerics.pytree import pytree, replace

# Extrapolation begins where a plain step gains no more than this, in nats per sample: before, a
# long step may jump into the basin of another optimum.
_CALM = 1e-4
# Steps are not extrapolated further than so many times, until longer ones have proved right.
_FIRST_LIMIT = 4.0
_GROWTH = 4.0


@pytree
class Extrapolation:
    """Where a lane is in its cycle: two plain steps, and one from the point they point to.

    Attributes:
        inner: memory of the algorithm that is accelerated.
        phase: 0, 1 or 2: the kind of the next step.
        first: coordinates at the beginning of the cycle.
        second: after its first step.
        trial: the extrapolated posterior, where the third step starts.
        limit: on the length of an extrapolation.
        length: of the one under trial.
        plain: whether the last step was a plain one, which alone can tell convergence.
    """

    inner: Any
    phase: Int[Array, "*R"]
    first: Any
    second: Any
    trial: Prior
    limit: Float[Array, "*R"]
    length: Float[Array, "*R"]
    plain: Bool[Array, "*R"]


@pytree
class Squarem(Wrapper):
    """See `squarem`."""

    inner: EM | CAVI

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.inner.name} with SQUAREM"

    @property
    def monotone(self) -> bool | Array:
        return self.inner.monotone

    def begin(self, key: Array, shared_key: Array, posterior: Prior, data: Data) -> State:
        state = self.inner.begin(key, shared_key, posterior, data)
        coordinates = coordinates_of(posterior, mode=self.view == "mode")
        one = jnp.ones((), self.prior.dtype)
        memory = Extrapolation(
            inner=state.memory,
            phase=jnp.zeros((), jnp.int32),
            first=coordinates,
            second=coordinates,
            trial=posterior,
            limit=_FIRST_LIMIT * one,
            length=one,
            plain=jnp.asarray(True),
        )
        return replace(state, memory=memory)

    def advance(self, state: State, data: Data) -> State:
        memory, mode = state.memory, self.view == "mode"
        phase = memory.phase
        start = _where(phase == 2, memory.trial, state.posterior)
        new = self.inner.advance(replace(state, posterior=start, memory=memory.inner), data)
        # a third step that ends below the second is taken back; NaN is below everything
        right = (phase != 2) | (new.objective >= state.objective)
        q = _where(right, new.posterior, state.posterior)
        objective = jnp.where(right, new.objective, state.objective)

        here = coordinates_of(q, mode=mode)
        beginning = phase == 0
        before = coordinates_of(state.posterior, mode=mode)
        first = _where(beginning, before, memory.first)
        second = _where(beginning, here, memory.second)
        calm = objective - state.objective <= _CALM * data.total
        length, point = _extrapolate(
            first, second, here, _units(q, mode), jnp.where(calm, memory.limit, 1)
        )
        trial = posterior_of(self.prior, point, data.total, mode=mode)
        trial = _where(phase == 1, trial, memory.trial)

        at_limit = memory.length == memory.limit
        limit = jnp.where(right & at_limit, memory.limit * _GROWTH, memory.limit)
        limit = jnp.where(right, limit, jnp.maximum(memory.limit / _GROWTH, 1))
        memory = Extrapolation(
            inner=memory.inner,
            phase=(phase + 1) % 3,
            first=first,
            second=second,
            trial=trial,
            limit=jnp.where(phase == 2, limit, memory.limit),
            length=jnp.where(phase == 1, length, memory.length),
            plain=phase != 2,
        )
        return replace(state, posterior=q, objective=objective, memory=memory)

    def observe(self, old: State, new: State, data: Data, tol: Array) -> State:
        inner = super().observe(_inner(old), _inner(new), data, tol)
        return replace(new, memory=replace(new.memory, inner=inner.memory))

    def settled(self, old: State, new: State, data: Data, tol: Array) -> Array:
        """As without acceleration, and by a plain step: extrapolated ones may gain nothing."""
        return super().settled(_inner(old), _inner(new), data, tol) & new.memory.plain


def _inner(state: State) -> State:
    return replace(state, memory=state.memory.inner)


def _where(condition: Array, a: Any, b: Any) -> Any:
    return jax.tree.map(lambda u, v: jnp.where(condition, u, v), a, b)


def _units(q: Prior, mode: bool) -> Any:
    """The units of the coordinates: standard deviations for means, 1 for logarithms."""
    sd = jnp.sqrt(diagonal(q.components.covariances(mode=mode)))
    coordinates = coordinates_of(q, mode=mode)
    ones = jax.tree.map(jnp.ones_like, coordinates)
    if mode:
        return {**ones, "means": sd}
    return {**ones, "components": {**ones["components"], "mean": sd}}


def _extrapolate(
    first: Any, second: Any, third: Any, units: Any, limit: Array
) -> tuple[Array, Any]:
    """The length, and the point, of Varadhan & Roland's (2008) third scheme, ``|r| / |v|``."""
    r = jax.tree.map(jnp.subtract, second, first)
    v = jax.tree.map(lambda a, b, c: (a - b) - c, third, second, r)

    def norm(tree: Any) -> Array:
        scaled = jax.tree.map(lambda a, unit: jnp.sum((a / unit) ** 2), tree, units)
        return jnp.sqrt(sum(jax.tree.leaves(scaled)))

    size = norm(v)
    length = norm(r) / jnp.where(size > 0, size, 1)
    length = jnp.clip(jnp.where(size > 0, length, 1), 1, limit)
    point = jax.tree.map(lambda a, b, c: a + 2 * length * b + length**2 * c, first, r, v)
    return length, point


def squarem(algorithm: EM | CAVI) -> Squarem:
    """EM or CAVI, accelerated: many times fewer iterations where the components overlap.

    Varadhan & Roland 2008: after two plain steps the third starts from a point extrapolated along
    them, in unconstrained coordinates (of the point estimate, or of the posterior's
    hyperparameters), so that every such point is valid. That begins once a plain step gains less
    than a ten-thousandth of a nat per sample, so that a start leads to the optimum that it leads to
    without. A third step that ends below the second is taken back, so that the objective never
    goes down; its iteration is counted all the same. Each iteration costs one E-step, as without.

    Args:
        algorithm: from `em` or `cavi`.

    Raises:
        ValueError: for another algorithm.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (200, 2))
        >>> algorithm = jaxgmm.squarem(jaxgmm.em(jaxgmm.default_prior(x, 3)))
        >>> jaxgmm.fit(jax.random.key(1), x, algorithm).best.status.item()
        1
    """
    if not isinstance(algorithm, EM | CAVI):
        raise ValueError(
            "squarem accelerates the algorithms of jaxgmm.em and jaxgmm.cavi, but it was given a "
            f"{type(algorithm).__name__}."
        )
    return Squarem(algorithm)
