"""EM and CAVI as scikit-learn iterates them: its bound, its floor, its rule of convergence."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxgmm._algorithms.base import Algorithm
from jaxgmm._algorithms.monitor import Monitor, Tolerance
from jaxgmm._estep.data import Data
from jaxgmm._estep.passes.common import Path
from jaxgmm._estep.stats import Stats
from jaxgmm._estep.structures import structure
from jaxgmm._lane.state import State
from jaxgmm._lane.status import Status
from jaxgmm._model.prior import Prior, put_in_order
from jaxgmm._model.views import Expectation, Mode
from jaxgmm._numerics.arrays import safe_divide
from jaxgmm._numerics.linalg import eye_like
from jaxgmm._numerics.pytree import all_finite, pytree, replace, static


@pytree
class Change(Monitor):
    """scikit-learn's: a lane has converged when its bound changes by less than the tolerance."""

    def begin(self, dtype: Any) -> tuple[()]:
        return ()

    def observe(
        self, record: Any, objective: Array, n_iter: Array, tolerance: Tolerance
    ) -> tuple[Any, Array]:
        return record, objective

    def settled(
        self,
        old: Any,
        new: Any,
        before: Array,
        objective: Array,
        n_iter: Array,
        tolerance: Tolerance,
    ) -> Array:
        return jnp.abs(objective - before) < tolerance.allowed


class _Rule(Algorithm):
    """What both have in common.

    Its state's memory is the status that its last iteration gave it: the loop's judgement of the
    optimum, whether it is degenerate, leaves that alone.
    """

    previous: Float[Array, ""]  # the bound that the first iteration is compared with

    @property
    def monotone(self) -> bool:
        """No lane is refused because its bound went down."""
        return False

    @property
    def monitor(self) -> Monitor:
        return Change()

    def begin(self, key: Array, shared_key: Array, posterior: Prior, data: Data) -> State:
        return replace(super().begin(key, shared_key, posterior, data), objective=self.previous)

    def remember(self, key: Array, shared_key: Array, posterior: Prior) -> Array:
        return jnp.asarray(int(Status.RUNNING), jnp.int32)

    def step_on(self, state: State, data: Data, tol: Array) -> State:
        # the tolerance is that of the bound itself, whatever the number of samples
        new = super().step_on(state, data, tol / data.total)
        return replace(new, memory=new.status)

    def from_stats(self, stats: Stats) -> Prior:
        """The posterior that given assignments lead to."""
        raise NotImplementedError


@pytree
class GaussianRule(_Rule):
    """EM; the bound is the log-likelihood per sample of the estimate before the update."""

    prior: Prior
    view: Mode
    previous: Float[Array, ""]
    path: Path = static()  # type: ignore[assignment]

    name = "EM"

    @property
    def reg_covar(self) -> Any:
        return self.view.reg_covar

    def from_stats(self, stats: Stats) -> Prior:
        return self.view.update(self.prior, with_floor(stats))

    def maximise(self, state: State, stats: Stats) -> State:
        q = self.from_stats(stats)
        # an estimate without a density has failed here, and not an iteration later
        usable = all_finite(self.view.potentials(q))
        mean = stats.log_evidence / jnp.sum(stats.count)
        return replace(state, posterior=q, objective=jnp.where(usable, mean, jnp.nan))


@pytree
class BayesianRule(_Rule):
    """CAVI; the bound is the evidence lower bound of all the samples, exact and normalised.

    It is that of samples to which ``reg_covar`` adds variance, and so below the one without.
    """

    prior: Prior
    view: Expectation
    reg_covar: Float[Array, ""]
    previous: Float[Array, ""]
    path: Path = static()  # type: ignore[assignment]

    name = "CAVI"

    def from_stats(self, stats: Stats) -> Prior:
        return self.view.update(self.prior, with_variance(stats, self.reg_covar))

    def maximise(self, state: State, stats: Stats) -> State:
        stats, _ = put_in_order(self.prior, stats, state.posterior, point=False)
        stats = with_variance(stats, self.reg_covar)
        q = self.view.update(self.prior, stats)
        return replace(state, posterior=q, objective=self.bound(stats, q))


def floor_of(x: Float[Array, "N D"]) -> float:
    """The least count of a component, for data of this width and dtype.

    scikit-learn's is ``10 eps``; D + 2 times that is what degrees of freedom, of which D + 2 have
    been taken away, can resolve.
    """
    return 10 * (x.shape[-1] + 2) * float(jnp.finfo(x.dtype).eps)


def with_floor(stats: Stats) -> Stats:
    """The statistics with a little added to every count, and means shrunk to suit.

    So a component without samples has a weight, a mean (the origin) and a covariance, which
    ``reg_covar`` alone then makes.
    """
    count = stats.count + floor_of(stats.mean)
    old = jnp.where(stats.count[:, None] != 0, stats.mean, 0)
    mean = safe_divide(stats.count, count)[:, None] * old
    between = structure(stats.structure).outer(stats.count, old - mean)
    return replace(stats, count=count, mean=mean, scatter=stats.scatter + between)


def with_variance(stats: Stats, variance: Array) -> Stats:
    """The statistics of samples with this variance more, in every direction."""
    kind = structure(stats.structure)
    # a unit variance in every direction is a sum of d displacements
    each = jnp.ones_like(stats.mean)
    if kind.separate != "full":
        return replace(stats, scatter=stats.scatter + kind.outer(variance * stats.count, each))
    eye = eye_like(stats.scatter)
    count = variance * (jnp.sum(stats.count) if stats.scatter.ndim == 2 else stats.count)
    return replace(stats, scatter=stats.scatter + count[..., None, None] * eye)
