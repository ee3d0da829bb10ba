"""What is known of the samples: values and weights, gaps, errors and labels."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float

from jaxgmm._estep.groups import groups_of
from jaxgmm._estep.moments import data_covariance, expected_values, feature_noise, weighted_mean
from jaxgmm._numerics.affine import Affine
from jaxgmm._numerics.blocks import scan_blocks
from jaxgmm._numerics.calls import described
from jaxgmm._numerics.checks import is_traced
from jaxgmm._numerics.inputs import as_floats, some_rows
from jaxgmm._numerics.linalg import diagonal_matrix, matmul
from jaxgmm._numerics.pytree import pytree, replace

Carry = TypeVar("Carry")


@pytree
class Rows:
    """Samples with everything that is known about each of them.

    Every function of samples accepts `Rows` in place of an array. An array means complete rows of
    weight 1, without errors and labels.

    A fit maximises the likelihood of what was observed: missing values are integrated out, and so
    are the true values behind those that were measured with an error. The fitted mixture is that of
    the true values.

    Attributes:
        x: values, ``(N, D)``, floating-point and finite, save where they are missing.
        weight: of each row, ``(N,)``, non-negative; None means 1. A row of weight 2 counts as two
            rows.
        missing: which values are missing, ``(N, D)``, True where one is, as in NumPy's masked
            arrays; or ``"nan"``, where x is NaN. A row in which all are missing says nothing of the
            components. Values are missing at random (Rubin 1976): that a value is missing does not
            depend on the value.
        noise: the variance of each row's measurement errors, which are normal with mean 0: ``(N,)``
            for all features alike, ``(N, D)`` for each feature, or covariances ``(N, D, D)``.
        labels: the component of each row, ``(N,)`` integers, -1 where it is not known; or the
            components that each row may belong to, ``(N, K)`` booleans. A component keeps the name
            that its labels give it.
        groups: rows with the same values missing, together; `fit` finds them, nobody gives them.

    Example:
        >>> import jax, jax.numpy as jnp, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2)).at[:10, 0].set(jnp.nan)
        >>> rows = jaxgmm.Rows(x, weight=jnp.ones(100).at[:50].set(2), missing="nan")
        >>> prior = jaxgmm.default_prior(rows, 2)
        >>> result = jaxgmm.fit(jax.random.key(1), rows, jaxgmm.cavi(prior))
        >>> print(round(float(result.best.posterior.weights.concentration.sum() - 2)))
        150
    """

    x: Any
    weight: Any = None
    missing: Any = None
    noise: Any = None
    labels: Any = None
    groups: Any = None

    @property
    def n_samples(self) -> int:
        return self.x.shape[0]

    @property
    def n_features(self) -> int:
        return self.x.shape[1]

    @property
    def is_complete(self) -> bool:
        """Whether every value is known, and exactly."""
        return self.missing is None and self.noise is None

    @property
    def total(self) -> Float[Array, ""]:
        """Sum of the weights."""
        if self.weight is None:
            return jnp.asarray(self.n_samples, self.x.dtype)
        return jnp.sum(self.weight)

    def moments(self, kind: str = "full") -> tuple[Float[Array, " D"], Array]:
        """Mean and covariance (in the structure's shape) of the values.

        Where some are missing or have errors, the values are those that each feature predicts by
        itself, and the variances are made as large as the feature's.
        """
        if self.is_complete:
            return weighted_mean(self.x, self.weight), data_covariance(self.x, kind, self.weight)
        x, remains = expected_values(self.x, self.weight, self.missing, self.noise)
        covariance = data_covariance(x, kind, self.weight)
        more = diagonal_matrix(remains) if covariance.ndim == 2 else remains
        return weighted_mean(x, self.weight), covariance + more

    def completed(self) -> "Rows":
        """Complete rows to start from, with the same weights and labels.

        Each value is what its feature alone predicts of it.
        """
        if self.is_complete:
            return self
        x, _ = expected_values(self.x, self.weight, self.missing, self.noise)
        return Rows(x, self.weight, labels=self.labels)

    def mapped(self, to: Affine, x: Any) -> "Rows":
        """The rows in other coordinates, in which their values are x; see `Affine`."""
        if self.noise is None:
            return replace(self, x=x)
        matrix, noise = jnp.asarray(to.matrix, x.dtype), jnp.asarray(self.noise, x.dtype)
        if noise.ndim == 3:
            if matrix.ndim < 2:
                matrix = diagonal_matrix(jnp.broadcast_to(matrix, (self.n_features,)))
            return replace(self, x=x, noise=matmul(matmul(matrix.T, noise), matrix))
        if matrix.ndim == 0:
            return replace(self, x=x, noise=noise * matrix**2)
        # the rows are not complete, and their coordinates are scaled features
        squares = (jnp.diagonal(matrix) if matrix.ndim == 2 else matrix) ** 2
        return replace(self, x=x, noise=feature_noise(noise, self.x.shape) * squares[None])

    @property
    def by_themselves(self) -> "Rows":
        """The rows without their groups."""
        return self if self.groups is None else replace(self, groups=None)

    def grouped(self) -> "Rows":
        """The rows with their groups, where the patterns of missing values are few."""
        if self.missing is None or self.noise is not None:
            return self
        return replace(self, groups=groups_of(self.missing, self.x.dtype))

    def take(self, index: Array) -> "Rows":
        """The rows with the given indices."""
        return jax.tree.map(lambda a: a[index], self.by_themselves)

    def sample(self, key: Array, n: int) -> "Rows":
        """``n`` random rows, with replacement; all rows if there are at most ``n``."""
        if self.n_samples <= n:
            return self
        return self.take(jax.random.randint(key, (n,), 0, self.n_samples))

    def blocks(
        self, body: Callable[[Carry, Any, Array], Carry], carry: Carry, block_size: int
    ) -> Carry:
        """Fold ``body(carry, x (B, D), weight (1, B))`` over blocks of rows."""
        weight = None if self.weight is None else self.weight[None]
        return scan_blocks(body, carry, self.x, weight, block_size)


def allowed(labels: Array | None, n_components: int) -> Bool[Array, "N K"] | None:
    """The components that each row may belong to; None for all."""
    if labels is None or labels.ndim == 2:
        return labels
    number = jnp.arange(n_components, dtype=labels.dtype)[None]
    return (labels[:, None] < 0) | (labels[:, None] == number)


@runtime_checkable
class SupportsArray(Protocol):
    """What NumPy makes an array of, such as a data frame."""

    def __array__(self) -> Any: ...


# All that samples may be.
Samples = ArrayLike | Rows | Sequence[Any] | SupportsArray


def as_rows(x: Any, sample_weight: Any = None) -> Rows:
    """Rows from an array and its weights or from rows, unchecked: inside of a larger program."""
    if not isinstance(x, Rows):
        return Rows(x, sample_weight)
    return x if x.missing is None else filled(x)


def floats_of(x: Any) -> Any:
    """What a user passed, an array of any library or rows, as floats that are not rounded yet.

    What is missing is then a mask, and the values there are the means of their columns.
    """
    if not isinstance(x, Rows):
        return as_floats(x)
    rows = replace(x, x=as_floats(x.x))
    return rows if x.missing is None or rows.x.ndim != 2 else filled(rows)


def filled(rows: Rows) -> Rows:
    """The rows with a mask of what is missing, and with means in its place."""
    x, missing = rows.x, rows.missing
    xp = x.__array_namespace__()
    if isinstance(missing, str):
        if missing != "nan":
            raise ValueError(
                f'missing must be a mask (N, D) or "nan", but it is {missing!r}; call '
                'jaxgmm.Rows(x, missing="nan").'
            )
        mask = xp.isnan(x)
    else:
        mask = missing if isinstance(missing, jax.Array) else np.asarray(missing)
        if mask.shape != x.shape or mask.dtype != bool:
            raise ValueError(
                f"missing must be booleans of the shape of x, {tuple(x.shape)}, True where a value "
                f"is missing, but it is {described(mask)}; for instance missing=np.isnan(x)."
            )
        mask = xp.asarray(mask)
    seen = xp.where(mask, xp.zeros_like(x), x)
    count = xp.sum(~mask, axis=0)
    if not is_traced(count) and (np.asarray(count) == 0).any():
        empty = some_rows(np.asarray(count) == 0, "columns")
        raise ValueError(f"column(s) {empty} of x have no value at all; leave them out.")
    # what looks at the values alone sees no new ones of any size
    share = xp.where(count > 0, count, 1).astype(x.dtype)
    mean = xp.sum(seen / share[None], axis=0)
    return replace(rows, x=xp.where(mask, mean[None], x), missing=mask)
