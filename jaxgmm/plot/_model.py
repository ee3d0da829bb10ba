"""What the pictures ask of a model, whether it is a `State` or a `Mixture`."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgmm._estep.potentials import logits
from jaxgmm._estep.rows import Rows
from jaxgmm._lane.state import State
from jaxgmm._mixture.algebra import marginal_of
from jaxgmm._mixture.density import log_predictive_joint, responsibilities_at
from jaxgmm._mixture.mixture import (
    Mixture,
    check_fitted,
    estimate,
    has_student_t,
    is_predictive,
    mixture,
    n_components_of,
    student_t_mixture,
    view,
)
from jaxgmm._model.estimate import Estimate
from jaxgmm._numerics.blocks import map_blocks
from jaxgmm._numerics.calls import described

# Where more rows would be drawn than this, a random subset of as many is.
MOST_POINTS = 5000


class Parameters(NamedTuple):
    """A `Mixture` in NumPy and double precision: (K,), (K, F) and (K, F, F)."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray


def as_mixture(model: Any, what: str) -> tuple[State | Mixture, Mixture]:
    """What is drawn, of one lane, and its mixture: of Student-t components that of the scales."""
    model = check_fitted(model, what, values=False)  # what is left of a failed one is drawn
    if has_student_t(model):
        return model, Mixture(*student_t_mixture(model)[:3])
    return model, mixture(model) if isinstance(model, State) else model


def parameters(model: Mixture, features: Sequence[int]) -> Parameters:
    """Those of the marginal of some features."""
    return Parameters(*(np.asarray(a, np.float64) for a in marginal_of(model, features)))


def check_features(features: Any, n_features: int, n: int) -> tuple[int, ...]:
    """Indices of n different features of the model, which may not be counted from the end."""
    if n == 2 and n_features == 1:
        raise ValueError(
            "this picture shows two features, but the model has one; call "
            "jaxgmm.plot.histogram(result, x)."
        )
    chosen = tuple(np.atleast_1d(np.asarray(features)).tolist())
    integers = all(isinstance(f, int) and not isinstance(f, bool) for f in chosen)
    inside = integers and all(0 <= f < n_features for f in chosen)
    if not inside or len(chosen) != n or len(set(chosen)) != n:
        what = "one feature" if n == 1 else f"{n} different features"
        came = described(features) if np.ndim(features) > 1 else features
        raise ValueError(
            f"expected {what} between 0 and {n_features - 1}, the model's, but got {came}."
        )
    return chosen


def check_names(names: Any, n_features: int) -> list[str]:
    """A label for each feature: the given names, or the columns of x."""
    if names is None:
        return [f"x[:, {f}]" for f in range(n_features)]
    if isinstance(names, str) or len(names) != n_features:
        raise ValueError(
            f"names must be a sequence of {n_features} strings, one for each feature of the "
            f"model, but it is {names!r}."
        )
    return [str(name) for name in names]


def squared_radius(model: State | Mixture, share: float) -> np.ndarray:
    """Squared Mahalanobis distance within which each component has a share of its mass, (K,).

    In the plane of two features: the quantile of chi-square with two degrees of freedom, or of a
    Student-t component twice that of F with 2 and its own.
    """
    square = np.full(n_components_of(model), -2 * math.log1p(-share))
    if not has_student_t(model):
        return square
    degrees = np.asarray(student_t_mixture(model).degrees, np.float64)
    heavy = np.isfinite(degrees)
    finite = np.where(heavy, degrees, 1)
    return np.where(heavy, finite * np.expm1(square / finite), square)


def drawable(own: Parameters) -> np.ndarray:
    """Which components have finite parameters and a weight: those of failed lanes may not."""
    finite = np.isfinite(own.means).all(axis=-1)
    finite &= np.isfinite(own.covariances).all(axis=(-2, -1))
    return finite & (own.weights > 0)


def subset(n_rows: int, most: int = MOST_POINTS) -> np.ndarray:
    """Rows to draw, in order: all of them, or ``most`` at random, always the same ones."""
    if n_rows <= most:
        return np.arange(n_rows)
    return np.sort(np.random.default_rng(0).choice(n_rows, most, replace=False))


def component_log_densities(
    model: State | Mixture, at: np.ndarray, features: Sequence[int]
) -> np.ndarray:
    """log of weight times density of each component, at points (P, F) of the features: (P, K).

    Where these are all the features of a state, of the density that `jaxgmm.log_prob` gives; else
    of the marginal of its `mixture`. Components that have none have -inf.
    """
    own = as_mixture(model, "plot")[1]
    x = jnp.asarray(at, own.means.dtype)
    if has_student_t(model):
        values = _student_t(model, x, tuple(features))
    elif len(features) < own.means.shape[1]:
        values = _logits(marginal_of(own, features), x)
    else:
        density = _predictive if is_predictive(model) else _logits
        values = density(model, x[:, np.argsort(features)])
    values = np.asarray(values, np.float64)
    return np.where(np.isfinite(values), values, -np.inf)


@jax.jit
def shares(model: State | Mixture, x: Array) -> Array:
    """The responsibilities of checked samples, undefined where the mixture is."""
    return responsibilities_at(view(model), Rows(x))


@jax.jit
def _logits(model: State | Mixture, x: Array) -> Array:
    own = view(model)
    return map_blocks(lambda rows: logits(rows, own), x, 3 * own.mean.size)


@functools.partial(jax.jit, static_argnames="features")
def _student_t(model: State, x: Array, features: tuple[int, ...]) -> Array:
    m, chosen = estimate(model), np.asarray(features)
    scales = m.matrices()[:, chosen][:, :, chosen]
    degrees = student_t_mixture(model).degrees
    part = Estimate(m.weights, m.means[:, chosen], scales, "full", degrees=degrees)
    own = part.potentials()
    return map_blocks(lambda rows: logits(rows, own), x, 3 * own.mean.size)


@jax.jit
def _predictive(state: State, x: Array) -> Array:
    size = 3 * state.posterior.components.mean.size
    return map_blocks(lambda block: log_predictive_joint(state, Rows(block)), x, size)
