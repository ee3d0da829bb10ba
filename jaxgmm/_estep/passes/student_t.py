"""The passes over Student-t components, whose logits are not linear in the squared distance.

One by matrix products over all lanes, in which the squared distances are linear in the features of
a sample; and one by residuals, lane by lane, over rows of any kind. A value that is missing is
integrated out, as of normal components: given the precision scale u of a row the two are the same.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxgmm._estep.latent import columns_of, latent_of, spread_of
from jaxgmm._estep.passes.common import (
    Sums,
    add_compensated,
    finite_const,
    masked,
    over_devices,
    softmax,
)
from jaxgmm._estep.potentials import Potentials
from jaxgmm._estep.rows import Rows
from jaxgmm._estep.structures import structure
from jaxgmm._numerics import linalg
from jaxgmm._numerics.arrays import safe_divide
from jaxgmm._numerics.blocks import choose_block_size, choose_feature_block, scan_blocks
from jaxgmm._numerics.pytree import replace


def student_t_pass(
    rows: Rows,
    weight: Array | None,
    centre: Array,
    active: Array,
    potentials: Potentials,
    block_size: int | None,
    axis: str | None,
) -> Sums:
    """A `Pass` by matrix products over all lanes, of complete rows."""
    own, (lanes, components, dimension) = structure(potentials.structure), potentials.mean.shape
    # of a covariance that is common to the components each has its own scatter here
    shared = potentials.factor.ndim == 3 and own.separate == "full"
    kind = structure(own.separate) if shared else own
    factor, tail = potentials.factor, potentials.tail
    if shared:
        factor = jnp.broadcast_to(factor[:, None], (lanes, components, dimension, dimension))
    const = finite_const(potentials).T[:, :, None]
    mean = potentials.mean - centre[None, None]
    weights = jax.vmap(kind.coefficients)(jnp.zeros_like(potentials.const), mean, factor)
    width = weights.shape[2]
    matrix = weights.transpose(1, 0, 2).reshape(components * lanes, width)
    x = rows.x
    size = block_size or choose_feature_block(
        x.shape[0], width, 3 * lanes * components, "lanes" if lanes > 1 else "one lane", x.dtype
    )

    def body(carry: Any, block: Rows, w: Array) -> Any:
        raw, count, excess, log_evidence, error = carry
        features = kind.features((block.x - centre[None]).T)
        values = linalg.matmul(matrix, features).reshape(components, lanes, -1)
        squares = jnp.maximum(-2 * values, 0)
        found = jax.vmap(lambda t, s: t.scales(s, dimension), (0, 1), 1)(tail, squares)
        values = masked(const + found.height, block.labels, components)
        exponentials, normaliser, lse = softmax(values, 0)
        r = exponentials * (w[None] / normaliser)
        scaled = (r * found.mean).reshape(components * lanes, -1)
        return (
            raw + linalg.matmul(scaled, features.T),
            count + jnp.sum(r, axis=-1),
            excess + jnp.sum(r * found.excess, axis=-1),
            *add_compensated(log_evidence, error, jnp.sum(lse * w, axis=-1)),
        )

    zeros, each = jnp.zeros((lanes,), x.dtype), jnp.zeros((components, lanes), x.dtype)
    carry = (jnp.zeros_like(matrix), each, each, zeros, zeros)
    *sums, log_evidence, error = scan_blocks(body, carry, rows, weight, size)
    raw, count, excess, log_evidence = over_devices(axis, (*sums, log_evidence + error))
    raw = raw.reshape(components, lanes, width).transpose(1, 0, 2)
    nothing = jnp.zeros((lanes, 0), x.dtype)  # no moment is common to the components
    mass, mean, scatter = jax.vmap(kind.moments)(raw, nothing)
    if shared:
        scatter = jax.vmap(own.gathered)(scatter)
    return Sums(count.T, mean + centre[None, None], scatter, log_evidence, mass, excess.T)


def student_t_lane(
    rows: Rows,
    weight: Array | None,
    potentials: Potentials,
    block_size: int | None,
    axis: str | None = None,
) -> Sums:
    """One lane; differentiable in reverse mode, block by block."""
    kind = structure(potentials.structure)
    components, dimension = potentials.mean.shape
    potentials = replace(potentials, const=finite_const(potentials))
    tail: Any = potentials.tail
    spread = None if rows.is_complete else spread_of(potentials, rows)
    width = 3 * components * dimension
    if spread is not None:
        width = width + 2 * spread.covariance.size
    size = block_size or choose_block_size(rows.n_samples, width, rows.x.dtype)
    zeros = jnp.zeros_like(potentials.mean[:, 0])

    @jax.checkpoint
    def body(carry: Any, block: Rows, w: Array) -> Any:
        count, mass, first, scatter, excess, log_evidence, error = carry
        shift = block.x[None] - potentials.mean[:, :, None]
        within = None
        if spread is None:
            whitened = kind.whiten(shift, potentials.factor)
            found = tail.scales(jnp.sum(whitened**2, axis=1), dimension)
            values = potentials.const[:, None] + found.height
        else:
            known = latent_of(block, shift, spread)
            shift, within = known.shift, known.summed_within
            seen = None if block.missing is None else jnp.sum(1 - block.missing, axis=0)
            found = tail.scales(known.squares, dimension, seen)
            values = known.log_density + 0.5 * known.squares + found.height
        labels = None if block.labels is None else block.labels.T
        values = masked(values, labels, components)
        exponentials, normaliser, lse = softmax(values, 0)
        r = exponentials * (w / normaliser)
        scaled = r * found.mean
        scatter = scatter + kind.scatter(shift, scaled)
        if within is not None:  # E[u C / u]: what is not known has the covariance C / u
            scatter = scatter + kind.gathered(within(r))
        return (
            count + jnp.sum(r, axis=-1),
            mass + jnp.sum(scaled, axis=-1),
            first + linalg.einsum("kdb,kb->kd", shift, scaled),
            scatter,
            excess + jnp.sum(r * found.excess, axis=-1),
            *add_compensated(log_evidence, error, jnp.sum(lse * w[0])),
        )

    zero, first = jnp.zeros((), zeros.dtype), jnp.zeros_like(potentials.mean)
    carry = (zeros, zeros, first, kind.outer(zeros, first), zeros, zero, zero)
    columns = columns_of(rows)
    *sums, log_evidence, error = scan_blocks(body, carry, columns, weight, size, samples_last=True)
    sums = over_devices(axis, (*sums, log_evidence + error))
    count, mass, first, scatter, excess, log_evidence = sums
    shift = safe_divide(first, mass[:, None])
    scatter = scatter - kind.outer(mass, shift)
    return Sums(count, potentials.mean + shift, scatter, log_evidence, mass, excess)
