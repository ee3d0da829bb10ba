"""What several processes know together, of which each reads a stream of its own."""

import pickle
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np

from jaxgmm._stream.errors import StreamError

T = TypeVar("T")


def of_everyone(make: Callable[[], T]) -> list[T]:
    """What each process makes, in the order of the processes; all of them wait for one another.

    Raises:
        StreamError: if a process failed to make it, or is gone. The error of this process itself
            is raised as it is.
    """
    if jax.process_count() == 1:
        return [make()]
    error: Exception | None = None
    try:
        text = pickle.dumps((True, make()))
    except Exception as own:
        error = own
        text = pickle.dumps((False, f"{type(own).__name__}: {own}"))
    try:
        found = [pickle.loads(one) for one in _gathered(text)]
    except Exception as failure:
        raise error or StreamError(
            "another process is gone, or cannot be reached; start all processes again, from the "
            f"last checkpoint if there is one. ({type(failure).__name__}: {failure})"
        ) from failure
    if error is not None:
        raise error
    for process, (right, value) in enumerate(found):
        if not right:
            raise StreamError(f"process {process} failed: {value}")
    return [value for _, value in found]


def from_first(tree: T) -> T:
    """The first process's tree of arrays: clocks, threads and processors may differ."""
    if jax.process_count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    own = [np.asarray(leaf) for leaf in leaves] if jax.process_index() == 0 else []
    return jax.tree.unflatten(structure, of_everyone(lambda: own)[0])


def _gathered(text: bytes) -> list[bytes]:
    from jax.experimental import multihost_utils

    def gather(values: np.ndarray) -> np.ndarray:
        return np.asarray(multihost_utils.process_allgather(values))

    sizes = gather(np.asarray([len(text)], np.int32)).reshape(-1)
    # a power of two, so that few programs are compiled
    wide = np.zeros(1 << int(sizes.max() - 1).bit_length(), np.uint8)
    wide[: len(text)] = np.frombuffer(text, np.uint8)
    rows = gather(wide).reshape(len(sizes), -1)
    return [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]
