"""The feature pass: every logit is linear in features of the sample.

A block of rows is then two matrix products for all lanes and components together. It loses
``(spread / sd)^2`` units of relative precision.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxgmm._estep.passes.common import (
    Sums,
    add_compensated,
    finite_const,
    masked,
    over_devices,
    softmax,
)
from jaxgmm._estep.potentials import Potentials
from jaxgmm._estep.rows import Rows, allowed
from jaxgmm._estep.structures import structure
from jaxgmm._numerics import linalg
from jaxgmm._numerics.blocks import choose_feature_block, scan_blocks
from jaxgmm._numerics.devices import on_cpu

# Above this many logits a sample, products with the logits' axis last run faster than with the
# samples' axis last (CPU, XLA); below it they run slower. On a GPU they always run faster, and
# twice as fast with the features of a sample side by side, too.
_WIDE_LOGITS = 256


def feature_pass(
    rows: Rows,
    weight: Array | None,
    centre: Array,
    active: Array,
    potentials: Potentials,
    block_size: int | None,
    axis: str | None,
) -> Sums:
    """A `Pass` by matrix products over all lanes."""
    kind = structure(potentials.structure)
    mean = potentials.mean - centre[None, None]
    weights = jax.vmap(kind.coefficients)(finite_const(potentials), mean, potentials.factor)
    lanes, components, width = weights.shape
    by_rows = not on_cpu()
    wide = by_rows or lanes * components >= _WIDE_LOGITS
    layout = "wide" if wide else "one lane" if lanes == 1 else "lanes"
    x = rows.x
    size = block_size or choose_feature_block(
        x.shape[0], width, lanes * components, layout, x.dtype
    )
    if wide:
        # (F, K R): the lanes are the fastest axis, and reductions run over the middle one
        matrix = weights.transpose(2, 1, 0).reshape(width, components * lanes)
    else:
        matrix = weights.transpose(1, 0, 2).reshape(components * lanes, width)

    def body(carry: Any, block: Rows, w: Array) -> Any:
        raw, total, log_evidence, error = carry
        centred = (block.x - centre[None]).T
        if by_rows:
            features = jax.vmap(lambda row: kind.features(row[:, None])[:, 0])(centred.T).T
        else:
            features = kind.features(centred)
        if wide:
            values = linalg.matmul(features.T, matrix).reshape(-1, components, lanes)
            may = allowed(block.labels, components)
            values = values if may is None else jnp.where(may[:, :, None], values, -jnp.inf)
            exponentials, normaliser, lse = softmax(values, 1)
            r = exponentials * (w.T[:, None, :] / normaliser)
            raw = raw + linalg.matmul(features, r.reshape(-1, components * lanes))
            term = jnp.sum(lse * w.T, axis=0)
        else:
            values = linalg.matmul(matrix, features).reshape(components, lanes, -1)
            values = masked(values, block.labels, components)
            exponentials, normaliser, lse = softmax(values, 0)
            r = exponentials * (w[None] / normaliser)
            raw = raw + linalg.matmul(r.reshape(components * lanes, -1), features.T)
            term = jnp.sum(lse * w, axis=-1)
        total = total + jax.vmap(kind.total, (None, 0))(centred, w)
        return raw, total, *add_compensated(log_evidence, error, term)

    zeros = jnp.zeros((lanes,), x.dtype)
    total = jax.vmap(kind.total, (None, 0))(
        jnp.zeros((x.shape[1], 1), x.dtype),
        jnp.zeros((1 if weight is None else weight.shape[0], 1), x.dtype),
    )
    carry = (jnp.zeros_like(matrix), total, zeros, zeros)
    raw, total, log_evidence, error = scan_blocks(body, carry, rows, weight, size)
    raw, total, log_evidence = over_devices(axis, (raw, total, log_evidence + error))
    if wide:
        raw = raw.reshape(width, components, lanes).transpose(2, 1, 0)
    else:
        raw = raw.reshape(components, lanes, width).transpose(1, 0, 2)
    total = jnp.broadcast_to(total, (lanes, *total.shape[1:]))
    count, mean, scatter = jax.vmap(kind.moments)(raw, total)
    shared = jax.vmap(kind.shared_log_density)(potentials.factor, total)
    return Sums(count, mean + centre[None, None], scatter, log_evidence + shared)
