"""What the stochastic algorithms share: minibatches, a smoothed objective, honest convergence."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxgmm._algorithms.base import Algorithm, rounding
from jaxgmm._algorithms.minibatch import minibatch
from jaxgmm._estep.estep import Data
from jaxgmm._lane.state import State
from jaxgmm._numerics.pytree import pytree, replace

# A noisy objective is reported as an average over about this many iterations.
_SMOOTHING = 100
# Iterations in the first window over which its rise is measured; each is twice as long as the last.
_FIRST_WINDOW = 50
# An exact objective must stand still in so many iterations in a row.
_QUIET = 10


@pytree
class Trace:
    """A running average of a noisy objective, and whether it has stopped rising.

    Attributes:
        average: exponential average, not yet divided by ``weight``.
        weight: of the observations in it.
        mean: of the objectives in the current window.
        squares: their squared deviations from it, summed.
        count: of iterations in the current window.
        last_mean: of the window before; of an exact objective, its last value.
        last_variance: of that mean.
        last_count: iterations in the window before.
        quiet: comparisons in a row that found no rise above the tolerance.
    """

    average: Float[Array, "*R"]
    weight: Float[Array, "*R"]
    mean: Float[Array, "*R"]
    squares: Float[Array, "*R"]
    count: Int[Array, "*R"]
    last_mean: Float[Array, "*R"]
    last_variance: Float[Array, "*R"]
    last_count: Int[Array, "*R"]
    quiet: Int[Array, "*R"]


def empty_trace(dtype: Any) -> Trace:
    zero, none = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
    nothing = jnp.asarray(-jnp.inf, dtype)
    return Trace(zero, zero, zero, zero, none, nothing, zero, none, none)


def observe_noisy(trace: Trace, objective: Array, allowed: Array) -> tuple[Trace, Array]:
    """The trace with one more estimate of the objective, and the objective's running average.

    Windows double in length. When one ends, its mean is compared with that of the window before:
    the rise in one iteration and two of its standard errors must be within ``allowed``. So a noise
    that hides a rise is not taken for rest; as the windows grow, the noise in the rise falls with
    the power 3/2 of their length.
    """
    dtype = objective.dtype
    average = trace.average + (objective - trace.average) / _SMOOTHING
    weight = trace.weight + (1 - trace.weight) / _SMOOTHING
    count = trace.count + 1
    n = count.astype(dtype)
    gap = objective - trace.mean
    mean = trace.mean + gap / n
    squares = trace.squares + gap * (objective - mean)
    variance = squares / (n * jnp.maximum(n - 1, 1))
    # from the middle of one window to the middle of the other
    apart = (n + trace.last_count.astype(dtype)) / 2
    rise = (mean - trace.last_mean) / apart
    error = jnp.sqrt(variance + trace.last_variance) / apart
    due = count >= jnp.maximum(2 * trace.last_count, _FIRST_WINDOW)
    quiet = jnp.where(rise + 2 * error <= allowed, trace.quiet + 1, 0)
    ended = Trace(
        average=average,
        weight=weight,
        mean=jnp.zeros_like(mean),
        squares=jnp.zeros_like(squares),
        count=jnp.zeros_like(count),
        last_mean=mean,
        last_variance=variance,
        last_count=count,
        quiet=quiet,
    )
    ongoing = replace(
        trace, average=average, weight=weight, mean=mean, squares=squares, count=count
    )
    trace = jax.tree.map(lambda a, b: jnp.where(due, a, b), ended, ongoing)
    return trace, average / weight


def observe_exact(trace: Trace, objective: Array, allowed: Array) -> Trace:
    """The trace after one more exact objective."""
    quiet = jnp.abs(objective - trace.last_mean) <= allowed + rounding(objective, 1)
    return replace(trace, last_mean=objective, quiet=jnp.where(quiet, trace.quiet + 1, 0))


@pytree
class Memory:
    """What a stochastic algorithm carries besides the posterior.

    Attributes:
        key: of the lane's own noise.
        order_key: of the minibatches' order, the same in all lanes of a fit.
        trace: of the objective.
        coordinates: where the next step starts: unconstrained parameters; for the natural-gradient
            update the posterior, or () where that is the state's own.
        optimizer_state: of optax; () for the natural-gradient update.
        average: of the coordinates, where the averaged iterate is the estimate; else ().
    """

    key: Array
    order_key: Array
    trace: Trace
    coordinates: Any = ()
    optimizer_state: Any = ()
    average: Any = ()


def averaging_weight(iteration: Array, dtype: jnp.dtype) -> Array:
    """The weight of iterate ``iteration``, counted from 0, in the running average.

    ``4 / (t + 3)``, t = 1, 2, ...: polynomial-decay averaging (Shamir & Zhang 2013, section 4,
    with eta = 3), in which the start is forgotten and the last iterates count most.
    """
    return 4 / (iteration.astype(dtype) + 4)


class Stochastic(Algorithm):
    """Base of the algorithms that look at minibatches or draw samples."""

    batch_size: int | None

    @property
    def monotone(self) -> bool:
        return False

    @property
    def noisy(self) -> bool:
        """Whether the objective is an estimate; else it is exact at every iteration."""
        return self.batch_size is not None

    def batch(self, data: Data, memory: Memory, iteration: Array) -> Data:
        if self.batch_size is None or self.batch_size >= data.x.shape[0]:
            return data
        return minibatch(memory.order_key, data, iteration, self.batch_size)

    def observe(self, old: State, new: State, data: Data, tol: Array) -> State:
        allowed = tol * data.total
        if self.noisy:
            trace, objective = observe_noisy(new.memory.trace, new.objective, allowed)
        else:
            objective = new.objective
            trace = observe_exact(new.memory.trace, objective, allowed)
        return replace(new, objective=objective, memory=replace(new.memory, trace=trace))

    def settled(self, old: State, new: State, data: Data, tol: Array) -> Array:
        """Whether the objective has stopped rising, for long enough to believe it.

        An exact objective must change by no more than ``tol`` per sample in each of ten iterations
        in a row: an optimiser with momentum stands still for one at every turn. For one that is an
        estimate see `observe_noisy`.
        """
        return (new.memory.trace.quiet >= (1 if self.noisy else _QUIET)) & (tol > 0)
