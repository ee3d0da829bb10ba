"""Fits of rows that come in batches.

The lanes start, race and move on the sample that the first pass kept. Those that may be the best of
all rows then see all of them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from jaxgmm._estep.row_checks import check_rows
from jaxgmm._estep.rows import floats_of
from jaxgmm._fit.contenders import contenders
from jaxgmm._fit.keeping import Given, Keeper, Observing, Opener, Stage
from jaxgmm._fit.launch import begin_lane, start_lanes
from jaxgmm._fit.memoized import MemoizedDriver
from jaxgmm._fit.plan import Lanes, Options, find_optima, finished
from jaxgmm._fit.progress import Bar, Observer, Progress, RowsBar
from jaxgmm._fit.result import Result, data_notes, resolution_of
from jaxgmm._fit.stream_driver import StreamedDriver
from jaxgmm._fit.whitening import Whitening
from jaxgmm._lane.state import State
from jaxgmm._lane.status import FAILED, Status
from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.programs import program
from jaxgmm._numerics.pytree import pick, replace, set_at
from jaxgmm._stream.batches import Batches
from jaxgmm._stream.errors import StreamError
from jaxgmm._stream.processes import from_first
from jaxgmm._stream.stream import Stream


def fit_stream(
    key: Array, stream: Stream, algorithm: Any, options: Options, opener: Opener
) -> Result:
    """`fit` of a stream.

    Raises:
        ValueError: for rows that no fit can use, and what a stream cannot do.
        StreamError: if the stream fails in a later pass, with the result so far.
    """
    _check(algorithm, options)
    stream.survey()
    with opener(Given(key, stream, None, algorithm, options)) as keeper:
        return _fit_kept(key, stream, algorithm, options, keeper)


def _fit_kept(
    key: Array, stream: Stream, algorithm: Any, options: Options, keeper: Keeper | None
) -> Result:
    survey, at = stream.survey(), None if keeper is None else keeper.stage
    given = floats_of(survey.sample)
    rows = check_rows(given)
    algorithm.check(rows)
    notes = data_notes(rows)
    if rows.n_samples < survey.n_samples:
        few = f"the starts and the notes are of {rows.n_samples} of the {survey.n_samples} rows."
        notes = (*notes, few)
    pads = isinstance(options.init, str) and algorithm.ascends
    coordinates = Whitening(given, rows, algorithm, pads)
    inner = coordinates.into(algorithm)

    def result(lanes: Lanes) -> Result:
        gain = coordinates.gain_of(survey.seen, survey.total)
        return finished(lanes, algorithm, coordinates, gain, options.limits.tol, notes)

    # with random starts lanes come to their optima on the sample first
    ready = options.free(inner) and options.racing is not False
    if at is not None:
        found = Lanes(at.states, at.history, False, survey.total)
    elif ready:
        found = find_optima(key, inner, coordinates, rows, options._replace(history=False))
    else:
        start = start_lanes(key, inner, options.n_restarts, options.init, coordinates, rows)
        found = Lanes(start()[1], None, False, survey.total)
    if found.interrupted or (at is not None and at.progress is None):
        return result(found)
    course = _Course(found.states, np.arange(options.n_restarts), options.history)
    if ready:
        resolution = resolution_of(options.limits.tol, survey.total)
        lanes = contenders(found.states, coordinates.rows, survey.n_samples, resolution)
        course = course._replace(lanes=lanes)

    batches = Batches(stream.reader, survey, coordinates.to, rows.x.dtype, stream.batch_size)
    name, shown = algorithm.name, options.progress
    shown = shown if jax.process_index() == 0 else False
    bar = RowsBar(name, survey.own.n_samples, shown if algorithm.ascends else False)
    iterations = Bar(name, options.limits.max_iter, "it", False if algorithm.ascends else shown)
    last = _Last(None if at is None else at.progress)
    observers: list[Observer] = [last, bar, iterations]
    if keeper is not None:
        observers.append(Observing(keeper, Stage(states=found.states)))
    sizes = {"n_lanes": len(course.lanes), "history": options.history}
    kind = MemoizedDriver if algorithm.by_batch else StreamedDriver
    driver = kind(inner, batches, options.limits, bar=bar, **sizes)
    states = pick(found.states, course.lanes)
    states = from_first(_begun(inner, states) if ready else states)
    race = bool(options.racing) and not ready
    try:
        progress, interrupted = driver.run(states, race, observers, at=last.progress)
    except StreamError as error:
        error.result = result(course.at(last.progress, True, survey.total))
        raise
    lanes = course.at(progress, interrupted, survey.total)
    if keeper is not None and not interrupted:
        keeper(Stage(None, lanes.states, lanes.history, None, lanes.total), now=True)
    return result(lanes)


class _Course(NamedTuple):
    """What becomes of the lanes.

    Attributes:
        before: their states before the first pass.
        lanes: those that see all rows.
        history: whether their objectives are recorded.
    """

    before: State
    lanes: np.ndarray
    history: bool

    def at(self, progress: Progress | None, interrupted: bool, total: float) -> Lanes:
        """All lanes; those that saw no more than the sample are dropped, and NaN in a history.

        ``progress`` is that of the others; None before the first pass has ended.
        """
        states = self.before
        some = np.empty((0, len(self.lanes)))
        if progress is not None:
            states = set_at(_dropped(states), self.lanes, progress.states())
            some = progress.history() if self.history else some
        wide = np.full((len(some), states.status.shape[0]), np.nan, some.dtype)
        wide[:, self.lanes] = some
        return Lanes(states, wide if self.history else None, interrupted, total)


class _Last:
    """An observer that keeps the progress, for when a stream fails."""

    def __init__(self, progress: Progress | None):
        self.progress = progress

    def __call__(self, progress: Progress) -> None:
        self.progress = progress

    def close(self) -> None:
        pass


def _check(algorithm: Any, options: Options) -> None:
    if options.mesh is not None:
        raise ValueError("a stream is fitted on one device of a process; leave mesh out.")
    if not algorithm.ascends and not hasattr(algorithm, "batch_size"):
        raise ValueError(
            f"{algorithm.name} remembers every row, and a stream keeps none in memory; leave "
            "truncation out, or give the rows as an array."
        )
    if not algorithm.ascends and algorithm.batch_size is None:
        raise ValueError(
            "SVI of a stream takes minibatches: give jaxgmm.svi a batch_size, for instance "
            "batch_size=1024."
        )
    if (not algorithm.ascends or algorithm.by_batch) and jax.process_count() > 1:
        raise ValueError(
            f"{algorithm.name} of a stream is fitted by one process, but there are "
            f"{jax.process_count()}; take jaxgmm.em or jaxgmm.cavi."
        )
    init = options.init
    if isinstance(init, Mapping) and (names := {"labels", "responsibilities"} & set(init)):
        raise ValueError(
            f"init has {names.pop()} of all rows, but of a stream nobody holds all rows; give "
            '{"parameters": (weights, means, covariances)}, or a state.'
        )


@program()
def _begun(algorithm: Any, states: State) -> State:
    """The states of lanes before their first pass, at the posteriors that they have come to."""
    return jax.vmap(lambda q: begin_lane(algorithm, q, None))(states.posterior)


def _dropped(states: State) -> State:
    """The states of lanes that see no more than the sample."""
    status = np.asarray(states.status)
    out = np.where(np.isin(status, FAILED), status, int(Status.DROPPED))
    states = jax.tree.map(as_array, states)
    return replace(states, status=as_array(out.astype(status.dtype)))
