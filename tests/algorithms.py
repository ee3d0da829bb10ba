"""The table of algorithm x family x dtype that the contract tests go through."""

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

import jaxgmm
from jaxgmm import Algorithm, Prior, State

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
        permutes: whether its coordinates treat the components alike; stick-breaking weights and
            random draws do not.
        scales: whether the data's units cancel; the steps of Adam have units of their own.
    """

    make: Callable[[Prior], Algorithm]
    proper: bool = True
    monotone: bool = False
    exact: bool = False
    permutes: bool = True
    scales: bool = True


def adam(view: Any, batch_size: int | None = None) -> Callable[[Prior], Algorithm]:
    return lambda prior: jaxgmm.svi(
        prior, optax.adam, batch_size, learning_rate=0.05, view=view, n_draws=2
    )


def natural(view: Any, step: float, batch_size: int | None = None) -> Callable[[Prior], Algorithm]:
    return lambda prior: jaxgmm.svi(prior, jaxgmm.natural_gradient(step), batch_size, view=view)


KINDS = {
    "em": Kind(jaxgmm.em, proper=False, monotone=True),
    "map": Kind(jaxgmm.em, monotone=True),
    "cavi": Kind(jaxgmm.cavi, monotone=True),
    "svi sample": Kind(adam("sample", BATCH), permutes=False, scales=False),
    "svi expectation": Kind(adam("expectation"), exact=True, scales=False),
    "svi mode": Kind(adam("mode"), proper=False, exact=True, permutes=False, scales=False),
    "natural expectation": Kind(natural("expectation", 0.5, BATCH)),
    "natural mode": Kind(natural("mode", 0.5), proper=False),
}
COVARIANCES = ("full", "known")


def those(**laws: bool) -> list[str]:
    """The kinds that obey some laws."""
    return [n for n, kind in KINDS.items() if all(getattr(kind, k) == v for k, v in laws.items())]


@functools.cache
def data(dtype: str) -> Array:
    return clusters(dtype, N)


def covariance_of(name: str, dtype: str) -> Any:
    return jnp.asarray(KNOWN, dtype) if name == "known" else name


@functools.cache
def build(kind: str, covariance: str, dtype: str) -> Algorithm:
    """The algorithm of one row of the table."""
    given = covariance_of(covariance, dtype)
    if KINDS[kind].proper:
        prior = jaxgmm.default_prior(data(dtype), K, given)
    else:
        prior = jaxgmm.flat_prior(K, D, given, dtype)
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
    return lanes(algorithm, states, x, jnp.asarray(steps), jnp.asarray(tol, x.dtype))


def keys(n: int = R) -> Array:
    return jax.random.split(jax.random.key(5), n)


def with_shared_order(states: State) -> State:
    """The lanes with the first lane's order of minibatches, as those of one fit have."""
    memory = states.memory
    if not hasattr(memory, "order_key"):
        return states
    order = jnp.broadcast_to(memory.order_key[:1], memory.order_key.shape)
    return replace(states, memory=replace(memory, order_key=order))


def begin(kind: str, covariance: str, dtype: str) -> tuple[Algorithm, State, Array]:
    """The algorithm, its R lanes at the start, and the data."""
    algorithm, x = build(kind, covariance, dtype), data(dtype)
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


def move(prior: Prior, scale: float, shift: Array) -> Prior:
    """The prior, or posterior, of ``scale * x + shift``."""
    components = prior.components
    changes: dict[str, Any] = {"mean": scale * components.mean + shift}
    for name in ("scale", "covariance"):
        if hasattr(components, name):
            changes[name] = scale**2 * getattr(components, name)
    return replace(prior, components=replace(components, **changes))


def permute(posterior: Prior, order: Array) -> Prior:
    """The components in another order, in every lane."""
    components = posterior.components
    changes = {
        name: getattr(components, name)[:, order]
        for name, shape in components.expected_shapes().items()
        if len(shape) > 0 and shape[0] == K
    }
    weights = posterior.weights
    return replace(
        posterior,
        weights=replace(weights, concentration=weights.concentration[:, order]),
        components=replace(components, **changes),
    )


def permute_state(states: State, order: Array) -> State:
    """The lanes with their components in another order, unconstrained coordinates included."""
    states = replace(states, posterior=permute(states.posterior, order))
    if not hasattr(states.memory, "coordinates"):
        return states
    coordinates = jax.tree.map(lambda a: a[:, order], states.memory.coordinates)
    return replace(states, memory=replace(states.memory, coordinates=coordinates))


def without_memory(state: State) -> State:
    """States of all algorithms of one view then have one structure, and share programs."""
    return replace(state, memory=())


def elbos(states: State, x: Array) -> Array:
    return jax.vmap(jaxgmm.elbo, (0, None))(without_memory(states), x)


def all_programs(covariance: str, dtype: str) -> dict[str, Algorithm]:
    """One algorithm for each program of the table: MAP runs that of maximum likelihood."""
    return {kind: build(kind, covariance, dtype) for kind in KINDS if kind != "map"}
