"""SQUAREM: extrapolation of EM and CAVI, guarded so that the bound never goes down."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jaxgmm._algorithms.base import Algorithm
from jaxgmm._algorithms.monitor import Tolerance
from jaxgmm._algorithms.wrapper import Wrapper, check_ascends
from jaxgmm._estep.data import Data
from jaxgmm._estep.stats import Stats
from jaxgmm._lane.state import State
from jaxgmm._model.coordinates import coordinates_of, posterior_of, units_of
from jaxgmm._model.prior import Prior
from jaxgmm._numerics.calls import usage
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

    inner: Any

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.inner.name} with SQUAREM"

    def remember(self, key: Array, shared_key: Array, posterior: Prior) -> Extrapolation:
        coordinates = coordinates_of(posterior, self.view)
        one = jnp.ones((), self.prior.dtype)
        return Extrapolation(
            inner=self.inner.remember(key, shared_key, posterior),
            phase=jnp.zeros((), jnp.int32),
            first=coordinates,
            second=coordinates,
            trial=posterior,
            limit=_FIRST_LIMIT * one,
            length=one,
            plain=jnp.asarray(True),
        )

    def remember_again(self, memory: Extrapolation, posterior: Prior) -> Extrapolation:
        key = jax.random.key(0)  # which algorithms that can be wrapped do not use
        return self.remember(key, key, posterior)

    def expect(self, state: State, data: Data, beta: Array | None = None) -> Stats:
        return self.inner.expect(_started(state), data, beta)

    def maximise(self, state: State, stats: Stats) -> State:
        memory, view, total = state.memory, self.view, jnp.sum(stats.count)
        phase = memory.phase
        new = self.inner.maximise(_started(state), stats)
        # a third step that ends below the second is taken back; NaN is below everything
        right = (phase != 2) | (new.objective >= state.objective)
        q = _where(right, new.posterior, state.posterior)
        objective = jnp.where(right, new.objective, state.objective)

        here, before = coordinates_of(q, view), coordinates_of(state.posterior, view)
        first = _where(phase == 0, before, memory.first)
        second = _where(phase == 0, here, memory.second)
        calm = objective - state.objective <= _CALM * total
        length, point = _extrapolate(
            first, second, here, units_of(q, view), jnp.where(calm, memory.limit, 1)
        )
        trial = posterior_of(self.prior, point, total, view)
        trial = _where(phase == 1, trial, memory.trial)

        at_limit = memory.length == memory.limit
        limit = jnp.where(right & at_limit, memory.limit * _GROWTH, memory.limit)
        limit = jnp.where(right, limit, jnp.maximum(memory.limit / _GROWTH, 1))
        memory = Extrapolation(
            inner=new.memory,
            # cycles begin where the inner algorithm has come to its own objective
            phase=jnp.where(self.steady(state), (phase + 1) % 3, 0),
            first=first,
            second=second,
            trial=trial,
            limit=jnp.where(phase == 2, limit, memory.limit),
            length=jnp.where(phase == 1, length, memory.length),
            plain=phase != 2,
        )
        return replace(state, posterior=q, objective=objective, memory=memory)

    def settled(self, old: State, new: State, tolerance: Tolerance) -> Array:
        """As without acceleration, but only after a plain step: an extrapolated one may gain 0."""
        return self.inner.settled(old, new, tolerance) & new.memory.plain


def _started(state: State) -> State:
    """The inner algorithm's state where a step starts: a third one at the extrapolated point."""
    memory = state.memory
    start = _where(memory.phase == 2, memory.trial, state.posterior)
    return replace(state, posterior=start, memory=memory.inner)


def _where(condition: Array, a: Any, b: Any) -> Any:
    return jax.tree.map(lambda u, v: jnp.where(condition, u, v), a, b)


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


@usage("jaxgmm.squarem(jaxgmm.em(prior))")
def squarem(algorithm: Algorithm) -> Squarem:
    """EM or CAVI with acceleration: many times fewer iterations where the components overlap.

    Varadhan & Roland 2008. After two plain steps, the third step starts from a point that is
    extrapolated from them. The extrapolation works in unconstrained coordinates (of the point
    estimate, or of the posterior's hyperparameters), so that every such point is valid. It begins
    once a plain step gains less than a ten-thousandth of a nat per sample, so that a start leads to
    the same optimum as without acceleration. If a third step ends below the second one, it is taken
    back, so that the objective never goes down; its iteration is still counted. Each iteration
    costs one E-step, as in the plain algorithm.

    Args:
        algorithm: from `em` or `cavi`, also inside `annealed`; the extrapolations begin when
            annealing has ended.

    Raises:
        ValueError: for another algorithm.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> algorithm = jaxgmm.squarem(jaxgmm.em(jaxgmm.default_prior(x, 3)))
        >>> jaxgmm.fit(jax.random.key(1), x, algorithm).best.status.item()
        1
    """
    check_ascends("squarem", algorithm)
    return Squarem(algorithm)
