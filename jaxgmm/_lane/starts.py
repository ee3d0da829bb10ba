"""Start points: where a lane begins."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxgmm._estep.assigned import label_stats, nearest_stats, random_stats, responsibility_stats
from jaxgmm._estep.estep import Data, estep_on
from jaxgmm._estep.stats import Stats, scale_stats
from jaxgmm._lane.seeds import lloyd, n_start_rows, parallel_seeds, seeds, some_rows, unit_of
from jaxgmm._lane.state import State, state_potentials
from jaxgmm._model.prior import Prior, data_covariance, update
from jaxgmm._numerics.blocks import choose_block_size
from jaxgmm._numerics.checks import check_covariance, check_leaves_finite, check_simplex, is_traced
from jaxgmm._numerics.pytree import replace

STARTS = (
    "mixed",
    "k-means++",
    "k-means||",
    "k-means",
    "random_points",
    "random_responsibilities",
)

# Elements at a time that making starts of many lanes may take: memory for the seeds, which are many
# small steps; on a CPU the cache for what each then does with its rows.
_SEEDING = 1 << 24
_CACHED = 1 << 20


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
        stats = _nearest(data, value, kind, unit_of(data.x))
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
    (n_rows, d), k = data.x.shape, some.n_components
    width = k * d
    # k-means|| looks at all the rows, and greedy k-means++ at a few candidates' distances
    looked_at = n_rows if start == "k-means||" else n_start_rows(n_rows, d, k)
    n_seeding = _SEEDING // (4 * looked_at)
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
    few = some_rows(jax.random.fold_in(key, 2), data, prior.n_components)
    stats = _nearest(few, points, prior.components.structure, unit_of(data.x))
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


def _nearest(data: Data, points: Array, kind: str, unit: Array) -> Stats:
    return nearest_stats(data.x, points, unit, sample_weight=data.weight, structure=kind)


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
