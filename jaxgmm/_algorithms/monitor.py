"""What judges convergence: an algorithm holds a monitor, and a lane's state what it remembers."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxgmm._numerics.pytree import pytree, replace

# Iterations over which a change below the objective's last place is judged.
_WINDOW = 16
# A noisy objective is reported as an average over about this many iterations.
_SMOOTHING = 100
# Iterations in the first window over which its rise is measured; each is twice as long as the last.
_FIRST_WINDOW = 50
# An exact objective that may overshoot must stand still in so many iterations in a row.
_QUIET = 10


class Monitor:
    """Base of `Rising`, `Settling` and `Noisy`: what is made of an objective's course.

    ``allowed`` is the tolerance times the number of samples, in nats.
    """

    def begin(self, dtype: Any) -> Any:
        """The record before the first iteration."""
        raise NotImplementedError

    def observe(
        self, record: Any, objective: Array, n_iter: Array, allowed: Array
    ) -> tuple[Any, Array]:
        """The record after an iteration, and the objective to report."""
        raise NotImplementedError

    def settled(
        self, old: Any, new: Any, before: Array, objective: Array, n_iter: Array, allowed: Array
    ) -> Array:
        """Whether the objective, ``before`` an iteration and after it, has come to rest.

        ``old`` and ``new`` are the records before and after; see also `observe`.
        """
        raise NotImplementedError


@pytree
class Rising(Monitor):
    """Of an exact objective that only rises: one small change is enough.

    Where one unit in the objective's last place is more than the tolerance, as in float32 with many
    samples, a single iteration cannot tell; then the change since up to sixteen iterations ago must
    be within rounding, or within sixteen tolerances. The record is the objective then.
    """

    def begin(self, dtype: Any) -> Array:
        return jnp.asarray(-jnp.inf, dtype)

    def observe(
        self, record: Array, objective: Array, n_iter: Array, allowed: Array
    ) -> tuple[Array, Array]:
        return jnp.where(n_iter % _WINDOW == 0, objective, record), objective

    def settled(
        self, old: Array, new: Any, before: Array, objective: Array, n_iter: Array, allowed: Array
    ) -> Array:
        last_place = rounding(objective, 1)
        one = jnp.abs(objective - before) <= allowed
        due = n_iter % _WINDOW == 0
        long = jnp.abs(objective - old) <= _WINDOW * allowed + last_place
        return jnp.where(allowed >= last_place, one, due & long) & (allowed > 0)


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

    def settled(
        self, old: Any, new: Trace, before: Array, objective: Array, n_iter: Array, allowed: Array
    ) -> Array:
        return (new.quiet >= self.enough) & (allowed > 0)


@pytree
class Settling(_Traced):
    """Of an exact objective that may overshoot: small changes in ten iterations in a row.

    An optimiser with momentum stands still for one iteration at every turn.
    """

    enough = _QUIET

    def observe(
        self, record: Trace, objective: Array, n_iter: Array, allowed: Array
    ) -> tuple[Trace, Array]:
        quiet = jnp.abs(objective - record.last_mean) <= allowed + rounding(objective, 1)
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
        self, record: Trace, objective: Array, n_iter: Array, allowed: Array
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
        quiet = jnp.where(rise + 2 * error <= allowed, record.quiet + 1, 0)
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


def rounding(objective: Array, units: int) -> Array:
    """What rounding alone may change in an objective: so many units in its last place."""
    return units * jnp.finfo(objective.dtype).eps * jnp.abs(objective)
