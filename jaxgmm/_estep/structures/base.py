"""What every covariance structure provides."""

from typing import Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jax import Array


@runtime_checkable
class Structure(Protocol):
    """The operations of a covariance structure, on one lane.

    Samples come last, ``(D, B)``, and are measured from a centre that the kernel chooses; S is
    the shape in which the structure stores a scatter or a factor.
    """

    def features(self, x: Array) -> Array:
        """(D, B) samples to (F, B) features in which every logit is linear."""
        ...

    def coefficients(self, const: Array, mean: Array, factor: Array) -> Array:
        """(K,), (K, D), S potentials to the (K, F) coefficients of those features."""
        ...

    def shared_log_density(self, factor: Array, total: Array) -> Array:
        """The part of the log-evidence that no component has of its own, from ``total``."""
        ...

    def total(self, x: Array, weight: Array) -> Array:
        """(D, B) samples, (B,) weights to the moment common to the components and lanes."""
        ...

    def moments(self, raw: Array, total: Array) -> tuple[Array, Array, Array]:
        """(K, F) weighted feature sums to ``count (K,), mean (K, D), scatter S``."""
        ...

    def whiten(self, residual: Array, factor: Array) -> Array:
        """(K, D, B) residuals times the factor: (K, D, B) whose squares sum to Mahalanobis'."""
        ...

    def scatter(self, residual: Array, weight: Array) -> Array:
        """(K, D, B) residuals, (K, B) weights to the weighted sum of outer products, S."""
        ...

    def outer(self, weight: Array, delta: Array) -> Array:
        """(K,) weights, (K, D) vectors to the weighted outer products, S."""
        ...

    def contract(self, scatter: Array, factor: Array) -> Array:
        """The sum over components of ``trace(scatter factor factor^T)``: a scalar."""
        ...

    def project(self, delta: Array, factor: Array) -> Array:
        """(K, D) vectors times the factor: (K, D)."""
        ...

    def covariances(self, factor: Array, dimension: int) -> Array:
        """The covariance matrices of precisions ``F F^T``: (K, D, D), or (D, D) if common."""
        ...


def products_with_one(x: Array, first: np.ndarray, second: np.ndarray) -> Array:
    """Products of two rows of ``x`` and a last row of ones: of each ``first`` and ``second``.

    One gather for all features. Beside a concatenation of products and rows XLA would make each
    from the samples by itself, at twice the cost of a whole pass.
    """
    extended = jnp.concatenate([x, jnp.ones_like(x[:1])])
    return extended[first] * extended[second]
