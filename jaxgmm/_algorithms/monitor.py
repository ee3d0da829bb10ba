"""What judges convergence: an algorithm holds a monitor, and a lane's state what it remembers."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

from jaxgmm._lane.state import State
from jaxgmm._model.prior import Prior
from jaxgmm._model.views import View
from jaxgmm._numerics.devices import any_lane, varying_as
from jaxgmm._numerics.pytree import pytree, replace

# Iterations over which a change below the objective's last place is judged.
_WINDOW = 16
# A noisy objective is reported as an average over about this many iterations.
_SMOOTHING = 100
# Iterations in the first window over which its rise is measured; each is twice as long as the last.
_FIRST_WINDOW = 50
# An exact objective that may overshoot must stand still in so many iterations in a row.
_QUIET = 10

# A bound has gone down where it fell by more than so many units of rounding.
_SLACK = 100
# What two roundings of a bound differed by, beside eps times its `summands`: a tenth to a half in
# float32, of 100 to 100,000 samples, up to a thousand times as long as wide; and so many times that
# is a fall.
_ROUNDED = 0.25
_PRODUCTS_SLACK = 10


class Tolerance(NamedTuple):
    """What counts as no change of an objective, in nats.

    Attributes:
        allowed: the tolerance of the user, times the number of samples.
        noise: what rounding alone may change, see `rounding`.
        slack: a fall by more is an error.
    """

    allowed: Array
    noise: Array
    slack: Array


class Monitor:
    """Base of `Rising`, `Settling` and `Noisy`: what is made of an objective's course."""

    def begin(self, dtype: Any) -> Any:
        """The record before the first iteration."""
        raise NotImplementedError

    def observe(
        self, record: Any, objective: Array, n_iter: Array, tolerance: Tolerance
    ) -> tuple[Any, Array]:
        """The record after an iteration, and the objective to report."""
        raise NotImplementedError

    def settled(
        self,
        old: Any,
        new: Any,
        before: Array,
        objective: Array,
        n_iter: Array,
        tolerance: Tolerance,
    ) -> Array:
        """Whether the objective, ``before`` an iteration and after it, has come to rest.

        ``old`` and ``new`` are the records before and after; see also `observe`.
        """
        raise NotImplementedError

    def shifted(self, record: Any, shift: Array) -> Any:
        """The record of an objective that differs by a constant."""
        raise NotImplementedError


@pytree
class Rising(Monitor):
    """Of an exact objective that only rises: one small change is enough.

    Where rounding is more than the tolerance, as in float32 with many samples, a single iteration
    cannot tell; then the change since up to sixteen iterations ago must be within rounding, or
    within sixteen tolerances. The record is the objective then.
    """

    def begin(self, dtype: Any) -> Array:
        return jnp.asarray(-jnp.inf, dtype)

    def observe(
        self, record: Array, objective: Array, n_iter: Array, tolerance: Tolerance
    ) -> tuple[Array, Array]:
        return jnp.where(window_ends(n_iter), objective, record), objective

    def shifted(self, record: Array, shift: Array) -> Array:
        return record + shift

    def settled(
        self,
        old: Array,
        new: Any,
        before: Array,
        objective: Array,
        n_iter: Array,
        tolerance: Tolerance,
    ) -> Array:
        allowed, noise, _ = tolerance
        one = jnp.abs(objective - before) <= allowed
        due = window_ends(n_iter)
        long = jnp.abs(objective - old) <= _WINDOW * allowed + noise
        return jnp.where(allowed >= noise, one, due & long) & (allowed > 0)


@pytree
class Trace:
    """A running average of a noisy objective, and whether it has stopped rising.

    Attributes:
        average: exponential average, not yet divided by ``weight``.
        weight: of the observations in it.
        mean: of the objectives in the current window.
        squares: their squared deviations from it, summed.
        count: of iterations in the current window.
        last_mean: of the window before; of an exact objective, its last value.
        last_variance: of that mean.
        last_count: iterations in the window before.
        quiet: comparisons in a row that found no rise above the tolerance.
    """

    average: Float[Array, "*R"]
    weight: Float[Array, "*R"]
    mean: Float[Array, "*R"]
    squares: Float[Array, "*R"]
    count: Int[Array, "*R"]
    last_mean: Float[Array, "*R"]
    last_variance: Float[Array, "*R"]
    last_count: Int[Array, "*R"]
    quiet: Int[Array, "*R"]


class _Traced(Monitor):
    """The record is a `Trace`, which counts the comparisons that found no rise."""

    enough: int

    def begin(self, dtype: Any) -> Trace:
        zero, none = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
        nothing = jnp.asarray(-jnp.inf, dtype)
        return Trace(zero, zero, zero, zero, none, nothing, zero, none, none)

    def shifted(self, record: Trace, shift: Array) -> Trace:
        return replace(
            record,
            average=record.average + record.weight * shift,
            mean=record.mean + shift,
            last_mean=record.last_mean + shift,
        )

    def settled(
        self,
        old: Any,
        new: Trace,
        before: Array,
        objective: Array,
        n_iter: Array,
        tolerance: Tolerance,
    ) -> Array:
        return (new.quiet >= self.enough) & (tolerance.allowed > 0)


@pytree
class Settling(_Traced):
    """Of an exact objective that may overshoot: small changes in ten iterations in a row.

    An optimiser with momentum stands still for one iteration at every turn.
    """

    enough = _QUIET

    def observe(
        self, record: Trace, objective: Array, n_iter: Array, tolerance: Tolerance
    ) -> tuple[Trace, Array]:
        quiet = jnp.abs(objective - record.last_mean) <= tolerance.allowed + tolerance.noise
        quiet = jnp.where(quiet, record.quiet + 1, 0)
        return replace(record, last_mean=objective, quiet=quiet), objective


@pytree
class Noisy(_Traced):
    """Of an estimate of the objective, which is reported as a running average.

    Windows double in length. When one ends, its mean is compared with that of the window before:
    the rise in one iteration and two of its standard errors must be within ``allowed``. So a noise
    that hides a rise is not taken for rest; as the windows grow, the noise in the rise falls with
    the power 3/2 of their length.
    """

    enough = 1

    def observe(
        self, record: Trace, objective: Array, n_iter: Array, tolerance: Tolerance
    ) -> tuple[Trace, Array]:
        dtype = objective.dtype
        average = record.average + (objective - record.average) / _SMOOTHING
        weight = record.weight + (1 - record.weight) / _SMOOTHING
        count = record.count + 1
        n = count.astype(dtype)
        gap = objective - record.mean
        mean = record.mean + gap / n
        squares = record.squares + gap * (objective - mean)
        variance = squares / (n * jnp.maximum(n - 1, 1))
        # from the middle of one window to the middle of the other
        apart = (n + record.last_count.astype(dtype)) / 2
        rise = (mean - record.last_mean) / apart
        error = jnp.sqrt(variance + record.last_variance) / apart
        due = count >= jnp.maximum(2 * record.last_count, _FIRST_WINDOW)
        quiet = jnp.where(rise + 2 * error <= tolerance.allowed, record.quiet + 1, 0)
        ended = Trace(
            average=average,
            weight=weight,
            mean=jnp.zeros_like(mean),
            squares=jnp.zeros_like(squares),
            count=jnp.zeros_like(count),
            last_mean=mean,
            last_variance=variance,
            last_count=count,
            quiet=quiet,
        )
        ongoing = replace(
            record, average=average, weight=weight, mean=mean, squares=squares, count=count
        )
        record = jax.tree.map(lambda a, b: jnp.where(due, a, b), ended, ongoing)
        return record, average / weight


def window_ends(n_iter: Array) -> Array:
    """Whether a change below the objective's last place is judged after this iteration."""
    return n_iter % _WINDOW == 0


def tolerance_of(
    old: State, new: State, total: Array, tol: Array, view: View, *, exact: bool
) -> Tolerance:
    """What counts as no change between the states before an iteration and after it.

    What rounding leaves of products that cancel takes one more factor. So it counts only where a
    fall is to be judged, or a window of iterations ends; and never unless the objective is
    ``exact``.
    """
    q, allowed = new.posterior, tol * total
    noise = rounding(new.objective, total * q.components.n_features)
    if not exact:
        return Tolerance(allowed, noise, 10 * allowed + _SLACK * noise)
    doubtful = (new.objective < old.objective - noise) | window_ends(new.n_iter)
    none = varying_as(q, jnp.zeros_like(noise))
    cancelled = lax.cond(any_lane(doubtful), lambda: cancellation(q, view), lambda: none)
    cancelled = jnp.where(doubtful, cancelled, 0)
    slack = 10 * allowed + _SLACK * noise + _PRODUCTS_SLACK * cancelled
    return Tolerance(allowed, noise + cancelled, slack)


def rounding(objective: Any, size: Any) -> Any:
    """What rounding alone may change in an objective: the last place of what it sums up.

    An objective may pass through 0 where its summands are large: ``size`` is that of the squared
    distances, the number of samples times that of the features. More is lost where products cancel,
    see `cancellation`.
    """
    return jnp.finfo(objective.dtype).eps * (abs(objective) + size)


def cancellation(q: Prior, view: View) -> Array:
    """What rounding may change where products of both signs cancel, see `Precision.summands`."""
    summands = q.components.precisions.summands(view.potentials(q).factor)
    return jnp.asarray(_ROUNDED * jnp.finfo(q.dtype).eps * summands, q.dtype)
