"""The search by moves: rounds of them, for one fit or for the best of every group."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from jaxgmm._fit.driver import Driver
from jaxgmm._fit.keeping import Round
from jaxgmm._fit.moves import moved_lanes
from jaxgmm._fit.progress import Observer, Progress
from jaxgmm._lane.state import State
from jaxgmm._lane.status import FAILED, Status
from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.programs import Call, effort_of
from jaxgmm._numerics.pytree import choose, replace

# Rounds of moves at most: one follows every improvement, and some follow none.
_ROUNDS = 100
# Rounds in a row without improvement before a search ends.
PATIENCE = 6


def tries_moves(algorithm: Any, asked: bool | None, by_default: bool) -> bool:
    """Whether a fit tries moves; refuse them where an algorithm cannot be moved."""
    if asked and not algorithm.ascends:
        raise ValueError(
            f"moves are for the algorithms of jaxgmm.em and jaxgmm.cavi without a truncation, but "
            f"this is {algorithm.name}; leave moves out."
        )
    return by_default if asked is None else asked


def search(
    key: Array,
    branch: int,
    best: State,
    sizes: np.ndarray,
    driver: Driver,
    n: int,
    patience: int | np.ndarray = 1,
    observers: Callable[[Round], Sequence[Observer]] = lambda _: (),
    at: tuple[Round, Progress] | None = None,
) -> tuple[State, bool]:
    """The best state of each group after moves, as long as one finds something better.

    Args:
        key: PRNG key.
        branch: folded into the key, which the fit uses otherwise too.
        best: the best state of each group, every leaf led by their number G.
        sizes: K of each group, ``(G,)``.
        driver: of the lanes; what is found before an interruption stays.
        n: lanes of each group.
        patience: rounds in a row without improvement of a group, or of one with a component more or
            less, after which the group rests: one number, or ``(G,)``.
        observers: makes those of a round.
        at: the round to go on from, and its progress.

    Returns:
        The states, and whether Ctrl-C ended it.
    """
    # what an iteration more could give anyway is no other optimum
    enough = 100 * driver.limits.tol * float(driver.data.total)
    grouped, interrupted = driver.n_groups is not None, False
    patience = np.broadcast_to(patience, sizes.shape)
    left, first = patience.copy(), 0
    if at is not None:
        best, left, first = at[0].best, np.asarray(at[0].left), int(at[0].number)
    if driver.algorithm.prior.n_components < 2:  # there is nothing to merge, nor to split
        return best, False
    try:
        for i in range(first, max(_ROUNDS, patience.max())):
            progress, at = (None, None) if at is None else (at[1], None)
            if progress is None:
                # of an estimate that was moved already the ranked moves are known
                ranked = np.where(left == patience, n if grouped else n // 2, 0)
                lanes = moving(key, (branch, i), best, sizes, driver, ranked, n)()
                if (left <= 0).any():
                    lanes = _resting(lanes, np.repeat(left <= 0, n))
            else:
                lanes = progress.everyone
            target = _objective(best) + enough if driver.algorithm.races else None
            watching = observers(Round(i, best, left))
            progress, interrupted = driver.run(lanes, True, watching, target, progress)
            tried = best_of(progress)
            better = _better(best, tried, enough)
            if better.any():
                best = choose(better, tried, best)
            left = np.where(_beside(better, sizes), patience, left - 1)
            if interrupted or (left <= 0).all():
                break
    except KeyboardInterrupt:  # while a move was being made: what there is stays
        interrupted = True
    return best, interrupted


def _beside(better: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The groups that are better, and those that moves lead to from one of these."""
    gap = np.abs(sizes[:, None] - sizes[None])
    return np.asarray(((gap <= 1) & better[None]).any(axis=1))


def _resting(lanes: State, rest: np.ndarray) -> State:
    """The lanes, of which some are not to run."""
    status = np.where(rest, Status.DROPPED, np.asarray(lanes.status))
    return replace(lanes, status=as_array(status, lanes.status.dtype))


def moving(
    key: Array,
    branch: tuple[int, int],
    best: State,
    sizes: np.ndarray,
    driver: Driver,
    n_ranked: np.ndarray | int = 0,
    n: int = 1,
) -> Call:
    """The call that makes a round of moves, see `moved_lanes`."""
    prior, grouped = driver.algorithm.prior, driver.n_groups is not None
    effort = effort_of(n * len(sizes) * prior.n_components**2 * prior.n_features**2)
    numbers = np.asarray(branch, np.uint32), np.broadcast_to(n_ranked, sizes.shape)
    arguments = (key, numbers[0], driver.algorithm, best, sizes, driver.data, numbers[1])
    return moved_lanes.on(effort, *arguments, n=n, grouped=grouped)


def _objective(best: State) -> np.ndarray:
    """The objectives; -inf of states that failed."""
    objective = np.asarray(best.objective, np.float64)
    return np.where(np.isin(np.asarray(best.status), FAILED), -np.inf, objective)


def _better(best: State, tried: State, enough: float) -> np.ndarray:
    old, new = np.asarray(best.status), np.asarray(tried.status)
    failed = np.isin(old, FAILED)
    sound = np.where(failed, ~np.isin(new, FAILED), new == Status.CONVERGED)
    return sound & (np.asarray(tried.objective, np.float64) > _objective(best) + enough)


def best_of(progress: Progress) -> State:
    """The best lane of each group that ended well; if none did, the first one.

    In NumPy, which compiles nothing: algorithms that move keep no random keys.
    """
    status, objective = progress.of_all("status"), progress.of_all("objective")
    usable = (status == Status.CONVERGED) | (status == Status.MAX_ITERATIONS)
    score = np.where(usable & ~np.isnan(objective), objective, -np.inf)
    index = [g.start + int(np.argmax(score[g])) for g in progress.groups()]
    return jax.tree.map(lambda a: np.asarray(a)[index], progress.states())
