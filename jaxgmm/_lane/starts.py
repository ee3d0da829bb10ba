"""Random starts: seeds, then labels of the rows nearest to them, then a posterior.

Seeds and labels know nothing of the model but K, so that all models of as many components share
their program; only the posterior is of a family. A start of your own is a function
``(key, rows, n_components) -> points (K, D)``.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Integer

from jaxgmm._estep.assigned import from_labels, nearest_labels, random_stats
from jaxgmm._estep.data import Data
from jaxgmm._estep.rows import Rows, allowed
from jaxgmm._estep.stats import Stats
from jaxgmm._estep.stats import scale as scale_stats
from jaxgmm._lane.seeds import (
    k_means_plus_plus,
    lloyd,
    n_start_rows,
    parallel_seeds,
    random_points,
    some_rows,
    unit_of,
)
from jaxgmm._model.prior import Prior
from jaxgmm._model.views import View
from jaxgmm._numerics.arrays import led
from jaxgmm._numerics.blocks import choose_block_size
from jaxgmm._numerics.devices import on_cpu
from jaxgmm._numerics.linalg import matmul
from jaxgmm._numerics.pytree import replace

Seeding = Callable[[Array, Rows, int], Float[Array, "K D"]]
Start = str | Seeding

SEEDINGS: dict[str, Seeding] = {
    "k-means++": k_means_plus_plus,
    "k-means||": parallel_seeds,
    "k-means": k_means_plus_plus,
    "random_points": random_points,
}
# In turns: of "mixed" lanes that of number i has the i-th of these.
MIXED = ("k-means++", "random_points")
STARTS = ("mixed", *SEEDINGS, "random_responsibilities")

# Elements at a time that making starts of many lanes may take: memory for the seeds, which are many
# small steps; on a CPU the cache for what each then does with its rows.
_SEEDING = 1 << 24
_CACHED = 1 << 20
# The share of the rows that begin in the background: few beside outliers, enough to find them.
_FAR = 0.05


def seeding_of(start: Start, lane: int = 0) -> Seeding:
    """The function that a start's seeds come from."""
    if not isinstance(start, str):
        return start
    return SEEDINGS[MIXED[lane % len(MIXED)] if start == "mixed" else start]


def assigned_rows(key: Array, rows: Rows, n_components: int) -> Rows:
    """The rows that a lane's start labels."""
    return some_rows(jax.random.fold_in(key, 2), rows, n_components)


def label(
    key: Array,
    rows: Rows,
    points: Float[Array, "K D"],
    present: Bool[Array, " K"],
    start: Start,
    known: Float[Array, "K D"] | None = None,
) -> Integer[Array, " n"]:
    """Labels of `assigned_rows`: the number of the nearest point of those that are present.

    The points of ``known`` that are not NaN are known means, which take the place of seeds.
    """
    known = jnp.full_like(points, jnp.nan) if known is None else known
    points = jnp.where(jnp.isnan(known), points, known)
    # the seeds of absent components are nearest to no row
    points = jnp.where(present[:, None], points, jnp.inf)
    if start == "k-means":
        points = lloyd(jax.random.fold_in(key, 1), rows, points)
        points = jnp.where(jnp.isnan(known), points, known)
    few = assigned_rows(key, rows, points.shape[0])
    may = allowed(few.labels, points.shape[0])
    labels = nearest_labels(few.x, points, unit_of(rows.x), may)
    return labels.astype(jnp.uint8 if points.shape[0] <= 256 else jnp.int32)


def named(points: Float[Array, "*R K D"], rows: Rows) -> Float[Array, "*R K D"]:
    """The points, with the mean of a component's own rows in place of each that labels name."""
    may = allowed(rows.labels, points.shape[-2])
    if may is None:
        return points
    alone = jnp.sum(may, axis=1, keepdims=True) == 1
    own = (may & alone).astype(rows.x.dtype)
    if rows.weight is not None:
        own = own * rows.weight[:, None]
    count = jnp.sum(own, axis=0)[:, None]
    mean = matmul(own.T, rows.x) / jnp.where(count > 0, count, 1)
    return jnp.where(led(count > 0, points), led(mean, points), points)


def labels_of_lanes(
    keys: Array,
    rows: Rows,
    n_components: int,
    present: Bool[Array, "R K"],
    start: Start,
    known: Float[Array, "R K D"] | None = None,
) -> Integer[Array, "R n"] | None:
    """The labels of R lanes at random starts, few lanes at a time; ``known`` is as in `label`.

    None for random responsibilities, which the posterior's statistics draw again from the key.
    """
    if start == "random_responsibilities":
        return None
    n_lanes, looked_at = keys.shape[0], n_start_rows(rows.n_samples, rows.n_features, n_components)
    # k-means|| looks at all the rows, and greedy k-means++ at a few candidates' distances
    n_seeding = _SEEDING // (4 * (rows.n_samples if start == "k-means||" else looked_at))
    points = jnp.zeros((n_lanes, n_components, rows.n_features), rows.x.dtype)
    turns = min(len(MIXED), n_lanes) if start == "mixed" else 1
    for first in range(turns):
        seeding = seeding_of(start, first)
        found = over_lanes(
            lambda key, f=seeding: f(key, rows, n_components), n_seeding, keys[first::turns]
        )
        points = points.at[first::turns].set(found)
    points = named(points, rows)

    def near(key: Array, points: Array, present: Array, known: Array | None) -> Array:
        return label(key, rows, points, present, start, known)

    return over_lanes(near, n_at_a_time(rows, n_components), keys, points, present, known)


def posterior_from(
    key: Array,
    labels: Integer[Array, " n"] | None,
    rows: Rows,
    prior: Prior,
    moments: tuple[Array, Array],
    view: View,
) -> Prior:
    """A lane's posterior from its labels of complete rows, or from random responsibilities.

    One conjugate update, under a weak proper prior where ``prior`` is improper, so that a seed with
    few samples is no spike from the start.
    """
    k, kind = prior.n_components, prior.components.structure
    if labels is None:
        stats = random_stats(key, rows, k, prior.weights.present(), structure=kind)
    else:
        few = assigned_rows(key, rows, k)
        labels = labels.astype(jnp.int32)
        stats = from_labels(few.x, labels, k, sample_weight=few.weight, structure=kind)
        if prior.background:
            stats = beside_background(few, stats, unit_of(rows.x))
        stats = scale_stats(stats, rows.total / jnp.sum(stats.count))
    components = prior.components.proper_or_default(*moments)
    return view.update(replace(prior, components=components), stats)


def beside_background(rows: Rows, stats: Stats, unit: Array) -> Stats:
    """Statistics for a start with a background, from those of labels without one.

    Each row counts for the nearest cluster, and those that lie farthest from theirs for the
    background.
    """
    k = stats.count.shape[0]
    may = allowed(rows.labels, k)
    means = jnp.where(stats.count[1:, None] > 0, stats.mean[1:], jnp.inf)
    among = None if may is None else may[:, 1:]
    labels = 1 + nearest_labels(rows.x, means, unit, among)
    gap = jnp.sum(((rows.x - stats.mean[labels]) / unit[None]) ** 2, axis=1)
    if may is not None:
        labels = jnp.where(jnp.any(may[:, 1:], axis=1), labels, 0)
        gap = jnp.where(may[:, 0], gap, -jnp.inf)
    if rows.weight is not None:
        gap = jnp.where(rows.weight > 0, gap, -jnp.inf)
    # a share of the rows that may be of the background, whatever rows of weight 0 follow them
    there = gap > -jnp.inf
    n_far = jnp.maximum((_FAR * jnp.sum(there, dtype=gap.dtype)).astype(labels.dtype), 1)
    far = there & (gap >= jnp.sort(gap)[rows.n_samples - n_far])
    labels = jnp.where(far, 0, labels)
    return from_labels(rows.x, labels, k, sample_weight=rows.weight, structure=stats.structure)


def random_posterior(key: Array, data: Data, prior: Prior, start: Start, view: View) -> Prior:
    """The posterior of a single lane at a random start."""
    labels, k, rows = None, prior.n_components, data.rows.completed()
    if start != "random_responsibilities":
        points = named(seeding_of(start)(key, rows, k), rows)
        present, known = prior.weights.present(), prior.components.points_known()
        labels = label(key, rows, points, present, start, known)
    moments = data.rows.moments(prior.components.structure)
    return posterior_from(key, labels, rows, prior, moments, view)


def n_at_a_time(rows: Rows, n_components: int) -> int:
    """Lanes whose rows are labelled, or summed up, at a time."""
    width = n_components * rows.n_features
    block = choose_block_size(rows.n_samples, 2 * width, rows.x.dtype)
    return (_CACHED if on_cpu() else _SEEDING) // (2 * block * width)


def over_lanes(one: Callable[..., Any], at_a_time: int, *lanes: Any) -> Any:
    """``one`` of every lane, ``at_a_time`` lanes together."""
    size = jax.tree.leaves(lanes)[0].shape[0]
    return lax.map(lambda a: one(*a), lanes, batch_size=max(1, min(at_a_time, size)))
