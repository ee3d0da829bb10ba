"""One sweep over the numbers of components: all K of a covariance as lanes of one program."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxgmm._algorithms.base import Algorithm
from jaxgmm._algorithms.em import EM
from jaxgmm._estep.estep import Data, log_evidence_on, prepare
from jaxgmm._fit.loop import advance_lanes
from jaxgmm._fit.moves import Move, apply, compact, estimate, pairs_by_cost
from jaxgmm._fit.race import beaten, rungs
from jaxgmm._lane.degenerate import is_degenerate
from jaxgmm._lane.starts import posterior_at, random_posteriors
from jaxgmm._lane.state import State
from jaxgmm._lane.status import FAILED, Status
from jaxgmm._mixture.density import log_assignment, log_density, plug_in
from jaxgmm._model.padding import pad, unpad
from jaxgmm._model.prior import Prior, data_covariance
from jaxgmm._numerics.pytree import pytree, replace, take

# Rounds of moves, at most; each K stops when a round has found it nothing better.
_ROUNDS = 10
# Iterations of one compiled call, so that Ctrl-C is prompt.
_CHUNK = 64


class Options(NamedTuple):
    """What all sweeps of a selection share, see `select`."""

    init: str
    n_restarts: int
    max_iter: int
    tol: float


class Outcome(NamedTuple):
    """Of one sweep over K: the best state of each, and its scores.

    Attributes:
        best: every leaf leads with the number of K.
        scores: log-likelihood, log assignment, and over the held-out rows the sum of the
            log-densities and of their squares: ``(number of K, 4)``.
        total: sum of the weights of the fitted rows.
    """

    best: State
    scores: np.ndarray
    total: np.ndarray


@pytree
class _OwnModels(Algorithm):
    """An algorithm in which every lane has the prior of its state, and not all the same."""

    algorithm: Any

    def step_on(self, state: State, data: Data, tol: Array) -> State:
        return _with_model(self.algorithm, state).step_on(state, data, tol)


def _with_model(algorithm: Any, state: State) -> Any:
    if isinstance(algorithm, EM):
        return replace(algorithm, prior=state.prior, reg_covar=state.reg_covar)
    return replace(algorithm, prior=state.prior)


class Sweep:
    """All K of one covariance, as groups of lanes of one program."""

    def __init__(self, algorithms: list[Any], sizes: list[int], x: Array, options: Options):
        self.algorithms, self.sizes, self.x, self.options = algorithms, sizes, x, options
        self.mode = algorithms[0].view == "mode"
        mean, spread = jnp.mean(x, axis=0), data_covariance(x)
        padded = [
            replace(a, prior=pad(a.prior, sizes[-1], mean, spread, mode=self.mode))
            for a in algorithms
        ]
        self.models = jax.tree.map(
            lambda *leaves: jnp.asarray(np.stack([np.asarray(a) for a in leaves])), *padded
        )
        self.rungs = rungs(options.n_restarts, options.max_iter)

    def run(self, key: Array, weight: Array | None, held_out: Array | None) -> Outcome:
        """The best of random starts, and then of moves as long as they find something better."""
        data = _prepare(self.x, weight)
        total = np.asarray(data.total)
        blank = self._blank()
        best, scores = self._round(key, data, held_out, blank, 0)
        # what an iteration more could give anyway is no other optimum
        enough = 100 * self.options.tol * float(total)
        for number in range(1, _ROUNDS + 1):
            tried, new_scores = self._round(key, data, held_out, best, number)
            least = np.where(_failed(best.status), -np.inf, best.objective + enough)
            better = ~_failed(tried.status) & (tried.objective > least)
            if not better.any():
                break
            best = _where(better, tried, best)
            scores = np.where(better[:, None], new_scores, scores)
        return Outcome(best, scores, total)

    def _blank(self) -> State:
        """States of no meaning in the shape of the best ones, for the first round."""
        number = len(self.sizes)
        prior = self.models.prior
        view, dtype = self.algorithms[0].view, self.x.dtype
        reg_covar = getattr(self.models, "reg_covar", np.zeros(number, dtype))
        nothing = jnp.asarray(np.full(number, -np.inf, dtype))
        return State(
            prior=prior,
            posterior=prior,
            objective=nothing,
            n_iter=jnp.asarray(np.zeros(number, np.int32)),
            status=jnp.asarray(np.full(number, int(Status.NONFINITE), np.int32)),
            reg_covar=jnp.asarray(reg_covar),
            memory=nothing,
            view=view,
        )

    def _round(
        self, key: Array, data: Data, held_out: Array | None, best: State, number: int
    ) -> tuple[State, np.ndarray]:
        """Lanes at random starts, in round 0, or at moves from the best: the best of them."""
        o = self.options
        states = _launch(
            jax.random.fold_in(key, number),
            data,
            self.models,
            jnp.asarray(self.sizes),
            best,
            np.asarray(number == 0),
            init=o.init,
            n_restarts=o.n_restarts,
        )
        left, done = list(self.rungs), 0
        algorithm = _OwnModels(self.algorithms[-1])
        while True:
            limit = min(_CHUNK, left[0][0] - done) if left else _CHUNK
            states, did, degenerate, best, scores = _proceed(
                algorithm,
                states,
                data,
                held_out,
                np.asarray(o.max_iter, np.int32),
                np.asarray(o.tol, self.x.dtype),
                np.asarray(limit, np.int32),
                n_groups=len(self.sizes),
            )
            done += int(did)
            status = np.array(states.status)
            running = (status == Status.RUNNING).any()
            if running and left and done >= left[0][0]:
                found = np.asarray(states.objective), np.asarray(degenerate)
                self._race(status, *found, left.pop(0)[1])
            elif not running and not self._revive(status):
                best, scores = jax.tree.map(np.asarray, (best, scores))
                return best, scores
            elif not running:
                left = []
            states = replace(states, status=jnp.asarray(status))

    def _race(
        self, status: np.ndarray, objective: np.ndarray, degenerate: np.ndarray, n_left: int
    ) -> None:
        """The beaten lanes of every K get the status DROPPED, in place."""
        for lanes in self._groups():
            lost = beaten(status[lanes], objective[lanes], degenerate[lanes], n_left)
            status[lanes] = np.where(lost, int(Status.DROPPED), status[lanes])

    def _revive(self, status: np.ndarray) -> bool:
        """Let dropped lanes of a K go on if all that beat them failed; whether there are any."""
        again = False
        for lanes in self._groups():
            dropped = status[lanes] == Status.DROPPED
            if dropped.any() and (dropped | _failed(status[lanes])).all():
                status[lanes] = np.where(dropped, int(Status.RUNNING), status[lanes])
                again = True
        return again

    def _groups(self) -> list[slice]:
        n = self.options.n_restarts
        return [slice(g * n, (g + 1) * n) for g in range(len(self.sizes))]

    def state(self, outcome: Outcome, g: int) -> State:
        """The best state of one K, in its own shape."""
        padded = jax.tree.map(lambda a: jnp.asarray(np.asarray(a)[g]), outcome.best)
        posterior = unpad(padded.posterior, self.sizes[g], mode=self.mode)
        return replace(padded, prior=self.algorithms[g].prior, posterior=posterior)


def _failed(status: Any) -> np.ndarray:
    return np.isin(np.asarray(status), FAILED)


def _where(condition: np.ndarray, new: State, old: State) -> State:
    def pick(a: Any, b: Any) -> np.ndarray:
        return np.where(condition.reshape(-1, *[1] * (np.ndim(a) - 1)), a, b)

    return jax.tree.map(pick, new, old)


_prepare = jax.jit(prepare)


@functools.partial(jax.jit, static_argnames=("init", "n_restarts"))
def _launch(
    key: Array,
    data: Data,
    models: Any,
    sizes: Array,
    best: State,
    first: Array,
    *,
    init: str,
    n_restarts: int,
) -> State:
    """The lanes of a round at their starts, those of one K after those of the other."""
    n_groups = sizes.shape[0]
    lanes = jnp.arange(n_groups * n_restarts)
    mode = best.view == "mode"

    def random() -> Prior:
        keys = jax.random.split(key, lanes.shape[0])

        def prior_of(lane: Array) -> Prior:
            return take(models.prior, lane // n_restarts)

        return random_posteriors(keys, data, prior_of, init, mode=mode)

    def moved() -> Prior:
        return _moved(models.prior, sizes, best, data.total, n_restarts)

    posteriors = lax.cond(first, random, moved)

    def begin(lane: Array, posterior: Prior) -> State:
        return take(models, lane // n_restarts).begin(key, key, posterior, data)

    return jax.vmap(begin)(lanes, posteriors)


def _moved(priors: Prior, sizes: Array, best: State, total: Array, n_restarts: int) -> Prior:
    """Starts that are a move away from the best of the same K, of K - 1 or of K + 1."""
    mode = best.view == "mode"
    mixtures = jax.vmap(estimate)(best)
    present = jnp.arange(mixtures.weights.shape[-1]) < sizes[:, None]
    pairs = jax.vmap(pairs_by_cost)(mixtures, present)
    heaviest = jnp.argsort(-mixtures.weights, axis=-1)
    failed = jnp.isin(best.status, jnp.asarray(FAILED, best.status.dtype))
    last_group = sizes.shape[0] - 1

    def one(lane: Array) -> Prior:
        group, r = lane // n_restarts, lane % n_restarts
        # two of four lanes stay, one comes from below and one from above
        wish = jnp.where(r % 4 == 2, -1, jnp.where(r % 4 == 3, 1, 0))
        source = jnp.clip(group + wish, 0, last_group)
        usable = (sizes[source] == sizes[group] + wish) & ~failed[source]
        wish, source = jnp.where(usable, wish, 0), jnp.where(usable, source, group)
        k = sizes[source]
        rank = jnp.where(wish == 0, r // 4 * 4 + r % 4, r // 4)
        order, split = pairs[source], heaviest[source]
        n_pairs = jnp.maximum(k * (k - 1) // 2, 1)
        within = order[:, rank // k % n_pairs]
        merging = order[:, rank % n_pairs]
        # K - 1: the new component is the first that was absent
        i = jnp.where(wish < 0, k, jnp.where(wish > 0, merging[0], within[0]))
        j = jnp.where(wish < 0, k, jnp.where(wish > 0, merging[1], within[1]))
        target = jnp.where(wish > 0, -1, split[rank % k])
        m = take(mixtures, source)
        new = apply(m, m, Move(i, j, target))
        new = jax.tree.map(lambda a, b: jnp.where(wish > 0, a, b), compact(new, j, k - 1), new)
        alone = (wish == 0) & (k < 2)
        new = jax.tree.map(lambda a, b: jnp.where(alone, a, b), m, new)
        return posterior_at(take(priors, group), tuple(new), total, mode=mode)

    return jax.vmap(one)(jnp.arange(sizes.shape[0] * n_restarts))


@functools.partial(jax.jit, static_argnames="n_groups")
def _proceed(
    algorithm: Algorithm,
    states: State,
    data: Data,
    held_out: Array | None,
    max_iter: Array,
    tol: Array,
    n_steps: Array,
    *,
    n_groups: int,
) -> tuple[State, Array, Array, State, Array]:
    """Iterations of all lanes; and of each K the best lane, with its scores when all are done.

    Returns the states, the iterations done, which lanes are degenerate now, the best states and
    the scores of `Outcome`.
    """
    states, _, did = advance_lanes(
        algorithm, states, data, max_iter, tol, n_steps, history_length=0
    )
    degenerate = jax.vmap(is_degenerate)(states)
    usable = (states.status == Status.CONVERGED) | (states.status == Status.MAX_ITERATIONS)
    score = jnp.where(usable, states.objective, -jnp.inf).reshape(n_groups, -1)
    n_restarts = score.shape[1]
    index = jnp.argmax(score, axis=1) + n_restarts * jnp.arange(n_groups)
    best = take(states, index)
    blank = jnp.zeros((n_groups, 4), data.x.dtype)
    finished = ~jnp.any(states.status == Status.RUNNING)
    scores = lax.cond(
        finished, lambda: lax.map(lambda s: _scores(s, data, held_out), best), lambda: blank
    )
    return states, did, degenerate, best, scores


def _scores(state: State, data: Data, held_out: Array | None) -> Array:
    potentials = plug_in(state)
    likelihood = log_evidence_on(data, potentials)
    assignment = log_assignment(potentials, data.x, data.weight)
    held = jnp.zeros((2,), data.x.dtype)
    if held_out is not None:
        density = log_density(state, data.x)
        # a row that is not held out may be anything, an outlier of no density, too
        density = jnp.where(held_out > 0, density, 0)
        held = jnp.stack([jnp.sum(held_out * density), jnp.sum(held_out * density**2)])
    return jnp.concatenate([jnp.stack([likelihood, assignment]), held])
