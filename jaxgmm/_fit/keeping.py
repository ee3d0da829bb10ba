"""What a fit needs to go on in another process, and who keeps it.

A fit tells its `Keeper` after every call of the loop how far it is, and asks it first whether there
is something to go on from. How a keeper writes is not the fit's concern.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import jax
import numpy as np
from jax import Array

from jaxgmm._estep.rows import Rows
from jaxgmm._fit.progress import Progress
from jaxgmm._lane.state import State
from jaxgmm._numerics.calls import described
from jaxgmm._numerics.pytree import pytree, replace

_CALL = 'jaxgmm.fit(key, x, algorithm, checkpoint="folder")'


@pytree
class Round:
    """A round of the search by moves.

    Attributes:
        number: of the round.
        best: the best state of each group so far, led by their number.
        left: rounds without success that are left to each group.
    """

    number: Any
    best: State
    left: Any


@pytree
class Stage:
    """How far a fit is: among its lanes, among moves from the best of them, or at its end.

    Attributes:
        progress: of the lanes or of a round of moves; None at the end.
        states: of all lanes when they had ended; None before.
        history: their objectives; None before, and without a history.
        round: of moves, or None.
        total: at the end the sum of the weights; else None.
    """

    progress: Progress | None = None
    states: Any = None
    history: Any = None
    round: Any = None
    total: Any = None

    def in_search(self) -> tuple[Round, Progress] | None:
        """The round of moves and its progress; None before."""
        return None if self.round is None or self.progress is None else (self.round, self.progress)


class Given(NamedTuple):
    """A fit as it was asked for.

    Attributes:
        key: PRNG key.
        x: the samples as the user passed them, as floats.
        rows: as JAX has them, with their weights; None of a `Stream`.
        algorithm: in the units of the data.
        options: `jaxgmm._fit.plan.Options`.
    """

    key: Array
    x: Any
    rows: Rows | None
    algorithm: Any
    options: Any


@runtime_checkable
class Keeper(Protocol):
    """What keeps a fit, from the start of its lanes to the end; a context.

    Attributes:
        stage: to go on from; None for a fit from its start.
        longest: iterations of a call of the loop at most; None for no such limit.
    """

    stage: Stage | None
    longest: int | None

    def __call__(self, stage: Stage, now: bool = False) -> None:
        """The fit is there; it is written if that is due, or ``now``."""
        ...

    def __enter__(self) -> "Keeper": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class Observing:
    """The observer that tells a keeper how far its stage is."""

    def __init__(self, keeper: Keeper, stage: Stage):
        self.keeper, self.stage = keeper, stage

    def __call__(self, progress: Progress) -> None:
        self.keeper(replace(self.stage, progress=progress))

    def close(self) -> None:
        pass


# Begins to keep a fit; without a keeper it is not kept.
Opener = Callable[[Given], AbstractContextManager[Keeper | None]]


class Folders:
    """How folders are opened: files know the types of fits, and their layer is above this one."""

    opener: Callable[[str | os.PathLike[str], Any, Any], Opener]


def opener_of(checkpoint: Any, every: Any, keep: Any) -> Opener:
    """What begins to keep a fit: nothing, in a folder, or as it is given."""
    if checkpoint is None:
        return lambda given: nullcontext()
    if isinstance(checkpoint, str | os.PathLike):
        return Folders.opener(checkpoint, every, keep)
    if callable(checkpoint):
        return cast(Opener, checkpoint)
    raise ValueError(
        f"checkpoint must be the path of a folder, but it is {described(checkpoint)}; call {_CALL}."
    )


def check_alike(stage: Stage, starts: State) -> None:
    """Refuse a stage whose lanes are not of the kind that an algorithm starts."""
    progress = stage.progress
    if progress is None or _form(progress.everyone) == _form(starts) or stage.states is not None:
        return
    raise ValueError(
        "the lanes of the checkpoint are of another kind than those of this algorithm; give "
        "jaxgmm.resume the algorithm of the fit, with the same optimiser."
    )


def _form(states: State) -> Any:
    leaves, structure = jax.tree.flatten(states)
    return structure, [(np.shape(a), a.dtype) for a in leaves]
