"""Seeds: K rows of the data from which a start makes its components."""

import math

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from jaxgmm._estep.assigned import nearest_stats
from jaxgmm._estep.rows import Rows
from jaxgmm._numerics import linalg
from jaxgmm._numerics.blocks import map_blocks
from jaxgmm._numerics.devices import varying_as

# A start looks at this many random rows where there are more, or at more for each parameter of a
# mean and its covariance's diagonal: a pass over all of them costs as much as thirty iterations.
_START_ROWS = 4096
_ROWS_PER_PARAMETER = 16

# Lloyd's iterations of a k-means start: the first few do most of what k-means can do.
_LLOYD_ITERATIONS = 10


def unit_of(x: Array) -> Array:
    """The standard deviation of each feature, 1 where that is 0."""
    sd = jnp.std(x, axis=0)
    return jnp.where(sd > 0, sd, 1)


def seeds(
    key: Array, rows: Rows, n_components: int, *, spread: bool, unit: Array | None = None
) -> Float[Array, "K D"]:
    """K rows of the data: by k-means++ (Arthur & Vassilvitskii 2007) if ``spread``, or at random.

    Distances are in units of each feature's standard deviation, unless given. With many rows the
    seeds are drawn from a random subset of them. A row's chance is proportional to its weight.
    Each seed is the best of ``2 + log K`` candidates (the greedy variant, their section 5): the
    one that leaves the least sum of squared distances.
    """
    rows_key, first_key, key = jax.random.split(key, 3)
    few = some_rows(rows_key, rows, n_components)
    x, weight = few.x, few.weight
    log_weight = jnp.zeros((x.shape[0],), x.dtype) if weight is None else jnp.log(weight)
    if not spread:
        # Gumbel top-k: without replacement, with chances proportional to the weights
        noise = jax.random.gumbel(first_key, log_weight.shape, x.dtype)
        return x[lax.top_k(log_weight + noise, n_components)[1]]
    scaled = x / (unit_of(rows.x) if unit is None else unit)[None]
    candidates = 2 + int(math.log(n_components))

    def choose(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        index, distance = carry
        mass = distance if weight is None else distance * weight
        # where all the rows that count are seeds already, any of them
        mass = jnp.where(jnp.any(mass > 0), mass, jnp.exp(log_weight))
        upto = jnp.cumsum(mass)
        draws = jax.random.uniform(jax.random.fold_in(key, i), (candidates,), x.dtype)
        # in (0, total], and the first row that reaches it: never one without mass
        found = jnp.sum(upto[None] < (1 - draws[:, None]) * upto[-1], axis=-1, dtype=index.dtype)
        left = jnp.minimum(distance[None], jax.vmap(gap)(found))
        best = jnp.argmin(jnp.sum(left if weight is None else left * weight[None], axis=-1))
        return index.at[i].set(found[best]), left[best]

    def gap(row: Array) -> Array:
        return jnp.sum((scaled - scaled[row][None]) ** 2, axis=-1)

    first = jax.random.categorical(first_key, log_weight)
    index = jnp.full((n_components,), first)
    carry = varying_as((key, few, scaled), (index, gap(first)))
    index, _ = lax.fori_loop(1, n_components, choose, carry)
    return x[index]


# Above so many seeds they are drawn in so many rounds, from so many rows for each.
_MANY = 512
_MANY_ROUNDS = 64
_ROWS_PER_SEED = 8


def many_seeds(key: Array, rows: Rows, n_components: int) -> Float[Array, "K D"]:
    """K rows of the data, K large: as in k-means++, but in 64 rounds.

    Each round draws K / 64 rows together, as those of k-means|| (Bahmani et al. 2012), with chances
    proportional to their weight times the squared distance to the seeds so far. So a round is one
    product, where k-means++ would go through the rows K times. The rows are a random subset of
    ``8 K`` where there are more.
    """
    rows_key, first_key, key = jax.random.split(key, 3)
    few = rows.sample(
        rows_key, min(rows.n_samples, max(_START_ROWS, _ROWS_PER_SEED * n_components))
    )
    x, weight, unit = few.x, few.weight, unit_of(rows.x)
    log_weight = jnp.zeros((x.shape[0],), x.dtype) if weight is None else jnp.log(weight)
    scaled = (x - jnp.mean(x, axis=0, keepdims=True)) / unit[None]
    number = -(-n_components // _MANY_ROUNDS)

    def nearer(distance: Array, points: Array) -> Array:
        half = 0.5 * jnp.sum(points**2, axis=1)

        def gap(block: Array) -> Array:
            between = jnp.min(half[None] - linalg.matmul(block, points.T), axis=1)
            return jnp.maximum(jnp.sum(block**2, axis=1) + 2 * between, 0)

        return jnp.minimum(distance, map_blocks(gap, scaled, points.shape[0]))

    def draw(distance: Array, i: Array) -> tuple[Array, Array]:
        # Gumbel top-k: without replacement; rows without mass only when there are no others
        noise = jax.random.gumbel(jax.random.fold_in(key, i), distance.shape, x.dtype)
        log_mass = jnp.log(jnp.where(distance > 0, distance, jnp.finfo(x.dtype).tiny))
        index = lax.top_k(log_weight + log_mass + noise, number)[1]
        return nearer(distance, scaled[index]).at[index].set(0), index

    first = jax.random.categorical(first_key, log_weight)
    distance = jnp.full((x.shape[0],), jnp.inf, x.dtype)
    distance = varying_as((key, few), nearer(distance, scaled[first][None]).at[first].set(0))
    _, drawn = lax.scan(draw, distance, jnp.arange(_MANY_ROUNDS))
    return x[jnp.concatenate([first[None].astype(drawn.dtype), drawn.reshape(-1)])[:n_components]]


# k-means||: rounds, and candidates of each for every component. Five rounds are enough, Bahmani et
# al. 2012 found, where each draws half of K or more.
_ROUNDS = 5
_OVERSAMPLING = 2


def parallel_seeds(key: Array, rows: Rows, n_components: int) -> Float[Array, "K D"]:
    """K rows of the data by k-means|| (Bahmani et al. 2012): a few passes over all the rows.

    Each of five rounds draws ``2 K`` rows together, with chances proportional to their weight times
    the squared distance to the candidates so far; then greedy k-means++ chooses K of the
    candidates, each of which counts for the rows nearest to it. Unlike `seeds`, which goes through
    the rows K times and so looks at a subset of many, it looks at all of them, and needs so few
    passes that it suits rows that lie on several devices.
    """
    first_key, final_key, key = jax.random.split(key, 3)
    x, weight, unit = rows.x, rows.weight, unit_of(rows.x)
    n_samples = x.shape[0]
    log_weight = jnp.zeros((n_samples,), x.dtype) if weight is None else jnp.log(weight)
    number = min(_OVERSAMPLING * n_components, n_samples)

    def distance_to(points: Array) -> Array:
        def rows(block: Array) -> Array:
            gaps = ((block[:, None, :] - points[None]) / unit[None, None]) ** 2
            return jnp.min(jnp.sum(gaps, axis=-1), axis=-1)

        return map_blocks(rows, x, points.size)

    first = x[jax.random.categorical(first_key, log_weight)][None]

    def draw(distance: Array, i: Array) -> tuple[Array, Array]:
        # Gumbel top-k: without replacement; rows without mass only when there are no others
        noise = jax.random.gumbel(jax.random.fold_in(key, i), (n_samples,), x.dtype)
        log_mass = jnp.log(jnp.where(distance > 0, distance, jnp.finfo(x.dtype).tiny))
        rows = lax.top_k(log_weight + log_mass + noise, number)[1]
        return jnp.minimum(distance, distance_to(x[rows])), x[rows]

    distance = varying_as((key, rows), distance_to(first))
    _, drawn = lax.scan(draw, distance, jnp.arange(_ROUNDS))
    candidates = jnp.concatenate([first, drawn.reshape(-1, x.shape[1])])
    # the spherical structure: only the counts are looked at
    stats = nearest_stats(x, candidates, unit, sample_weight=weight, structure="spherical")
    chosen = Rows(candidates, stats.count)
    return seeds(final_key, chosen, n_components, spread=True, unit=unit)


def lloyd(key: Array, rows: Rows, points: Float[Array, "K D"]) -> Float[Array, "K D"]:
    """The points after some of Lloyd's (1982) k-means iterations, on a subset of many rows.

    Distances are in units of each feature's standard deviation; a point that is nearest to no row
    stays where it is.
    """
    few, unit = some_rows(key, rows, points.shape[0]), unit_of(rows.x)

    def iterate(_: Array, points: Array) -> Array:
        # the spherical structure: scatters are not looked at, and these are the least of them
        stats = nearest_stats(few.x, points, unit, sample_weight=few.weight, structure="spherical")
        return jnp.where(stats.count[:, None] > 0, stats.mean, points)

    return lax.fori_loop(0, _LLOYD_ITERATIONS, iterate, varying_as(few, points))


def n_start_rows(n_samples: int, dimension: int, n_components: int) -> int:
    """How many rows a start looks at."""
    many = max(_START_ROWS, _ROWS_PER_PARAMETER * n_components * (2 * dimension + 1))
    return min(n_samples, many)


def some_rows(key: Array, rows: Rows, n_components: int) -> Rows:
    """All the rows, or of very many a random subset with replacement."""
    return rows.sample(key, n_start_rows(rows.n_samples, rows.n_features, n_components))


def k_means_plus_plus(key: Array, rows: Rows, n_components: int) -> Float[Array, "K D"]:
    """`seeds` far from one another; `many_seeds` where they are many."""
    if n_components > _MANY:
        return many_seeds(key, rows, n_components)
    return seeds(key, rows, n_components, spread=True)


def random_points(key: Array, rows: Rows, n_components: int) -> Float[Array, "K D"]:
    """`seeds` at random."""
    return seeds(key, rows, n_components, spread=False)
