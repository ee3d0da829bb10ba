"""Which components are near: to a row, and to one another."""

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

from jaxgmm._estep.passes.common import finite_const
from jaxgmm._estep.potentials import Potentials
from jaxgmm._estep.structures import structure
from jaxgmm._numerics import linalg
from jaxgmm._numerics.blocks import map_blocks

# Logits at a time, in the blocks of rows that are compared with all components.
_LOGITS = 1 << 20


def _coefficients(potentials: Potentials, centre: Array) -> Array:
    kind = structure(potentials.structure)
    mean = potentials.mean - centre[None]
    return kind.coefficients(finite_const(potentials), mean, potentials.factor)


def _block(n: int, n_components: int) -> int:
    return min(n, max(16, _LOGITS // n_components))


def best_components(
    x: Float[Array, "N D"], potentials: Potentials, centre: Float[Array, " D"]
) -> Int[Array, " N"]:
    """The component of the largest logit of each row: one product with all, block by block."""
    kind = structure(potentials.structure)
    coefficients = _coefficients(potentials, centre)
    k = coefficients.shape[0]
    number = jnp.arange(k, dtype=jnp.int32)[:, None]

    def best(block: Array) -> Array:
        values = linalg.matmul(coefficients, kind.features((block - centre[None]).T))
        top = jnp.max(values, axis=0, keepdims=True)
        # two plain reductions: XLA's argmax is one of pairs, and five times as slow
        found = jnp.min(jnp.where(values == top, number, k), axis=0)
        return jnp.minimum(found, k - 1)

    return map_blocks(best, x, k, _block(x.shape[0], k))


def neighbours_of(
    potentials: Potentials, centre: Float[Array, " D"], number: int
) -> Int[Array, "K G"]:
    """Of each component the ``number`` with the largest logits at its mean, itself first."""
    kind = structure(potentials.structure)
    coefficients = _coefficients(potentials, centre)
    k = coefficients.shape[0]
    if number >= k:
        # the own one first here, too
        return (jnp.arange(k)[:, None] + jnp.arange(k)[None]).astype(jnp.int32) % k

    def nearest(block: tuple[Array, Array]) -> Array:
        means, own = block
        values = linalg.matmul(kind.features((means - centre[None]).T).T, coefficients.T)
        values = values.at[jnp.arange(means.shape[0]), own].set(jnp.inf)
        return lax.top_k(values, number)[1]

    rows = (potentials.mean, jnp.arange(k, dtype=jnp.int32))
    return map_blocks(nearest, rows, k, _block(k, k))


def best_of(
    values: Float[Array, "S B"], number: int
) -> tuple[Int[Array, "C B"], Float[Array, "C B"], Array]:
    """The ``number`` largest values of each column, which places they have, and a mask of them.

    Round by round: on a CPU `jax.lax.top_k` takes thirty times as long for few of few.
    """
    size = values.shape[0]
    place = lax.broadcasted_iota(jnp.int32, values.shape, 0)

    def one(left: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        top = jnp.max(left, axis=0)
        at = jnp.min(jnp.where(left == top[None], place, size), axis=0)
        return jnp.where(place == at[None], -jnp.inf, left), (at, top)

    left, (at, top) = lax.scan(one, values, None, length=number)
    return jnp.minimum(at, size - 1), top, left < values


def least_of(values: Float[Array, " S"], number: int) -> Int[Array, " C"]:
    """The places of the ``number`` least of some values, none negative, up to their rounding.

    As a sort of single numbers: the bits of such values are in their order, and in the last of
    them is the place. `jax.lax.top_k` takes many times as long on a CPU.
    """
    size = values.shape[0]
    places = (1 << (size - 1).bit_length()) - 1
    bits = lax.bitcast_convert_type(values.astype(jnp.float32), jnp.int32)
    packed = (bits & ~places) | jnp.arange(size, dtype=jnp.int32)
    return (lax.sort(packed, is_stable=False) & places)[:number]
