"""Selection: how many components, and which covariances."""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from jaxgmm._algorithm import Algorithm
from jaxgmm._cavi import CAVI, cavi
from jaxgmm._degenerate import is_degenerate
from jaxgmm._em import EM, em
from jaxgmm._estep import Data, log_evidence_on, prepare
from jaxgmm._families import FAMILIES
from jaxgmm._lanes import advance_lanes
from jaxgmm._moves import Move, apply, compact, estimate, pairs_by_cost
from jaxgmm._padding import pad, unpad
from jaxgmm._predict import log_assignment, log_density, plug_in
from jaxgmm._prior import Prior, data_covariance, default_prior, flat_prior
from jaxgmm._pytree import pytree, replace, take
from jaxgmm._race import beaten, rungs
from jaxgmm._selection import CRITERIA, Selection
from jaxgmm._starts import check_start, posterior_at, random_posteriors
from jaxgmm._state import State
from jaxgmm._status import FAILED, Status
from jaxgmm._validate import (
    check_choice,
    check_model,
    check_non_negative,
    check_positive_int,
    check_samples,
    check_weights,
)

# Rounds of moves, at most; each K stops when a round has found it nothing better.
_ROUNDS = 10
# Iterations of one compiled call, so that Ctrl-C is prompt.
_CHUNK = 64


def select(
    key: Array,
    x: ArrayLike,
    n_components: Iterable[int] = range(1, 11),
    covariance: str | Sequence[str] = tuple(FAMILIES),
    criterion: str = "bic",
    *,
    algorithm: Callable[[int, str], Algorithm] | None = None,
    n_restarts: int = 16,
    n_folds: int = 5,
    init: str = "mixed",
    max_iter: int = 1000,
    tol: float = 1e-6,
    sample_weight: ArrayLike | None = None,
    progress: bool | None = None,
) -> Selection:
    """Fit every number of components under every covariance, and choose by a criterion.

    All K of one covariance are lanes of one program: a model with fewer components has the others
    absent, at no difference to its fit. So a sweep compiles two programs a covariance, whatever the
    range of K. Lanes of one K race, and the best of them then tries moves as in `fit`; some of the
    moves come from its neighbours, the best of K - 1 with a component split and the best of K + 1
    with two merged (after Ueda et al. 2000), as long as they find something better.

    Args:
        key: PRNG key.
        x: samples, ``(N, D)``.
        n_components: the K to try.
        covariance: names of covariances, or one of them; or any names that your ``algorithm``
            knows.
        criterion: ``"bic"`` (Schwarz 1978), ``"aic"`` (Akaike 1974) or ``"icl"`` (Biernacki et al.
            2000), of which the smallest is the best; ``"elbo"``, the bound of the evidence, or
            ``"cv"``, the mean log-density of a held-out sample in nats, of which the largest is.
        algorithm: from K and the name of a covariance to `em` or `cavi` with the model; by default
            maximum likelihood. By default ``"elbo"`` takes CAVI with the prior that `default_prior`
            makes for the largest K: one prior for every K, since evidences under priors that
            change with K do not compare.
        n_restarts: lanes for each K and covariance.
        n_folds: of ``"cv"``.
        init: a start by name, see `Algorithm.init`.
        max_iter: iterations of a lane, at most.
        tol: as in `fit`.
        sample_weight: non-negative, ``(N,)``; the N of ``"bic"`` is their sum.
        progress: whether to show a progress bar; by default only on a terminal.

    Returns:
        `Selection`, with ``table``, ``best``, ``states`` and a printed form. Ctrl-C returns the
        covariances that were done.

    Raises:
        ValueError: before any tracing, for bad samples or weights, unknown names, no K, a K above
            the number of rows, ``"elbo"`` without a posterior, an algorithm that is not EM or CAVI.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (200, 2))
        >>> selection = jaxgmm.select(jax.random.key(1), x, range(1, 4), ["spherical"])
        >>> selection.n_components, selection.covariance
        (1, 'spherical')
    """
    x = check_samples(x)
    weight = check_weights(sample_weight, x)
    sizes = sorted({check_positive_int("n_components", k) for k in n_components})
    names = [covariance] if isinstance(covariance, str) else list(covariance)
    check_choice("criterion", criterion, CRITERIA)
    check_positive_int("n_restarts", n_restarts)
    check_positive_int("max_iter", max_iter)
    check_non_negative("tol", tol)
    if not sizes or not names:
        raise ValueError("select needs at least one n_components and one covariance to try.")
    if algorithm is None:
        for name in names:
            check_choice("covariance", name, FAMILIES)
        algorithm = _default_algorithm(x, sizes[-1], criterion)
    sweeps = {name: [algorithm(k, name) for k in sizes] for name in names}
    for name, algorithms in sweeps.items():
        _check_sweep(name, algorithms, sizes, x, criterion)
    check_start(init, sweeps[names[0]][-1].prior, x.shape[0])
    folds: list[Fold] = [(weight, None)]
    if criterion == "cv":
        folds = _folds(key, x, weight, n_folds)
    options = _Options(init, n_restarts, max_iter, tol)
    return _run_sweeps(key, x, sweeps, sizes, folds, criterion, options, progress)


class _Options(NamedTuple):
    init: str
    n_restarts: int
    max_iter: int
    tol: float


def _default_algorithm(x: Array, largest: int, criterion: str) -> Callable[[int, str], Algorithm]:
    @functools.cache
    def whole(covariance: str) -> Algorithm:
        if criterion == "elbo":
            return cavi(default_prior(x, largest, covariance))
        return em(flat_prior(largest, x.shape[1], covariance, x.dtype))

    def make(k: int, covariance: str) -> Algorithm:
        out = whole(covariance)
        return replace(out, prior=unpad(out.prior, k, mode=out.view == "mode"))

    return make


def _check_sweep(
    name: str, algorithms: Sequence[Any], sizes: list[int], x: Array, criterion: str
) -> None:
    for k, algorithm in zip(sizes, algorithms, strict=True):
        if not isinstance(algorithm, EM | CAVI):
            raise ValueError(
                f"algorithm({k}, {name!r}) must come from jaxgmm.em or jaxgmm.cavi, but it is a "
                f"{type(algorithm).__name__}."
            )
        if algorithm.prior.n_components != k:
            raise ValueError(
                f"algorithm({k}, {name!r}) must have {k} components, but its prior has "
                f"{algorithm.prior.n_components}."
            )
        check_model(algorithm.prior, x)
        if _kind(algorithm) != _kind(algorithms[0]):
            raise ValueError(
                f"algorithm must give one kind of model for all K of a covariance, but for "
                f"{name!r} it gives {_kind(algorithms[0])} and {_kind(algorithm)}."
            )
    if criterion == "elbo" and not isinstance(algorithms[0], CAVI):
        raise ValueError(
            'criterion="elbo" compares bounds of the evidence, and needs jaxgmm.cavi, but '
            f"algorithm({sizes[0]}, {name!r}) is {algorithms[0].name}."
        )


def _kind(algorithm: Any) -> str:
    prior = algorithm.prior
    covariance = prior.components.covariance_name
    return f"{algorithm.name} of {covariance} covariances and {type(prior.weights).__name__}"


# The weights of the rows that are fitted, and of those that are held out from that.
Fold = tuple[Array | None, Array | None]


def _folds(key: Array, x: Array, weight: Array | None, n_folds: int) -> list[Fold]:
    """All the rows, and then all but each fold: one program for all of them."""
    check_positive_int("n_folds", n_folds)
    n_samples = x.shape[0]
    if not 2 <= n_folds <= n_samples:
        raise ValueError(f"n_folds must be from 2 to {n_samples}, the rows of x; got {n_folds}.")
    whole = np.ones(n_samples, x.dtype) if weight is None else np.asarray(weight)
    order = np.asarray(jax.random.permutation(jax.random.fold_in(key, 1), n_samples))
    fold = np.empty(n_samples, int)
    fold[order] = np.arange(n_samples) % n_folds
    held = [np.where(fold == i, whole, 0).astype(x.dtype) for i in range(n_folds)]
    parts = [(whole, np.zeros_like(whole)), *((whole - h, h) for h in held)]
    return [(jnp.asarray(a), jnp.asarray(b)) for a, b in parts]


def _run_sweeps(
    key: Array,
    x: Array,
    sweeps: dict[str, list[Any]],
    sizes: list[int],
    folds: list[Fold],
    criterion: str,
    options: _Options,
    progress: bool | None,
) -> Selection:
    from tqdm import tqdm

    found: list[dict[str, Any]] = []
    interrupted = False
    bar = tqdm(
        total=len(sweeps) * len(folds),
        desc="select",
        unit="sweep",
        leave=False,
        disable=None if progress is None else not progress,
    )
    try:
        for name, algorithms in sweeps.items():
            bar.set_postfix_str(name, refresh=False)
            sweep = _Sweep(algorithms, sizes, x, options)
            outcomes = []
            for i, fold in enumerate(folds):
                outcomes.append(sweep.run(jax.random.fold_in(key, i), *fold))
                bar.update()
            found.extend(_rows(name, sweep, outcomes, float(outcomes[0].total)))
    except KeyboardInterrupt:
        if not found:
            raise
        interrupted = True
    finally:
        bar.close()
    return Selection(criterion, found, interrupted)


def _rows(name: str, sweep: "_Sweep", folds: list["_Outcome"], total: float) -> list[dict]:
    """One row of the table for each K: the fit to all the data, and its criteria."""
    out = []
    fitted, *held_out = folds
    for g, k in enumerate(sweep.sizes):
        algorithm = sweep.algorithms[g]
        status = Status(int(fitted.best.status[g]))
        df = algorithm.prior.n_parameters
        log_likelihood, log_assignment, *_ = (float(a) for a in fitted.scores[g])
        bic = df * math.log(total) - 2 * log_likelihood
        row = {
            "covariance": name,
            "n_components": k,
            "n_parameters": df,
            "log_likelihood": log_likelihood,
            "bic": bic,
            "aic": 2 * df - 2 * log_likelihood,
            "icl": bic - 2 * log_assignment,
            "elbo": float(fitted.best.objective[g]) if algorithm.view != "mode" else math.nan,
            "cv": math.nan,
            "cv_error": math.nan,
            "status": status,
            "state": sweep.state(fitted, g),
        }
        if held_out:
            failed = any(Status(int(f.best.status[g])).failed for f in held_out)
            log_density = sum(float(f.scores[g, 2]) for f in held_out)
            squares = sum(float(f.scores[g, 3]) for f in held_out)
            mean = log_density / total
            row["cv"] = math.nan if failed else mean
            # of the mean over the samples, as if the folds' fits were independent of them
            row["cv_error"] = math.sqrt(max(squares / total - mean**2, 0) / total)
        if status.failed:
            row.update({c: math.nan for c in CRITERIA})
        out.append(row)
    return out


class _Outcome(NamedTuple):
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


class _Sweep:
    """All K of one covariance, as groups of lanes of one program."""

    def __init__(self, algorithms: list[Any], sizes: list[int], x: Array, options: _Options):
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

    def run(self, key: Array, weight: Array | None, held_out: Array | None) -> _Outcome:
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
        return _Outcome(best, scores, total)

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

    def state(self, outcome: _Outcome, g: int) -> State:
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
    the scores of `_Outcome`.
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
