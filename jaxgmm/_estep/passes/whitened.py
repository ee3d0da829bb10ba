"""The whitened pass: residuals from each mean.

It loses only ``spread / sd`` units of relative precision, at a few times the cost of the feature
pass.
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
    softmax,
    sums_about_means,
)
from jaxgmm._estep.potentials import Potentials
from jaxgmm._estep.rows import Rows
from jaxgmm._estep.structures import structure
from jaxgmm._numerics import linalg
from jaxgmm._numerics.blocks import choose_block_size


def whitened_lane(
    rows: Rows,
    weight: Array | None,
    potentials: Potentials,
    block_size: int | None,
    axis: str | None = None,
) -> Sums:
    """One lane by residuals from its means; differentiable in reverse mode, block by block."""
    kind = structure(potentials.structure)
    components, dimension = potentials.mean.shape
    size = block_size or choose_block_size(rows.n_samples, 3 * components * dimension, rows.x.dtype)
    const = finite_const(potentials)[:, None]

    @jax.checkpoint
    def body(carry: Any, block: Rows, w: Array) -> Any:
        count, first, scatter, log_evidence, error = carry
        residual = block.x.T[None] - potentials.mean[:, :, None]
        whitened = kind.whiten(residual, potentials.factor)
        values = const - 0.5 * jnp.sum(whitened**2, axis=1)
        values = masked(values, block.labels, components)
        exponentials, normaliser, lse = softmax(values, 0)
        r = exponentials * (w / normaliser)
        return (
            count + jnp.sum(r, axis=-1),
            first + linalg.einsum("kdb,kb->kd", residual, r),
            scatter + kind.scatter(residual, r),
            *add_compensated(log_evidence, error, jnp.sum(lse * w[0])),
        )

    return sums_about_means(body, rows, weight, potentials.mean, kind, size, axis)
