"""Numbered sets of arrays in a folder, of which the last ones are kept: checkpoints by Orbax."""

import errno
import math
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np

# The name that Orbax gives to what it has not finished.
_UNFINISHED = "*.orbax-checkpoint-tmp*"


def import_orbax() -> Any:
    """The package, which is imported when a fit is kept, and not before."""
    try:
        import orbax.checkpoint
    except ImportError as error:
        raise ImportError(
            'checkpoints need Orbax; install it with pip install "jaxgmm[checkpoint]".'
        ) from error
    return orbax.checkpoint


class Steps:
    """A folder of steps, each a text and arrays; a step is there when it is whole.

    Args:
        path: of the folder, which is made.
        keep: how many of the last steps stay.
    """

    def __init__(self, path: Path, keep: int):
        self._orbax = import_orbax()
        path.mkdir(parents=True, exist_ok=True)
        self._path = path.resolve()
        self._remove_unfinished()
        options = self._orbax.CheckpointManagerOptions(max_to_keep=keep, create=False)
        self._manager = self._orbax.CheckpointManager(self._path, options=options)
        self._next = 1 + max(self._manager.all_steps(), default=-1)

    def save(self, text: str, arrays: dict[str, np.ndarray]) -> None:
        """Begin to write another step, after the one before is written; it goes on by itself.

        Raises:
            OSError: if this or the step before could not be written.
        """
        packed, forms = _packed(arrays)
        args = self._orbax.args
        number, self._next = self._next, self._next + 1
        try:
            self._manager.wait_until_finished()
            self._manager.save(
                number,
                args=args.Composite(
                    arrays=args.PyTreeSave(packed),
                    text=args.JsonSave({"text": text, "forms": forms}),
                ),
            )
        except Exception as error:
            raise self._refused(error) from error

    @property
    def busy(self) -> bool:
        """Whether a step is being written."""
        return self._manager.is_saving_in_progress()

    def check(self) -> None:
        """Raise what has gone wrong with a step that is being written."""
        try:
            self._manager.check_for_errors()
        except Exception as error:
            raise self._refused(error) from error

    def wait(self) -> None:
        """Wait until all steps are written."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._refused(error) from error

    def newest(self) -> tuple[str, dict[str, np.ndarray]] | None:
        """The last step that can be read, without those after it; None if there is none at all.

        Raises:
            OSError: if none of them can be read.
        """
        args = self._orbax.args
        wanted = args.Composite(arrays=args.PyTreeRestore(), text=args.JsonRestore())
        failed = None
        for number in sorted(self._manager.all_steps(), reverse=True):
            try:
                found = self._manager.restore(number, args=wanted)
                out = found["text"]["text"], _unpacked(found["arrays"], found["text"]["forms"])
            except Exception as error:
                failed = error
                continue
            if failed is not None:
                warnings.warn(
                    f"the last checkpoint in {self._path.parent} cannot be read, and the fit goes "
                    f"on from the one before ({type(failed).__name__}: {failed})",
                    RuntimeWarning,
                    stacklevel=5,
                )
            return out
        if failed is not None:
            raise OSError(
                errno.EIO, "no checkpoint can be read; fit again", str(self._path.parent)
            ) from failed
        return None

    def close(self) -> None:
        """Stop to write, and leave nothing unfinished."""
        try:
            self._manager.close()
        finally:
            self._remove_unfinished()

    def _remove_unfinished(self) -> None:
        for path in self._path.glob(_UNFINISHED):
            shutil.rmtree(path, ignore_errors=True)

    def _refused(self, error: Exception) -> OSError:
        number, why = _reason(error)
        return OSError(
            number,
            f"a checkpoint could not be written ({why}); the last one that was is whole: make "
            "room, and go on with jaxgmm.resume(path, x)",
            str(self._path.parent),
        )


def _reason(error: Exception) -> tuple[int, str]:
    """The system's number for what went wrong, and its words."""
    found = re.search(r"os_error_code='(\d+)'", str(error))
    number = int(found[1]) if found else getattr(error, "errno", None)
    if number is None:
        return errno.EIO, f"{type(error).__name__}: {error}"
    return number, os.strerror(number)


def _packed(arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[Any]]:
    """One array of each dtype, because each costs Orbax a millisecond; and how to take it apart.

    None is empty or without axes: Orbax refuses the former, and makes numbers of the latter.
    """
    of: dict[str, list[np.ndarray]] = {}
    for a in arrays.values():
        if a.size:
            of.setdefault(str(a.dtype), []).append(a.ravel())
    forms = [(name, str(a.dtype), a.shape) for name, a in arrays.items()]
    return {dtype: np.concatenate(parts) for dtype, parts in of.items()}, forms


def _unpacked(packed: dict[str, np.ndarray], forms: list[Any]) -> dict[str, np.ndarray]:
    arrays, used = {}, dict.fromkeys(packed, 0)
    for name, dtype, shape in forms:
        size, start = math.prod(shape), used.get(dtype, 0)
        used[dtype] = start + size
        a = packed[dtype][start : start + size] if size else np.empty(0, dtype)
        arrays[name] = a.reshape(shape)
    return arrays
