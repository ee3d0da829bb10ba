"""Lanes and rows over several devices: one `shard_map` around the loop, one `psum` a pass."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgmm._estep.data import Data
from jaxgmm._fit.loop import advance_lanes
from jaxgmm._lane.state import State
from jaxgmm._lane.status import Status
from jaxgmm._numerics.devices import automatic
from jaxgmm._numerics.pytree import replace

LANES, ROWS = "restarts", "data"


def check_mesh(mesh: Any, algorithm: Any) -> Mesh:
    """The mesh, whose axes are named ``restarts``, ``data`` or both, with automatic axes."""
    if not isinstance(mesh, Mesh):
        raise ValueError(
            f"mesh must be a jax.sharding.Mesh, but it is a {type(mesh).__name__}; for instance "
            'jax.make_mesh((2,), ("data",)).'
        )
    if not mesh.axis_names or set(mesh.axis_names) - {LANES, ROWS}:
        raise ValueError(
            f'the axes of mesh must be named "{LANES}" (lanes), "{ROWS}" (rows) or both, but they '
            f"are {mesh.axis_names}."
        )
    if not algorithm.splits and size_of(mesh, ROWS) > 1:
        raise ValueError(
            f'SVI draws its minibatches from all the rows: use a mesh without a "{ROWS}" axis.'
        )
    return automatic(mesh)


def size_of(mesh: Mesh, axis: str) -> int:
    """Devices along an axis; 1 if there is none of that name."""
    return mesh.shape.get(axis, 1)


def spread_rows(data: Data, mesh: Mesh) -> Data:
    """The data with its rows over the mesh; rows of weight 0 fill up the last device's."""
    rows, x = data.rows.by_themselves, data.x
    fewer = -x.shape[0] % size_of(mesh, ROWS)
    weight = jnp.ones((x.shape[0],), x.dtype) if data.weight is None else data.weight
    if fewer:
        rows = jax.tree.map(lambda a: jnp.concatenate([a, jnp.repeat(a[-1:], fewer, axis=0)]), rows)
        weight = jnp.pad(weight, (0, fewer))
    axis = ROWS if ROWS in mesh.axis_names else None
    rows = jax.device_put(replace(rows, weight=weight), NamedSharding(mesh, P(axis)))
    everywhere = NamedSharding(mesh, P())
    shared = replace(data, rows=None, axis=axis)
    return replace(jax.device_put(shared, everywhere), rows=rows)


@functools.cache
def advance_on(mesh: Mesh, history_length: int) -> Callable[..., tuple[State, Array, Array, Array]]:
    """`advance_lanes` on a mesh, compiled: ``(algorithm, states, data, max_iter, tol, n_steps)``.

    The devices along ``data`` work on the same lanes and add up their sums once a pass; those along
    ``restarts`` have lanes of their own, and wait for nobody. What comes back is on every device.
    """
    lanes, rows = (axis if axis in mesh.axis_names else None for axis in (LANES, ROWS))
    n_devices = size_of(mesh, LANES)

    def local(*args: Any) -> tuple[State, Array, Array, Array]:
        states, history, did, degenerate = advance_lanes(*args, history_length=history_length)
        return states, history, did if lanes is None else lax.pmax(did, lanes), degenerate

    def advance(
        algorithm: Any,
        states: State,
        data: Data,
        max_iter: Array,
        tol: Array,
        n_steps: Array,
        group: None = None,
    ) -> tuple[State, Array, Array, Array]:
        n_lanes = states.status.shape[0]
        states = _fill(states, -n_lanes % n_devices)
        leaves, n_rows = jax.tree.structure(data), len(jax.tree.leaves(data.rows))
        specs = [P(rows)] * n_rows + [P()] * (leaves.num_leaves - n_rows)
        of_data = jax.tree.unflatten(leaves, specs)
        of_rows = algorithm.of_rows(states.memory)
        own = jax.tree.map(lambda by_row: P(lanes, rows) if by_row else P(lanes), of_rows)
        of_states = replace(jax.tree.map(lambda _: P(lanes), states), memory=own)
        states, remembered = _remember(states, of_rows, data.rows.n_samples)
        states, history, did, degenerate = jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(P(), of_states, of_data, P(), P(), P()),
            out_specs=(of_states, P(None, lanes), P(), P(lanes)),
            check_vma=False,
        )(algorithm, states, data, max_iter, tol, n_steps)
        states, _ = _remember(states, of_rows, remembered)
        states, degenerate = jax.tree.map(lambda a: a[:n_lanes], (states, degenerate))
        return states, history[:, :n_lanes], did, degenerate

    return jax.jit(advance, out_shardings=NamedSharding(mesh, P()))


def _remember(states: State, of_rows: Any, number: int) -> tuple[State, int]:
    """The states with memory of so many rows, and of how many it was.

    Rows that fill up the last device come last: -1 is what was never looked at.
    """
    before = number

    def fit(by_row: bool, a: Array) -> Array:
        nonlocal before
        if not by_row:
            return a
        before, rest = a.shape[1], [(0, 0)] * (a.ndim - 2)
        more = max(number - before, 0)
        return jnp.pad(a, [(0, 0), (0, more), *rest], constant_values=-1)[:, :number]

    return replace(states, memory=jax.tree.map(fit, of_rows, states.memory)), before


def _fill(states: State, number: int) -> State:
    """So many lanes more that do nothing, so that all devices have as many."""
    if number == 0:
        return states
    more = jax.tree.map(lambda a: jnp.repeat(a[:1], number, axis=0), states)
    idle = jnp.full((number,), int(Status.DROPPED), jnp.int32)
    more = replace(more, status=idle)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), states, more)
