"""One iteration, written once: expect, maximise, judge.

What an algorithm is besides is a view, and what it does with the statistics.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxgmm._algorithms.monitor import Monitor, Rising, Tolerance, tolerance_of
from jaxgmm._estep.data import Data, prepare
from jaxgmm._estep.estep import estep_on
from jaxgmm._estep.passes.common import Path
from jaxgmm._estep.row_checks import check_rows
from jaxgmm._estep.rows import Rows, Samples, as_rows
from jaxgmm._estep.stats import Stats
from jaxgmm._lane.given import Checked, check_start, initial_posterior
from jaxgmm._lane.starts import Start
from jaxgmm._lane.state import State, initial_state
from jaxgmm._lane.status import Status
from jaxgmm._model.bounds import bound
from jaxgmm._model.checks import check_model
from jaxgmm._model.prior import Prior, put_in_order
from jaxgmm._numerics.affine import Affine
from jaxgmm._numerics.calls import described, usage
from jaxgmm._numerics.programs import program
from jaxgmm._numerics.pytree import replace


class Algorithm:
    """Base of `EM`, `CAVI` and `SVI`.

    An algorithm is a pytree. Its prior, its step sizes and the numbers of its schedules are
    leaves, so that a change of them compiles nothing. Only the kind of algorithm is static. A
    subclass has a ``prior`` and a ``view``. This class does coordinate ascent; a subclass replaces
    `expect`, `maximise` or, for gradient steps, all of `advance`.
    """

    prior: Prior
    view: Any
    name: ClassVar[str]
    # the pass of the E-step
    path: ClassVar[Path] = "auto"
    # whether the estimate is updated after every batch of a stream
    by_batch: ClassVar[bool] = False
    # whether the rows may lie on several devices
    splits: ClassVar[bool] = True

    @property
    def monotone(self) -> bool | Array:
        """Whether the objective can never go down, so that a decrease is an error."""
        return True

    @property
    def ascends(self) -> bool:
        """Whether an iteration depends on the posterior only, and cannot lower its bound.

        Only such algorithms can race, try moves, be wrapped, and be used by `select`.
        """
        return False

    @property
    def races(self) -> bool:
        """Whether the objectives of running lanes tell which lanes to drop."""
        return self.ascends

    @property
    def monitor(self) -> Monitor:
        """The rule that decides whether a lane has converged."""
        return Rising()

    @property
    def core(self) -> "Algorithm":
        """The algorithm inside all wrappers."""
        return self

    def with_prior(self, prior: Prior) -> Any:
        """The same algorithm for another prior."""
        return replace(self, prior=prior)

    def mapped(self, to: Affine) -> Any:
        """The same algorithm in other coordinates of the data."""
        return replace(self, prior=self.prior.mapped(to), view=self.view.mapped(to))

    def remember_again(self, memory: Any, posterior: Prior) -> Any:
        """The memory at a posterior in other coordinates: what depends on them begins anew."""
        return memory

    def of_rows(self, memory: Any) -> Any:
        """Which leaves of lanes' memory have the rows as their second axis: a tree of booleans."""
        return jax.tree.map(lambda _: False, memory)

    def check(self, rows: Rows) -> None:
        """Refuse rows that are not of the model, or of a kind that the algorithm does not know."""
        check_model(self.prior, rows)

    # --- starts -------------------------------------------------------------------------------

    @usage("algorithm.init(key, x)")
    def init(
        self,
        key: Array,
        x: Samples,
        init: str | Callable[..., Array] | Mapping[str, Any] | State = "k-means++",
        *,
        sample_weight: ArrayLike | None = None,
    ) -> State:
        """The state at a start point.

        Args:
            key: PRNG key.
            x: samples, ``(N, D)``.
            init: ``"k-means++"`` (of more than 512 components in rounds), ``"k-means||"`` (a few
                passes over all rows; k-means++ looks at about 4,096 rows), ``"k-means"``
                (k-means++, then Lloyd's iterations), ``"random_points"``, ``"mixed"`` (lanes take
                turns between k-means++ and random points; a single lane takes k-means++),
                ``"random_responsibilities"``; a function of ``(key, rows, n_components)`` to points
                (K, D); a `State` of any algorithm, to go on from; or a mapping with exactly one of
                ``"responsibilities"`` (N, K), ``"labels"`` (N,), ``"means"`` (K, D),
                ``"parameters"`` (weights, means, covariances), ``"posterior"``, ``"state"``.
            sample_weight: non-negative, ``(N,)``.

        Returns:
            A `State` whose objective is -inf until the first `step`.

        Raises:
            ValueError: for bad samples, weights or start points.
        """
        rows = check_rows(x, sample_weight)
        self.check(rows)
        checked = check_start(init, self.prior, rows.n_samples)
        if isinstance(checked, dict):
            return _given_state(self, key, rows, checked)
        return _random_state(self, key, rows, start=checked)

    def init_on(self, key: Array, shared_key: Array, data: Data, start: Checked) -> State:
        """`init` with prepared data and a checked start; lanes of a fit share ``shared_key``."""
        start_key, memory_key = jax.random.split(key)
        q = initial_posterior(start_key, data, self.prior, start, self.view)
        return self.begin(memory_key, shared_key, q, data)

    def begin(self, key: Array, shared_key: Array, posterior: Prior, data: Data | None) -> State:
        """The state before the first iteration, at a posterior; of a stream without data."""
        record = self.monitor.begin(self.prior.dtype)
        memory = self.remember(key, shared_key, posterior)
        return initial_state(self.prior, posterior, self.view.of_state, record, memory)

    def remember(self, key: Array, shared_key: Array, posterior: Prior) -> Any:
        """The memory before the first iteration."""
        return ()

    # --- one iteration ------------------------------------------------------------------------

    def step(
        self,
        state: State,
        x: Float[Array, "N D"] | Rows,
        *,
        sample_weight: Float[Array, " N"] | None = None,
    ) -> State:
        """One iteration: pure, for use under jit, vmap and scan.

        A step that fails returns the old state with the status that says why.
        """
        return _stepped(self, state, as_rows(x, sample_weight))

    def step_on(self, state: State, data: Data, tol: Array) -> State:
        """`step` on prepared data, judged with a tolerance."""
        return self.judged(state, self.advance(state, data), data.total, tol)

    def judged(self, state: State, new: State, total: Array, tol: Array) -> State:
        """The state after an iteration from ``state`` to ``new``, with its status.

        ``total`` is the sum of the weights of all rows.
        """
        new = replace(new, n_iter=state.n_iter + 1)
        exact = self.monotone is not False
        tolerance = tolerance_of(state, new, total, tol, self.view, exact=exact)
        record, objective = self.monitor.observe(state.record, new.objective, new.n_iter, tolerance)
        new = replace(new, record=record, objective=objective)
        status = self.judge(state, new, tolerance)
        failed = (status == Status.NONFINITE) | (status == Status.COLLAPSED)
        failed = failed | (status == Status.DECREASED)
        kept = jax.tree.map(lambda a, b: jnp.where(failed, a, b), state, new)
        return replace(kept, status=status, n_iter=new.n_iter)

    def batch(self, data: Data, memory: Any, iteration: Array) -> Data:
        """The rows that one iteration uses; all lanes use the rows of the first lane."""
        return data

    def advance(self, state: State, data: Data) -> State:
        """The state with a new posterior and objective, before its status is set.

        What ascends does this and nothing else: its rows may come in batches, see `merge`.
        """
        return self.maximise(state, self.expect(state, data))

    def current(self, state: State) -> Prior:
        """The posterior that an iteration starts from."""
        return state.posterior

    def expect(self, state: State, data: Data, beta: Array | None = None) -> Stats:
        """The statistics of the data under the view of the current posterior.

        With ``beta`` the logits are multiplied by beta, which makes the responsibilities softer.
        The statistics of batches, devices and hosts are merged by `jaxgmm.stats.merge` before
        `maximise`.
        """
        potentials = self.view.potentials(self.current(state))
        if beta is not None:
            potentials = replace(
                potentials, const=beta * potentials.const, factor=jnp.sqrt(beta) * potentials.factor
            )
        active = state.status == Status.RUNNING
        return estep_on(data, potentials, active, path=self.path)

    def maximise(self, state: State, stats: Stats) -> State:
        """The state at the best posterior for the statistics, with its bound."""
        current, point = self.current(state), self.view.point
        stats, current = put_in_order(self.prior, stats, current, point=point)
        q = self.view.update(self.prior, stats, current)
        return replace(state, posterior=q, objective=self.bound(stats, q))

    def bound(self, stats: Stats, q: Prior) -> Float[Array, ""]:
        """The objective at a posterior, given the statistics behind it."""
        return bound(stats, self.view.potentials(q), self.view.penalty(q, self.prior))

    # --- how it ends --------------------------------------------------------------------------

    def steady(self, state: State) -> bool | Array:
        """Whether the next iteration counts for the decision about convergence."""
        return True

    def settled(self, old: State, new: State, tolerance: Tolerance) -> Array:
        """Whether the monitor finds that a lane has converged."""
        return self.monitor.settled(
            old.record, new.record, old.objective, new.objective, new.n_iter, tolerance
        )

    def judge(self, old: State, new: State, tolerance: Tolerance) -> Array:
        """The status after an iteration; NONFINITE comes before every other status."""
        finite = new.posterior.is_finite()
        usable = jnp.isfinite(new.objective)
        steady = self.steady(old)
        fell = new.objective < old.objective - tolerance.slack
        decreased = jnp.asarray(self.monotone) & fell & steady
        settled = self.settled(old, new, tolerance) & steady
        status = jnp.where(settled, Status.CONVERGED, Status.RUNNING)
        status = jnp.where(decreased, Status.DECREASED, status)
        # finite parameters without a finite objective: a covariance that has no Cholesky factor
        status = jnp.where(usable, status, Status.COLLAPSED)
        status = jnp.where(finite, status, Status.NONFINITE)
        return status.astype(jnp.int32)


# What is called on the host is one program; inside of another one it is a part of it.


@program(static=("start",))
def _random_state(algorithm: Algorithm, key: Array, rows: Rows, *, start: Start) -> State:
    return _given_state(algorithm, key, rows, start)


@program()
def _given_state(algorithm: Algorithm, key: Array, rows: Rows, start: Checked) -> State:
    lane_key, shared_key = jax.random.split(key)
    return algorithm.init_on(lane_key, shared_key, prepare(rows), start)


@program()
def _stepped(algorithm: Algorithm, state: State, rows: Rows) -> State:
    data = prepare(rows)
    batch = algorithm.batch(data, state.memory, state.n_iter)
    return algorithm.step_on(state, batch, jnp.zeros((), data.x.dtype))


def check_algorithm(algorithm: Any, call: str) -> None:
    """Refuse what is no algorithm, and say how one is made."""
    if isinstance(algorithm, Algorithm):
        return
    how = "jaxgmm.em(jaxgmm.default_prior(x, n_components=3))"
    if isinstance(algorithm, Prior):
        how = "jaxgmm.em(prior)"
    raise ValueError(
        "algorithm must come from jaxgmm.em, jaxgmm.cavi or jaxgmm.svi, such as "
        f"{how}, but it is {described(algorithm)}; call {call}."
    )
