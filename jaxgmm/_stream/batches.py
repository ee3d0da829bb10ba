"""Batches of one length, in the coordinates of a fit, each made while the one before computes."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np

from jaxgmm._estep.rows import Rows
from jaxgmm._numerics.affine import Affine
from jaxgmm._numerics.arrays import as_array
from jaxgmm._stream.errors import StreamError
from jaxgmm._stream.items import checksum, fields_of, rows_of, taken
from jaxgmm._stream.sources import Reader
from jaxgmm._stream.survey import Survey, batches_of

T = TypeVar("T")

# Products up to which BLAS takes one thread: another would take turns with those that compute. And
# rows that are moved at a time at least, and at most.
_PRODUCTS = 1 << 17
_FEWEST, _MOST = 1 << 8, 1 << 13
# Bytes.
_ALIGNED = 64


class Batch(NamedTuple):
    """Rows of NumPy's, all batches of one length: those at the end of the last have weight 0."""

    rows: Rows
    n_rows: int


class Batches:
    """The rows of a stream, pass by pass.

    Args:
        reader: starts a pass over the source.
        survey: of the first pass, from which later ones must not differ.
        to: the map from the data's units; NumPy arrays of 64 bits.
        dtype: of the fit.
        size: rows of a batch at most.
    """

    def __init__(self, reader: Reader, survey: Survey, to: Affine, dtype: Any, size: int):
        self.reader, self.survey, self.to, self.dtype = reader, survey, to, dtype
        n = survey.own.n_samples
        self.n_batches = max(1, -(-n // size))
        # the last batch is hardly shorter than the others, and so all are of one program
        self.length = -(-n // self.n_batches)
        self.pads = self.length * self.n_batches > n

    def one_pass(self, number: int) -> Iterator[Batch]:
        """All rows once; the next batch is made in a thread.

        Raises:
            StreamError: if the source fails, or its rows are not those of the first pass.
        """
        return ahead(self._one_pass(f"pass {number}"))

    def on_device(self, batch: Batch) -> Rows:
        """The rows as a pass of the E-step takes them."""
        rows = batch.rows
        arrays = (rows.weight, rows.missing, rows.noise, rows.labels)
        moved = Rows(*(None if a is None else as_array(a) for a in (rows.x, *arrays)))
        return moved.mapped(self.to, moved.x)

    def _one_pass(self, when: str) -> Iterator[Batch]:
        own, n, bits, number = self.survey.own, 0, 0, 0
        batch, filled = None, 0
        for number, item in enumerate(batches_of(self.reader, when), 1):
            try:
                rows = rows_of(item, number)
            except ValueError as error:
                raise StreamError(
                    f"{error} It was right in the first pass, not in {when}."
                ) from None
            if fields_of(rows) != own.fields:
                raise StreamError(
                    f"batch {number} of {when} has {fields_of(rows)}, but those of the first pass "
                    f"have {own.fields}: a Stream gives the same rows in every pass."
                )
            n, bits = n + rows.n_samples, (bits + checksum(rows)) % 2**64
            if n > own.n_samples:
                raise StreamError(
                    f"batch {number} of {when} goes beyond the {own.n_samples} rows of the "
                    "first pass: a Stream gives the same rows in every pass."
                )
            done = 0
            while done < rows.n_samples:
                batch = self._new(rows) if batch is None else batch
                upto = min(done + self.length - filled, rows.n_samples)
                self._put(batch, filled, taken(rows, slice(done, upto)))
                filled, done = filled + upto - done, upto
                if filled == self.length:
                    yield Batch(batch, filled)
                    batch, filled = None, 0
        if n < own.n_samples:
            raise StreamError(
                f"{when} ended after batch {number} with {n} rows, but the first pass had "
                f"{own.n_samples}: a Stream gives the same rows in every pass."
            )
        if bits != own.checksum:
            raise StreamError(
                f"the rows of {when} are not those of the first pass: a Stream gives the same rows "
                f"in every pass, in any order."
            )
        if batch is not None:
            yield Batch(batch, filled)

    def _new(self, rows: Rows) -> Rows:
        """A batch of rows of weight 0 at the middle of the data, to be filled."""

        def empty(a: np.ndarray | None, value: Any, dtype: Any) -> Any:
            return None if a is None else np.full((self.length, *a.shape[1:]), value, dtype)

        labels = rows.labels
        free = (-1, np.int32) if labels is None or labels.ndim == 1 else (True, bool)
        weighted = self.pads or rows.weight is not None
        return Rows(
            _zeros((self.length, rows.n_features), self.dtype),
            _zeros((self.length,), self.dtype) if weighted else None,
            empty(rows.missing, False, bool),
            empty(rows.noise, 0, self.dtype),
            empty(labels, *free),
        )

    def _put(self, batch: Rows, at: int, rows: Rows) -> None:
        n = rows.n_samples
        size = min(max(_PRODUCTS // rows.n_features**2, _FEWEST), _MOST)
        for i in range(0, n, size):
            j = min(i + size, n)
            batch.x[at + i : at + j] = self.to.points(rows.x[i:j])  # in 64 bits
        if rows.missing is not None:
            batch.x[at : at + n][rows.missing] = 0
            batch.missing[at : at + n] = rows.missing
        if batch.weight is not None:
            batch.weight[at : at + n] = 1 if rows.weight is None else rows.weight
        for name in ("noise", "labels"):
            if getattr(rows, name) is not None:
                getattr(batch, name)[at : at + n] = getattr(rows, name)


def _zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Zeros at a multiple of 64 bytes, which JAX takes on a CPU as they are, without a copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(size + _ALIGNED, np.uint8)
    start = -raw.ctypes.data % _ALIGNED
    return raw[start : start + size].view(dtype).reshape(shape)


def ahead(iterator: Iterator[T]) -> Iterator[T]:
    """The same, of which the next is made in a thread as soon as one is taken."""
    with ThreadPoolExecutor(1, thread_name_prefix="jaxgmm-stream") as thread:
        try:
            future = thread.submit(next, iterator, None)
            while (item := future.result()) is not None:
                future = thread.submit(next, iterator, None)
                yield item
        finally:
            thread.submit(iterator.close)  # type: ignore[attr-defined]
