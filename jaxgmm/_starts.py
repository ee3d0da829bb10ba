"""Start points: where a lane begins."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

from jaxgmm._assign import label_stats, nearest_stats, random_stats, responsibility_stats
from jaxgmm._blocks import choose_block_size, map_blocks
from jaxgmm._estep import Data, estep_on
from jaxgmm._prior import Prior, data_covariance, update
from jaxgmm._pytree import replace
from jaxgmm._state import State, state_potentials
from jaxgmm._stats import Stats, scale_stats
from jaxgmm._validate import check_covariance, check_leaves_finite, check_simplex, is_traced

STARTS = (
    "mixed",
    "k-means++",
    "k-means||",
    "k-means",
    "random_points",
    "random_responsibilities",
)

# A start looks at this many random rows where there are more, or at more for each parameter of a
# mean and its covariance's diagonal: a pass over all of them costs as much as thirty iterations.
_START_ROWS = 4096
_ROWS_PER_PARAMETER = 16

# Elements at a time that making starts of many lanes may take: memory for the seeds, which are many
# small steps; on a CPU the cache for what each then does with its rows.
_SEEDING = 1 << 24
_CACHED = 1 << 20

# Lloyd's iterations of a k-means start: the first few do most of what k-means can do.
_LLOYD_ITERATIONS = 10


def initial_posterior(
    key: Array,
    data: Data,
    prior: Prior,
    start: str | Mapping[str, Any],
    *,
    mode: bool,
    reg_covar: Array | float = 0.0,
) -> Prior:
    """The posterior a lane starts from; ``start`` has been checked by `check_start`.

    Random starts assign every sample and then take one conjugate update, under a weak proper
    prior where ``prior`` is improper, so that a seed with few samples is no spike from the start.
    Given responsibilities and labels are updated under ``prior`` itself.
    """
    kind = prior.components.structure
    weight = data.weight
    if start == "random_responsibilities":
        k, present = prior.n_components, prior.weights.present()
        stats = random_stats(key, data.x, k, present, sample_weight=weight, structure=kind)
        return update(_proper_or_default(prior, data), stats, mode=mode)
    if isinstance(start, str):
        points = _points(key, data, prior.n_components, start)
        return _posterior_near(key, data, prior, points, start, mode=mode)
    (name, value), *_ = start.items()
    if name == "means":
        stats = _nearest(data, value, kind, _unit(data.x))
        return update(_proper_or_default(prior, data), stats, mode=mode)
    if name == "responsibilities":
        stats = responsibility_stats(data.x, value, sample_weight=weight, structure=kind)
        return update(prior, stats, mode=mode)
    if name == "labels":
        k = prior.n_components
        stats = label_stats(data.x, value, k, sample_weight=weight, structure=kind)
        return update(prior, stats, mode=mode)
    if name == "parameters":
        weights, means, covariances = value
        # what EM will add: the first E-step sees the given covariances themselves
        given = covariances - reg_covar * jnp.eye(means.shape[1], dtype=means.dtype)
        return posterior_at(prior, (weights, means, given), data.total, mode=mode)
    if name == "posterior":
        return value
    return _from_state(data, prior, value, mode=mode)


def random_posteriors(
    keys: Array,
    data: Data,
    prior_of: Callable[[Array], Prior],
    start: str,
    *,
    mode: bool,
) -> Prior:
    """Posteriors of R lanes at random starts, few lanes at a time: every leaf leads with R.

    Of ``"mixed"`` starts the lanes of even number have k-means++, the others random points.

    Args:
        keys: of the lanes, ``(R,)``.
        data: the rows.
        prior_of: from the number of a lane to its prior; all have as many components.
        start: its name.
        mode: whether the posterior is to have its mode where the start is, else its mean.
    """
    lanes = jnp.arange(keys.shape[0])
    some = jax.eval_shape(prior_of, lanes[0])

    def over_lanes(one: Callable[..., Any], at_a_time: int, *args: Any) -> Any:
        size = args[0].shape[0]
        return lax.map(lambda a: one(*a), args, batch_size=max(1, min(at_a_time, size)))

    seed = functools.partial(_points, data=data, n_components=some.n_components)
    n_rows, width = data.x.shape[0], some.n_components * some.n_features
    n_seeding = _SEEDING // (4 * min(n_rows, _START_ROWS))
    block = choose_block_size(n_rows, 2 * width, data.x.dtype)
    n_near = (_CACHED if jax.default_backend() == "cpu" else _SEEDING) // (2 * block * width)
    if start == "random_responsibilities":

        def spread(key: Array, lane: Array) -> Prior:
            return initial_posterior(key, data, prior_of(lane), start, mode=mode)

        return over_lanes(spread, n_near, keys, lanes)
    if start == "mixed":
        kinds = (("k-means++", keys[::2]), ("random_points", keys[1::2]))
        points = jnp.zeros((lanes.size, some.n_components, some.n_features), data.x.dtype)
        for first, (kind, its) in enumerate(kinds[: lanes.size]):
            found = over_lanes(functools.partial(seed, start=kind), n_seeding, its)
            points = points.at[first::2].set(found)
    else:
        points = over_lanes(functools.partial(seed, start=start), n_seeding, keys)

    def near(key: Array, lane: Array, points: Array) -> Prior:
        return _posterior_near(key, data, prior_of(lane), points, start, mode=mode)

    return over_lanes(near, n_near, keys, lanes, points)


def _points(key: Array, data: Data, n_components: int, start: str) -> Array:
    if start == "k-means||":
        return parallel_seeds(key, data, n_components)
    if start != "mixed":
        return seeds(key, data, n_components, spread=start != "random_points")
    coin_key, key = jax.random.split(key)
    both = [seeds(key, data, n_components, spread=spread) for spread in (True, False)]
    return jnp.where(jax.random.bernoulli(coin_key), *both)


def _posterior_near(
    key: Array, data: Data, prior: Prior, points: Array, start: str, *, mode: bool
) -> Prior:
    """The update by rows that belong to the nearest of the points."""
    # the seeds of absent components are nearest to no row
    points = jnp.where(prior.weights.present()[:, None], points, jnp.inf)
    if start == "k-means":
        points = lloyd(jax.random.fold_in(key, 1), data, points)
    few = _some_rows(jax.random.fold_in(key, 2), data, prior.n_components)
    stats = _nearest(few, points, prior.components.structure, _unit(data.x))
    stats = scale_stats(stats, data.total / jnp.sum(stats.count))
    return update(_proper_or_default(prior, data), stats, mode=mode)


def posterior_at(
    prior: Prior, parameters: tuple[Array, Array, Array], total: Array, *, mode: bool
) -> Prior:
    """The posterior of ``total`` samples with the given mode, else mean."""
    weights, means, covariances = parameters
    eps = jnp.finfo(means.dtype).eps
    count = total * jnp.maximum(weights, eps)
    return Prior(
        prior.weights.with_weights(weights, total, mode=mode),
        prior.components.with_parameters(means, covariances, count, mode=mode),
    )


def _from_state(data: Data, prior: Prior, state: State, *, mode: bool) -> Prior:
    # The same view of the same model goes on where it stopped. Another view's posterior need not
    # be valid here (maximum likelihood's is improper), so its responsibilities carry over.
    if (state.view == "mode") == mode:
        return state.posterior
    return update(prior, estep_on(data, state_potentials(state)), mode=mode)


def _proper_or_default(prior: Prior, data: Data) -> Prior:
    mean, spread = jnp.mean(data.x, axis=0), data_covariance(data.x)
    return replace(prior, components=prior.components.proper_or_default(mean, spread))


def _unit(x: Array) -> Array:
    sd = jnp.std(x, axis=0)
    return jnp.where(sd > 0, sd, 1)


def _nearest(data: Data, points: Array, kind: str, unit: Array) -> Stats:
    return nearest_stats(data.x, points, unit, sample_weight=data.weight, structure=kind)


def seeds(
    key: Array, data: Data, n_components: int, *, spread: bool, unit: Array | None = None
) -> Float[Array, "K D"]:
    """K rows of the data: by k-means++ (Arthur & Vassilvitskii 2007) if ``spread``, or at random.

    Distances are in units of each feature's standard deviation, unless given. With many rows the
    seeds are drawn from a random subset of them. A row's chance is proportional to its weight.
    Each seed is the best of ``2 + log K`` candidates (the greedy variant, their section 5): the
    one that leaves the least sum of squared distances.
    """
    rows_key, first_key, key = jax.random.split(key, 3)
    few = _some_rows(rows_key, data, n_components)
    x, weight = few.x, few.weight
    log_weight = jnp.zeros((x.shape[0],), x.dtype) if weight is None else jnp.log(weight)
    if not spread:
        # Gumbel top-k: without replacement, with chances proportional to the weights
        noise = jax.random.gumbel(first_key, log_weight.shape, x.dtype)
        return x[lax.top_k(log_weight + noise, n_components)[1]]
    scaled = x / (_unit(data.x) if unit is None else unit)
    candidates = 2 + int(math.log(n_components))

    def choose(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        index, distance = carry
        mass = distance if weight is None else distance * weight
        # where all the rows that count are seeds already, any of them
        mass = jnp.where(jnp.any(mass > 0), mass, jnp.exp(log_weight))
        upto = jnp.cumsum(mass)
        draws = jax.random.uniform(jax.random.fold_in(key, i), (candidates,), x.dtype)
        # in (0, total], and the first row that reaches it: never one without mass
        rows = jnp.sum(upto < (1 - draws[:, None]) * upto[-1], axis=-1, dtype=index.dtype)
        left = jnp.minimum(distance, jax.vmap(gap)(rows))
        best = jnp.argmin(jnp.sum(left if weight is None else left * weight, axis=-1))
        return index.at[i].set(rows[best]), left[best]

    def gap(row: Array) -> Array:
        return jnp.sum((scaled - scaled[row]) ** 2, axis=-1)

    first = jax.random.categorical(first_key, log_weight)
    index = jnp.full((n_components,), first)
    index, _ = lax.fori_loop(1, n_components, choose, (index, gap(first)))
    return x[index]


# k-means||: rounds, and candidates of each for every component. Five rounds are enough, Bahmani et
# al. 2012 found, where each draws half of K or more.
_ROUNDS = 5
_OVERSAMPLING = 2


def parallel_seeds(key: Array, data: Data, n_components: int) -> Float[Array, "K D"]:
    """K rows of the data by k-means|| (Bahmani et al. 2012): a few passes over all the rows.

    Each of five rounds draws ``2 K`` rows together, with chances proportional to their weight times
    the squared distance to the candidates so far; then greedy k-means++ chooses K of the
    candidates, each of which counts for the rows nearest to it. Unlike `seeds`, which goes through
    the rows K times and so looks at a subset of many, it looks at all of them, and needs so few
    passes that it suits rows that lie on several devices.
    """
    first_key, final_key, key = jax.random.split(key, 3)
    x, weight, unit = data.x, data.weight, _unit(data.x)
    n_samples = x.shape[0]
    log_weight = jnp.zeros((n_samples,), x.dtype) if weight is None else jnp.log(weight)
    number = min(_OVERSAMPLING * n_components, n_samples)

    def distance_to(points: Array) -> Array:
        def rows(block: Array) -> Array:
            gaps = ((block[:, None, :] - points) / unit) ** 2
            return jnp.min(jnp.sum(gaps, axis=-1), axis=-1)

        return map_blocks(rows, x, points.size)

    first = x[jax.random.categorical(first_key, log_weight)][None]

    def draw(distance: Array, i: Array) -> tuple[Array, Array]:
        # Gumbel top-k: without replacement; rows without mass only when there are no others
        noise = jax.random.gumbel(jax.random.fold_in(key, i), (n_samples,), x.dtype)
        log_mass = jnp.log(jnp.where(distance > 0, distance, jnp.finfo(x.dtype).tiny))
        rows = lax.top_k(log_weight + log_mass + noise, number)[1]
        return jnp.minimum(distance, distance_to(x[rows])), x[rows]

    _, drawn = lax.scan(draw, distance_to(first), jnp.arange(_ROUNDS))
    candidates = jnp.concatenate([first, drawn.reshape(-1, x.shape[1])])
    # the spherical structure: only the counts are looked at
    stats = nearest_stats(x, candidates, unit, sample_weight=weight, structure="spherical")
    chosen = replace(data, x=candidates, weight=stats.count)
    return seeds(final_key, chosen, n_components, spread=True, unit=unit)


def lloyd(key: Array, data: Data, points: Float[Array, "K D"]) -> Float[Array, "K D"]:
    """The points after some of Lloyd's (1982) k-means iterations, on a subset of many rows.

    Distances are in units of each feature's standard deviation; a point that is nearest to no row
    stays where it is.
    """
    few, unit = _some_rows(key, data, points.shape[0]), _unit(data.x)

    def iterate(_: Array, points: Array) -> Array:
        # the spherical structure: scatters are not looked at, and these are the least of them
        stats = _nearest(few, points, "spherical", unit)
        return jnp.where(stats.count[:, None] > 0, stats.mean, points)

    return lax.fori_loop(0, _LLOYD_ITERATIONS, iterate, points)


def _some_rows(key: Array, data: Data, n_components: int) -> Data:
    """All the rows, or of very many a random subset with replacement."""
    x, weight = data.x, data.weight
    n_rows = max(_START_ROWS, _ROWS_PER_PARAMETER * n_components * (2 * x.shape[1] + 1))
    if x.shape[0] <= n_rows:
        return data
    chosen = jax.random.randint(key, (n_rows,), 0, x.shape[0])
    return replace(data, x=x[chosen], weight=None if weight is None else weight[chosen])


_GIVEN = ("responsibilities", "labels", "means", "parameters", "posterior", "state")


def check_start(start: Any, prior: Prior, n_samples: int) -> str | dict[str, Any]:
    """A start by name, or a mapping with one of the given starts, checked and as arrays."""
    if isinstance(start, State):
        start = {"state": start}
    if isinstance(start, str):
        if start not in STARTS:
            names = ", ".join(repr(n) for n in STARTS)
            given = ", ".join(f"{n}=" for n in _GIVEN)
            raise ValueError(f"start {start!r} is not known; expected one of {names}, or {given}.")
        return start
    if not isinstance(start, Mapping) or len(start) != 1 or next(iter(start)) not in _GIVEN:
        raise ValueError(
            f"a start must be one of {', '.join(repr(n) for n in STARTS)}, a State, or exactly one "
            f"of {', '.join(n + '=' for n in _GIVEN)}; but it is {start!r}."
        )
    ((name, value),) = start.items()
    k, d, dtype = prior.n_components, prior.n_features, prior.dtype
    if name == "state":
        if not isinstance(value, State):
            raise ValueError(f"state must be a jaxgmm State, but it is a {type(value).__name__}.")
        _check_posterior(value.posterior, prior)
        return {"state": value}
    if name == "posterior":
        _check_posterior(value, prior)
        return {"posterior": value}
    if name == "labels":
        labels = jnp.asarray(value)
        _check_shape("labels", labels, (n_samples,))
        if not jnp.issubdtype(labels.dtype, jnp.integer):
            raise ValueError(f"labels must be integers, but their dtype is {labels.dtype}.")
        if (
            not is_traced(labels)
            and not ((np.asarray(labels) >= 0) & (np.asarray(labels) < k)).all()
        ):
            raise ValueError(f"labels must be from 0 to {k - 1}, but they go outside.")
        return {"labels": labels}
    if name == "responsibilities":
        r = jnp.asarray(value, dtype)
        _check_shape("responsibilities", r, (n_samples, k))
        if not is_traced(r):
            values = np.asarray(r)
            if (values < 0).any() or np.abs(values.sum(axis=1) - 1).max() > 1e-3:
                raise ValueError(
                    "responsibilities must be non-negative with rows that sum to 1; "
                    "divide each row by its sum."
                )
        return {"responsibilities": r}
    if name == "means":
        means = jnp.asarray(value, dtype)
        _check_shape("means", means, (k, d))
        if not is_traced(means):
            check_leaves_finite("the start", {"means": means})
        return {"means": means}
    if not isinstance(value, tuple) or len(value) != 3:
        raise ValueError("parameters must be a tuple (weights, means, covariances).")
    weights, means, covariances = (jnp.asarray(a, dtype) for a in value)
    _check_shape("weights", weights, (k,))
    _check_shape("means", means, (k, d))
    _check_shape("covariances", covariances, (k, d, d))
    if not is_traced(weights, means):
        check_leaves_finite("the start", {"weights": weights, "means": means})
        check_simplex("weights", weights)
    check_covariance("covariances", covariances, d)
    return {"parameters": (weights, means, covariances)}


def _check_shape(name: str, value: Array, shape: tuple[int, ...]) -> None:
    if value.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, but its shape is {tuple(value.shape)}.")


def _check_posterior(posterior: Any, prior: Prior) -> None:
    expected = jax.tree.map(lambda a: (a.shape, str(a.dtype)), prior)
    try:
        found = jax.tree.map(lambda a: (a.shape, str(a.dtype)), posterior)
    except AttributeError:
        found = None
    same = jax.tree.structure(posterior) == jax.tree.structure(prior)
    if not same or jax.tree.leaves(found) != jax.tree.leaves(expected):
        raise ValueError(
            "the start's posterior must have the type, shapes and dtype of the prior, "
            f"{expected}, but it has {found}."
        )
