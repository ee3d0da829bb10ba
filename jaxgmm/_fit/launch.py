"""Lanes at their starts."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxgmm._estep.data import Data, prepare
from jaxgmm._estep.rows import Rows
from jaxgmm._fit.whitening import Whitening
from jaxgmm._lane.given import Checked, check_start
from jaxgmm._lane.seeds import n_start_rows
from jaxgmm._lane.starts import Start, labels_of_lanes, n_at_a_time, over_lanes, posterior_from
from jaxgmm._lane.state import State
from jaxgmm._model.known import anything_known
from jaxgmm._model.prior import Prior
from jaxgmm._numerics import linalg
from jaxgmm._numerics.programs import Call, Effort, effort_of, program
from jaxgmm._numerics.pytree import replace, take


def start_lanes(
    key: Array, algorithm: Any, n_restarts: int, init: Any, coordinates: Whitening, rows: Rows
) -> Call:
    """The call that makes `Data`, as the iterations want them, and R states at their starts.

    Args:
        key: PRNG key.
        algorithm: in the coordinates of the fit.
        n_restarts: R.
        init: as `fit` takes it, in the units of the data.
        coordinates: of the fit.
        rows: in the units of the data.
    """
    start, n_samples = init, rows.n_samples
    if isinstance(init, str) or not isinstance(init, State | Mapping):
        start = check_start(init, algorithm.prior, n_samples)
    if not isinstance(start, State | Mapping):
        weights, k = algorithm.prior.weights, algorithm.prior.n_components
        present = None
        if weights.n_parameters == 0:  # given weights may be 0
            present = np.tile(np.asarray(weights.present()), (n_restarts, 1))
        named = isinstance(start, str)
        known = None
        if named and anything_known(algorithm.prior.components):
            points = np.asarray(algorithm.prior.components.points_known())
            known = np.tile(points, (n_restarts, 1, 1))
        return _random_start.on(
            _effort(rows, k, n_restarts),
            key,
            coordinates.rows,
            coordinates.standard if named else None,
            None if named else rows,
            present,
            known,
            algorithm,
            start=start,
            n_lanes=n_restarts,
        )
    given = {"state": start} if isinstance(start, State) else start
    starts = [
        coordinates.start(check_start(one, algorithm.prior, n_samples))
        for one in _split(given, n_restarts)
    ]
    effort = effort_of(rows.x.size * algorithm.prior.n_components * n_restarts)
    return _given_start.on(effort, key, coordinates.rows, algorithm, starts)


def _effort(rows: Rows, n_components: int, n_lanes: int) -> Effort:
    """What the programs of random starts are worth."""
    looked_at = n_start_rows(rows.n_samples, rows.n_features, n_components)
    return effort_of(looked_at * rows.n_features * n_components * n_lanes)


@program(static=("start", "n_lanes"))
def _random_start(
    key: Array,
    rows: Rows,
    standard: Array | None,
    own: Rows | None,
    present: Array | None,
    known: Array | None,
    algorithm: Any,
    *,
    start: Start,
    n_lanes: int,
) -> tuple[Data, State]:
    """All that precedes the loop, as one program.

    Args:
        key: PRNG key.
        rows: in the coordinates of the fit.
        standard: what makes them rows of standardised features, see `Whitening`.
        own: in the units of the data, for a function of the user's; else None.
        present: components of each lane; None for all.
        known: means of each lane that are known, and NaN for the others; None without any.
        algorithm: in the coordinates of the fit.
        start: a random one.
        n_lanes: R.
    """
    data = prepare(rows)
    seeded = rows_for_seeds(rows, standard) if own is None else own
    if known is not None and standard is not None:
        known = linalg.matmul(known, standard)
    keys, shared_key, labels = _labels_of(
        key, seeded, present, known, start, algorithm.prior.n_components, n_lanes
    )
    return data, random_lanes(keys, shared_key, data, algorithm, labels, None)


def rows_for_seeds(rows: Rows, standard: Array | None) -> Rows:
    """Complete rows of standardised features from those in the coordinates of a fit."""
    rows = rows.completed()
    if standard is None:
        return rows
    return replace(rows, x=linalg.matmul(rows.x, standard))


def start_groups(
    key: Array,
    data: Data,
    models: Any,
    present: np.ndarray,
    n_restarts: int,
    start: Start,
    rows: Rows,
    standard: ArrayLike | None,
    *,
    shapes: bool = False,
) -> State:
    """States of G groups of lanes at random starts, those of one group after those of the other.

    Args:
        key: PRNG key.
        data: the rows, in the coordinates of the fit.
        models: an algorithm for each group, every leaf led by G.
        present: components of each group, ``(G, K)``.
        n_restarts: lanes of each group.
        start: a random one.
        rows: what its seeds are drawn from: for a function of the user's, the data as they are.
        standard: what makes them rows of standardised features, see `Whitening`.
        shapes: whether only the shapes are wanted.
    """
    n_groups, k = present.shape
    group = np.repeat(np.arange(n_groups), n_restarts)
    effort = _effort(rows, k, len(group))
    size = {"n_components": k, "n_lanes": len(group)}
    known, components = None, models.prior.components
    if isinstance(start, str) and anything_known(components):
        known = np.asarray(components.points_known())[group]
    arguments = (key, rows, standard, present[group], known)
    labelled = _labels.on(effort, *arguments, start=start, **size)
    keys, shared_key, labels = labelled.shapes() if shapes else labelled()
    lanes = random_lanes.on(effort, keys, shared_key, data, models, labels, group)
    return lanes.shapes() if shapes else lanes()


@program(static=("start", "n_components", "n_lanes"))
def _labels(
    key: Array,
    rows: Rows,
    standard: Array | None,
    present: Array,
    known: Array | None,
    *,
    start: Start,
    n_components: int,
    n_lanes: int,
) -> tuple[Array, Array, Array | None]:
    """The keys and labels of lanes in groups, which are those of every family."""
    rows = rows_for_seeds(rows, standard)
    if known is not None and standard is not None:
        known = linalg.matmul(known, standard)
    return _labels_of(key, rows, present, known, start, n_components, n_lanes, grouped=True)


def _labels_of(
    key: Array,
    rows: Rows,
    present: Array | None,
    known: Array | None,
    start: Start,
    n_components: int,
    n_lanes: int,
    grouped: bool = False,
) -> tuple[Array, Array, Array | None]:
    """Two keys of each lane, the key that all share, and the labels of the lanes' starts.

    Nothing here depends on the model but its K and the means that are known. Lanes in groups draw
    nothing but their starts, and have one key.
    """
    if grouped:
        keys, shared_key = jax.random.split(jax.random.fold_in(key, 0), n_lanes), key
        keys = jnp.stack([keys, keys], axis=1)
    else:
        lane_key, shared_key = jax.random.split(key)
        keys = jax.vmap(jax.random.split)(jax.random.split(lane_key, n_lanes))
    if present is None:
        present = jnp.ones((n_lanes, n_components), bool)
    labels = labels_of_lanes(keys[:, 0], rows, n_components, present, start, known)
    return keys, shared_key, labels


@program()
def random_lanes(
    keys: Array,
    shared_key: Array,
    data: Data,
    algorithm: Any,
    labels: Array | None,
    group: Array | None,
) -> State:
    """The lanes' states from their keys (R, 2) and labels; with groups each has its own model."""
    prior = algorithm.prior
    kind, k = prior.components.structure, prior.n_components
    moments, rows = data.rows.moments(kind), data.rows.completed()

    def near(keys: Array, labels: Array | None, group: Array | None) -> State:
        own = algorithm if group is None else take(algorithm, group)
        q = posterior_from(keys[0], labels, rows, own.prior, moments, own.view)
        return own.begin(keys[1], shared_key, q, data)

    return over_lanes(near, n_at_a_time(data.rows, k), keys, labels, group)


def begin_lane(algorithm: Any, posterior: Prior, data: Data | None) -> State:
    """The state of an algorithm that draws nothing, at a posterior; of a stream without data."""
    key = jax.random.key(0)
    return algorithm.begin(key, key, posterior, data)


def _split(init: Mapping[str, Any], n_restarts: int) -> list[dict[str, Any]]:
    """One mapping for each lane, from a mapping whose arrays may lead with R."""
    state = init.get("state")
    if isinstance(state, State):
        lanes = state.status.shape
        if lanes == ():
            return [{"state": state}] * n_restarts
        if lanes != (n_restarts,):
            raise ValueError(
                f"init is a state of {lanes[0]} lanes, but n_restarts is {n_restarts}; "
                f"give n_restarts={lanes[0]}, or one lane."
            )
    elif n_restarts == 1:
        return [dict(init)]
    for name, value in init.items():
        for leaf in jax.tree.leaves(value):
            if np.ndim(leaf) == 0 or np.shape(leaf)[0] != n_restarts:
                raise ValueError(
                    f"init's {name} must lead with n_restarts={n_restarts}, one start for each "
                    f"lane, but its shape is {tuple(np.shape(leaf))}."
                )
    return [take(dict(init), lane) for lane in range(n_restarts)]


@program()
def _given_start(
    key: Array, rows: Rows, algorithm: Any, starts: list[Checked]
) -> tuple[Data, State]:
    data = prepare(rows)
    lane_key, shared_key = jax.random.split(key)
    keys = jax.random.split(lane_key, len(starts))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    return data, jax.vmap(algorithm.init_on, (0, None, None, 0))(keys, shared_key, data, stacked)
