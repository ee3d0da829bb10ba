"""Frozen dataclasses that are pytrees: the one way this package makes a type."""

import dataclasses
import functools
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgmm._numerics.programs import program

T = TypeVar("T")


def static(**kwargs: Any) -> Any:
    """A field that belongs to the tree's structure: hashed and compared, never traced."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(static, dataclasses.field))
def pytree(cls: type[T]) -> type[T]:
    """Make ``cls`` a frozen dataclass whose fields are children, save those marked `static`.

    Unflattening writes the fields directly and never calls ``__init__``: JAX puts sentinels,
    ``None`` and batched leaves where arrays were, and none of them is to be validated.
    """
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    children = child_names(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    constants = tuple(f.name for f in fields if f.name not in children)

    def flatten_with_keys(node: Any):
        keyed = tuple((jax.tree_util.GetAttrKey(n), getattr(node, n)) for n in children)
        return keyed, tuple(getattr(node, n) for n in constants)

    def flatten(node: Any):
        return tuple(getattr(node, n) for n in children), tuple(getattr(node, n) for n in constants)

    def unflatten(constant_values: tuple, child_values: Any):
        node = object.__new__(cls)
        for name, value in zip(children, child_values, strict=True):
            object.__setattr__(node, name, value)
        for name, value in zip(constants, constant_values, strict=True):
            object.__setattr__(node, name, value)
        return node

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


@functools.cache
def child_names(cls: type) -> tuple[str, ...]:
    """The fields of a pytree dataclass that are children."""
    return tuple(f.name for f in dataclasses.fields(cls) if not f.metadata.get("static"))


def replace(node: T, **changes: Any) -> T:
    """A copy of a pytree dataclass with some fields changed."""
    return dataclasses.replace(node, **changes)  # type: ignore[type-var]


def select(condition: Array, new: T, old: T) -> T:
    """Lane by lane, ``new`` where ``condition`` (R,) holds and ``old`` elsewhere."""

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(condition.reshape(condition.shape + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, new, old)


def take(tree: T, index: Any) -> T:
    """Index the leading axis of every leaf."""
    return jax.tree.map(lambda a: a[index], tree)


@program()
def pick(tree: Any, index: Any) -> Any:
    """`take` as one program, for the host."""
    return take(tree, index)


def choose(condition: np.ndarray, new: Any, old: Any) -> Any:
    """`select` in NumPy, which compiles nothing."""

    def where(a: Any, b: Any) -> np.ndarray:
        return np.where(condition.reshape(-1, *[1] * (np.ndim(a) - 1)), a, b)

    return jax.tree.map(where, new, old)


def put_in(tree: Any, index: int, one: Any) -> Any:
    """`set_at` of a single lane; in NumPy, which compiles nothing."""

    def put(a: Any, b: Any) -> np.ndarray:
        out = np.array(a)
        out[index] = b
        return out

    return jax.tree.map(put, tree, one)


@program()
def set_at(tree: Any, index: Any, values: Any) -> Any:
    """The tree with other values at an index of the leading axis of every leaf: one program."""
    return jax.tree.map(lambda a, b: a.at[index].set(b), tree, values)


def all_finite(tree: Any) -> Array:
    """Whether every floating-point leaf is finite: a scalar."""
    leaves = [a for a in jax.tree.leaves(tree) if jnp.issubdtype(a.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(a)) for a in leaves]))
