"""What a selection returns: a table, and a fit behind every row of it."""

from typing import Any

import numpy as np

from jaxgmm._lane.state import Fitted, State
from jaxgmm._lane.status import Status
from jaxgmm._numerics.pytree import same_bits

# Of each criterion: what it adds to a loss, so that the smallest is the best.
CRITERIA = {"bic": 1, "aic": 1, "icl": 1, "elbo": -1, "cv": -1}


class Selection(Fitted):
    """The fits of every K under every covariance, and the best fit by a criterion.

    Attributes:
        criterion: the criterion that chooses ``best``.
        table: columns by name, each a NumPy array with a row for each K and covariance:
            ``covariance``, ``n_components``, ``n_parameters``, ``log_likelihood`` (of the
            `mixture`, in nats), ``bic``, ``aic``, ``icl``, ``elbo``, ``cv``, ``cv_error`` (its
            standard error), ``status``; NaN where a criterion was not computed or all failed.
        states: the best state of each row.
        interrupted: whether Ctrl-C ended the selection before the last covariance.
    """

    def __init__(self, criterion: str, rows: list[dict[str, Any]], interrupted: bool):
        self.criterion = criterion
        self.interrupted = interrupted
        self.states: list[State] = [row.pop("state") for row in rows]
        self.table = {name: np.array([row[name] for row in rows]) for name in rows[0]}

    @property
    def best_index(self) -> int:
        """The row with the best criterion, of those in which not all lanes failed.

        Raises:
            ValueError: if all lanes failed in every row.
        """
        loss = CRITERIA[self.criterion] * self.table[self.criterion]
        if np.isnan(loss).all():
            messages = {Status(s).message for s in self.table["status"] if Status(s).failed}
            raise ValueError(f"no fit to choose from: all failed. {' '.join(sorted(messages))}")
        return int(np.nanargmin(loss))

    @property
    def best(self) -> State:
        """The state of the best row, as `fit` would return it."""
        return self.states[self.best_index]

    @property
    def n_components(self) -> int:
        """K of the best row."""
        return int(self.table["n_components"][self.best_index])

    @property
    def covariance(self) -> str:
        """Covariance of the best row."""
        return str(self.table["covariance"][self.best_index])

    def doubt(self) -> str | None:
        """A sentence on fits that arithmetic failed, one of which may be the best; None without."""
        failed = np.isin(self.table["status"], (Status.NONFINITE, Status.DECREASED))
        if not failed.any():
            return None
        name, k = self.table["covariance"], self.table["n_components"]
        rows = (f"{name[r]} {k[r]}" for r in np.flatnonzero(failed))
        return (
            f"arithmetic failed the fits {', '.join(rows)}, which were left out of the choice; use "
            "float64 or a prior."
        )

    def curves(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """For each covariance: the K that were tried, and the criterion for each K."""
        name = self.table["covariance"]
        columns = self.table["n_components"], self.table[self.criterion]
        return {str(c): (columns[0][name == c], columns[1][name == c]) for c in dict.fromkeys(name)}

    def summary(self) -> str:
        """The criterion by K and covariance, with the best in brackets, and the failures."""
        curves = self.curves()
        sizes = sorted({int(k) for k in self.table["n_components"]})
        value = {
            (c, int(k)): v for c, (ks, vs) in curves.items() for k, v in zip(ks, vs, strict=True)
        }
        failed = np.isnan(self.table[self.criterion]).all()
        best = None if failed else (self.covariance, self.n_components)

        def cell(c: str, k: int) -> str:
            v = value.get((c, k), np.nan)
            shown = "-" if np.isnan(v) else f"{v:.4f}"
            return f"[{shown}]" if (c, k) == best else f"{shown} "

        width = max(12, *(len(c) + 2 for c in curves)) + 2
        rule = "smaller" if CRITERIA[self.criterion] > 0 else "larger"
        lines = [
            f"{self.criterion} ({rule} is better), best in brackets",
            "  K" + "".join(f"{c + ' ':>{width}}" for c in curves),
        ]
        lines += [f"{k:>3}" + "".join(f"{cell(c, k):>{width}}" for c in curves) for k in sizes]
        for code in sorted({int(s) for s in self.table["status"]}):
            status = Status(code)
            if status != Status.CONVERGED:
                rows = np.flatnonzero(self.table["status"] == code)
                names = (
                    f"{self.table['covariance'][r]} {self.table['n_components'][r]}" for r in rows
                )
                lines.append(f"{status.name} ({', '.join(names)}): {status.message}")
        if doubt := self.doubt():
            lines.append(f"warning: {doubt}")
        if self.interrupted:
            lines.append("Interrupted: the covariances that are missing were not fitted.")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<jaxgmm.Selection: {self.summary()}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Selection):
            return NotImplemented
        own, theirs = ((a.criterion, a.interrupted) for a in (self, other))
        named = np.array_equal(self.table["covariance"], other.table["covariance"])
        return own == theirs and named and same_bits(_numbers(self), _numbers(other))

    def __hash__(self) -> int:
        return hash((self.criterion, self.interrupted, len(self.states)))


def _numbers(selection: Selection) -> Any:
    """All that a selection holds but strings."""
    columns = {name: a for name, a in selection.table.items() if name != "covariance"}
    return selection.states, columns
