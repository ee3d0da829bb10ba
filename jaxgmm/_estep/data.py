"""What is known of the samples, and how a pass takes it."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float

from jaxgmm._estep.structures import structure
from jaxgmm._numerics import linalg
from jaxgmm._numerics.blocks import scan_blocks
from jaxgmm._numerics.checks import check_samples, check_weights
from jaxgmm._numerics.inputs import as_floats
from jaxgmm._numerics.pytree import pytree, replace, static

Carry = TypeVar("Carry")

# A feature whose values lie within so many eps of themselves is constant.
CONSTANT = 8


@pytree
class Rows:
    """Samples with everything that is known about each of them.

    Every function of samples accepts `Rows` in place of an array. An array means rows of weight 1.

    Attributes:
        x: values, ``(N, D)``, floating-point and finite.
        weight: of each row, ``(N,)``, non-negative; None means 1. A row of weight 2 counts as two
            rows.

    Example:
        >>> import jax, jax.numpy as jnp, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> rows = jaxgmm.Rows(x, weight=jnp.ones(100).at[:50].set(2))
        >>> prior = jaxgmm.default_prior(x, 2)
        >>> result = jaxgmm.fit(jax.random.key(1), rows, jaxgmm.cavi(prior))
        >>> print(round(float(result.best.posterior.weights.concentration.sum() - 2)))
        150
    """

    x: Any
    weight: Any = None

    @property
    def n_samples(self) -> int:
        return self.x.shape[0]

    @property
    def n_features(self) -> int:
        return self.x.shape[1]

    @property
    def total(self) -> Float[Array, ""]:
        """Sum of the weights."""
        if self.weight is None:
            return jnp.asarray(self.n_samples, self.x.dtype)
        return jnp.sum(self.weight)

    def moments(self, kind: str = "full") -> tuple[Float[Array, " D"], Array]:
        """Mean and covariance (in the structure's shape) of the values."""
        return weighted_mean(self.x, self.weight), data_covariance(self.x, kind, self.weight)

    def take(self, index: Array) -> "Rows":
        """The rows with the given indices."""
        return Rows(self.x[index], None if self.weight is None else self.weight[index])

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


@runtime_checkable
class SupportsArray(Protocol):
    """What NumPy makes an array of, such as a data frame."""

    def __array__(self) -> Any: ...


# All that samples may be.
Samples = ArrayLike | Rows | Sequence[Any] | SupportsArray


def check_rows(x: Samples, sample_weight: ArrayLike | None = None) -> Rows:
    """Rows of checked arrays, from an array and its weights or from rows.

    Raises:
        ValueError: for samples that are not 2-d, floating-point and finite; weights of another
            shape, negative or all 0; or weights both in the rows and beside them.
    """
    weight = sample_weight
    if isinstance(x, Rows):
        if sample_weight is not None and x.weight is not None:
            raise ValueError(
                "sample_weight was given, but the rows have weights of their own; give only one."
            )
        weight = x.weight if sample_weight is None else sample_weight
        x = x.x
    x = check_samples(x)
    return Rows(x, check_weights(weight, x))


@pytree
class Data:
    """Rows as the iterations of a fit take them.

    Attributes:
        rows: of the whole data set, or of a minibatch of it.
        centre: point ``(D,)`` near the data from which features are measured.
        total: sum of the weights of the whole data set.
        scale: number of rows of the whole data set per row here; 1 unless it is a minibatch.
        row_per_weight: rows of the whole data set that a weight of 1 stands for; None means 1.
        axis: of the mesh over which the rows lie, inside `shard_map`; else None (static).
    """

    rows: Rows
    centre: Float[Array, " D"]
    total: Float[Array, ""]
    scale: Float[Array, ""]
    row_per_weight: Any = None
    axis: str | None = static(default=None)

    @property
    def x(self) -> Float[Array, "N D"]:
        return self.rows.x

    @property
    def weight(self) -> Float[Array, " N"] | None:
        return self.rows.weight


def prepare(rows: Rows) -> Data:
    """The data as an algorithm's iterations want them, computed once before a loop."""
    one, total = jnp.ones((), rows.x.dtype), rows.total
    # the effective number of rows is (sum w)^2 / sum w^2 (Kish 1965)
    share = None if rows.weight is None else total / jnp.sum(rows.weight**2)
    return Data(rows, weighted_mean(rows.x, rows.weight), total, one, share)


def as_rows(x: Any, sample_weight: Any = None) -> Rows:
    """Rows from an array and its weights or from rows, unchecked: inside of a larger program."""
    return x if isinstance(x, Rows) else Rows(x, sample_weight)


def floats_of(x: Any) -> Any:
    """What a user passed, an array of any library or rows, as floats that are not rounded yet."""
    return replace(x, x=as_floats(x.x)) if isinstance(x, Rows) else as_floats(x)


def weighted_mean(x: Float[Array, "N D"], weight: Array | None) -> Float[Array, " D"]:
    """Mean of the rows; those of weight 0 may be anything finite."""
    if weight is None:
        return jnp.mean(x, axis=0)
    return jnp.sum(weight[:, None] * x, axis=0) / jnp.sum(weight)


def data_covariance(
    x: Float[Array, "N D"], kind: str = "full", weight: Array | None = None
) -> Array:
    """Sample covariance, made positive definite where the data are flat.

    ``(D, D)`` for structures of matrices, else the variances ``(D,)``. Its divisor is N - 1. With
    weights it is the larger one of ``sum w - 1``, so that rows of weight 2 count as two, and of
    ``sum w - sum w^2 / sum w``, which does not depend on the scale of the weights.
    """
    full = structure(kind).separate == "full"
    return (_covariance if full else _variances)(x, weight)


def _centred(x: Float[Array, "N D"], weight: Array | None) -> tuple[Array, Array]:
    """The rows about their mean times the roots of their weights, and the covariance's divisor."""
    centred = jnp.where(_flat(x, weight), 0, x - weighted_mean(x, weight)[None])
    if weight is None:
        return centred, jnp.asarray(max(x.shape[0] - 1, 1), x.dtype)
    total = jnp.sum(weight)
    divisor = total - jnp.minimum(1, jnp.sum(weight**2) / total)
    return jnp.sqrt(weight)[:, None] * centred, jnp.where(divisor > 0, divisor, total)


@jax.jit
def _covariance(x: Float[Array, "N D"], weight: Array | None) -> Float[Array, "D D"]:
    centred, divisor = _centred(x, weight)
    matrix = linalg.matmul(centred.T, centred) / divisor
    units = _units(linalg.diagonal(matrix))
    eps = jnp.finfo(x.dtype).eps
    sd = jnp.sqrt(units)
    correlation = matrix / (sd[:, None] * sd[None])
    eye = jnp.eye(x.shape[1], dtype=x.dtype)
    singular = jnp.any(jnp.isnan(linalg.cholesky(correlation - 64 * eps * eye)))
    return matrix + jnp.where(singular, eps ** (1 / 3), 0) * jnp.diag(units)


@jax.jit
def _variances(x: Float[Array, "N D"], weight: Array | None) -> Float[Array, " D"]:
    centred, divisor = _centred(x, weight)
    variances = jnp.sum(centred**2, axis=0) / divisor
    flat = jnp.any(variances == 0)
    eps = jnp.finfo(x.dtype).eps
    return variances + jnp.where(flat, eps ** (1 / 3), 0) * _units(variances)


def _flat(x: Float[Array, "N D"], weight: Array | None) -> Bool[Array, "1 D"]:
    """Whether a feature is constant; its mean, of many samples, is rounded by more than it is."""
    return (extents(x, weight) == 0)[None]


def extents(x: Float[Array, "N D"], weight: Array | None) -> Float[Array, " D"]:
    """The largest minus the smallest value of each feature; 0 of a constant one."""
    high, low, size = x, x, jnp.abs(x)
    if weight is not None:
        used = (weight > 0)[:, None]
        high, low = jnp.where(used, x, -jnp.inf), jnp.where(used, x, jnp.inf)
        size = jnp.where(used, size, 0)
    extent = jnp.max(high, axis=0) - jnp.min(low, axis=0)
    constant = extent <= CONSTANT * jnp.finfo(x.dtype).eps * jnp.max(size, axis=0)
    return jnp.where(constant, 0, extent)


def _units(variances: Float[Array, " D"]) -> Float[Array, " D"]:
    """The variances; a constant feature has no unit of its own, and takes the largest."""
    largest = jnp.max(variances)
    return jnp.where(variances > 0, variances, jnp.where(largest > 0, largest, 1))
