"""Arrays that lie on several devices, of one process or of several."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.custom_batching import custom_vmap
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


def is_local(a: Any) -> bool:
    """Whether this process can read all of an array."""
    return not isinstance(a, jax.Array) or a.is_fully_addressable or a.is_fully_replicated


def is_on_host(a: Any) -> bool:
    """Whether NumPy can read all of an array without a transfer."""
    if not isinstance(a, jax.Array):
        return True
    return len(a.devices()) == 1 and all(d.platform == "cpu" for d in a.devices())


def for_everyone(function: Callable[..., Any], x: jax.Array, *others: Any) -> Any:
    """``function(x, ...)``; every process that holds a part of x can read the result.

    It is compiled for arrays on devices. What is on the host is NumPy's, and compiles nothing: the
    function calls methods of arrays, or takes functions of its ``__array_namespace__``.
    """
    if is_on_host(x):
        with np.errstate(all="ignore"):
            return function(*(None if a is None else np.asarray(a) for a in (x, *others)))
    if is_local(x) or not isinstance(x.sharding, NamedSharding):
        return jax.jit(function)(x, *others)
    everywhere = NamedSharding(x.sharding.mesh, P())
    return jax.jit(function, out_shardings=everywhere)(x, *others)


def automatic(mesh: Mesh) -> Mesh:
    """The same devices with automatic axes, along which any operation may be partitioned."""
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def on_automatic_axes(x: Any) -> Any:
    """The same array, if it lies along explicit axes of a mesh, along automatic ones."""
    if not isinstance(x, jax.Array) or isinstance(x, Tracer):
        return x
    if not isinstance(x.sharding, NamedSharding):
        return x
    mesh = x.sharding.mesh
    if not isinstance(mesh, Mesh) or AxisType.Explicit not in mesh.axis_types:
        return x
    return jax.device_put(x, NamedSharding(automatic(mesh), x.sharding.spec))


def varying_as(others: Any, tree: Any) -> Any:
    """The tree as one that differs from device to device wherever any of the others does.

    Inside a `jax.shard_map` that checks this (``check_vma``) the branches of a condition, and a
    loop's first and later values, must agree. Elsewhere it is the tree itself.
    """

    def axes_of(a: Any) -> frozenset[str]:
        return jax.typeof(a).manual_axis_type.varying

    axes = frozenset().union(*(axes_of(a) for a in jax.tree.leaves(others)))

    def vary(a: Any) -> Any:
        missing = tuple(axes - axes_of(a))
        return lax.pcast(a, missing, to="varying") if missing else a

    return jax.tree.map(vary, tree)


@custom_vmap
def any_lane(condition: jax.Array) -> jax.Array:
    """Whether a condition holds; under `jax.vmap`, whether it does in any of the lanes.

    So a `lax.cond` of it stays one. What its branches give must not matter to the other lanes.
    """
    return condition


@any_lane.def_vmap
def _any_lane(axis_size: int, batched: Any, condition: jax.Array) -> tuple[jax.Array, bool]:
    return any_lane(jnp.any(condition, axis=0) if batched[0] else condition), False


def on_cpu() -> bool:
    """Whether programs run on a CPU by default: the one place that asks, while tracing."""
    return jax.default_backend() == "cpu"


def by_platform(*operands: Any, cpu: Callable[..., Any], default: Callable[..., Any]) -> Any:
    """One function on a CPU and another elsewhere, as the program is lowered."""
    return lax.platform_dependent(*operands, cpu=cpu, default=default)
