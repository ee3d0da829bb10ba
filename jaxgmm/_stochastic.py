"""What the stochastic algorithms share: minibatches, a smoothed objective, honest convergence."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxgmm._algorithm import Algorithm, rounding
from jaxgmm._estep import Data
from jaxgmm._minibatch import minibatch
from jaxgmm._pytree import pytree, replace
from jaxgmm._state import State

# Noisy objectives are averaged over about this many iterations.
_WINDOW = 100


@pytree
class Trace:
    """A running average of a noisy objective, and whether it has stopped rising.

    Attributes:
        average: exponential average, not yet divided by ``weight``.
        weight: of the observations in it.
        reference: the average when it was last compared.
        quiet: comparisons in a row that found no rise above the tolerance.
    """

    average: Float[Array, "*R"]
    weight: Float[Array, "*R"]
    reference: Float[Array, "*R"]
    quiet: Int[Array, "*R"]


def empty_trace(dtype: Any) -> Trace:
    zero = jnp.zeros((), dtype)
    return Trace(zero, zero, jnp.asarray(-jnp.inf, dtype), jnp.zeros((), jnp.int32))


@pytree
class Memory:
    """What a stochastic algorithm carries besides the posterior.

    Attributes:
        key: of the lane's own noise.
        order_key: of the minibatches' order, the same in all lanes of a fit.
        trace: of the objective.
        coordinates: unconstrained parameters that the optimiser will evaluate next; () for the
            natural-gradient update.
        optimizer_state: of optax; () for the natural-gradient update.
    """

    key: Array
    order_key: Array
    trace: Trace
    coordinates: Any = ()
    optimizer_state: Any = ()


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
        trace = new.memory.trace
        if self.noisy:
            average = trace.average + (new.objective - trace.average) / _WINDOW
            weight = trace.weight + (1 - trace.weight) / _WINDOW
            objective, allowed = average / weight, tol * data.total * _WINDOW
            due = new.n_iter % _WINDOW == 0
            quiet = objective - trace.reference <= allowed
        else:
            average, weight, objective = trace.average, trace.weight, new.objective
            due = jnp.asarray(True)
            allowed = tol * data.total + rounding(objective, 1)
            quiet = jnp.abs(objective - trace.reference) <= allowed
        trace = Trace(
            average=average,
            weight=weight,
            reference=jnp.where(due, objective, trace.reference),
            quiet=jnp.where(due, jnp.where(quiet, trace.quiet + 1, 0), trace.quiet),
        )
        return replace(new, objective=objective, memory=replace(new.memory, trace=trace))

    def settled(self, old: State, new: State, data: Data, tol: Array) -> Array:
        """Whether the objective has stopped rising, for long enough to believe it.

        An exact objective must change by no more than ``tol`` per sample in each of ten iterations
        in a row: an optimiser with momentum stands still for one at every turn. A noisy one is
        averaged, and its average must thrice in a row have risen by no more than ``tol`` per sample
        and iteration since a window ago.
        """
        return (new.memory.trace.quiet >= (3 if self.noisy else 10)) & (tol > 0)
