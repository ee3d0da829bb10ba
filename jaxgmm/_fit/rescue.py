"""Lanes that collapsed, once more: by way of the optimum under a weak proper prior.

The likelihood is unbounded, and a lane that comes too near to one of its spikes does not return.
The posterior has no spikes: under the weak prior of the data every lane ends at an optimum, which
as a rule lies in the basin of one of the likelihood's. Fraley & Raftery 2007 put it in its place.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool

from jaxgmm._estep.rows import Rows
from jaxgmm._fit.driver import Driver
from jaxgmm._lane.state import State
from jaxgmm._lane.status import FAILED, Status
from jaxgmm._model.checks import is_bounded
from jaxgmm._model.prior import Prior
from jaxgmm._numerics import linalg
from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.programs import program
from jaxgmm._numerics.pytree import choose, replace
from jaxgmm._numerics.special import LOG_2PI

# Batches of new lanes before a fit gives up.
_TRIES = 16
# Nats a sample by which components beat one; even where all is noise an optimum's parameters do.
_ALIKE = 1e-4


def needs_rescue(driver: Driver, states: State) -> bool:
    """Whether half of the lanes failed, or all but those dropped, for want of a proper prior."""
    status = np.asarray(states.status)
    failed = np.isin(status, FAILED)
    hopeless = 2 * failed.sum() >= len(status) or (failed | (status == Status.DROPPED)).all()
    prior = driver.algorithm.prior
    return bool(hopeless and states.view.point and not is_bounded(prior))


@program()
def _weak_prior(prior: Prior, rows: Rows) -> Prior:
    moments = rows.moments(prior.components.structure)
    return replace(prior, components=prior.components.proper_or_default(*moments))


def rescue(driver: Driver, starts: State, states: State, race: bool) -> tuple[State, bool]:
    """The states with the failed lanes run again, from where the weak prior leads their starts.

    Args:
        driver: of the lanes.
        starts: of all lanes.
        states: of all lanes, when they had ended.
        race: whether lanes race.

    Returns:
        The states, and whether Ctrl-C ended it.
    """
    algorithm, prior = driver.algorithm, driver.algorithm.prior
    proper = _weak_prior(prior, driver.data.rows)
    failed = np.isin(np.asarray(states.status), FAILED)

    weak = driver.quiet(algorithm.with_prior(proper))
    course, interrupted = weak.run(_again(starts, starts, failed, proper), race)
    optima = course.states()
    if interrupted:
        return states, True
    found = failed & ~np.isin(np.asarray(optima.status), (*FAILED, Status.DROPPED))
    course, interrupted = driver.run(_again(starts, optima, found, prior), race)
    again = course.states()
    better = found & ~np.isin(np.asarray(again.status), FAILED)
    return choose(better, again, states), interrupted


def start_afresh(
    key: Array, starts: Sequence[Callable[[Array], State]], driver: Driver
) -> tuple[State, bool]:
    """New lanes, a few batches of them until one lane is sound.

    Where clean optima are rare, random starts meet them more often than the prior does: of iris
    with ten components 3.7% of the lanes do, and 1.6% by way of the prior. Of few samples they are
    wide components on top of one another, in whose basins random responsibilities lie, but no
    seeds: of six components on 30 points of a straight grid, half of such lanes and none of seeds.

    Args:
        key: PRNG key.
        starts: kinds of random starts, which take turns: lanes of a key.
        driver: of the lanes.

    Returns:
        The states of the last batch, and whether Ctrl-C ended it.
    """
    for i in range(_TRIES):
        lanes = starts[i % len(starts)](jax.random.fold_in(key, i))
        course, interrupted = driver.run(lanes, race=False)
        states = _without_saddles(course.states(), driver.data.total)
        if interrupted or not np.isin(np.asarray(states.status), FAILED).all():
            break
    return states, interrupted


@program()
def _without_saddles(states: State, total: Array) -> State:
    alike = are_alike(states, total)
    status = jnp.where(alike, int(Status.COLLAPSED), states.status)
    return replace(states, status=status.astype(states.status.dtype))


def are_alike(states: State, total: Array) -> Bool[Array, " R"]:
    """Whether a lane's components are as good as one, a saddle that EM may never leave.

    EM keeps the moments of the data: one component has those of all together.
    """

    def one(state: State) -> Array:
        m = state.view.estimate(state.posterior).separate()
        k, d = m.means.shape
        delta = m.means - linalg.matmul(m.weights, m.means)[None]
        covariances = m.covariance + jax.vmap(m.kind.square)(delta)
        whole = jnp.tensordot(m.weights, covariances, 1, precision="highest")
        undivided = -m.kind.half_log_det(whole[None], d)[0] - 0.5 * d * (LOG_2PI + 1)
        return jnp.asarray(k > 1) & (state.objective / total - undivided <= _ALIKE)

    return jax.vmap(one)(states)


def _again(starts: State, at: State, lanes: np.ndarray, prior: object) -> State:
    """The states before their first iteration, at other posteriors; only some lanes run.

    The others have nothing to do any more, whatever became of them.
    """
    status = np.where(lanes, int(Status.RUNNING), int(Status.CONVERGED)).astype(np.int32)
    own = jax.tree.map(lambda a, b: np.broadcast_to(np.asarray(a), b.shape), prior, starts.prior)
    return replace(starts, prior=own, posterior=at.posterior, status=as_array(status))
