"""Known parameters: a parameter is known if the prior on it is infinitely strong.

The ``strengths`` of a distribution name the fields that say how strong the prior on another field
is, such as ``{"mean_precision": "mean"}``. Where a strength is infinite, that other field holds the
value itself, and no update changes it. Prior and posterior are of one type, so a posterior knows
what is known, and whatever carries its fields along carries it too.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgmm._numerics.checks import is_traced
from jaxgmm._numerics.pytree import replace


def strengths_of(node: Any) -> dict[str, str]:
    """Fields that hold strengths, and for each the field that is known where it is infinite."""
    return getattr(node, "strengths", {})


def tamed(node: Any) -> Any:
    """With strengths of 1 in the place of infinite ones."""
    return replace(node, **{n: finite(getattr(node, n)) for n in strengths_of(node)})


def finite(strength: Array, otherwise: int = 1) -> Array:
    """A strength, or another number where it is infinite."""
    return jnp.where(jnp.isposinf(strength), otherwise, strength)


def put_known(node: Any, prior: Any) -> Any:
    """A distribution with all that its prior knows in its place, to the bit."""
    fields = {}
    for strength, value in strengths_of(prior).items():
        known = jnp.isposinf(getattr(prior, strength))
        for name in (strength, value):
            own = getattr(prior, name)
            mask = known.reshape(known.shape + (1,) * (own.ndim - known.ndim))
            fields[name] = jnp.where(mask, own, getattr(node, name))
    return replace(node, **fields)


def anything_known(*nodes: Any) -> bool:
    """Whether an infinite strength is among concrete fields."""
    return any(
        bool(np.isposinf(np.asarray(getattr(node, name))).any())
        for node in nodes
        for name in strengths_of(node)
    )


def n_free(number: int, strength: Array) -> Any:
    """How many of so many parameters, equally many for each element of a strength, are free."""
    if is_traced(strength):
        known = jnp.sum(jnp.isposinf(strength), dtype=strength.dtype)
        return number - number * known // strength.size
    return number - number * int(np.isposinf(np.asarray(strength)).sum()) // np.size(strength)
