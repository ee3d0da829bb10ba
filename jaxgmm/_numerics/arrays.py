"""Small operations on arrays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def safe_divide(numerator: Array, denominator: Array) -> Array:
    """``numerator / denominator``, and 0 with a zero gradient where the denominator is 0."""
    zero = denominator == 0
    return jnp.where(zero, 0, numerator / jnp.where(zero, 1, denominator))


def masked_product(weight: Array, value: Array) -> Array:
    """``weight * value``, and 0 wherever the weight is 0 (so 0 times -inf is 0).

    The value is masked before the product, so that the gradient has no NaN either.
    """
    used = weight != 0
    return jnp.where(used, weight * jnp.where(used, value, 0), 0)


def as_array(a: Any, dtype: Any = None) -> Array:
    """``jnp.asarray``, strongly typed; what lies on the host gets there without a program."""
    if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(a)):
        return jnp.asarray(a, jnp.asarray(a).dtype if dtype is None else dtype)
    return jax.device_put(np.asarray(a, dtype))


def led(a: Any, like: Any) -> Any:
    """The array with as many more leading axes as another has, which it is combined with."""
    missing = np.ndim(like) - np.ndim(a)
    return a.reshape((1,) * missing + np.shape(a)) if missing > 0 and np.ndim(a) else a


def full(shape: tuple[int, ...], value: float | int, dtype: Any = None) -> Array:
    """Entries of one value; in NumPy, which compiles nothing for another shape."""
    return as_array(np.full(shape, value, jnp.result_type(float if dtype is None else dtype)))


def longer(a: Array, number: int, value: float = 0) -> Array:
    """So many more entries of one value; in NumPy, which compiles nothing for another shape."""
    return as_array(np.pad(np.asarray(a), (0, number), constant_values=value))


def first(a: Array, number: int) -> Array:
    """The first so many rows; in NumPy, as `longer`."""
    return as_array(np.asarray(a)[:number])


def sum_where(present: Array | None, values: Array) -> Array:
    """Sum over the components that are present; over all of them if that is None."""
    return jnp.sum(values if present is None else jnp.where(present, values, 0))
