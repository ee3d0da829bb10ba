"""Which lanes, at their optima of a sample of the rows, may be the best of all rows."""

import jax
import numpy as np
from jax import Array

from jaxgmm._estep.log_evidence import row_log_evidence
from jaxgmm._estep.rows import Rows
from jaxgmm._lane.state import State
from jaxgmm._lane.status import FAILED, Status
from jaxgmm._numerics.programs import program
from jaxgmm._numerics.pytree import pick, replace

# Of the lanes that a fit has, this share may see all rows, as after the first rung of a race.
_SHARE = 4
# Standard errors of a mean log-likelihood ratio beyond which it is certain.
_CERTAIN = 4.0


def contenders(states: State, rows: Rows, n_samples: int, resolution: float) -> np.ndarray:
    """The lanes that all rows have to tell apart: the best quarter at most, at optima apart.

    A lane is out if the best one's log-likelihood of a row is higher by more than four standard
    errors of the mean over the sample, and by what fitting the sample may have gained, p / n
    (Akaike 1974). Of a sample that is all rows the best lane alone remains.

    Args:
        states: of all lanes, at the optima of the sample.
        rows: the sample, in the coordinates of the fit.
        n_samples: N, of all rows.
        resolution: nats within which two objectives are one optimum.
    """
    status = np.asarray(states.status)
    objective = np.nan_to_num(np.asarray(states.objective, np.float64), nan=-np.inf)
    usable = ~np.isin(status, (*FAILED, Status.DROPPED))
    if not usable.any():
        usable = ~np.isin(status, FAILED)
    apart: list[int] = []
    for lane in sorted(np.flatnonzero(usable), key=lambda lane: -objective[lane]) or [0]:
        if not apart or objective[apart[-1]] - objective[lane] > resolution:
            apart.append(int(lane))
    apart = apart[: max(1, len(status) // _SHARE)]
    weight = np.ones(rows.n_samples) if rows.weight is None else np.asarray(rows.weight, float)
    n = np.count_nonzero(weight)
    if len(apart) == 1 or n == n_samples:
        return np.asarray(apart[:1])
    found = _row_evidence(pick(states, np.asarray(apart)), replace(rows, weight=None))
    ahead = np.asarray(found[:1] - found, np.float64)
    share = weight / weight.sum()
    mean = ahead @ share
    error = np.sqrt((ahead - mean[:, None]) ** 2 @ share * np.sum(share**2))
    enough = _CERTAIN * error + int(pick(states, apart[0]).prior.n_parameters) / n
    return np.sort(np.asarray(apart)[mean <= enough])


@program()
def _row_evidence(states: State, rows: Rows) -> Array:
    return jax.vmap(lambda state: row_log_evidence(rows, state.potentials))(states)
