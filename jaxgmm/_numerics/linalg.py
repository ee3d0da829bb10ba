"""Small dense linear algebra by Cholesky factors and triangular solves, never an inverse.

Products that feed likelihoods ask for full precision: the default is TF32 on NVIDIA and
bfloat16 on TPU.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float

from jaxgmm._numerics.arrays import led
from jaxgmm._numerics.devices import by_platform, varying_as

HIGHEST = lax.Precision.HIGHEST


def matmul(a: Array, b: Array) -> Array:
    """``a @ b`` in the full precision of its dtype."""
    return jnp.matmul(a, b, precision=HIGHEST)


def einsum(subscripts: str, *operands: Array) -> Array:
    """`jnp.einsum` in the full precision of its dtype."""
    return jnp.einsum(subscripts, *operands, precision=HIGHEST)


@jax.custom_jvp
def cholesky(a: Float[Array, "*K D D"]) -> Float[Array, "*K D D"]:
    """Lower Cholesky factor; NaN where ``a`` is not positive definite.

    On a CPU by plain products, not by LAPACK: jaxlib 0.10 hands a batch of its factorisations to
    the threads that wait for them, so that two such calls at once, or one beside an all-reduction,
    may wait for ever. It is no slower; for the inverse it is many times faster.
    """
    if a.shape[-1] <= _UNROLLED:
        return _unrolled_cholesky(a)
    return by_platform(a, cpu=_plain_cholesky, default=lax.linalg.cholesky)


@cholesky.defjvp
def _cholesky_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """``dL = L phi(L^-1 dA L^-T)``, phi the lower triangle with half the diagonal (Murray 2016)."""
    lower, change = cholesky(*primals), symmetrize(*tangents)
    factor = inverse_factor(lower)
    inner = matmul(matmul(jnp.swapaxes(factor, -1, -2), change), factor)
    half = jnp.tril(inner) - 0.5 * inner * eye_like(inner)
    return lower, matmul(lower, half)


@jax.custom_jvp
def inverse_factor(lower: Float[Array, "*K D D"]) -> Float[Array, "*K D D"]:
    """``lower^-T``: the factor F with ``F F^T = (lower lower^T)^-1``."""
    if lower.shape[-1] <= _UNROLLED:
        return _unrolled_inverse_factor(lower)
    return by_platform(lower, cpu=_plain_inverse_factor, default=_solve_for_eye)


@inverse_factor.defjvp
def _inverse_factor_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    factor, change = inverse_factor(*primals), jnp.tril(*tangents)
    return factor, -matmul(matmul(factor, jnp.swapaxes(change, -1, -2)), factor)


def _solve_for_eye(lower: Array) -> Array:
    eye = jnp.broadcast_to(jnp.eye(lower.shape[-1], dtype=lower.dtype), lower.shape)
    return lax.linalg.triangular_solve(lower, eye, left_side=True, lower=True, transpose_a=True)


# Matrices up to this size are factored entry by entry: in half the time, and compiled in less. Of
# larger ones XLA's fusions would grow, and take longer to compile than a loop.
_UNROLLED = 2


def _unrolled_cholesky(a: Float[Array, "*K D D"]) -> Float[Array, "*K D D"]:
    rows: list[list[Array]] = []
    for i in range(a.shape[-1]):
        row: list[Array] = []
        for j in range(i + 1):
            left = rows[j] if j < i else row
            rest = a[..., i, j]
            for m in range(j):
                rest = rest - row[m] * left[m]
            row.append(rest / left[j] if j < i else jnp.sqrt(rest))
        rows.append(row)
    return _lower_triangle(rows)


def _unrolled_inverse_factor(lower: Float[Array, "*K D D"]) -> Float[Array, "*K D D"]:
    rows: list[list[Array]] = []
    for i in range(lower.shape[-1]):
        pivot = 1 / lower[..., i, i]
        row = [-pivot * sum(lower[..., i, m] * rows[m][j] for m in range(j, i)) for j in range(i)]
        rows.append([*row, pivot])
    return jnp.swapaxes(_lower_triangle(rows), -1, -2)


def _lower_triangle(rows: list[list[Array]]) -> Array:
    """The matrices of these entries, row i of which has i + 1."""
    zero = jnp.zeros_like(rows[0][0])
    filled = [row + [zero] * (len(rows) - len(row)) for row in rows]
    return jnp.stack([jnp.stack(row, axis=-1) for row in filled], axis=-2)


# Halves of matrices up to this size are not worth their products; of large matrices, whose programs
# are long, up to the second.
_LEAF = 64
_LARGE, _LARGE_LEAF = 256, 128


def _leaf_of(a: Array) -> int:
    return _LEAF if a.shape[-1] <= _LARGE else _LARGE_LEAF


def _plain_cholesky(a: Float[Array, "*K D D"], leaf: int | None = None) -> Float[Array, "*K D D"]:
    """By halves, in plain products (Golub & Van Loan 2013, section 4.2.6)."""
    half, leaf = a.shape[-1] // 2, leaf or _leaf_of(a)
    if a.shape[-1] <= leaf:
        return _cholesky_by_rows(a)
    first = _plain_cholesky(a[..., :half, :half], leaf)
    below = matmul(a[..., half:, :half], _plain_inverse_factor(first, leaf))
    rest = a[..., half:, half:] - matmul(below, jnp.swapaxes(below, -1, -2))
    zeros = jnp.zeros_like(a[..., :half, half:])
    return _quarters(first, zeros, below, _plain_cholesky(rest, leaf))


def _plain_inverse_factor(
    lower: Float[Array, "*K D D"], leaf: int | None = None
) -> Float[Array, "*K D D"]:
    """``[[A^-T, -A^-T B^T C^-T], [0, C^-T]]`` of ``[[A, 0], [B, C]]``."""
    half, leaf = lower.shape[-1] // 2, leaf or _leaf_of(lower)
    if lower.shape[-1] <= leaf:
        return _inverse_factor_by_rows(lower)
    below = lower[..., half:, :half]
    first = _plain_inverse_factor(lower[..., :half, :half], leaf)
    last = _plain_inverse_factor(lower[..., half:, half:], leaf)
    corner = -matmul(matmul(first, jnp.swapaxes(below, -1, -2)), last)
    return _quarters(first, corner, jnp.zeros_like(below), last)


def _quarters(a: Array, b: Array, c: Array, d: Array) -> Array:
    top, bottom = jnp.concatenate([a, b], axis=-1), jnp.concatenate([c, d], axis=-1)
    return jnp.concatenate([top, bottom], axis=-2)


def _cholesky_by_rows(a: Float[Array, "*K D D"]) -> Float[Array, "*K D D"]:
    """Left-looking, a row of the upper factor at a time (Golub & Van Loan 2013, section 4.2.5)."""
    index = jnp.arange(a.shape[-1])

    def step(j: Array, upper: Array) -> Array:
        above = lax.dynamic_index_in_dim(upper, j, upper.ndim - 1, keepdims=False)
        row = lax.dynamic_index_in_dim(a, j, a.ndim - 2, keepdims=False)
        # the rows from j on are still 0
        row = row - einsum("...i,...ik->...k", above, upper)
        pivot = lax.dynamic_index_in_dim(row, j, row.ndim - 1)
        # where it breaks down, all that follows is NaN
        row = jnp.where(index >= j, row / jnp.sqrt(pivot), 0)
        return lax.dynamic_update_index_in_dim(upper, row, j, upper.ndim - 2)

    return jnp.swapaxes(
        lax.fori_loop(0, a.shape[-1], step, varying_as(a, jnp.zeros_like(a))), -1, -2
    )


def _inverse_factor_by_rows(lower: Float[Array, "*K D D"]) -> Float[Array, "*K D D"]:
    """Forward substitution, a row of the inverse at a time."""
    eye = eye_like(lower)

    def step(i: Array, inverse: Array) -> Array:
        row = lax.dynamic_index_in_dim(lower, i, lower.ndim - 2, keepdims=False)
        pivot = lax.dynamic_index_in_dim(row, i, row.ndim - 1)
        # the rows from i on are still 0
        here = lax.dynamic_index_in_dim(eye, i, eye.ndim - 2, keepdims=False)
        new = (here - einsum("...j,...jk->...k", row, inverse)) / pivot
        return lax.dynamic_update_index_in_dim(inverse, new, i, inverse.ndim - 2)

    inverse = lax.fori_loop(0, lower.shape[-1], step, varying_as(lower, jnp.zeros_like(lower)))
    return jnp.swapaxes(inverse, -1, -2)


def inverse_of_factored(factor: Float[Array, "*K D D"]) -> Float[Array, "*K D D"]:
    """``(F F^T)^-1`` of any square factor F."""
    precision = matmul(factor, jnp.swapaxes(factor, -1, -2))
    root = inverse_factor(cholesky(precision))
    return matmul(root, jnp.swapaxes(root, -1, -2))


def solve_lower(
    lower: Float[Array, "... D D"], b: Float[Array, "... D"], *, transpose: bool = False
) -> Float[Array, "... D"]:
    """``lower^-1 b``, or ``lower^-T b``, for vectors b of the same or of broadcast batches."""
    return einsum("...ij,...j->...i" if transpose else "...ji,...j->...i", inverse_factor(lower), b)


def log_det(triangular: Float[Array, "*K D D"]) -> Float[Array, "*K"]:
    """Log of the absolute determinant of a triangular matrix."""
    return jnp.sum(jnp.log(jnp.abs(diagonal(triangular))), axis=-1)


def diagonal(a: Float[Array, "*K D D"]) -> Float[Array, "*K D"]:
    """The diagonal of each matrix."""
    return jnp.diagonal(a, axis1=-2, axis2=-1)


def eye_like(a: Float[Array, "*K D D"]) -> Array:
    """The identity, with as many axes as some matrices have, each of length 1 but the last two."""
    return led(jnp.eye(a.shape[-1], dtype=a.dtype), a)


def diagonal_matrix(a: Float[Array, "*K D"]) -> Float[Array, "*K D D"]:
    """Matrices with a given diagonal, and 0 beside it."""
    return a[..., None] * led(jnp.eye(a.shape[-1], dtype=a.dtype), a[..., None])


def outer(a: Float[Array, "*K D"]) -> Float[Array, "*K D D"]:
    """``a a^T`` for each row vector."""
    return a[..., :, None] * a[..., None, :]


def symmetrize(a: Float[Array, "*K D D"]) -> Float[Array, "*K D D"]:
    """The symmetric part, exact for a matrix that is symmetric but for rounding."""
    return 0.5 * (a + jnp.swapaxes(a, -1, -2))


def is_definite(a: Float[Array, "*K D D"]) -> Bool[Array, "*K"]:
    """Whether each matrix is positive definite: whether it has a Cholesky factor."""
    return jnp.all(jnp.isfinite(diagonal(cholesky(a))), axis=-1)
