"""The pass over rows with missing values or measurement errors, see `jaxgmm._estep.latent`.

Each row has covariances of its own, so that it costs D^3 operations for each component; blocks of
rows keep them in cache.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxgmm._estep.latent import latent, spread_of
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
        found = latent(block, potentials, spread)
        values = masked(found.log_density, block.labels, components)
        exponentials, normaliser, lse = softmax(values, 0)
        r = exponentials * (w / normaliser)
        shared = found.within.shape[0] < components
        behind = jnp.sum(r, axis=0, keepdims=True) if shared else r
        within = linalg.einsum("k...b,kb->k...", found.within, behind)
        return (
            count + jnp.sum(r, axis=-1),
            first + linalg.einsum("kdb,kb->kd", found.shift, r),
            scatter + kind.scatter(found.shift, r) + kind.gathered(within),
            *add_compensated(log_evidence, error, jnp.sum(lse * w[0])),
        )

    return sums_about_means(body, rows, weight, potentials.mean, kind, size, axis)
