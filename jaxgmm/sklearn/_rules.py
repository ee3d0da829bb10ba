"""EM and CAVI as scikit-learn iterates them: its bound, its floor, its rule of convergence."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxgmm._algorithms.base import Algorithm
from jaxgmm._estep.estep import Data, estep_on
from jaxgmm._estep.passes import Path
from jaxgmm._estep.stats import Stats
from jaxgmm._estep.structures import structure
from jaxgmm._lane.state import State, initial_state
from jaxgmm._lane.status import Status
from jaxgmm._model.prior import Prior, sort_by_mass, update
from jaxgmm._model.views import bound, expected_potentials, kl_divergence, mode_potentials
from jaxgmm._numerics.linalg import safe_divide
from jaxgmm._numerics.pytree import all_finite, pytree, replace

# With fewer residuals than this the careful pass costs nothing, and half as long to compile.
_SMALL = 1 << 16


class _Rule(Algorithm):
    """What both have in common.

    A lane has converged when its bound changes by less than the tolerance. Its state's memory is
    the status that its last iteration gave it: the loop's judgement of the optimum, whether it is
    degenerate, leaves that alone.
    """

    prior: Prior
    reg_covar: Float[Array, ""]
    previous: Float[Array, ""]  # the bound that the first iteration is compared with

    @property
    def monotone(self) -> bool:
        """No lane is refused because its bound went down."""
        return False

    def begin(self, key: Array, shared_key: Array, posterior: Prior, data: Data) -> State:
        memory = jnp.asarray(int(Status.RUNNING), jnp.int32)
        # a posterior has it in its scatter
        reg_covar = self.reg_covar if self.view == "mode" else 0.0
        state = initial_state(self.prior, posterior, self.view, reg_covar=reg_covar, memory=memory)
        return replace(state, objective=self.previous)

    def observe(self, old: State, new: State, data: Data, tol: Array) -> State:
        return new

    def settled(self, old: State, new: State, data: Data, tol: Array) -> Array:
        return jnp.abs(new.objective - old.objective) < tol

    def step_on(self, state: State, data: Data, tol: Array) -> State:
        new = super().step_on(state, data, tol)
        return replace(new, memory=new.status)

    def from_stats(self, stats: Stats) -> Prior:
        """The posterior that given assignments lead to."""
        raise NotImplementedError


@pytree
class GaussianRule(_Rule):
    """EM; the bound is the log-likelihood per sample of the estimate before the update."""

    prior: Prior
    reg_covar: Float[Array, ""]
    previous: Float[Array, ""]

    name = "EM"
    view = "mode"

    def from_stats(self, stats: Stats) -> Prior:
        return update(self.prior, with_floor(stats), mode=True)

    def advance(self, state: State, data: Data) -> State:
        active = state.status == Status.RUNNING
        potentials = mode_potentials(state.posterior, self.reg_covar)
        stats = estep_on(data, potentials, active, path=path_for(data, self.prior))
        q = self.from_stats(stats)
        # an estimate without a density has failed here, and not an iteration later
        usable = all_finite(mode_potentials(q, self.reg_covar))
        objective = jnp.where(usable, stats.log_evidence / data.total, jnp.nan)
        return replace(state, posterior=q, objective=objective)


@pytree
class BayesianRule(_Rule):
    """CAVI; the bound is the evidence lower bound of all the samples, exact and normalised.

    It is that of samples to which ``reg_covar`` adds variance, and so below the one without.
    """

    prior: Prior
    reg_covar: Float[Array, ""]
    previous: Float[Array, ""]

    name = "CAVI"
    view = "expectation"

    def from_stats(self, stats: Stats) -> Prior:
        return update(self.prior, with_variance(stats, self.reg_covar))

    def advance(self, state: State, data: Data) -> State:
        active = state.status == Status.RUNNING
        potentials = expected_potentials(state.posterior)
        stats = estep_on(data, potentials, active, path=path_for(data, self.prior))
        stats, _ = sort_by_mass(self.prior, stats, state.posterior)
        stats = with_variance(stats, self.reg_covar)
        q = update(self.prior, stats)
        objective = bound(stats, expected_potentials(q), kl_divergence(q, self.prior))
        return replace(state, posterior=q, objective=objective)


def path_for(data: Data, prior: Prior) -> Path:
    """The E-step's path: for small data the careful one alone, which compiles sooner."""
    return "whitened" if data.x.size * prior.n_components <= _SMALL else "auto"


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
    k, d = stats.mean.shape
    eye: Any = jnp.broadcast_to(jnp.eye(d, dtype=stats.mean.dtype), (k, d, d))
    weight = jnp.broadcast_to((variance * stats.count)[:, None], (k, d))
    scatter = structure(stats.structure).scatter(eye, weight)
    return replace(stats, scatter=stats.scatter + scatter)
