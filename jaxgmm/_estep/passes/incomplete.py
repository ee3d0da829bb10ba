"""The pass over rows with missing values or measurement errors, see `jaxgmm._estep.latent`.

Each row has covariances of its own, so that it costs D^3 operations for each component; blocks of
rows, with the samples last, keep them in cache.
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
    softmax,
    sums_about_means,
)
from jaxgmm._estep.potentials import Potentials
from jaxgmm._estep.rows import Rows
from jaxgmm._estep.structures import structure
from jaxgmm._numerics import linalg
from jaxgmm._numerics.blocks import choose_block_size
from jaxgmm._numerics.pytree import replace


def incomplete_lane(
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
    spread = spread_of(potentials, rows)
    width = 2 * spread.covariance.size + 3 * components * dimension
    size = block_size or choose_block_size(rows.n_samples, width, rows.x.dtype)

    @jax.checkpoint
    def body(carry: Any, block: Rows, w: Array) -> Any:
        count, first, scatter, log_evidence, error = carry
        residual = block.x[None] - potentials.mean[:, :, None]
        found = latent_of(block, residual, spread)
        labels = None if block.labels is None else block.labels.T
        values = masked(found.log_density, labels, components)
        exponentials, normaliser, lse = softmax(values, 0)
        r = exponentials * (w / normaliser)
        return (
            count + jnp.sum(r, axis=-1),
            first + linalg.einsum("kdb,kb->kd", found.shift, r),
            scatter + kind.scatter(found.shift, r) + kind.gathered(found.summed_within(r)),
            *add_compensated(log_evidence, error, jnp.sum(lse * w[0])),
        )

    columns, mean = columns_of(rows), potentials.mean
    return sums_about_means(body, columns, weight, mean, kind, size, axis, samples_last=True)
