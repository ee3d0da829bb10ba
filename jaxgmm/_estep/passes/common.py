"""What the passes share: sums, the soft maximum, and what is added over devices."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jax import Array, lax
from jax.flatten_util import ravel_pytree

from jaxgmm._estep.potentials import Potentials
from jaxgmm._estep.rows import Rows, allowed
from jaxgmm._numerics.arrays import safe_divide
from jaxgmm._numerics.blocks import scan_blocks

Path = Literal["auto", "feature", "whitened"]


class Sums(NamedTuple):
    """What a pass returns for each lane: `Stats` without the entropy."""

    count: Array
    mean: Array
    scatter: Array
    log_evidence: Array
    mass: Array | None = None
    excess: Array | None = None


@runtime_checkable
class Pass(Protocol):
    """One pass over the rows for all lanes: every leaf of the potentials leads with R."""

    def __call__(
        self,
        rows: Rows,
        weight: Array | None,
        centre: Array,
        active: Array,
        potentials: Potentials,
        block_size: int | None,
        axis: str | None,
    ) -> Sums:
        """The sums of every lane.

        Args:
            rows: without weights; with an ``axis`` those that this device holds.
            weight: of the samples, ``(W, N)`` with W of 1 or R, or None for ones.
            centre: point ``(D,)`` near the data.
            active: lanes whose sums matter, ``(R,)``.
            potentials: of the lanes.
            block_size: rows at a time, or None for as many as suit.
            axis: of the mesh over which the rows lie, or None.
        """
        ...


def add_compensated(total: Array, error: Array, term: Array) -> tuple[Array, Array]:
    """Add ``term``, keeping what rounding loses (Neumaier 1974)."""
    new = total + term
    big = jnp.abs(total) >= jnp.abs(term)
    lost = jnp.where(big, (total - new) + term, (term - new) + total)
    return new, error + lost


def masked(values: Array, labels: Array | None, n_components: int) -> Array:
    """Logits, led by K, with the samples last: -inf where a row may not belong to a component."""
    may = allowed(labels, n_components)
    if may is None:
        return values
    may = may.T.reshape(n_components, *[1] * (values.ndim - 2), -1)
    return jnp.where(may, values, -jnp.inf)


def softmax(values: Array, axis: int) -> tuple[Array, Array, Array]:
    """Unnormalised exponentials, their sum and the log-sum-exp along ``axis``."""
    # nothing depends on it; its derivative is NaN where XLA computes the values twice, and rounds
    # them in two ways
    top = lax.stop_gradient(jnp.max(values, axis=axis, keepdims=True))
    exponentials = jnp.exp(values - top)
    total = jnp.sum(exponentials, axis=axis, keepdims=True)
    return exponentials, total, jnp.squeeze(top + jnp.log(total), axis)


def finite_const(potentials: Potentials) -> Array:
    """The constants, with -inf (a weight of exactly 0) made a very negative number."""
    lowest = jnp.finfo(potentials.const.dtype).min / 8
    return jnp.maximum(potentials.const, lowest)


def sums_about_means(
    body: Callable[[Any, Rows, Array], Any],
    rows: Rows,
    weight: Array | None,
    mean: Array,
    kind: Any,
    block_size: int,
    axis: str | None,
    *,
    samples_last: bool = False,
) -> Sums:
    """The sums of one lane by residuals from its means ``(K, D)``.

    ``body`` adds a block of rows to the count, the sums of residuals and of their products, and the
    log-evidence with its rounding.
    """
    zero, first = jnp.zeros((), mean.dtype), jnp.zeros_like(mean)
    count = jnp.zeros(mean.shape[:1], mean.dtype)
    carry = (count, first, kind.outer(count, first), zero, zero)
    *sums, log_evidence, error = scan_blocks(body, carry, rows, weight, block_size, samples_last)
    count, first, scatter, log_evidence = over_devices(axis, (*sums, log_evidence + error))
    shift = safe_divide(first, count[:, None])
    return Sums(count, mean + shift, scatter - kind.outer(count, shift), log_evidence)


def over_devices(axis: str | None, sums: Any) -> Any:
    """Sums over all the rows, from those of the rows that each device holds.

    As one array: of several reductions a CPU's devices may each wait in another one, for ever.
    """
    if axis is None:
        return sums
    flat, restore = ravel_pytree(sums)
    return restore(lax.psum(flat, axis))
