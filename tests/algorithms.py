"""The table of algorithm x family x weights x dtype that the contract tests go through."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from conftest import clusters
from jax import Array
from new_family import NormalChiSquared

import jaxgmm
from jaxgmm import Algorithm, Prior, Rows, State
from jaxgmm._estep.moments import data_covariance
from jaxgmm._model.padding import unpad

N, D, K, R = 90, 2, 3, 4
BATCH = 25  # the last batch of an epoch is short
KNOWN = ((1.0, 0.3), (0.3, 0.8))


class Kind(NamedTuple):
    """An algorithm and the laws that it obeys besides those that all obey.

    Attributes:
        make: the algorithm of a prior.
        proper: whether it needs a proper prior.
        monotone: whether the objective never goes down.
        exact: whether the objective is that of all the data, with the best responsibilities.
        permutes: whether its coordinates treat the components alike; random draws do not.
        scales: whether the data's units cancel; the steps of Adam have units of their own.
    """

    make: Callable[[Prior], Algorithm]
    proper: bool = True
    monotone: bool = False
    exact: bool = False
    permutes: bool = True
    scales: bool = True


def adam(view: Any, batch_size: int | None = None, **given: Any) -> Callable[[Prior], Algorithm]:
    return lambda prior: jaxgmm.svi(
        prior, optax.adam, batch_size, learning_rate=0.05, view=view, n_draws=2, **given
    )


def natural(view: Any, step: float, batch_size: int | None = None) -> Callable[[Prior], Algorithm]:
    return lambda prior: jaxgmm.svi(prior, jaxgmm.natural_gradient(step), batch_size, view=view)


KINDS = {
    "em": Kind(jaxgmm.em, proper=False, monotone=True),
    "map": Kind(jaxgmm.em, monotone=True),
    "cavi": Kind(jaxgmm.cavi, monotone=True),
    "svi sample": Kind(adam("sample", BATCH), permutes=False, scales=False),
    "svi landing": Kind(
        adam("sample", BATCH, divergence="sticking_the_landing", average=True),
        permutes=False,
        scales=False,
    ),
    "svi expectation": Kind(adam("expectation"), exact=True, scales=False),
    "svi mode": Kind(adam("mode"), proper=False, exact=True, permutes=False, scales=False),
    "natural expectation": Kind(natural("expectation", 0.5, BATCH)),
    "natural mode": Kind(natural("mode", 0.5), proper=False),
}
FAMILIES: dict[str, Any] = {
    "full": jaxgmm.NormalWishart,
    "known": jaxgmm.KnownCovariance,
    "tied": jaxgmm.TiedNormalWishart,
    "diag": jaxgmm.NormalGamma,
    "spherical": jaxgmm.SphericalNormalGamma,
    "independent diag": jaxgmm.IndependentNormalGamma,
    "independent spherical": jaxgmm.IndependentNormalGamma,
    "chi-squared": NormalChiSquared,
}
WEIGHTS: dict[str, Callable[[Any], Any]] = {
    "dirichlet": lambda dtype: jaxgmm.Dirichlet(jnp.ones(K, dtype)),
    "sparse": lambda dtype: jaxgmm.Dirichlet(jnp.full(K, 0.01, dtype)),
    "dirichlet process": lambda dtype: jaxgmm.StickBreaking.dirichlet_process(K, 1.5, dtype),
    "pitman-yor": lambda dtype: jaxgmm.StickBreaking.pitman_yor(K, 0.25, 1.5, dtype),
    "fixed": lambda dtype: jaxgmm.FixedWeights(jnp.asarray([0.4, 0.35, 0.25], dtype)),
}


class Variant(NamedTuple):
    """A family with something that is known of the samples, or of the parameters.

    Attributes:
        family: of `FAMILIES`.
        prior: what becomes of the family's prior, given the data.
        rows: what becomes of the data, a function of their dtype.
        alike: whether the components have no names.
        weights: those that it is tried with.
    """

    family: str
    prior: Callable[[Prior, Array], Prior] = lambda prior, x: prior
    rows: Callable[[Array, Any], Any] = lambda x, rng: x
    alike: bool = True
    weights: tuple[str, ...] = ("dirichlet",)


def _gaps(x: Array, rng: Any) -> Any:
    return Rows(x, missing=jnp.asarray(rng.uniform(size=x.shape) < 0.2))


def _noise(x: Array, rng: Any) -> Any:
    return Rows(x, noise=jnp.asarray(rng.uniform(0.05, 0.5, x.shape), x.dtype))


def _labels(x: Array, rng: Any) -> Any:
    known = jnp.asarray(rng.uniform(size=len(x)) < 0.2)
    return Rows(x, labels=jnp.where(known, jnp.asarray(rng.integers(0, K, len(x))), -1))


def _weights(x: Array, rng: Any) -> Any:
    return Rows(x, weight=jnp.asarray(rng.uniform(0.5, 1.5, len(x)), x.dtype))


def _student_t(prior: Prior, x: Array) -> Prior:
    return jaxgmm.with_student_t(prior)


def _background(prior: Prior, x: Array) -> Prior:
    clusters_only = unpad(prior, K - 1)
    return jaxgmm.with_background(clusters_only, x)


def _frozen(prior: Prior, x: Array) -> Prior:
    return jaxgmm.freeze(prior, means=np.asarray(x[:1]), components=[1])


VARIANTS: dict[str, Variant] = {
    "student-t full": Variant(
        "full", lambda p, x: jaxgmm.with_student_t(p), weights=tuple(WEIGHTS)
    ),
    "student-t diag": Variant(
        "diag", lambda p, x: jaxgmm.with_student_t(p), weights=tuple(WEIGHTS)
    ),
    "gaps full": Variant("full", rows=_gaps),
    "gaps diag": Variant("diag", rows=_gaps),
    "noise full": Variant("full", rows=_noise),
    "noise spherical": Variant("spherical", rows=_noise),
    "weights tied": Variant("tied", rows=_weights),
    "labels full": Variant("full", rows=_labels, alike=False),
    "background diag": Variant("diag", _background, alike=False),
    "frozen full": Variant("full", _frozen, alike=False),
}
# Weights whose posterior has no mode for a point estimate to be
MODELESS = ("sparse", "pitman-yor")
ROWS = [
    (kind, family, weights)
    for family in (*FAMILIES, *VARIANTS)
    for weights in WEIGHTS
    for kind in KINDS
    if family not in VARIANTS or weights in VARIANTS[family].weights
    if weights not in MODELESS or kind not in ("em", "map", "svi mode", "natural mode")
]
# Rows that run by default, besides those of every algorithm with full covariances in float64:
# every family and every kind of weights is in one.
DEFAULT_ROWS = {
    ("float64", "cavi", "known", "dirichlet"),
    ("float64", "cavi", "tied", "dirichlet process"),
    ("float64", "cavi", "independent diag", "pitman-yor"),
    ("float64", "map", "diag", "fixed"),
    ("float64", "em", "independent spherical", "dirichlet process"),
    ("float64", "natural expectation", "spherical", "sparse"),
    ("float64", "svi expectation", "independent spherical", "sparse"),
    ("float64", "cavi", "chi-squared", "dirichlet process"),
    ("float64", "cavi", "student-t diag", "dirichlet process"),
    ("float32", "cavi", "full", "dirichlet"),
}


def is_slow(dtype: str, kind: str, family: str, weights: str) -> bool:
    """Whether a row runs only when asked for: to compile all their programs takes hours."""
    every_kind = (dtype, family, weights) == ("float64", "full", "dirichlet")
    return not every_kind and (dtype, kind, family, weights) not in DEFAULT_ROWS


def those(**laws: bool) -> list[str]:
    """The kinds that obey some laws."""
    return [n for n, kind in KINDS.items() if all(getattr(kind, k) == v for k, v in laws.items())]


@functools.cache
def data(dtype: str) -> Array:
    return clusters(dtype, N)


@functools.cache
def rows_of(family: str, dtype: str) -> Any:
    """The data of a row of the table."""
    if family not in VARIANTS:
        return data(dtype)
    return VARIANTS[family].rows(data(dtype), np.random.default_rng(7))


def values_of(x: Any) -> Array:
    return x.x if isinstance(x, Rows) else x


def n_values(x: Any) -> float:
    """How many values are known, of weight 1."""
    if not isinstance(x, Rows):
        return x.size
    seen = jnp.ones(x.x.shape, bool) if x.missing is None else ~x.missing
    weight = jnp.ones(len(seen), x.x.dtype) if x.weight is None else x.weight
    return float(jnp.sum(weight * jnp.sum(seen, axis=1, dtype=weight.dtype)))


def move_rows(x: Any, scale: float, shift: Array) -> Any:
    """``scale * x + shift``, with the errors in those units."""
    if not isinstance(x, Rows):
        return scale * x + shift
    noise = None if x.noise is None else scale**2 * x.noise
    return replace(x, x=scale * x.x + shift, noise=noise)


def components(family: str, dtype: str, *, proper: bool) -> Any:
    """The default prior of a family, or the flat one."""
    known = jnp.asarray(KNOWN, dtype)
    family = VARIANTS[family].family if family in VARIANTS else family
    kind, spherical = FAMILIES[family], {"spherical": True} if " spherical" in family else {}
    if not proper:
        return kind.flat(K, known) if family == "known" else kind.flat(K, D, dtype, **spherical)
    spread = known if family == "known" else data_covariance(data(dtype))
    return kind.default(data(dtype).mean(0), spread, K, **spherical)


@functools.cache
def build(kind: str, family: str, weights: str, dtype: str) -> Algorithm:
    """The algorithm of one row of the table."""
    proper = KINDS[kind].proper
    prior = Prior(WEIGHTS[weights](dtype), components(family, dtype, proper=proper))
    if family in VARIANTS:
        prior = VARIANTS[family].prior(prior, data(dtype))
    return KINDS[kind].make(prior)


# One program for each of these and row of the table: every law reuses it.


@jax.jit
def start(algorithm: Algorithm, keys: Array, x: Array) -> State:
    """R lanes at k-means++ starts."""
    return jax.vmap(algorithm.init, (0, None))(keys, x)


@functools.partial(jax.jit, static_argnames="length")
def lanes(
    algorithm: Algorithm, states: State, x: Array, steps: Array, tol: Array, length: int = 60
) -> tuple[State, Array]:
    """The lanes after so many iterations, and their objectives."""
    return jaxgmm.run(algorithm, states, x, max_iter=steps, tol=tol, history_length=length)


def iterate(
    algorithm: Algorithm, states: State, x: Array, steps: int, tol: float = 0
) -> tuple[State, Array]:
    return lanes(algorithm, states, x, jnp.asarray(steps), jnp.asarray(tol, values_of(x).dtype))


def keys(n: int = R) -> Array:
    return jax.random.split(jax.random.key(5), n)


def with_shared_order(states: State) -> State:
    """The lanes with the first lane's order of minibatches, as those of one fit have."""
    memory = states.memory
    if not hasattr(memory, "order_key"):
        return states
    order = jnp.broadcast_to(memory.order_key[:1], memory.order_key.shape)
    return replace(states, memory=replace(memory, order_key=order))


def begin(kind: str, family: str, weights: str, dtype: str) -> tuple[Algorithm, State, Array]:
    """The algorithm, its R lanes at the start, and the data."""
    algorithm, x = build(kind, family, weights, dtype), rows_of(family, dtype)
    return algorithm, with_shared_order(start(algorithm, keys(), x)), x


def lane(tree: Any, index: Any) -> Any:
    return jax.tree.map(lambda a: a[index], tree)


def assert_trees_close(a: Any, b: Any, rtol: float, atol: float = 0) -> None:
    """Floating-point leaves close, others equal."""
    leaves_a, tree_a = jax.tree.flatten(a)
    leaves_b, tree_b = jax.tree.flatten(b)
    assert tree_a == tree_b
    for u, v in zip(leaves_a, leaves_b, strict=True):
        if jnp.issubdtype(u.dtype, jnp.floating):
            np.testing.assert_allclose(u, v, rtol=rtol, atol=atol)
        else:
            assert bool(jnp.all(u == v))


# The power of length in the units of each field; a field that is not here has none
UNITS = {"scale": 2, "covariance": 2, "rate": 2, "precision": -2}


def move(prior: Prior, scale: float, shift: Array) -> Prior:
    """The prior, or posterior, of ``scale * x + shift``."""
    components = prior.components
    changes: dict[str, Any] = {"mean": scale * components.mean + shift}
    for name, power in UNITS.items():
        if hasattr(components, name):
            changes[name] = scale**power * getattr(components, name)
    return replace(prior, components=replace(components, **changes))


def permute_fields(node: Any, fields: dict[str, Any], order: Array) -> dict[str, Any]:
    """Fields of the weights or the components, in every lane, with components in another order."""
    shapes = node.expected_shapes()
    return {
        name: value[:, order] if shapes[name][:1] == (K,) else value
        for name, value in fields.items()
    }


def permute(posterior: Prior, order: Array) -> Prior:
    """The components in another order, in every lane."""

    def moved(node: Any) -> Any:
        # the shapes of a single lane, of which the tree here holds R
        single = lane(node, 0)
        fields = {name: getattr(node, name) for name in single.expected_shapes()}
        return replace(node, **permute_fields(single, fields, order))

    tails = jax.tree.map(lambda a: a[:, order], posterior.tails)
    return replace(
        posterior,
        weights=moved(posterior.weights),
        components=moved(posterior.components),
        tails=tails,
    )


def permute_state(states: State, order: Array) -> State:
    """The lanes with their components in another order, unconstrained coordinates included."""
    posterior = permute(states.posterior, order)
    memory = states.memory
    coordinates = getattr(memory, "coordinates", ())
    if coordinates:
        single = lane(states.posterior, 0)
        moved = {
            part: permute_fields(getattr(single, part), coordinates[part], order)
            for part in ("weights", "components")
        }
        tails = coordinates.get("tails", {})
        if tails:
            moved["tails"] = {name: a[:, order] for name, a in tails.items()}
        memory = replace(memory, coordinates=moved)
    return replace(states, posterior=posterior, memory=memory)


def without_memory(state: State) -> State:
    """States of all algorithms of one view then have one structure, and share programs."""
    return replace(state, memory=())


def elbos(states: State, x: Array) -> Array:
    return jax.vmap(jaxgmm.elbo, (0, None))(without_memory(states), x)


def all_programs(family: str, weights: str, dtype: str) -> dict[str, Algorithm]:
    """One algorithm for each program of the table: MAP runs that of maximum likelihood."""
    rows = [kind for kind, *row in ROWS if row == [family, weights] and kind != "map"]
    return {kind: build(kind, family, weights, dtype) for kind in rows}
