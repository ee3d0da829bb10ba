"""What ``verbose`` prints."""

from typing import Any

import numpy as np

from jaxgmm._lane.state import State
from jaxgmm._lane.status import Status


def report(model: Any, states: State, history: np.ndarray, seconds: float) -> None:
    """Print what ``verbose`` asks for: lane by lane, since all have run at once."""
    if not model.verbose:
        return
    more, every = model.verbose > 1, model.verbose_interval
    ends = zip(np.asarray(states.memory), np.asarray(states.n_iter), strict=True)
    for lane, (status, n_iter) in enumerate(ends):
        print(f"Initialization {lane}")
        if model.max_iter == 0:
            continue
        bounds = history[: int(n_iter), lane]
        for i in range(every, int(n_iter) + 1, every):
            change = bounds[i - 1] - bounds[i - 2] if i > 1 else np.inf
            print(f"  Iteration {i}" + (f"\t ll change {change:.5f}" if more else ""))
        end = "converged" if status == Status.CONVERGED else "did not converge"
        # no bound where the start has failed
        bound = bounds[-1] if len(bounds) else -np.inf
        details = f" time lapse {seconds:.5f}s\t lower bound {bound:.5f}."
        print(f"Initialization {end}." + (details if more else ""))
