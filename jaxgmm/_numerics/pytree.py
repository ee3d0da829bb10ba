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

    Two are equal if they have the `same_bits`.
    """
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    cls.__eq__ = _equal  # type: ignore[assignment]
    cls.__hash__ = _hash  # type: ignore[assignment]
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


def same_bits(a: Any, b: Any) -> bool:
    """Whether two trees have one structure, and leaves of the same dtypes, shapes and bits.

    So NaN equals NaN, and 0 is not -0. Static parts that are functions, such as an optimiser, are
    equal if they are the same ones.
    """
    leaves, structure = jax.tree.flatten(a)
    others, other = jax.tree.flatten(b)
    return structure == other and all(map(_same_leaf, leaves, others))


def _same_leaf(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if _form(a) != _form(b):
        return False
    a, b = (jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in (a, b))
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


def _form(leaf: Any) -> tuple[Any, ...]:
    return np.shape(leaf), str(getattr(leaf, "dtype", type(leaf)))


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _equal(self: Any, other: object) -> Any:
    return same_bits(self, other) if type(self) is type(other) else NotImplemented


def _hash(self: Any) -> int:
    # by what no bits are needed for, so that it costs no transfer
    leaves, structure = jax.tree.flatten(self)
    return hash((structure, tuple(map(_form, leaves))))


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
