"""How far a fit has come: a pytree, which observers look at after every call of the loop."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxgmm._lane.state import State
from jaxgmm._lane.status import Status
from jaxgmm._numerics.pytree import pytree, replace, set_at, static


@pytree
class Progress:
    """All that a fit needs to go on.

    Attributes:
        everyone: states of all lanes, as they were when they last left the batch.
        batch: states of the lanes that are worked on, packed together.
        lanes: their numbers, ``(B,)``.
        degenerate: which of them would be refused as degenerate, ``(B,)``.
        done: iterations of the loop, without those of the last call.
        did: iterations of the last call.
        chunks: of each call since the start the history, its length and the lanes; none without.
        rungs: iterations at which lanes will be compared, and how many then go on (static).
        n_groups: of lanes, which have as many each, those of one after those of the other (static).
        before: of moves the objectives of all lanes when they were last compared, -inf at first.
    """

    everyone: State
    batch: State
    lanes: Any
    degenerate: Any
    done: Any
    did: Any
    chunks: tuple[tuple[Any, Any, Any], ...]
    rungs: tuple[tuple[int, int], ...] = static()
    n_groups: int = static()
    before: Any = -np.inf

    @property
    def n_lanes(self) -> int:
        return self.everyone.status.shape[0]

    @property
    def n_iter(self) -> int:
        """Iterations of the loop."""
        return int(self.done) + int(self.did)

    @property
    def n_running(self) -> int:
        return int(np.sum(np.asarray(self.batch.status) == Status.RUNNING))

    def groups(self) -> Iterator[slice]:
        """The lanes of each group."""
        n = self.n_lanes // self.n_groups
        return (slice(g * n, (g + 1) * n) for g in range(self.n_groups))

    def states(self) -> State:
        """The states of all lanes."""
        if len(self.lanes) == self.n_lanes:
            return self.batch
        return set_at(self.everyone, self.lanes, self.batch)

    def of_all(self, name: str) -> np.ndarray:
        """One field of the states of all lanes, which may be written to."""
        out = np.array(getattr(self.everyone, name))
        out[self.lanes] = np.asarray(getattr(self.batch, name))
        return out

    def history(self) -> np.ndarray:
        """The recorded objectives (T, R), NaN where a lane was in no batch."""
        out = [np.empty((0, self.n_lanes))]
        for rows, did, numbers in self.chunks:
            rows = np.asarray(rows)[: int(did)]
            wide = np.full((len(rows), self.n_lanes), np.nan, rows.dtype)
            wide[:, numbers] = rows
            out.append(wide)
        return np.concatenate(out[1:] or out)


def compact(progress: Progress) -> Progress:
    """The same progress, with all of its history as that of one call."""
    if not progress.chunks:
        return progress
    rows = progress.history()
    return replace(progress, chunks=((rows, len(rows), np.arange(progress.n_lanes)),))


def at_start(states: State, rungs: tuple[tuple[int, int], ...] = (), n_groups: int = 1) -> Progress:
    """The progress of lanes before their first iteration."""
    n = states.status.shape[0]
    return Progress(states, states, np.arange(n), np.zeros(n, bool), 0, 0, (), rungs, n_groups)


@runtime_checkable
class Observer(Protocol):
    """What looks at the progress of a fit after every call of the loop: a bar, a checkpoint."""

    def __call__(self, progress: Progress) -> None:
        """Look at it; an exception ends the fit."""
        ...

    def close(self) -> None:
        """The fit has ended, or was interrupted."""
        ...


class Bar:
    """A progress bar of iterations."""

    def __init__(self, what: str, total: int, unit: str, show: bool | None):
        from tqdm import tqdm

        disable = None if show is None else not show
        self.bar = tqdm(total=total, desc=what, unit=unit, leave=False, disable=disable)

    def __call__(self, progress: Progress) -> None:
        text = f"{progress.n_running} of {progress.n_lanes} lanes running"
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(progress.n_iter - self.bar.n)

    def close(self) -> None:
        self.bar.close()


class RowsBar:
    """A progress bar of the rows of a pass over a stream, with the time that is left of it."""

    def __init__(self, what: str, n_rows: int, show: bool | None):
        from tqdm import tqdm

        disable = None if show is None else not show
        options = {"total": n_rows, "unit": " rows", "unit_scale": True, "leave": False}
        self.what, self.bar = what, tqdm(**options, disable=disable)

    def begin(self, number: int, n_running: int, n_lanes: int) -> None:
        """A pass begins."""
        self.bar.reset()
        self.bar.set_description(f"{self.what}, pass {number}", refresh=False)
        self.bar.set_postfix_str(f"{n_running} of {n_lanes} lanes running", refresh=False)

    def update(self, n_rows: int) -> None:
        """So many rows more have been read."""
        self.bar.update(n_rows)

    def __call__(self, progress: Progress) -> None:
        pass

    def close(self) -> None:
        self.bar.close()
