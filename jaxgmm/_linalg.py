"""Small dense linear algebra by Cholesky factors and triangular solves, never an inverse.

Products that feed likelihoods ask for full precision: the default is TF32 on NVIDIA and
bfloat16 on TPU.
"""

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
    return lax.linalg.cholesky(a)


def inverse_factor(lower: Float[Array, "*K D D"]) -> Float[Array, "*K D D"]:
    """``lower^-T``: the factor F with ``F F^T = (lower lower^T)^-1``."""
    eye = jnp.broadcast_to(jnp.eye(lower.shape[-1], dtype=lower.dtype), lower.shape)
    return lax.linalg.triangular_solve(lower, eye, left_side=True, lower=True, transpose_a=True)


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
