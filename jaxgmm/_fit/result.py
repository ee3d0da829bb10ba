"""What a fit returns."""

from collections import Counter
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgmm._estep.rows import Rows
from jaxgmm._lane.state import Fitted, State
from jaxgmm._lane.status import FAILED, Status
from jaxgmm._numerics import linalg
from jaxgmm._numerics.checks import is_traced
from jaxgmm._numerics.devices import for_everyone, is_local
from jaxgmm._numerics.pytree import pick, pytree, static

# Distinct optima that a summary lists.
_OPTIMA = 5
# Nats of rounding in an objective that are worth a sentence.
_COARSE = 0.01
# Nats within which two objectives are one optimum at least; and iterations at the tolerance's rate
# that a lane may be away from its optimum where it stops: EM's rate is often 0.99.
_RESOLUTION = 0.01
_ITERATIONS_AWAY = 100


def best_lane(status: Any, objective: Any) -> Any:
    """The best of the lanes that neither failed nor were dropped; see `Result.best_index`."""
    xp = jnp if is_traced(status, objective) else np
    status, objective = xp.asarray(status), xp.asarray(objective)
    out = xp.isin(status, xp.asarray(FAILED, status.dtype)) | (status == int(Status.DROPPED))
    out = out & ~xp.all(out)
    usable = xp.where(xp.isfinite(objective) & ~out, objective, -xp.inf)
    # without any objective the first that did not fail
    index = xp.where(xp.any(xp.isfinite(usable)), xp.argmax(usable), xp.argmin(out))
    return index if xp is jnp else int(index)


@pytree
class Result(Fitted):
    """All lanes of a fit, and the best lane.

    It is a pytree. Two results are equal if they have the same bits, so ``load(path) == result``
    after ``save(path, result)``; an algorithm with a finished optax optimiser, which no file holds,
    equals another one with the same optimiser only.

    Attributes:
        algorithm: of the fit.
        states: the states of all lanes; the first axis of every leaf is R.
        history: objective after each iteration, ``(T, R)``, NaN where a lane had ended; or None.
        interrupted: whether Ctrl-C ended the fit.
        notes: sentences about the data that a user should know.
        precision: nats that rounding alone may change in an objective.
        resolution: nats within which the objectives of two lanes count as one optimum.
    """

    algorithm: Any
    states: State
    history: Any
    interrupted: bool = static()
    notes: tuple[str, ...] = static()
    precision: Any = 0.0
    resolution: Any = _RESOLUTION

    @property
    def failed(self) -> np.ndarray:
        """Which lanes failed, so that they must not be used: ``(R,)``."""
        return np.isin(np.asarray(self.states.status), FAILED)

    @property
    def best_index(self) -> Any:
        """The lane with the highest objective among those that did not fail.

        A lane that failed (see also `is_degenerate`) or was dropped is never the best, however high
        its objective is. If all lanes failed, it is the lane with the highest finite
        objective.
        """
        return best_lane(self.states.status, self.states.objective)

    @property
    def best(self) -> State:
        """The state of the best lane, without the lane axis."""
        return pick(self.states, self.best_index)

    def optima(self, tolerance: float | None = None) -> list[tuple[float, int]]:
        """The optima that the lanes found: ``(objective, number of lanes)``, the best first.

        Only lanes that converged count. Two lanes are at one optimum if their objectives differ by
        at most ``tolerance`` nats, by default ``resolution``, or are linked by objectives of other
        lanes at such distances.
        """
        tolerance = float(self.resolution) if tolerance is None else tolerance
        status = np.asarray(self.states.status)
        found = np.asarray(self.states.objective, np.float64)[status == Status.CONVERGED]
        found = np.sort(found)[::-1]
        groups = np.split(found, np.flatnonzero(-np.diff(found) > tolerance) + 1)
        return [(float(g[0]), len(g)) for g in groups if len(g)]

    def doubt(self) -> str | None:
        """A sentence on lanes that arithmetic refused above the best one; None if there are none.

        A lane that collapsed has come to a spike of the likelihood, which no one wants. One that is
        NONFINITE or DECREASED failed for another reason, and may have been on its way to a better
        optimum.
        """
        status = np.asarray(self.states.status)
        objective = np.asarray(self.states.objective, np.float64)
        best = self.best_index
        refused = np.isin(status, (Status.NONFINITE, Status.DECREASED)) & np.isfinite(objective)
        above = refused & (objective > objective[best] + float(self.precision)) & ~self.failed[best]
        if not above.any():
            return None
        lane = int(np.argmax(np.where(above, objective, -np.inf)))
        return (
            f"lane {lane} was refused as {Status(int(status[lane])).name} at an objective of "
            f"{objective[lane]:.4f}, above the best one's {objective[best]:.4f}: arithmetic failed "
            "it, and its optimum may be better; use float64 or a prior."
        )

    def statuses(self) -> dict[Status, int]:
        """How many lanes have each status."""
        counts = Counter(int(s) for s in np.asarray(self.states.status))
        return {Status(code): counts[code] for code in sorted(counts)}

    def summary(self) -> str:
        """What happened, in words: the best lane, the others, and what went wrong."""
        prior = self.algorithm.prior
        index = self.best_index
        status = Status(int(self.states.status[index]))
        lanes = self.states.status.shape[0]
        lines = [
            f"{self.algorithm.name}, {lanes} lane{'s' if lanes > 1 else ''}: "
            f"K={prior.n_components}, D={prior.n_features}, "
            f"{prior.components.covariance_name} covariance, {prior.dtype}",
            f"best: lane {index}, objective {float(self.states.objective[index]):.6f} nats, "
            f"{int(self.states.n_iter[index])} iterations, {status.name}",
        ]
        if status == Status.CONVERGED and self.precision > _COARSE:
            lines.append(
                f"{prior.dtype} resolves this objective to {self.precision:.1g} nats: the lanes "
                "converged to that precision."
            )
        if status.failed:
            lines.append("All lanes failed: the best is the least bad of them, not an estimate.")
        if self.interrupted:
            lines.append("Interrupted: the lanes still RUNNING can go on from their states.")
        for code, count in self.statuses().items():
            lines.append(f"{count:>6} {code.name}: {code.message}")
            if code.failed:
                values = np.asarray(self.states.objective)[np.asarray(self.states.status) == code]
                values = values[np.isfinite(values)]
                if len(values):
                    lines.append(f"       (refused at objectives up to {values.max():.6f})")
        optima = self.optima()
        if len(optima) > 1 or sum(n for _, n in optima) > 1:
            shown = ", ".join(
                f"{value:.4f} ({n} lane{'s' if n > 1 else ''})" for value, n in optima[:_OPTIMA]
            )
            more = f" and {len(optima) - _OPTIMA} more" if len(optima) > _OPTIMA else ""
            lines.append(f"optima of the lanes that converged: {shown}{more}")
        if doubt := self.doubt():
            lines.append(f"warning: {doubt}")
        lines.extend(f"note: {note}" for note in self.notes)
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<jaxgmm.Result: {self.summary()}>"


def resolution_of(tol: Any, total: Any) -> float:
    """Nats within which two lanes are at one optimum, after a fit of ``total`` samples.

    A lane stops where an iteration gains ``tol`` nats a sample. Where each gains 1% less than the
    one before, a hundred times as much is left to gain.
    """
    return max(_RESOLUTION, _ITERATIONS_AWAY * float(tol) * float(total))


def _flat_columns(x: Any) -> tuple[Any, Any]:
    """Which columns are constant, and the correlations of all of them."""
    xp = x.__array_namespace__()
    centred = x - x[:1]
    scale = xp.abs(centred).max(axis=0)
    z = centred / xp.where(scale == 0, 1, scale)[None]
    z = z - z.mean(axis=0)[None]
    product = linalg.matmul(z.T, z) if xp is jnp else z.T @ z
    sd = xp.sqrt(xp.diagonal(product))
    sd = xp.where(sd == 0, 1, sd)
    return scale == 0, product / (sd[:, None] * sd[None])


# Rows that are looked through for repeated ones; how often one occurs at least, how many times as
# often as the others, and how many are looked at.
_ROWS = 20_000
_OFTEN = 10
_STANDS_OUT = 5
_ATOMS = 10


def _repeated(values: np.ndarray) -> np.ndarray:
    """Indices of the values that occur far more often than the others: the most frequent first.

    Rounded values all repeat, about as often as their neighbours. So each is compared with the less
    frequent values: with the next, and with the one such that half of their rows have it or a more
    frequent one.
    """
    _, first, counts = np.unique(values, return_index=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    counts = counts[order]
    number = 0
    for j in range(min(_ATOMS, len(counts))):
        rest = counts[j + 1 :]
        below = np.cumsum(rest)
        usual = rest[np.searchsorted(below, below[-1] / 2)] if len(rest) else 0
        least = max(_OFTEN, _STANDS_OUT * usual, 2 * rest[0] if len(rest) else 0)
        number = j + 1 if counts[j] >= least else number
    return first[order[:number]]


def _repetition_notes(x: Array, constant: np.ndarray) -> list[str]:
    """On rows, or values of a column, that occur so often that a component can shrink onto them."""
    rng = np.random.default_rng(0)
    n = x.shape[0]
    chosen = np.arange(n) if n <= _ROWS else np.sort(rng.choice(n, _ROWS, replace=False))
    rows = np.asarray(x if n <= _ROWS else x[chosen], np.float64)
    # of equal rows the projections are equal, to the last bit
    projected = np.sum(rows / np.max(np.abs(rows)) * rng.uniform(1, 2, rows.shape[1]), axis=1)
    found = [int(chosen[i]) for i in _repeated(projected)]
    if found:
        counts = [int(jnp.sum(jnp.all(x == x[i][None], axis=1))) for i in found]
        shown = ", ".join(
            f"row {i} of x occurs {m} times" for i, m in zip(found, counts, strict=True)
        )
        return [f"{shown}: a component can shrink onto it."]
    notes = []
    for j in np.flatnonzero(~constant):
        found = [int(chosen[i]) for i in _repeated(rows[:, j])]
        if found:
            value, count = x[found[0], j], jnp.sum(x[:, j] == x[found[0], j])
            notes.append(f"{value:g} occurs {int(count)} times in column {j}")
    if not notes:
        return []
    more = f" and the like in {len(notes) - 5} more columns" if len(notes) > 5 else ""
    return [f"{', '.join(notes[:5])}{more} of x: a component can shrink onto it."]


def _gap_notes(rows: Rows) -> tuple[str, ...]:
    if rows.missing is None or not is_local(rows.missing):
        return ()
    missing = np.asarray(rows.missing)
    notes = [f"{missing.sum()} of {missing.size} values of x are missing."]
    if nothing := int(missing.all(axis=1).sum()):
        notes.append(f"in {nothing} rows of x all values are missing: they say nothing.")
    return tuple(notes)


def data_notes(rows: Rows) -> tuple[str, ...]:
    """Sentences on missing values, constant columns, multiples of columns, and repetitions."""
    if not rows.is_complete:
        return _gap_notes(rows)
    x = rows.x
    constant, correlation = (np.asarray(a) for a in for_everyone(_flat_columns, x))
    if constant.all():
        return (f"all {x.shape[0]} rows of x are equal.",)
    notes = []
    if constant.any():
        columns = ", ".join(str(i) for i in np.flatnonzero(constant))
        notes.append(f"column(s) {columns} of x are constant.")
    tolerance = 32 * float(jnp.finfo(x.dtype).eps)
    same = np.abs(np.abs(correlation) - 1) < tolerance
    pairs = [(int(i), int(j)) for i, j in np.argwhere(np.triu(same, 1))]
    if pairs:
        shown = ", ".join(f"{i} and {j}" for i, j in pairs[:5])
        more = f" and {len(pairs) - 5} more pairs" if len(pairs) > 5 else ""
        notes.append(f"columns {shown}{more} of x are multiples of each other.")
    if is_local(x):
        notes.extend(_repetition_notes(x, constant))
    return tuple(notes)
