"""Statistics of given assignments: responsibilities, labels, or the nearest of some points."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jaxgmm._estep.rows import Rows, allowed
from jaxgmm._estep.stats import Stats
from jaxgmm._estep.structures import structure
from jaxgmm._numerics import linalg
from jaxgmm._numerics.arrays import safe_divide
from jaxgmm._numerics.blocks import choose_block_size, map_blocks, scan_blocks

# Of more components than this labels are no one-hot rows: sums go to where they belong, and
# distances are products.
_MANY = 512


def _assigned_stats(
    rows: Any,
    respond: Callable[[Any], Array],
    weight: Array | None,
    n_components: int,
    structure_name: str,
) -> Stats:
    """Two passes, the means first and then residuals from them: exact however far the clusters.

    ``respond`` maps a block of rows, of which the first leaf is x, to (K, B) responsibilities.
    """
    x = jax.tree.leaves(rows)[0]
    kind = structure(structure_name)
    dimension = x.shape[1]
    size = choose_block_size(x.shape[0], 2 * n_components * dimension, x.dtype)
    weight = None if weight is None else weight[None]
    centre = x[0]

    def first(carry: tuple[Array, Array, Array], block: Any, w: Array) -> Any:
        count, total, entropy = carry
        r = respond(block)
        logs = jnp.log(jnp.where(r > 0, r, 1))
        entropy = entropy - jnp.sum(w * r * logs)
        r = r * w
        offset = jax.tree.leaves(block)[0] - centre[None]
        return count + jnp.sum(r, axis=-1), total + linalg.matmul(r, offset), entropy

    zero = jnp.zeros((), x.dtype)
    zeros = (jnp.zeros((n_components,), x.dtype), jnp.zeros((n_components, dimension), x.dtype))
    count, total, entropy = scan_blocks(first, (*zeros, zero), rows, weight, size)
    mean = centre[None] + safe_divide(total, count[:, None])

    def second(scatter: Array, block: Any, w: Array) -> Array:
        residual = jax.tree.leaves(block)[0].T[None] - mean[:, :, None]
        return scatter + kind.scatter(residual, respond(block) * w)

    scatter = scan_blocks(second, kind.outer(*zeros), rows, weight, size)
    return Stats(count, mean, scatter, entropy, zero, structure_name)


def _labelled_stats(
    x: Array, labels: Array, n_components: int, weight: Array | None, structure_name: str
) -> Stats:
    """`_assigned_stats` of labels, where each row adds to its own component alone."""
    kind, dimension = structure(structure_name), x.shape[1]
    size = choose_block_size(x.shape[0], 2 * dimension**2, x.dtype)
    weight = None if weight is None else weight[None]
    centre, zero = x[0], jnp.zeros((), x.dtype)

    def first(carry: tuple[Array, Array], block: tuple[Array, Array], w: Array) -> Any:
        count, total = carry
        rows, index = block
        offset = w[0][:, None] * (rows - centre[None])
        return count.at[index].add(w[0]), total.at[index].add(offset)

    zeros = (jnp.zeros((n_components,), x.dtype), jnp.zeros((n_components, dimension), x.dtype))
    rows = (x, labels.astype(jnp.int32))
    count, total = scan_blocks(first, zeros, rows, weight, size)
    mean = centre[None] + safe_divide(total, count[:, None])

    def second(scatter: Array, block: tuple[Array, Array], w: Array) -> Array:
        residual = block[0] - mean[block[1]]
        parts = jax.vmap(lambda w, r: kind.outer(w[None], r[None]))(w[0], residual)
        return kind.add_parts(scatter, block[1][:, None], parts)

    scatter = scan_blocks(second, kind.outer(*zeros), rows, weight, size)
    return Stats(count, mean, scatter, zero, zero, structure_name)


@functools.partial(jax.jit, static_argnames="structure")
def from_responsibilities(
    x: Float[Array, "N D"],
    responsibilities: Float[Array, "N K"],
    *,
    sample_weight: Float[Array, " N"] | None = None,
    structure: str = "full",
) -> Stats:
    """Sufficient statistics under responsibilities of your own.

    Their ``log_evidence`` is 0, because it belongs to potentials and there are none. With these
    statistics, `bound` gives the objective for any responsibilities, not only the optimal ones.

    Args:
        x: samples, ``(N, D)``.
        responsibilities: ``(N, K)``, rows that sum to 1.
        sample_weight: non-negative, ``(N,)``.
        structure: ``"full"``, or ``"tied"`` for a known covariance; `prior.components.structure`.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> x = jnp.array([[0.0], [1.0], [5.0]])
        >>> stats = jaxgmm.stats.from_responsibilities(x, jnp.array([[1.0, 0], [1, 0], [0, 1]]))
        >>> print(stats.count, stats.mean[:, 0])
        [2. 1.] [0.5 5. ]
    """
    rows = (x, responsibilities)
    k = responsibilities.shape[1]
    return _assigned_stats(rows, lambda b: b[1].T, sample_weight, k, structure)


@functools.partial(jax.jit, static_argnames=("n_components", "structure"))
def from_labels(
    x: Float[Array, "N D"],
    labels: Int[Array, " N"],
    n_components: int,
    *,
    sample_weight: Float[Array, " N"] | None = None,
    structure: str = "full",
) -> Stats:
    """Sufficient statistics of labels ``(N,)`` from 0 to K - 1, with no N x K array.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> x, labels = jnp.array([[0.0], [1.0], [3.0]]), jnp.array([0, 0, 1])
        >>> stats = jaxgmm.stats.from_labels(x, labels, 2)
        >>> print(stats.mean[:, 0])
        [0.5 3. ]
    """
    if n_components > _MANY:
        return _labelled_stats(x, labels, n_components, sample_weight, structure)

    def respond(block: tuple[Array, Array]) -> Array:
        return jax.nn.one_hot(block[1], n_components, axis=0, dtype=x.dtype)

    return _assigned_stats((x, labels), respond, sample_weight, n_components, structure)


def nearest_labels(
    x: Float[Array, "N D"],
    points: Float[Array, "K D"],
    unit: Float[Array, " D"],
    may: Bool[Array, "N K"] | None = None,
) -> Int[Array, " N"]:
    """The number of the nearest of K points, in units ``(D,)`` of each feature.

    Of those only that a row ``may`` belong to, if these are given.
    """
    if points.shape[0] > _MANY:
        return _nearest_of_many(x, points, unit, may)
    scaled = points / unit[None]

    def nearest(block: tuple[Array, Array | None]) -> Array:
        rows, may = (block[0] / unit[None]).T, block[1]
        # (K, D, B): sums of few features over long rows
        distance = jnp.sum((rows[None] - scaled[:, :, None]) ** 2, axis=1)
        return jnp.argmin(distance if may is None else jnp.where(may.T, distance, jnp.inf), axis=0)

    return map_blocks(nearest, (x, may), 2 * points.size)


def _nearest_of_many(x: Array, points: Array, unit: Array, may: Array | None) -> Array:
    """`nearest_labels` by products: nearly equal distances may be mistaken for one another."""
    centre, k = jnp.mean(x, axis=0), points.shape[0]
    used = jnp.all(jnp.isfinite(points), axis=1)
    scaled = jnp.where(used[:, None], (points - centre[None]) / unit[None], 0)
    half = jnp.where(used, -0.5 * jnp.sum(scaled**2, axis=1), -jnp.inf)
    number = jnp.arange(k, dtype=jnp.int32)[:, None]

    def nearest(block: tuple[Array, Array | None]) -> Array:
        rows, may = (block[0] - centre[None]) / unit[None], block[1]
        values = half[:, None] + linalg.matmul(scaled, rows.T)
        values = values if may is None else jnp.where(may.T, values, -jnp.inf)
        top = jnp.max(values, axis=0, keepdims=True)
        return jnp.minimum(jnp.min(jnp.where(values == top, number, k), axis=0), k - 1)

    size = max(16, (1 << 20) // k)
    return map_blocks(nearest, (x, may), k, min(size, x.shape[0]))


def nearest_stats(
    x: Float[Array, "N D"],
    points: Float[Array, "K D"],
    unit: Float[Array, " D"],
    *,
    sample_weight: Float[Array, " N"] | None = None,
    structure: str = "full",
) -> Stats:
    """`from_labels` of `nearest_labels`."""
    labels = nearest_labels(x, points, unit)
    return from_labels(x, labels, points.shape[0], sample_weight=sample_weight, structure=structure)


def random_stats(
    key: Array, rows: Rows, n_components: int, present: Bool[Array, " K"], *, structure: str
) -> Stats:
    """`from_responsibilities` drawn uniformly from the simplex, per sample.

    The simplex is that of the components that are ``present``, and that a row may belong to.
    """
    x = rows.x

    def respond(block: tuple[Array, Array, Array | None]) -> Array:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, block[1])
        draw = jax.vmap(lambda k: jax.random.exponential(k, (n_components,), x.dtype))(keys)
        draw = jnp.where(present if block[2] is None else block[2], draw, 0)
        return (draw / jnp.sum(draw, axis=-1, keepdims=True)).T

    may = allowed(rows.labels, n_components)
    numbered = (x, jnp.arange(x.shape[0]), None if may is None else may & present[None])
    return _assigned_stats(numbered, respond, rows.weight, n_components, structure)
