"""Passes over the rows: potentials in, sums out, for all lanes at once, block by block.

All passes compute the same sums. A new one is a file that defines a `Pass`, and a line in `PASSES`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_batching import custom_vmap

from jaxgmm._estep.passes.automatic import automatic_pass
from jaxgmm._estep.passes.common import Pass, Path, Sums
from jaxgmm._estep.passes.feature import feature_pass
from jaxgmm._estep.passes.grouped import grouped_pass
from jaxgmm._estep.passes.incomplete import incomplete_lane
from jaxgmm._estep.passes.student_t import student_t_lane, student_t_pass
from jaxgmm._estep.passes.whitened import whitened_lane
from jaxgmm._estep.potentials import Potentials
from jaxgmm._estep.rows import Rows
from jaxgmm._numerics.devices import on_cpu


def careful_lane(
    rows: Rows,
    weight: Array | None,
    potentials: Potentials,
    block_size: int | None,
    axis: str | None = None,
) -> Sums:
    """One lane by residuals, in reverse mode differentiable: rows of any kind."""
    rows = rows.by_themselves
    if potentials.tail is not None:
        return student_t_lane(rows, weight, potentials, block_size, axis)
    lane = whitened_lane if rows.is_complete else incomplete_lane
    return lane(rows, weight, potentials, block_size, axis)


def careful_pass(
    rows: Rows,
    weight: Array | None,
    centre: Array,
    active: Array,
    potentials: Potentials,
    block_size: int | None,
    axis: str | None,
) -> Sums:
    """A `Pass` by residuals, lane by lane."""
    shared = weight is None or weight.shape[0] == 1

    def lane(own: tuple[Array | None, Potentials]) -> Sums:
        w = weight if own[0] is None else own[0][None]
        return careful_lane(rows, w, own[1], block_size, axis)

    lanes = (None if shared else weight, potentials)
    if rows.is_complete or not on_cpu():
        return jax.vmap(lane)(lanes)
    # a block of one lane stays in a core's cache, and XLA makes poor loops of one more axis
    if potentials.mean.shape[0] > 1:
        return lax.map(lane, lanes)
    return jax.tree.map(lambda a: a[None], lane(jax.tree.map(lambda a: a[0], lanes)))


PASSES: dict[Path, Pass] = {
    "auto": automatic_pass,
    "feature": feature_pass,
    "whitened": careful_pass,
}


def pass_of(path: Path, rows: Rows, potentials: Potentials) -> Pass:
    """The pass of a name; rows with gaps or errors have one of their own."""
    if rows.is_complete:
        heavy = path == "feature" and potentials.tail is not None
        return student_t_pass if heavy else PASSES[path]
    grouped = rows.groups is not None and potentials.tail is None
    return grouped_pass if grouped else careful_pass


@functools.cache
def lane_pass(path: Path, block_size: int | None, axis: str | None) -> Callable[..., Sums]:
    """The pass ``(rows, weight, centre, active, potentials) -> Sums`` over explicit lanes.

    With an ``axis`` of a mesh, ``rows`` and ``weight`` are those that this device holds, and the
    sums those of all devices.

    Under `jax.vmap` over potentials the new axis is folded into the lanes, so that nested and
    batched fits still run as one matrix product over shared rows.
    """

    def run(
        rows: Rows, weight: Array | None, centre: Array, active: Array, potentials: Potentials
    ) -> Sums:
        return pass_of(path, rows, potentials)(
            rows, weight, centre, active, potentials, block_size, axis
        )

    folded = custom_vmap(run)

    @folded.def_vmap
    def fold(axis_size: int, batched: Any, *args: Any) -> tuple[Sums, Any]:
        rows_batched, weight_batched, centre_batched, *_ = batched
        if any(jax.tree.leaves(rows_batched)) or centre_batched:
            in_axes = jax.tree.map(lambda b: 0 if b else None, tuple(batched))
            # a folded pass inside: R lanes of each data set are still one product
            out = jax.vmap(run, in_axes)(*args)
        else:
            rows, weight, centre, active, potentials = args
            lanes = active.shape[-1]

            def merge_axes(a: Array, is_batched: bool) -> Array:
                if not is_batched:
                    a = jnp.broadcast_to(a, (axis_size, *a.shape))
                return a.reshape(axis_size * a.shape[1], *a.shape[2:])

            if weight is not None and (weight_batched or weight.shape[0] > 1):
                width = (lanes, rows.n_samples)
                full = (axis_size, *width) if weight_batched else width
                weight = merge_axes(jnp.broadcast_to(weight, full), weight_batched)
            active, potentials = jax.tree.map(
                merge_axes, (active, potentials), (batched[3], batched[4])
            )
            out = folded(rows, weight, centre, active, potentials)
            out = jax.tree.map(lambda a: a.reshape(axis_size, lanes, *a.shape[1:]), out)
        return out, jax.tree.map(lambda _: True, out)

    return folded
