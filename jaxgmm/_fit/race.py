"""The race: beaten lanes stop early, and those that go on move to smaller batches.

Lanes come in groups, one after the other, and race against those of their own group. Functions of
the host, from one `Progress` to another.
"""

import math

import numpy as np

from jaxgmm._estep.structures import structure
from jaxgmm._fit.progress import Progress
from jaxgmm._lane.status import FAILED, Status
from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.pytree import pick, replace

# Fits of fewer lanes have no race.
RACING_LANES = 16
# Iterations after which lanes are first compared, and then after twice as many each time.
_FIRST_RUNG = 16
# The same with many features, where responsibilities are sharp soon; and for moves of much data,
# which is that many products of N, K and D.
_FIRST_LOOK = 4
_FEATURES = 64
_MUCH = 1 << 20
# So many lanes are never dropped.
_SURVIVORS = 4
# A batch shrinks by this factor or more: each size is a program of its own to compile.
_SHRINK = 4
# Responsibilities between two iterations after which it may do so, at least.
_BETWEEN_CUTS = 1 << 25
# Responsibilities in one iteration of all lanes, above which smaller batches save more time than
# their programs cost; and how many a smaller one must save. Numbers and not a clock decide, so that
# results repeat.
_LARGE = 1 << 22
_SAVED = 1 << 19


def weight_of(kind: str, n_features: int) -> float:
    """What a responsibility costs, in units of what it costs with few features."""
    matrices = structure(kind).separate == "full"
    return max(1.0, n_features * (n_features if matrices else 1) / _FEATURES)


def rungs(n_lanes: int, max_iter: int, n_features: int = 1) -> tuple[tuple[int, int], ...]:
    """``(iteration, lanes that go on)`` of successive halving (Jamieson & Talwalkar 2016)."""
    out, lanes = [], n_lanes
    iteration = _FIRST_LOOK if n_features >= _FEATURES else _FIRST_RUNG
    while lanes > _SURVIVORS and iteration < max_iter:
        lanes = max(lanes // 4, _SURVIVORS)
        out.append((iteration, lanes))
        iteration *= 2
    return tuple(out)


def looks(n_lanes: int, max_iter: int, work: int) -> tuple[tuple[int, int], ...]:
    """The rungs of moves, which go on as long as lanes do: at each some are given up, see there.

    Of much data the first look is early: most moves lead nowhere.

    Args:
        n_lanes: of a round.
        max_iter: of a lane.
        work: N K D.
    """
    out, iteration, left = [], _FIRST_LOOK if work >= _MUCH else _FIRST_RUNG, n_lanes
    while iteration < max_iter:
        left = min(left, max(left // 4, _SURVIVORS))
        out.append((iteration, left))
        iteration *= 2
    return tuple(out)


def give_up(progress: Progress, before: np.ndarray | float, best: np.ndarray) -> Progress:
    """No more iterations for moved lanes that will hardly reach the optimum they came from.

    From one rung to the next the iterations double. A lane whose distance to its optimum falls as
    a power of the iterations, the 0.6th or a higher one, has at most twice as much left to gain as
    it gained since the last rung.

    Args:
        progress: at a rung.
        before: objectives at the last rung; -inf at the first one.
        best: objective of each group that a lane must exceed; -inf where any is better.
    """
    status, objective = progress.of_all("status"), progress.of_all("objective").astype(float)
    target = np.repeat(best, progress.n_lanes // progress.n_groups)
    running = status == Status.RUNNING
    known = running & np.isfinite(before)
    gained = objective - np.where(known, before, 0)
    hopeless = known & (objective + 2 * np.where(known, gained, 0) < target)
    if not hopeless.any():
        return progress
    status = np.where(hopeless, int(Status.MAX_ITERATIONS), status).astype(np.int32)
    batch = replace(progress.batch, status=as_array(status[progress.lanes]))
    return replace(progress, batch=batch)


def beaten(
    status: np.ndarray, objective: np.ndarray, degenerate: np.ndarray, n_left: int
) -> np.ndarray:
    """Which running lanes of a group are not among the ``n_left`` best: ``(B,)``.

    Lanes that have converged count among the best; those that failed do not, nor those that would
    be refused if they ended now: on its way up a spike of the likelihood beats every other lane.
    """
    objective = objective.astype(np.float64)
    lost = np.isin(status, FAILED) | degenerate
    score = np.where(lost | ~np.isfinite(objective), -np.inf, objective)
    # of equal lanes the first goes on
    best = np.argsort(-score, kind="stable")[:n_left]
    out = status == Status.RUNNING
    out[best] = False
    return out


def drop(progress: Progress, n_left: int) -> Progress:
    """All but the ``n_left`` best lanes of each group get the status DROPPED."""
    n = progress.n_lanes
    status, objective = progress.of_all("status"), progress.of_all("objective")
    degenerate = np.zeros(n, bool)
    degenerate[progress.lanes] = np.asarray(progress.degenerate)
    lost = np.concatenate(
        [beaten(status[g], objective[g], degenerate[g], n_left) for g in progress.groups()]
    )
    status = np.where(lost, int(Status.DROPPED), status).astype(np.int32)
    batch = replace(progress.batch, status=as_array(status[progress.lanes]))
    return replace(progress, batch=batch)


def revive(progress: Progress) -> Progress:
    """Let the dropped lanes of a group go on where those that beat them all failed."""
    status = progress.of_all("status")
    again = np.zeros(status.shape, bool)
    for g in progress.groups():
        dropped = status[g] == Status.DROPPED
        again[g] = dropped & (dropped | np.isin(status[g], FAILED)).all()
    if not again.any():
        return progress
    status = np.where(again, int(Status.RUNNING), status).astype(np.int32)
    everyone = replace(progress.states(), status=as_array(status))
    lanes = np.arange(progress.n_lanes)
    return replace(progress, everyone=everyone, batch=everyone, lanes=lanes, rungs=())


def shrink(progress: Progress, work: int, weight: float = 1) -> Progress:
    """Keep a power of two of lanes, the running ones among them, if that saves much.

    Args:
        progress: of the lanes.
        work: responsibilities of a lane in an iteration, N K.
        weight: what one costs with many features, in units of what it costs with few.
    """
    lanes = progress.lanes
    running = np.asarray(progress.batch.status) == Status.RUNNING
    size = 1 << int(max(running.sum() - 1, 0)).bit_length()
    if (_SURVIVORS - size) * work < _SAVED:  # a race that ends and moves share this size
        size = max(size, _SURVIVORS)
    saved = (len(lanes) - size) * work * weight
    if not running.any() or size * _SHRINK > len(lanes) or saved < _SAVED:
        return progress
    # what fills the new batch up are finished lanes, which the loop leaves alone
    kept = np.sort(np.argsort(~running, kind="stable")[:size])
    batch = pick(progress.batch, kept)
    return replace(progress, everyone=progress.states(), batch=batch, lanes=lanes[kept])


def may_shrink(n_lanes: int, work: int, weight: float = 1) -> bool:
    """Whether `shrink` can ever make a batch of so many lanes smaller."""
    return n_lanes >= _SHRINK and (n_lanes - 1) * work * weight >= _SAVED


def next_cut(n_iter: int, work: float) -> int:
    """The next iteration after which a batch may shrink, four of them while iterations double.

    Results do depend on the sizes of batches, by rounding. So iterations decide about them and not
    the lengths of calls, which follow the clock.

    Args:
        n_iter: iterations done.
        work: responsibilities of the batch in an iteration. Where they are few, each cut costs as
            much as some iterations, and there are fewer.
    """
    gap = max(_BETWEEN_CUTS / work, 2.0 ** (n_iter.bit_length() - 3), 1)
    gap = 1 << math.ceil(math.log2(gap))
    return (n_iter // gap + 1) * gap


def last_batch(n_lanes: int, work: int, weight: float = 1) -> int:
    """Lanes of the batch that a race of so many shrinks to in one step; as many if it does not."""
    saved = (n_lanes - _SURVIVORS) * work * weight
    return _SURVIVORS if n_lanes == _SHRINK * _SURVIVORS and saved >= _SAVED else n_lanes


def worth_shrinking(work: int, n_lanes: int) -> bool:
    """Whether an iteration is long enough for smaller batches to pay for their compilation.

    Args:
        work: responsibilities of a lane in an iteration, N K.
        n_lanes: of the fit.
    """
    return work * n_lanes >= _LARGE
