"""Given starts: what a user says of where a lane begins."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgmm._estep.assigned import from_labels, from_responsibilities, nearest_labels
from jaxgmm._estep.data import Data
from jaxgmm._estep.estep import estep_on
from jaxgmm._estep.rows import allowed
from jaxgmm._lane.seeds import unit_of
from jaxgmm._lane.starts import STARTS, Start, beside_background, random_posterior
from jaxgmm._lane.state import Fitted, State, state_of
from jaxgmm._model.estimate import given_estimate
from jaxgmm._model.prior import Prior
from jaxgmm._model.views import View
from jaxgmm._numerics.calls import described
from jaxgmm._numerics.checks import (
    check_choice,
    check_covariance,
    check_leaves_finite,
    check_simplex,
    is_traced,
)
from jaxgmm._numerics.inputs import unmasked
from jaxgmm._numerics.pytree import replace

GIVEN = ("responsibilities", "labels", "means", "parameters", "posterior", "state")

# What `check_start` returns: a random start, or a mapping with one given start, as arrays.
Checked = Start | dict[str, Any]


def initial_posterior(key: Array, data: Data, prior: Prior, start: Checked, view: View) -> Prior:
    """The posterior a lane starts from; ``start`` has been checked by `check_start`.

    Given responsibilities and labels are updated under ``prior`` itself; means as a random start's
    seeds are.
    """
    if not isinstance(start, dict):
        return random_posterior(key, data, prior, start, view)
    ((name, value),) = start.items()
    kind, weight, k = prior.components.structure, data.weight, prior.n_components
    x = data.rows.completed().x
    if name == "means":
        components = prior.components.proper_or_default(*data.rows.moments(kind))
        labels = nearest_labels(x, value, unit_of(x), allowed(data.rows.labels, k))
        stats = from_labels(x, labels, k, sample_weight=weight, structure=kind)
        if prior.background:
            stats = beside_background(data.rows.completed(), stats, unit_of(x))
        return view.update(replace(prior, components=components), stats)
    if name == "responsibilities":
        stats = from_responsibilities(x, value, sample_weight=weight, structure=kind)
        return view.update(prior, stats)
    if name == "labels":
        stats = from_labels(x, value, k, sample_weight=weight, structure=kind)
        return view.update(prior, stats)
    if name == "parameters":
        m = given_estimate(kind, *value)
        # what EM will add: the first E-step sees the given covariances themselves
        covariance = m.kind.regularise(m.covariance, -view.reg_covar)
        return view.posterior_at(prior, replace(m, covariance=covariance), data.total)
    if name == "posterior":
        return value.put_known(prior)
    # The same view of the same model goes on where it stopped. Another view's posterior need not
    # be valid here (maximum likelihood's is improper), so its responsibilities carry over.
    if value.view.point == view.point:
        return value.posterior.put_known(prior)
    return view.update(prior, estep_on(data, value.potentials))


def check_start(start: Any, prior: Prior, n_samples: int) -> Checked:
    """A random start, or a mapping with one of the given starts, checked and as arrays."""
    start = state_of(start, "init") if isinstance(start, Fitted) else start
    if isinstance(start, State):
        start = {"state": start}
    if callable(start):
        return start  # type: ignore[return-value]
    if isinstance(start, str):
        check_choice("init", start, STARTS, '; or a given start, such as {"means": means}')
        return start
    if not isinstance(start, Mapping) or len(start) != 1 or next(iter(start)) not in GIVEN:
        came = f"a mapping with {list(start)}" if isinstance(start, Mapping) else described(start)
        names, given = (", ".join(map(repr, known)) for known in (STARTS, GIVEN))
        raise ValueError(
            f"init must be one of {names}, a State, or a mapping with exactly one of {given}, such "
            f'as {{"means": means}}; but it is {came}.'
        )
    ((name, value),) = start.items()
    value = jax.tree.map(functools.partial(unmasked, name), value)
    return {name: _CHECKS[name](value, prior, n_samples)}


def _check_state(value: Any, prior: Prior, n_samples: int) -> State:
    if not isinstance(value, State):
        raise ValueError(f"state must be a jaxgmm State, but it is {described(value)}.")
    _check_posterior(value.posterior, prior, n_samples)
    return value


def _check_labels(value: Any, prior: Prior, n_samples: int) -> Array:
    labels, k = jnp.asarray(value), prior.n_components
    _check_shape("labels", labels, (n_samples,))
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers, but their dtype is {labels.dtype}.")
    if not is_traced(labels) and not ((np.asarray(labels) >= 0) & (np.asarray(labels) < k)).all():
        raise ValueError(f"labels must be from 0 to {k - 1}, but they go outside.")
    return labels


def _check_responsibilities(value: Any, prior: Prior, n_samples: int) -> Array:
    r = jnp.asarray(value, prior.dtype)
    _check_shape("responsibilities", r, (n_samples, prior.n_components))
    if not is_traced(r):
        values = np.asarray(r)
        if not ((values >= 0).all() and np.abs(values.sum(axis=1) - 1).max() <= 1e-3):
            raise ValueError(
                "responsibilities must be non-negative with rows that sum to 1; "
                "divide each row by its sum."
            )
    return r


def _check_means(value: Any, prior: Prior, n_samples: int) -> Array:
    means = jnp.asarray(value, prior.dtype)
    _check_shape("means", means, (prior.n_components, prior.n_features))
    if not is_traced(means):
        check_leaves_finite("the start", {"means": means})
    return means


def _check_parameters(value: Any, prior: Prior, n_samples: int) -> tuple[Array, Array, Array]:
    if not isinstance(value, tuple) or len(value) != 3:
        raise ValueError("parameters must be a tuple (weights, means, covariances).")
    weights, means, covariances = (jnp.asarray(a, prior.dtype) for a in value)
    k, d = prior.n_components, prior.n_features
    _check_shape("weights", weights, (k,))
    _check_shape("means", means, (k, d))
    _check_shape("covariances", covariances, (k, d, d))
    if not is_traced(weights, means):
        check_leaves_finite("the start", {"weights": weights, "means": means})
        check_simplex("weights", weights)
    check_covariance("covariances", covariances, d)
    return weights, means, covariances


def _check_shape(name: str, value: Array, shape: tuple[int, ...]) -> None:
    if value.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, but its shape is {tuple(value.shape)}.")


def _check_posterior(posterior: Any, prior: Prior, n_samples: int) -> Prior:
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
    return posterior


_CHECKS = {
    "responsibilities": _check_responsibilities,
    "labels": _check_labels,
    "means": _check_means,
    "parameters": _check_parameters,
    "posterior": _check_posterior,
    "state": _check_state,
}
