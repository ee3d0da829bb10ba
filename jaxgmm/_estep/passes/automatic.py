"""The automatic pass: the fast one for all lanes, the careful one for those that need it."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxgmm._estep.passes.common import Sums
from jaxgmm._estep.passes.feature import feature_pass
from jaxgmm._estep.passes.student_t import student_t_lane, student_t_pass
from jaxgmm._estep.passes.whitened import whitened_lane
from jaxgmm._estep.potentials import Potentials
from jaxgmm._estep.rows import Rows
from jaxgmm._estep.structures import structure
from jaxgmm._numerics.devices import varying_as
from jaxgmm._numerics.pytree import take

# The feature pass is taken where (spread / sd)^2 * eps, its relative rounding error, stays below
# this. Measured at D = 8 in float32, the mean log-density is then within 4e-4 nat.
FEATURE_PATH_ERROR = 1e-4


def relative_spread(potentials: Potentials, centre: Array) -> Array:
    """``max_k ||(mean_k - centre) factor_k||^2``: the squared spread in standard deviations."""
    kind = structure(potentials.structure)
    projected = kind.project(potentials.mean - centre[None], potentials.factor)
    return jnp.max(jnp.sum(projected**2, axis=-1))


def feature_path_is_safe(potentials: Potentials, centre: Array) -> Array:
    """Whether the feature pass keeps its accuracy for these potentials, with that centre."""
    eps = jnp.finfo(potentials.mean.dtype).eps
    return relative_spread(potentials, centre) * eps <= FEATURE_PATH_ERROR


def _weight_of(weight: Array | None, lane: Array) -> Array | None:
    if weight is None or weight.shape[0] == 1:
        return weight
    return lax.dynamic_slice_in_dim(weight, lane, 1)


def automatic_pass(
    rows: Rows,
    weight: Array | None,
    centre: Array,
    active: Array,
    potentials: Potentials,
    block_size: int | None,
    axis: str | None,
) -> Sums:
    """A `Pass`: the feature one for all lanes, then the whitened one for each that needs it.

    Each lane's result depends on that lane alone: a lane that needs the careful pass changes not
    one bit of another. Lanes that are not ``active`` (R,) never need it.
    """
    lanes = potentials.mean.shape[0]
    safe = jax.vmap(feature_path_is_safe, (0, None))(potentials, centre)
    careful = active & ~safe
    n_careful = jnp.sum(careful)
    order = jnp.argsort(~careful, stable=True)

    heavy = potentials.tail is not None

    def fast() -> Sums:
        run = student_t_pass if heavy else feature_pass
        return run(rows, weight, centre, active, potentials, block_size, axis)

    def redo(i: Array, sums: Sums) -> Sums:
        lane = order[i]
        mine = _weight_of(weight, lane)
        run = student_t_lane if heavy else whitened_lane
        one = run(rows, mine, take(potentials, lane), block_size, axis)
        return jax.tree.map(lambda all_lanes, new: all_lanes.at[lane].set(new), sums, one)

    shapes = jax.eval_shape(fast)
    blank = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    blank = varying_as((rows, weight, potentials), blank)
    sums = lax.cond(n_careful == lanes, lambda: blank, fast)
    # the branch keeps XLA from moving a single lane's whitened pass out of a loop of no turns
    return lax.cond(n_careful > 0, lambda: lax.fori_loop(0, n_careful, redo, sums), lambda: sums)
