"""Where batches come from: arrays on disk, files, loaders, functions."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgmm._estep.rows import Rows
from jaxgmm._numerics.calls import described
from jaxgmm._numerics.pytree import replace

# Values of a batch, unless its length is given: 16 MB of float32.
_VALUES = 1 << 22
# A new pass over the source.
Reader = Callable[[], Iterator[Any]]


def default_batch_size(n_features: int) -> int:
    return max(1, _VALUES // max(1, n_features))


def reader_of(source: Any, batch_size: int | None) -> Reader:
    """What starts a pass over a source, see `Stream`.

    Raises:
        ValueError: for what can be read once only, or not at all.
    """
    if isinstance(source, str | Path):
        return reader_of([source], batch_size)
    if isinstance(source, list | tuple):
        if source and all(isinstance(path, str | Path) for path in source):
            return _reader_of_files([Path(path) for path in source], batch_size)
        return lambda: iter(source)
    if isinstance(source, Rows):
        return lambda: _slices_of_rows(source, batch_size)
    if hasattr(source, "shape") and hasattr(source, "__getitem__"):
        _check_matrix(source.shape, "the source")
        return lambda: _slices(source, batch_size)
    if isinstance(source, Iterator):
        raise ValueError(
            f"a Stream is read again and again, but {described(source)} can be read once only; "
            "pass the function that makes it: jaxgmm.Stream(function)."
        )
    if isinstance(source, Iterable):
        return source.__iter__
    if callable(source):
        return lambda: iter(source())  # type: ignore[call-overload]
    raise ValueError(
        "a Stream reads an array that can be sliced, .npy or .parquet files, a loader, or a "
        f"function that returns an iterator of batches, but it was given {described(source)}."
    )


def _check_matrix(shape: Any, what: str) -> None:
    if len(shape) != 2:
        raise ValueError(
            f"a Stream reads samples by features (N, D), but {what} has the shape {tuple(shape)}."
        )


def _slices(x: Any, batch_size: int | None) -> Iterator[Any]:
    size = batch_size or default_batch_size(x.shape[1])
    for i in range(0, x.shape[0], size):
        yield x[i : i + size]


def _slices_of_rows(rows: Rows, batch_size: int | None) -> Iterator[Rows]:
    size = batch_size or default_batch_size(rows.n_features)
    mark = rows.missing if isinstance(rows.missing, str) else None  # "nan"
    arrays = Rows(rows.x, rows.weight, None if mark else rows.missing, rows.noise, rows.labels)
    for i in range(0, rows.n_samples, size):
        batch = jax.tree.map(lambda a, i=i: a[i : i + size], arrays)
        yield replace(batch, missing=mark) if mark else batch


def _reader_of_files(paths: list[Path], batch_size: int | None) -> Reader:
    for path in paths:
        if path.suffix not in _FILES:
            raise ValueError(
                f"a Stream reads {' and '.join(_FILES)} files, but {path} is of another kind; pass "
                "a function that returns an iterator of its batches."
            )
        if not path.is_file():
            raise ValueError(f"there is no file {path}.")

    def read() -> Iterator[Any]:
        for path in paths:
            yield from _FILES[path.suffix](path, batch_size)

    return read


def _npy(path: Path, batch_size: int | None) -> Iterator[Any]:
    x = np.load(path, mmap_mode="r")
    _check_matrix(x.shape, str(path))
    if np.isfortran(x):
        yield from _slices(x, batch_size)
        return
    (n, d), dtype, start = x.shape, x.dtype, x.offset  # type: ignore[attr-defined]
    del x
    size = batch_size or default_batch_size(d)
    # what is mapped stays in memory as long as there is room, and what is read does not
    with path.open("rb") as file:
        file.seek(start)
        for i in range(0, n, size):
            rows = np.fromfile(file, dtype, min(size, n - i) * d)
            yield rows.reshape(-1, d)


def _parquet(path: Path, batch_size: int | None) -> Iterator[np.ndarray]:
    try:
        from pyarrow import parquet  # type: ignore[import-not-found]
    except ImportError:
        raise ImportError(
            f"{path} needs PyArrow; install it, for instance with python -m pip install "
            '"jaxgmm[parquet]".'
        ) from None
    file = parquet.ParquetFile(path)
    try:
        size = batch_size or default_batch_size(len(file.schema_arrow))
        for batch in file.iter_batches(size):
            yield _of_columns(batch, path)
    finally:
        file.close()


def _of_columns(batch: Any, path: Path) -> np.ndarray:
    columns = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        values = column.to_numpy(zero_copy_only=False)
        if values.dtype.kind not in "iubf":
            raise ValueError(
                f"column {name!r} of {path} is {column.type}, not numbers; pass a function that "
                "reads the other columns."
            )
        columns.append(values)
    narrow = all(values.dtype == np.float32 for values in columns)
    return np.stack(columns, axis=1, dtype=np.float32 if narrow else np.float64)


_FILES = {".npy": _npy, ".parquet": _parquet}
