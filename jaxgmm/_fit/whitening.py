"""The coordinates of a fit: the data centred and whitened, or scaled, before they are rounded.

A fit in these coordinates does not depend on the units of the data, and covariances of long and
thin data, which 32 bits hold but cannot factor, are round there. What goes in and what comes out is
in the data's own units: `Whitening` maps both. How much of an affine map a model can follow depends
on its covariance structure: a matrix for full and tied ones, a factor for each feature for diagonal
ones, one factor for spherical ones.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxgmm._algorithms.base import Algorithm
from jaxgmm._algorithms.monitor import cancellation
from jaxgmm._estep.moments import expected_values
from jaxgmm._estep.padded import padded
from jaxgmm._estep.rows import Rows
from jaxgmm._fit.coordinates import (
    Limits,
    Measure,
    coordinates_of,
    measured_on_devices,
    measured_on_host,
    moved_on_devices,
    moved_on_host,
    narrow,
)
from jaxgmm._lane.degenerate import is_held
from jaxgmm._lane.state import State
from jaxgmm._lane.status import Status
from jaxgmm._model.checks import is_bounded
from jaxgmm._numerics.affine import Affine
from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.devices import for_everyone, is_on_host
from jaxgmm._numerics.programs import program
from jaxgmm._numerics.pytree import replace


class Whitening:
    """The coordinates of the fits of one structure to one data set.

    Args:
        x: what the user passed: an array of any library, before it was rounded to JAX's default.
        rows: its rows as JAX has them.
        algorithm: whose structure and ``reg_covar`` say how the coordinates may change; a state's
            say it, too.
        pads: whether rows of weight 0 may follow those of the data.

    Attributes:
        rows: in these coordinates.
        to: the map from the data's units; NumPy arrays of 64 bits.
        missing: which values of the data are missing, or None.
    """

    def __init__(self, x: Any, rows: Rows, algorithm: Algorithm | State, pads: bool = False):
        kind = algorithm.prior.components.structure
        # a variance that is added in every direction remains one only if all scale alike
        alike = float(np.max(np.asarray(algorithm.view.reg_covar))) > 0
        source = x.x if isinstance(x, Rows) else x
        on_host = is_on_host(source)
        values = np.asarray(source) if on_host else rows.x
        bounded = is_bounded(algorithm.prior)
        limits = Limits(rows.x.dtype, float(jnp.finfo(values.dtype).eps), on_host, bounded)
        measure = _measure(values, rows, on_host)
        apart = not rows.is_complete
        self.to = to = coordinates_of(measure, rows.n_features, kind, alike, apart, limits)
        self.missing = rows.missing
        if on_host:
            values = moved_on_host(values, to, rows.x.dtype)
            z = as_array(values)
            if z.devices() != rows.x.devices():  # else it may go wherever a mesh wants it
                z = jax.device_put(values, rows.x.sharding)
        else:
            z = moved_on_devices(rows.x, *narrow(rows, to.before, to.matrix))
        moved = rows.mapped(to, z)
        self.rows = (padded(moved) if pads else moved).grouped()

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
        return into(tree, self.to, led)

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

    def gain(self, weight: Any, total: float) -> float:
        """What a log-likelihood gains on the way back: of rows of given weights, and their sum."""
        seen = None if self.missing is None else for_everyone(_seen, self.missing, weight)
        return self.gain_of(seen, total)

    def gain_of(self, seen: Any, total: float) -> float:
        """`gain`, from the weight of the values of each feature that are known; None for all."""
        if seen is None:
            return self.to.log_det() * total
        return float(np.asarray(seen, np.float64) @ self._log_scales())

    def log_dets(self) -> Any:
        """What the log density of a sample gains on the way back, in nats: one number, or ``(N,)``.

        It depends on which values are missing, and is the volume of those that a row has.
        """
        if self.missing is None:
            return self.to.log_det()
        return ~np.asarray(self.missing) @ self._log_scales()

    def _log_scales(self) -> np.ndarray:
        """Logs of what the features are multiplied by, where each is scaled by itself."""
        matrix, d = self.to.matrix, self.rows.n_features
        return np.log(np.broadcast_to(np.diag(matrix) if np.ndim(matrix) == 2 else matrix, d))

    def back(
        self, states: State, algorithm: Any, gain: float
    ) -> tuple[State, np.ndarray, np.ndarray]:
        """The states of lanes in the data's units, what their objectives gained and what was lost.

        Lost to `cancellation`, in these coordinates.

        Args:
            states: led by lanes; or by groups, which then lead ``algorithm`` as well.
            algorithm: in the data's units.
            gain: of a log-likelihood, see `gain`.
        """
        led = algorithm.prior.components.mean.ndim > 2
        to = self.to
        with jax.enable_x64(True):
            states, gained, lost = _restored(
                states, algorithm, to, to.inverse(), to.log_det(), gain, led=led
            )
        return states, np.asarray(gained), np.asarray(lost)


def _measure(values: Any, rows: Rows, on_host: bool) -> Measure:
    """The moments of the data: of what is known of them where some are missing or have errors."""
    if rows.is_complete:
        return measured_on_host(values, rows.weight) if on_host else measured_on_devices(rows)
    if on_host:
        known, _ = expected_values(values, rows.weight, rows.missing, rows.noise)
        return measured_on_host(known, rows.weight)
    return measured_on_devices(rows.completed())


def _seen(missing: Any, weight: Any) -> Any:
    """The weight of the values of each feature that are known, ``(D,)``."""
    if weight is None:
        return (~missing).sum(axis=0)
    return missing.__array_namespace__().where(missing, 0, weight[:, None]).sum(axis=0)


def into(tree: Any, to: Affine, led: bool = False) -> Any:
    """An algorithm, a prior or a posterior in other coordinates; or several that lead it."""
    with jax.enable_x64(True):
        return _into(tree, to, led=led)


def _wide(tree: Any) -> Any:
    """The tree with its floating-point leaves of 64 bits."""

    def wide(a: Any) -> Any:
        return a.astype(jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a

    return jax.tree.map(wide, tree)


def _as(tree: Any, others: Any) -> Any:
    """The tree with the dtypes of others."""

    def cast(a: Any, b: Any) -> Any:
        return a if a.dtype == b.dtype else a.astype(b.dtype)

    return jax.tree.map(cast, tree, others)


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
    gained: ArrayLike,
    *,
    led: bool,
) -> tuple[State, Array, Array]:
    """The states in the data's units, with what depends on these; see `Whitening.back`.

    Computed in 64 bits.
    """

    def one(state: State, own: Any) -> tuple[State, Array, Array]:
        rounded = cancellation(state.posterior, state.view)
        gain = jnp.asarray(gained)
        if state.view.point:
            prior = _wide(own.prior)
            present = prior.weights.present()
            gain = gain + prior.components.log_jacobian(to.matrix, log_det, present)
        gain = gain.astype(state.objective.dtype)
        q = _as(_wide(state.posterior).mapped(back), state.posterior).put_known(own.prior)
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
        return restored, gain, rounded

    return jax.vmap(one, (0, 0 if led else None))(states, algorithm)
