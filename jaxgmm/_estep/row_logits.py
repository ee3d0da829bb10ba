"""The logits of a few rows of any kind, or of a block of them: nothing in a fit stores them."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxgmm._estep.latent import latent, spread_of
from jaxgmm._estep.potentials import Potentials, logits, relative_logits
from jaxgmm._estep.rows import Rows, allowed


def row_logits(rows: Rows, potentials: Potentials) -> Float[Array, "N K"]:
    """The logits of every row and component, ``(N, K)``: -inf where a label excludes one.

    Of a row with gaps or errors they are those of what was observed.
    """
    values = logits(rows.x, potentials) if rows.is_complete else _observed(rows, potentials)
    return _labelled(values, rows)


def relative_row_logits(rows: Rows, potentials: Potentials) -> Float[Array, "N K"]:
    """`row_logits` up to a number for each row, such that the best is finite at any distance."""
    if rows.is_complete:
        values = relative_logits(rows.x, potentials)
    else:
        values = _observed(rows, potentials)
    return _labelled(values, rows)


def row_width(rows: Rows, components: Any) -> int:
    """Numbers that a row takes while its logits under components, of means (K, D), are computed."""
    k, d = components.mean.shape
    return 3 * k * d if rows.is_complete else 3 * k * d * (d + 1)


def _observed(rows: Rows, potentials: Potentials) -> Array:
    found = latent(rows, potentials, spread_of(potentials, rows))
    if potentials.tail is None:
        return found.log_density.T
    seen = None if rows.missing is None else jnp.sum(~rows.missing, axis=1)
    scales = potentials.tail.scales(found.squares, rows.x.shape[1], seen)
    return (found.log_density + 0.5 * found.squares + scales.height).T


def _labelled(values: Array, rows: Rows) -> Array:
    may = allowed(rows.labels, values.shape[1])
    return values if may is None else jnp.where(may, values, -jnp.inf)
