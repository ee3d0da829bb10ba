"""Passes over the rows: potentials in, sums out, for all lanes at once, block by block.

All passes compute the same sums. A new one is a file that defines a `Pass`, and a line in `PASSES`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_batching import custom_vmap

from jaxgmm._estep.passes.automatic import automatic_pass
from jaxgmm._estep.passes.common import Pass, Path, Sums
from jaxgmm._estep.passes.feature import feature_pass
from jaxgmm._estep.passes.whitened import whitened_pass
from jaxgmm._estep.potentials import Potentials

PASSES: dict[Path, Pass] = {
    "auto": automatic_pass,
    "feature": feature_pass,
    "whitened": whitened_pass,
}


@functools.cache
def lane_pass(path: Path, block_size: int | None, axis: str | None) -> Callable[..., Sums]:
    """The pass ``(x, weight, centre, active, potentials) -> Sums`` over explicit lanes.

    With an ``axis`` of a mesh, ``x`` and ``weight`` are the rows that this device holds, and the
    sums those of all devices.

    Under `jax.vmap` over potentials the new axis is folded into the lanes, so that nested and
    batched fits still run as one matrix product over a shared ``x``.
    """

    def run(
        x: Array, weight: Array | None, centre: Array, active: Array, potentials: Potentials
    ) -> Sums:
        return PASSES[path](x, weight, centre, active, potentials, block_size, axis)

    folded = custom_vmap(run)

    @folded.def_vmap
    def fold(axis_size: int, batched: Any, *args: Any) -> tuple[Sums, Any]:
        x_batched, weight_batched, centre_batched, *_ = batched
        if x_batched or centre_batched:
            in_axes = jax.tree.map(lambda b: 0 if b else None, tuple(batched))
            # a folded pass inside: R lanes of each data set are still one product
            out = jax.vmap(run, in_axes)(*args)
        else:
            x, weight, centre, active, potentials = args
            lanes = active.shape[-1]

            def merge_axes(a: Array, is_batched: bool) -> Array:
                if not is_batched:
                    a = jnp.broadcast_to(a, (axis_size, *a.shape))
                return a.reshape(axis_size * a.shape[1], *a.shape[2:])

            if weight is not None and (weight_batched or weight.shape[0] > 1):
                width = (lanes, x.shape[0])
                full = (axis_size, *width) if weight_batched else width
                weight = merge_axes(jnp.broadcast_to(weight, full), weight_batched)
            active, potentials = jax.tree.map(
                merge_axes, (active, potentials), (batched[3], batched[4])
            )
            out = folded(x, weight, centre, active, potentials)
            out = jax.tree.map(lambda a: a.reshape(axis_size, lanes, *a.shape[1:]), out)
        return out, jax.tree.map(lambda _: True, out)

    return folded
