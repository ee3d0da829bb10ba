"""The coordinates of a fit: the data centred and whitened, or scaled, before they are rounded.

A fit in these coordinates does not depend on the units of the data, and covariances of long and
thin data, which 32 bits hold but cannot factor, are round there. What goes in and what comes out is
in the data's own units: `Whitening` maps both. How much of an affine map a model can follow depends
on its covariance structure: a matrix for full and tied ones, a factor for each feature for diagonal
ones, one factor for spherical ones.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxgmm._algorithms.base import Algorithm
from jaxgmm._estep.data import CONSTANT, Rows
from jaxgmm._estep.structures import structure
from jaxgmm._lane.degenerate import HELD, is_held
from jaxgmm._lane.state import State
from jaxgmm._lane.status import Status
from jaxgmm._model.checks import is_bounded
from jaxgmm._numerics import linalg
from jaxgmm._numerics.affine import Affine
from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.checks import check_variances
from jaxgmm._numerics.devices import for_everyone, is_on_host
from jaxgmm._numerics.programs import program
from jaxgmm._numerics.pytree import replace

# Rows that are of 64 bits at a time while the host measures them.
_CHUNK = 1 << 16


class Moments(NamedTuple):
    """Of rows in some coordinates: mean, largest minus smallest value, and covariance."""

    mean: np.ndarray
    extent: np.ndarray
    covariance: np.ndarray


# The moments of the data after ``(x - before (D,)) @ matrix``; a matrix (D,) is a diagonal.
Measure = Callable[[np.ndarray, np.ndarray], Moments]


class Limits(NamedTuple):
    """What the arithmetic can do.

    Attributes:
        dtype: of the fit.
        source: eps of the data as they came.
        on_host: whether they are measured in 64 bits, on the host.
        bounded: whether a prior bounds all covariances, so that none need vanish.
    """

    dtype: Any
    source: float
    on_host: bool
    bounded: bool

    @property
    def eps(self) -> float:
        return float(jnp.finfo(self.dtype).eps)

    @property
    def rounds(self) -> int:
        return 1 if self.on_host else 2

    def round(self, a: Any) -> np.ndarray:
        """Numbers as the rows are moved by: on devices in the dtype of the fit."""
        return np.asarray(a if self.on_host else np.asarray(a, self.dtype), np.float64)


class Whitening:
    """The coordinates of the fits of one structure to one data set.

    Args:
        x: what the user passed: an array of any library, before it was rounded to JAX's default.
        rows: its rows as JAX has them.
        algorithm: whose structure and ``reg_covar`` say how the coordinates may change.

    Attributes:
        rows: in these coordinates.
        to: the map from the data's units; NumPy arrays of 64 bits.
        log_det: what the log density of a sample gains on the way back, in nats.
    """

    def __init__(self, x: Any, rows: Rows, algorithm: Algorithm):
        kind = algorithm.prior.components.structure
        # a variance that is added in every direction remains one only if all scale alike
        alike = float(np.max(np.asarray(algorithm.view.reg_covar))) > 0
        source = x.x if isinstance(x, Rows) else x
        on_host = is_on_host(source)
        values = np.asarray(source) if on_host else rows.x
        bounded = is_bounded(algorithm.prior)
        limits = Limits(rows.x.dtype, float(jnp.finfo(values.dtype).eps), on_host, bounded)
        measure = _on_host(values, rows.weight) if on_host else _on_devices(rows)
        self.to = to = _coordinates(measure, rows.n_features, kind, alike, limits)
        self.log_det = to.log_det()
        if on_host:
            moved = _moved_on_host(values, to, rows.x.dtype)
            z = as_array(moved)
            if z.devices() != rows.x.devices():  # else it may go wherever a mesh wants it
                z = jax.device_put(moved, rows.x.sharding)
        else:
            z = _moved_on_devices(rows.x, *_narrow(rows, to.before, to.matrix))
        self.rows = Rows(z, rows.weight)

    @property
    def standard(self) -> np.ndarray | None:
        """What makes rows for starts of these, each feature near its own standard deviation.

        A matrix that multiplies them from the right; None where they are such rows already.
        """
        if np.ndim(self.to.matrix) < 2:
            return None
        inverse = self.to.inverse().matrix
        unit = np.sqrt(np.sum(inverse**2, axis=0))
        return np.asarray(inverse / unit, self.rows.x.dtype)

    def into(self, tree: Any, led: bool = False) -> Any:
        """An algorithm, a prior or a posterior in these coordinates; or several that lead it."""
        with jax.enable_x64(True):
            return _into(tree, self.to, led=led)

    def start(self, checked: Any) -> dict[str, Any]:
        """A given start in these coordinates, see `check_start`."""
        ((name, value),) = checked.items()
        to = self.to
        if name == "means":
            value = self._narrow(to.points(np.asarray(value, np.float64)))
        elif name == "parameters":
            weights, means, covariances = (np.asarray(a, np.float64) for a in value)
            square, d = np.ndim(to.matrix) == 2, means.shape[1]
            matrix = to.matrix if square else np.eye(d) * to.matrix
            covariances = matrix.T @ covariances @ matrix
            value = tuple(map(self._narrow, (weights, to.points(means), covariances)))
        elif name == "posterior":
            value = self.into(value)
        elif name == "state":
            value = replace(value, posterior=self.into(value.posterior))
        return {name: value}

    def _narrow(self, a: np.ndarray) -> Array:
        return as_array(a, self.rows.x.dtype)

    def back(self, states: State, algorithm: Any, total: float) -> tuple[State, np.ndarray]:
        """The states of lanes in the data's units, and what their objectives gained.

        Args:
            states: led by lanes; or by groups, which then lead ``algorithm`` as well.
            algorithm: in the data's units.
            total: sum of the weights.
        """
        led = algorithm.prior.components.mean.ndim > 2
        with jax.enable_x64(True):
            states, gain = _restored(
                states, algorithm, self.to, self.to.inverse(), self.log_det, total, led=led
            )
        return states, np.asarray(gain)


def _wide(tree: Any) -> Any:
    """The tree with its floating-point leaves of 64 bits."""

    def wide(a: Any) -> Any:
        return a.astype(jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a

    return jax.tree.map(wide, tree)


def _as(tree: Any, others: Any) -> Any:
    """The tree with the dtypes of others."""

    def narrow(a: Any, b: Any) -> Any:
        return a if a.dtype == b.dtype else a.astype(b.dtype)

    return jax.tree.map(narrow, tree, others)


@program(static=("led",))
def _into(tree: Any, to: Affine, *, led: bool) -> Any:
    """In other coordinates, computed in 64 bits; one, or as many as lead every leaf."""

    def one(node: Any) -> Any:
        return node.mapped(to)

    return _as((jax.vmap(one) if led else one)(_wide(tree)), tree)


@program(static=("led",))
def _restored(
    states: State,
    algorithm: Any,
    to: Affine,
    back: Affine,
    log_det: ArrayLike,
    total: ArrayLike,
    *,
    led: bool,
) -> tuple[State, Array]:
    """The states in the data's units, with what depends on these, and what the objectives gained.

    Computed in 64 bits.
    """

    def one(state: State, own: Any) -> tuple[State, Array]:
        gain = jnp.asarray(log_det * total)
        if state.view.point:
            prior = _wide(own.prior)
            present = prior.weights.present()
            gain = gain + prior.components.log_jacobian(to.matrix, log_det, present)
        gain = gain.astype(state.objective.dtype)
        q = _as(_wide(state.posterior).mapped(back), state.posterior)
        done = (state.status == Status.CONVERGED) | (state.status == Status.MAX_ITERATIONS)
        lost = done & ~is_held(own, q)
        restored = replace(
            state,
            prior=own.prior,
            view=own.view.of_state,
            posterior=q,
            status=jnp.where(lost, Status.COLLAPSED, state.status).astype(state.status.dtype),
            objective=state.objective + gain,
            record=_as(own.monitor.shifted(state.record, gain), state.record),
            memory=_as(own.remember_again(state.memory, q), state.memory),
        )
        return restored, gain

    return jax.vmap(one, (0, 0 if led else None))(states, algorithm)


# --- what the data are like -------------------------------------------------------------------


def _coordinates(
    measure: Measure, n_features: int, kind: str, alike: bool, limits: Limits
) -> Affine:
    """The map of data that ``measure`` measures.

    Args:
        measure: the moments of the data in given coordinates.
        n_features: D.
        kind: name of the covariance structure.
        alike: whether all features are scaled alike, whatever the structure.
        limits: precisions of the data and of the fit.
    """
    zero, one = np.zeros(n_features), np.ones(n_features)
    first = measure(zero, one)
    before = limits.round(first.mean)
    constant = first.extent <= CONSTANT * limits.source * np.abs(before)
    unit = np.where(constant, 1, first.extent)
    second = measure(before, limits.round(1 / unit))
    variances = np.where(constant, 0, np.diag(second.covariance)) * unit**2
    check_variances(variances, constant, limits.dtype)
    mean, largest = np.mean(variances), np.max(variances)
    sd = np.sqrt(np.where(constant, largest if largest > 0 else 1, variances))
    if structure(kind).separate == "spherical" or alike:
        sd = np.full(n_features, np.sqrt(mean if mean > 0 else 1))
    matrix = 1 / sd
    if kind == "spherical":
        matrix = matrix[0]
    elif structure(kind).separate == "full":
        matrix = np.diag(matrix)
        # what was measured in 32 bits is measured again where it is nearly white
        for _ in range(0 if alike or n_features == 1 else limits.rounds):
            matrix = limits.round(matrix @ _whitening(measure(before, matrix), constant, limits))
    return Affine(before, limits.round(matrix), np.zeros(n_features))


def _whitening(moments: Moments, constant: np.ndarray, limits: Limits) -> np.ndarray:
    """The matrix after which directions that vary have variance 1.

    It is the symmetric one. But where some direction does not vary, and a prior says how wide a
    covariance is there, each axis becomes a coordinate of its own: mixed with those that vary it
    would be lost to rounding.
    """
    free = np.where(constant, 0, 1)
    covariance = moments.covariance * free * free[:, None] + np.diag(1.0 - free)
    values, axes = np.linalg.eigh(covariance)
    # a direction that does not vary as far as the dtype can tell keeps its scale
    vary = values > HELD * limits.eps
    matrix = axes / np.sqrt(np.where(vary, values, 1))
    return matrix if limits.bounded and not vary.all() else matrix @ axes.T


def _on_host(x: np.ndarray, weight: Array | None) -> Measure:
    weights = np.ones(len(x)) if weight is None else np.asarray(weight, np.float64)
    weights = weights / np.sum(weights)

    def measure(before: np.ndarray, matrix: np.ndarray) -> Moments:
        d = x.shape[1]
        mean, second = np.zeros(d), np.zeros((d, d))
        low, high = np.full(d, np.inf), np.full(d, -np.inf)
        for i in range(0, len(x), _CHUNK):
            w = weights[i : i + _CHUNK]
            y, w = _in_chunk(x[i : i + _CHUNK][w > 0], before, matrix), w[w > 0]
            mean += w @ y
            second += (w[:, None] * y).T @ y
            low = np.minimum(low, np.min(y, axis=0, initial=np.inf))
            high = np.maximum(high, np.max(y, axis=0, initial=-np.inf))
        return Moments(mean, high - low, second - np.outer(mean, mean))

    return measure


def _in_chunk(x: np.ndarray, before: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    y = x.astype(np.float64) - before
    return y @ matrix if matrix.ndim == 2 else y * matrix


def _moved_on_host(x: np.ndarray, to: Affine, dtype: Any) -> np.ndarray:
    out = np.empty(x.shape, dtype)
    for i in range(0, len(x), _CHUNK):
        out[i : i + _CHUNK] = _in_chunk(x[i : i + _CHUNK], to.before, to.matrix)
    return out


def _on_devices(rows: Rows) -> Measure:
    def measure(before: np.ndarray, matrix: np.ndarray) -> Moments:
        found = for_everyone(_moments, rows.x, rows.weight, *_narrow(rows, before, matrix))
        return Moments(*(np.asarray(a, np.float64) for a in found))

    return measure


def _narrow(rows: Rows, *arrays: Any) -> list[np.ndarray]:
    return [np.asarray(a, rows.x.dtype) for a in arrays]


def _moments(x: Array, weight: Array | None, before: Array, matrix: Array) -> tuple[Array, ...]:
    y = _moved_on_devices(x, before, matrix)
    w = jnp.ones((x.shape[0],), x.dtype) if weight is None else weight
    w = w / jnp.sum(w)
    used = (w > 0)[:, None]
    mean = jnp.sum(w[:, None] * y, axis=0)
    high = jnp.max(jnp.where(used, y, -jnp.inf), axis=0)
    low = jnp.min(jnp.where(used, y, jnp.inf), axis=0)
    centred = jnp.where(used, y - mean, 0)
    return mean, high - low, linalg.matmul((w[:, None] * centred).T, centred)


@program()
def _moved_on_devices(x: Array, before: Array, matrix: Array) -> Array:
    y = x - before
    return linalg.matmul(y, matrix) if matrix.ndim == 2 else y * matrix
