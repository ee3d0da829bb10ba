"""What every covariance structure provides."""

from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgmm._numerics import linalg
from jaxgmm._numerics.arrays import led
from jaxgmm._numerics.bijections import CovarianceMap, VarianceMap

# The smallest eigenvalue of correlations that a dtype resolves while it iterates, in units of eps.
SAFE = 64


@runtime_checkable
class Structure(Protocol):
    """The operations of a covariance structure, on one lane.

    S is the shape in which the structure stores a scatter, a precision factor or a covariance:
    ``(K, D, D)`` full, ``(D, D)`` tied, ``(K, D)`` diag, ``(K,)`` spherical. Samples come last,
    ``(D, B)``, and are measured from a centre that the pass chooses.
    """

    # --- one pass over the rows ---------------------------------------------------------------

    # (D, B) samples to (F, B) features in which every logit is linear.
    def features(self, x: Array) -> Array: ...
    # (K,), (K, D), S potentials to the (K, F) coefficients of those features.
    def coefficients(self, const: Array, mean: Array, factor: Array) -> Array: ...
    # The part of the log-evidence that no component has of its own, from ``total``.
    def shared_log_density(self, factor: Array, total: Array) -> Array: ...
    # (D, B) samples, (B,) weights to the moment common to the components and lanes.
    def total(self, x: Array, weight: Array) -> Array: ...
    # (K, F) weighted feature sums to ``count (K,), mean (K, D), scatter S``.
    def moments(self, raw: Array, total: Array) -> tuple[Array, Array, Array]: ...
    # (K, D, B) residuals times the factor: (K, D, B) whose squares sum to Mahalanobis'.
    def whiten(self, residual: Array, factor: Array) -> Array: ...
    # (K, D, B) residuals, (K, B) weights to the weighted sum of outer products, S.
    def scatter(self, residual: Array, weight: Array) -> Array: ...

    # (K, D, D) sums of outer products, of one for all components, or (K, D) of squares, to S.
    def gathered(self, products: Array) -> Array: ...

    # --- scatters and factors -----------------------------------------------------------------

    # (K,) weights, (K, D) vectors to the weighted outer products, S.
    def outer(self, weight: Array, delta: Array) -> Array: ...
    # The sum over components of ``trace(scatter factor factor^T)``: a scalar.
    def contract(self, scatter: Array, factor: Array) -> Array: ...
    # (K, D) vectors times the factor: (K, D).
    def project(self, delta: Array, factor: Array) -> Array: ...
    # S of renamed components: the new k is the old ``order[k]``.
    def reorder(self, a: Array, order: Array) -> Array: ...
    # S with parts added, ``(M, J, ...)`` of the components ``index (M, J)``; if tied ``(M, D, D)``.
    def add_parts(self, a: Array, index: Array, parts: Array) -> Array: ...

    # --- covariances --------------------------------------------------------------------------

    # What S keeps, for one component, of a covariance ``(D, D)`` or of variances ``(D,)``.
    def reduce(self, matrix: Array) -> Array: ...
    # (K, D, D) covariances to the nearest with a component's shape of S, led by K.
    def of_matrices(self, matrices: Array) -> Array: ...
    # S as matrices, ``(K, D, D)``: for people, never inside a fit.
    def matrices(self, covariance: Array, n_components: int, dimension: int) -> Array: ...
    # The variance of each feature under each component, ``(K, D)``.
    def variances(self, covariance: Array, n_components: int, dimension: int) -> Array: ...
    # S of samples multiplied by a matrix: (D, D), or factors as the structure keeps variances.
    def congruent(self, covariance: Array, matrix: Array) -> Array: ...
    # What that adds to the log of volumes of one component's S, if ``log_det`` to those of samples.
    def log_volume(self, log_det: Array, dimension: int) -> Array: ...
    # S with a variance more in every direction.
    def regularise(self, covariance: Array, variance: Array | float) -> Array: ...
    # A factor F of the precision, S, and ``log|F|``, ``(K,)`` or a scalar if tied.
    def invert(self, covariance: Array, dimension: int) -> tuple[Array, Array]: ...
    # S of the precisions ``F F^T`` of any factors F.
    def covariance(self, factor: Array) -> Array: ...
    # Half of ``log|Sigma|``: (K,), or a scalar if tied.
    def half_log_det(self, covariance: Array, dimension: int) -> Array: ...
    # Whether its correlations have eigenvalues above ``margin`` eps: (K,), or a scalar if tied.
    def resolved(self, covariance: Array, margin: int = SAFE) -> Array: ...
    # Whether ``Sigma_k - ratio_k sum_j share_j Sigma_j`` is positive definite: (K,).
    def exceeds(self, covariance: Array, ratio: Array, share: Array) -> Array: ...
    # A square root, S: the lower Cholesky factor, or the standard deviations.
    def root(self, covariance: Array) -> Array: ...
    # Draws (n, D) from standard normal ones and the roots of n covariances, S led by n.
    def colour(self, root: Array, noise: Array) -> Array: ...
    # The map from unconstrained space onto S.
    def bijection(self) -> Any: ...

    # --- a component's own covariance ---------------------------------------------------------

    # The structure in which each component has a covariance of its own.
    @property
    def separate(self) -> str: ...
    # What a displacement (D,) adds to a component's covariance, of the second moment 1.
    def square(self, delta: Array) -> Array: ...
    # Axis of the given rank, 0 the longest, of one component: sd times direction, (D,).
    def axis(self, covariance: Array, rank: Array, dimension: int) -> Array: ...


def products_with_one(x: Array, first: np.ndarray, second: np.ndarray) -> Array:
    """Products of two rows of ``x`` and a last row of ones: of each ``first`` and ``second``.

    One gather for all features. Beside a concatenation of products and rows XLA would make each
    from the samples by itself, at twice the cost of a whole pass.
    """
    extended = jnp.concatenate([x, jnp.ones_like(x[:1])])
    return extended[first] * extended[second]


class OwnCovariance:
    """What the structures share in which every component has a covariance of its own."""

    def shared_log_density(self, factor: Array, total: Array) -> Array:
        return jnp.zeros((), factor.dtype)

    def total(self, x: Array, weight: Array) -> Array:
        return jnp.zeros((0,), x.dtype)

    def reorder(self, a: Array, order: Array) -> Array:
        return a[order]

    def add_parts(self, a: Array, index: Array, parts: Array) -> Array:
        return a.at[index].add(parts)


class MatrixCovariance:
    """What the structures share whose covariances are matrices."""

    separate = "full"

    def contract(self, scatter: Array, factor: Array) -> Array:
        return jnp.sum(linalg.matmul(scatter, factor) * factor)

    def reduce(self, matrix: Array) -> Array:
        return jnp.diag(matrix) if matrix.ndim == 1 else matrix

    def of_matrices(self, matrices: Array) -> Array:
        return matrices

    def matrices(self, covariance: Array, n_components: int, dimension: int) -> Array:
        return jnp.broadcast_to(covariance, (n_components, dimension, dimension))

    def variances(self, covariance: Array, n_components: int, dimension: int) -> Array:
        return jnp.broadcast_to(linalg.diagonal(covariance), (n_components, dimension))

    def congruent(self, covariance: Array, matrix: Array) -> Array:
        return linalg.symmetrize(linalg.matmul(linalg.matmul(matrix.T, covariance), matrix))

    def log_volume(self, log_det: Array, dimension: int) -> Array:
        return (dimension + 1) * log_det

    def regularise(self, covariance: Array, variance: Array | float) -> Array:
        return covariance + variance * linalg.eye_like(covariance)

    def invert(self, covariance: Array, dimension: int) -> tuple[Array, Array]:
        factor = linalg.inverse_factor(linalg.cholesky(covariance))
        return factor, linalg.log_det(factor)

    def covariance(self, factor: Array) -> Array:
        return linalg.inverse_of_factored(factor)

    def half_log_det(self, covariance: Array, dimension: int) -> Array:
        return linalg.log_det(linalg.cholesky(covariance))

    def resolved(self, covariance: Array, margin: int = SAFE) -> Array:
        eps = jnp.finfo(covariance.dtype).eps
        sd = jnp.sqrt(linalg.diagonal(covariance))
        correlation = covariance / (sd[..., :, None] * sd[..., None, :])
        return linalg.is_definite(correlation - margin * eps * linalg.eye_like(correlation))

    def root(self, covariance: Array) -> Array:
        return linalg.cholesky(covariance)

    def colour(self, root: Array, noise: Array) -> Array:
        return linalg.einsum("...ij,...j->...i", root, noise)

    def square(self, delta: Array) -> Array:
        return linalg.outer(delta)

    def axis(self, covariance: Array, rank: Array, dimension: int) -> Array:
        variances, axes = jnp.linalg.eigh(covariance)
        which = jnp.maximum(dimension - 1 - rank, 0)
        return jnp.sqrt(variances[which]) * axes[:, which]

    def bijection(self) -> Any:
        return CovarianceMap()


class VarianceCovariance(OwnCovariance):
    """What the structures share whose covariances are variances, ``(K,)`` or ``(K, D)``."""

    def congruent(self, covariance: Array, matrix: Array) -> Array:
        return covariance * led(matrix**2, covariance)

    def log_volume(self, log_det: Array, dimension: int) -> Array:
        return 2 * log_det

    def regularise(self, covariance: Array, variance: Array | float) -> Array:
        return covariance + variance

    def covariance(self, factor: Array) -> Array:
        return factor**-2

    def contract(self, scatter: Array, factor: Array) -> Array:
        return jnp.sum(scatter * factor**2)

    def invert(self, covariance: Array, dimension: int) -> tuple[Array, Array]:
        return 1 / jnp.sqrt(covariance), -self.half_log_det(covariance, dimension)

    def half_log_det(self, covariance: Array, dimension: int) -> Array:
        raise NotImplementedError

    def root(self, covariance: Array) -> Array:
        return jnp.sqrt(covariance)

    def bijection(self) -> Any:
        return VarianceMap()
