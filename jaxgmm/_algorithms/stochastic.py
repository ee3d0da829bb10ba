"""What the stochastic algorithms share: minibatches, and an objective that may be noisy."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxgmm._algorithms.base import Algorithm
from jaxgmm._algorithms.minibatch import minibatch
from jaxgmm._algorithms.monitor import Monitor, Noisy, Settling
from jaxgmm._estep.data import Data
from jaxgmm._model.prior import Prior
from jaxgmm._numerics.pytree import pytree, replace


@pytree
class Memory:
    """What a stochastic algorithm carries besides the posterior.

    Attributes:
        key: of the lane's own noise.
        order_key: of the minibatches' order, the same in all lanes of a fit.
        coordinates: where the next step starts: unconstrained parameters; for the natural-gradient
            update the posterior, or () where that is the state's own.
        optimizer_state: of optax; () for the natural-gradient update.
        average: of the coordinates, where the averaged iterate is the estimate; else ().
    """

    key: Array
    order_key: Array
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

    # minibatches and draws are of all the rows
    splits = False

    batch_size: int | None

    @property
    def monotone(self) -> bool:
        return False

    @property
    def noisy(self) -> bool:
        """Whether the objective is an estimate; else it is exact at every iteration."""
        return self.batch_size is not None

    @property
    def monitor(self) -> Monitor:
        return Noisy() if self.noisy else Settling()

    def remember_again(self, memory: Memory, posterior: Prior) -> Memory:
        # an optimiser's moments are in the old coordinates; its counters are not, and stay
        fresh = self.remember(memory.key, memory.order_key, posterior)
        optimizer_state = jax.tree.map(
            lambda new, old: old if jnp.issubdtype(old.dtype, jnp.integer) else new,
            fresh.optimizer_state,
            memory.optimizer_state,
        )
        return replace(fresh, optimizer_state=optimizer_state)

    def batch(self, data: Data, memory: Memory, iteration: Array) -> Data:
        if self.batch_size is None or self.batch_size >= data.x.shape[0]:
            return data
        return minibatch(memory.order_key, data, iteration, self.batch_size)
