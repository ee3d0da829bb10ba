"""A fit that is kept in a folder while it runs."""

import contextlib
import json
import re
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgmm._export.encoding import Reader, encode
from jaxgmm._export.steps import Steps
from jaxgmm._fit.keeping import Stage
from jaxgmm._fit.progress import compact
from jaxgmm._lane.state import State
from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.calls import described
from jaxgmm._numerics.pytree import replace

_STAGES = "stages"
_SECONDS = {"s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600}


def interval_of(every: Any) -> int | float:
    """Iterations, an int, or seconds, a float.

    Raises:
        ValueError: for anything but a positive integer or a text such as ``"5 min"``.
    """
    if isinstance(every, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([a-z]+?)s?\s*", every)
        unit = found and _SECONDS.get(found[2] or "s")
        if found and unit and float(found[1]) > 0:
            return float(found[1]) * unit
    elif isinstance(every, int | np.integer) and not isinstance(every, bool) and every > 0:
        return int(every)
    raise ValueError(
        'every must be a number of iterations or a time, such as 100, "30 s", "5 min" or "1 h", '
        f"but it is {described(every)}."
    )


class Folder:
    """Keeps a fit in a folder.

    Args:
        path: of the folder.
        every: iterations (int) or seconds (float) between two checkpoints.
        keep: how many of them stay.
        resumes: whether the fit goes on from the last one.
    """

    def __init__(self, path: Path, every: int | float, keep: int, resumes: bool = False):
        self.path, self.every = path, every
        self.longest = every if isinstance(every, int) else None
        self._steps = Steps(path / _STAGES, keep)
        self.stage: Stage | None = self._last() if resumes else None
        self._seen = self._written = self.stage
        self._iterations, self._since = 0, time.monotonic()

    def __call__(self, stage: Stage, now: bool = False) -> None:
        """Write the stage if that is due; the first one at once, so that a fault shows."""
        self._seen = stage
        if stage.progress is None:
            return  # the end, which is written when all has ended
        self._steps.check()
        self._iterations += int(stage.progress.did)
        fixed = isinstance(self.every, int)
        passed = self._iterations if fixed else time.monotonic() - self._since
        due = passed >= self.every and not self._steps.busy  # nothing waits for a disk
        if now or due or self._written is None:
            self._write(stage)

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        """Write the last stage, unless it is written or cannot be; then close the folder."""
        full = isinstance(error, OSError)
        try:
            if not full and self._seen is not self._written:
                self._write(self._seen)
            self._steps.wait()
        except OSError as failed:
            if not full:  # a result or an error that is there already is worth more
                warnings.warn(str(failed), RuntimeWarning, stacklevel=4)
        finally:
            with contextlib.suppress(Exception):
                self._steps.close()

    def _write(self, stage: Any) -> None:
        self._iterations, self._since, self._written = 0, time.monotonic(), stage
        if stage.progress is not None:
            stage = replace(stage, progress=compact(stage.progress))
        arrays: dict[str, np.ndarray] = {}
        text = json.dumps(encode(_of_jax(stage), "", arrays), separators=(",", ":"))
        self._steps.save(text, arrays)

    def _last(self) -> Stage | None:
        found = self._steps.newest()
        if found is None:
            return None
        text, arrays = found
        return Reader(arrays, None).decode(json.loads(text))


def _of_jax(stage: Any) -> Any:
    """The stage with JAX's arrays in its states, some of which are NumPy's."""

    def is_state(node: Any) -> bool:
        return isinstance(node, State)

    def converted(node: Any) -> Any:
        if not is_state(node):
            return node
        return jax.tree.map(lambda a: as_array(a) if isinstance(a, np.ndarray) else a, node)

    return jax.tree.map(converted, stage, is_leaf=is_state)
