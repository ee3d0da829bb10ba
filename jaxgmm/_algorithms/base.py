"""What every algorithm is: a pytree with ``init`` and ``step``, and one function of its own."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxgmm._estep.estep import Data, prepare
from jaxgmm._lane.starts import check_start, initial_posterior
from jaxgmm._lane.state import State, initial_state
from jaxgmm._lane.status import Status
from jaxgmm._model.prior import Prior
from jaxgmm._numerics.checks import check_model, check_samples, check_weights
from jaxgmm._numerics.pytree import all_finite, replace

# Iterations over which a change below the objective's last place is judged.
_WINDOW = 16


class Algorithm:
    """Base of `EM`, `CAVI` and `SVI`.

    An algorithm is a pytree: prior, step sizes and schedules' numbers are leaves, so that changing
    one never recompiles; only the kind of algorithm is static. A subclass has a ``prior`` and
    ``advance``, which is one view and one update, and nothing else.
    """

    prior: Prior
    name: ClassVar[str]
    view: str  # "mode" or "expectation", as in `State`

    @property
    def monotone(self) -> bool | Array:
        """Whether the objective can never go down, so that a decrease is an error."""
        return True

    def init(
        self,
        key: Array,
        x: ArrayLike,
        start: str | Mapping[str, Any] | State = "k-means++",
        *,
        sample_weight: ArrayLike | None = None,
        **given: Any,
    ) -> State:
        """The state at a start point.

        Args:
            key: PRNG key.
            x: samples, ``(N, D)``.
            start: ``"k-means++"``, ``"k-means||"`` (a few passes over all the rows, where k-means++
                looks at some 4,096 of them), ``"k-means"`` (k-means++, then Lloyd's iterations),
                ``"random_points"``, ``"mixed"`` (k-means++ or random points, by a coin),
                ``"random_responsibilities"``; or a `State` of any algorithm,
                to go on from; or give exactly one of ``responsibilities=``
                (N, K), ``labels=`` (N,), ``means=`` (K, D), ``parameters=`` (weights, means,
                covariances), ``posterior=``, ``state=``.
            sample_weight: non-negative, ``(N,)``.

        Returns:
            A `State` with objective -inf: the first `step` gives it its value.

        Raises:
            ValueError: for bad samples, weights or start points.
        """
        x = check_samples(x)
        check_model(self.prior, x)
        checked = check_start(given or start, self.prior, x.shape[0])
        lane_key, shared_key = jax.random.split(key)
        data = prepare(x, check_weights(sample_weight, x))
        return self.init_on(lane_key, shared_key, data, checked)

    def init_on(
        self, key: Array, shared_key: Array, data: Data, start: str | dict[str, Any]
    ) -> State:
        """`init` on prepared data and a checked start; lanes of one fit share ``shared_key``."""
        start_key, memory_key = jax.random.split(key)
        q = initial_posterior(
            start_key,
            data,
            self.prior,
            start,
            mode=self.view == "mode",
            reg_covar=getattr(self, "reg_covar", 0.0),
        )
        return self.begin(memory_key, shared_key, q, data)

    def begin(self, key: Array, shared_key: Array, posterior: Prior, data: Data) -> State:
        """The state before the first iteration, at the given posterior."""
        return initial_state(self.prior, posterior, self.view, memory=no_objective(self.prior))

    def step(
        self,
        state: State,
        x: Float[Array, "N D"],
        *,
        sample_weight: Float[Array, " N"] | None = None,
    ) -> State:
        """One iteration: pure, for use under jit, vmap and scan.

        A step that fails returns the old state with the status that says why.
        """
        data = prepare(x, sample_weight)
        batch = self.batch(data, state.memory, state.n_iter)
        return self.step_on(state, batch, jnp.zeros((), x.dtype))

    def step_on(self, state: State, data: Data, tol: Array) -> State:
        """`step` on prepared data, judged with a tolerance."""
        new = self.advance(state, data)
        new = self.observe(state, replace(new, n_iter=state.n_iter + 1), data, tol)
        status = self.judge(state, new, data, tol)
        failed = (status == Status.NONFINITE) | (status == Status.COLLAPSED)
        failed = failed | (status == Status.DECREASED)
        kept = jax.tree.map(lambda a, b: jnp.where(failed, a, b), state, new)
        return replace(kept, status=status, n_iter=new.n_iter)

    def batch(self, data: Data, memory: Any, iteration: Array) -> Data:
        """The rows that one iteration looks at; lanes look at those of the first lane."""
        return data

    def advance(self, state: State, data: Data) -> State:
        """The new posterior and objective, neither judged nor counted."""
        raise NotImplementedError

    def observe(self, old: State, new: State, data: Data, tol: Array) -> State:
        """What the algorithm remembers of an iteration's objective: that of a window ago."""
        due = new.n_iter % _WINDOW == 0
        return replace(new, memory=jnp.where(due, new.objective, new.memory))

    def settled(self, old: State, new: State, data: Data, tol: Array) -> Array:
        """Whether the objective's change is within ``tol`` per sample, or within rounding.

        Where one unit in the objective's last place is more than the tolerance, as in float32 with
        many samples, a single iteration cannot tell; then the change since up to sixteen iterations
        ago must be within rounding, or within sixteen tolerances.
        """
        allowed, last_place = tol * data.total, rounding(new.objective, 1)
        visible = allowed >= last_place
        one = jnp.abs(new.objective - old.objective) <= allowed
        due = new.n_iter % _WINDOW == 0
        long = jnp.abs(new.objective - old.memory) <= _WINDOW * allowed + last_place
        return jnp.where(visible, one, due & long) & (tol > 0)

    def judge(self, old: State, new: State, data: Data, tol: Array) -> Array:
        """The status after an iteration; non-finite outranks all, and is never convergence."""
        finite = all_finite(new.posterior)
        usable = jnp.isfinite(new.objective)
        slack = 10 * tol * data.total + rounding(new.objective, 100)
        decreased = jnp.asarray(self.monotone) & (new.objective < old.objective - slack)
        status = jnp.where(self.settled(old, new, data, tol), Status.CONVERGED, Status.RUNNING)
        status = jnp.where(decreased, Status.DECREASED, status)
        # finite parameters without a finite objective: a covariance that has no Cholesky factor
        status = jnp.where(usable, status, Status.COLLAPSED)
        status = jnp.where(finite, status, Status.NONFINITE)
        return status.astype(jnp.int32)


class Wrapper(Algorithm):
    """An algorithm around another, ``inner``, whose model and view are its own."""

    inner: Any

    @property
    def prior(self) -> Prior:  # type: ignore[override]
        return self.inner.prior

    @property
    def view(self) -> str:  # type: ignore[override]
        return self.inner.view

    @property
    def reg_covar(self) -> Any:
        return getattr(self.inner, "reg_covar", 0.0)


def no_objective(prior: Prior) -> Array:
    """The memory of `observe` before the first iteration."""
    return jnp.asarray(-jnp.inf, prior.dtype)


def rounding(objective: Array, units: int) -> Array:
    """What rounding alone may change in an objective: so many units in its last place."""
    return units * jnp.finfo(objective.dtype).eps * jnp.abs(objective)
