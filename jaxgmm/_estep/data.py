"""The rows of a fit as its iterations take them."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxgmm._estep.moments import weighted_mean
from jaxgmm._estep.rows import Rows
from jaxgmm._numerics.pytree import pytree, replace, static


@pytree
class Data:
    """Rows as the iterations of a fit take them.

    Attributes:
        rows: of the whole data set, or of a minibatch of it.
        centre: point ``(D,)`` near the data from which features are measured.
        total: sum of the weights of the whole data set.
        scale: number of rows of the whole data set per row here; 1 unless it is a minibatch.
        row_per_weight: rows of the whole data set that a weight of 1 stands for; None means 1.
        axis: of the mesh over which the rows lie, inside `shard_map`; else None (static).
    """

    rows: Rows
    centre: Float[Array, " D"]
    total: Float[Array, ""]
    scale: Float[Array, ""]
    row_per_weight: Any = None
    axis: str | None = static(default=None)

    @property
    def x(self) -> Float[Array, "N D"]:
        return self.rows.x

    @property
    def values(self) -> Rows:
        """The rows without their weights, as a pass takes them."""
        return replace(self.rows, weight=None)

    @property
    def weight(self) -> Float[Array, " N"] | None:
        return self.rows.weight


def prepare(rows: Rows) -> Data:
    """The data as an algorithm's iterations want them, computed once before a loop."""
    one, total = jnp.ones((), rows.x.dtype), rows.total
    # the effective number of rows is (sum w)^2 / sum w^2 (Kish 1965)
    share = None if rows.weight is None else total / jnp.sum(rows.weight**2)
    return Data(rows, weighted_mean(rows.x, rows.weight), total, one, share)
