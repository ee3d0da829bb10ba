"""Small dense linear algebra by Cholesky factors and triangular solves, never an inverse.

Products that feed likelihoods ask for full precision: the default is TF32 on NVIDIA and
bfloat16 on TPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

HIGHEST = lax.Precision.HIGHEST


def matmul(a: Array, b: Array) -> Array:
    """``a @ b`` in the full precision of its dtype."""
    return jnp.matmul(a, b, precision=HIGHEST)


def einsum(subscripts: str, *operands: Array) -> Array:
    """`jnp.einsum` in the full precision of its dtype."""
    return jnp.einsum(subscripts, *operands, precision=HIGHEST)


def cholesky(a: Float[Array, "*K D D"]) -> Float[Array, "*K D D"]:
    """Lower Cholesky factor; NaN where ``a`` is not positive definite."""
    return _blocked_cholesky(a) if _without_lapack.get() else lax.linalg.cholesky(a)


def inverse_factor(lower: Float[Array, "*K D D"]) -> Float[Array, "*K D D"]:
    """``lower^-T``: the factor F with ``F F^T = (lower lower^T)^-1``."""
    if _without_lapack.get():
        return _blocked_inverse_factor(lower)
    eye = jnp.broadcast_to(jnp.eye(lower.shape[-1], dtype=lower.dtype), lower.shape)
    return lax.linalg.triangular_solve(lower, eye, left_side=True, lower=True, transpose_a=True)


_without_lapack: ContextVar[bool] = ContextVar("without_lapack", default=False)


@contextmanager
def without_lapack() -> Iterator[None]:
    """Factor by plain operations in what is traced inside.

    On a CPU with several devices a batch of LAPACK's factorisations waits for threads, and an
    all-reduction of another device may hold the last of them for ever (jaxlib 0.10).
    """
    token = _without_lapack.set(True)
    try:
        yield
    finally:
        _without_lapack.reset(token)


# Halves of matrices up to this size are not worth their products.
_LEAF = 32


def _blocked_cholesky(a: Float[Array, "*K D D"]) -> Float[Array, "*K D D"]:
    """By halves, in plain products (Golub & Van Loan 2013, section 4.2.6)."""
    half = a.shape[-1] // 2
    if a.shape[-1] <= _LEAF:
        return _cholesky_by_columns(a)
    first = _blocked_cholesky(a[..., :half, :half])
    below = matmul(a[..., half:, :half], _blocked_inverse_factor(first))
    rest = a[..., half:, half:] - matmul(below, jnp.swapaxes(below, -1, -2))
    zeros = jnp.zeros_like(a[..., :half, half:])
    return _quarters(first, zeros, below, _blocked_cholesky(rest))


def _blocked_inverse_factor(lower: Float[Array, "*K D D"]) -> Float[Array, "*K D D"]:
    """``[[A^-T, -A^-T B^T C^-T], [0, C^-T]]`` of ``[[A, 0], [B, C]]``."""
    half = lower.shape[-1] // 2
    if lower.shape[-1] <= _LEAF:
        return _inverse_factor_by_rows(lower)
    below = lower[..., half:, :half]
    first = _blocked_inverse_factor(lower[..., :half, :half])
    last = _blocked_inverse_factor(lower[..., half:, half:])
    corner = -matmul(matmul(first, jnp.swapaxes(below, -1, -2)), last)
    return _quarters(first, corner, jnp.zeros_like(below), last)


def _quarters(a: Array, b: Array, c: Array, d: Array) -> Array:
    top, bottom = jnp.concatenate([a, b], axis=-1), jnp.concatenate([c, d], axis=-1)
    return jnp.concatenate([top, bottom], axis=-2)


def _cholesky_by_columns(a: Float[Array, "*K D D"]) -> Float[Array, "*K D D"]:
    """Right-looking, a column at a time (Golub & Van Loan 2013, algorithm 4.2.5)."""
    index = jnp.arange(a.shape[-1])

    def step(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        rest, lower = carry
        column = lax.dynamic_index_in_dim(rest, j, rest.ndim - 1, keepdims=False)
        pivot = lax.dynamic_index_in_dim(column, j, column.ndim - 1)
        column = jnp.where(index >= j, column / jnp.sqrt(pivot), 0)
        # where it breaks down, all that follows is NaN
        lower = lax.dynamic_update_index_in_dim(lower, column, j, lower.ndim - 1)
        return rest - outer(column), lower

    return lax.fori_loop(0, a.shape[-1], step, (a, jnp.zeros_like(a)))[1]


def _inverse_factor_by_rows(lower: Float[Array, "*K D D"]) -> Float[Array, "*K D D"]:
    """Forward substitution, a row of the inverse at a time."""
    eye = jnp.eye(lower.shape[-1], dtype=lower.dtype)

    def step(i: Array, inverse: Array) -> Array:
        row = lax.dynamic_index_in_dim(lower, i, lower.ndim - 2, keepdims=False)
        pivot = lax.dynamic_index_in_dim(row, i, row.ndim - 1)
        # the rows from i on are still 0
        new = (eye[i] - einsum("...j,...jk->...k", row, inverse)) / pivot
        return lax.dynamic_update_index_in_dim(inverse, new, i, inverse.ndim - 2)

    inverse = lax.fori_loop(0, lower.shape[-1], step, jnp.zeros_like(lower))
    return jnp.swapaxes(inverse, -1, -2)


def inverse_of_factored(factor: Float[Array, "*K D D"]) -> Float[Array, "*K D D"]:
    """``(F F^T)^-1`` of any square factor F."""
    precision = matmul(factor, jnp.swapaxes(factor, -1, -2))
    root = inverse_factor(cholesky(precision))
    return matmul(root, jnp.swapaxes(root, -1, -2))


def solve_lower(
    lower: Float[Array, "*K D D"], b: Float[Array, "*K D"], *, transpose: bool = False
) -> Float[Array, "*K D"]:
    """``lower^-1 b``, or ``lower^-T b``, for a vector b."""
    return lax.linalg.triangular_solve(
        lower, b[..., None], left_side=True, lower=True, transpose_a=transpose
    )[..., 0]


def log_det(triangular: Float[Array, "*K D D"]) -> Float[Array, "*K"]:
    """Log of the absolute determinant of a triangular matrix."""
    return jnp.sum(jnp.log(jnp.abs(diagonal(triangular))), axis=-1)


def diagonal(a: Float[Array, "*K D D"]) -> Float[Array, "*K D"]:
    """The diagonal of each matrix."""
    return jnp.diagonal(a, axis1=-2, axis2=-1)


def outer(a: Float[Array, "*K D"]) -> Float[Array, "*K D D"]:
    """``a a^T`` for each row vector."""
    return a[..., :, None] * a[..., None, :]


def symmetrize(a: Float[Array, "*K D D"]) -> Float[Array, "*K D D"]:
    """The symmetric part, exact for a matrix that is symmetric but for rounding."""
    return 0.5 * (a + jnp.swapaxes(a, -1, -2))


def safe_divide(numerator: Array, denominator: Array) -> Array:
    """``numerator / denominator``, and 0 with a zero gradient where the denominator is 0."""
    zero = denominator == 0
    return jnp.where(zero, 0, numerator / jnp.where(zero, 1, denominator))
