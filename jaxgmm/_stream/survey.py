"""The first pass over a stream: how many rows there are, and a sample of them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxgmm._estep.rows import Rows
from jaxgmm._stream.errors import StreamError
from jaxgmm._stream.items import check_batch, checksum, fields_of, joined, rows_of, taken
from jaxgmm._stream.sources import Reader

# What the pass is called that surveys a stream.
FIRST = "the first pass"


# Numbers of their own: the rows may be made with default_rng(seed), too.
_OWN = 18


class Survey(NamedTuple):
    """What is known of all rows of a stream.

    Attributes:
        n_samples: N.
        n_batches: that the source gave.
        total: sum of the weights.
        squares: sum of their squares.
        seen: the weight of the values of each feature that are not missing, ``(D,)``; or None.
        checksum: of all rows, modulo 2^64, see `checksum`.
        sample: some rows, in the order of the stream, whose weights add up to ``total``; or all.
    """

    n_samples: int
    n_batches: int
    total: float
    squares: float
    seen: np.ndarray | None
    checksum: int
    sample: Rows

    @property
    def n_features(self) -> int:
        return self.sample.x.shape[1]


class Reservoir:
    """A sample of rows without replacement: those with the smallest of random numbers.

    Row n has the n-th number of the generator, whatever batches the rows come in.

    Args:
        size: of the sample.
        seed: of the numbers.
    """

    def __init__(self, size: int, seed: int):
        self.size = size
        self.generator = np.random.default_rng((seed, _OWN))
        self.below = np.inf
        self.parts: list[tuple[np.ndarray, np.ndarray, Rows]] = []
        self.n_kept = self.n_rows = 0

    def add(self, rows: Rows) -> None:
        numbers = self.generator.random(rows.n_samples)
        places = self.n_rows + np.arange(rows.n_samples)
        self.n_rows += rows.n_samples
        chosen = np.flatnonzero(numbers < self.below)
        if len(chosen):
            self.parts.append((numbers[chosen], places[chosen], taken(rows, chosen)))
            self.n_kept += len(chosen)
        if self.n_kept > 2 * self.size:
            self._thin()

    def _thin(self) -> None:
        numbers = np.concatenate([part[0] for part in self.parts])
        places = np.concatenate([part[1] for part in self.parts])
        rows = joined([part[2] for part in self.parts])
        if len(numbers) > self.size:
            chosen = np.sort(np.argpartition(numbers, self.size)[: self.size])
            numbers, places, rows = numbers[chosen], places[chosen], taken(rows, chosen)
            self.below = float(numbers.max())
        self.parts, self.n_kept = [(numbers, places, rows)], len(numbers)

    def rows(self) -> Rows:
        """The sample, in the order of the rows."""
        self._thin()
        _, places, rows = self.parts[0]
        return taken(rows, np.argsort(places))


def survey_of(reader: Reader, size: int, seed: int) -> Survey:
    """Read all rows once.

    Raises:
        ValueError: for rows that no fit can use: what came in which batch.
        StreamError: if the source fails.
    """
    reservoir, n, number, total, squares, bits = Reservoir(size, seed), 0, 0, 0.0, 0.0, 0
    seen: Any = 0.0
    fields, n_features = None, None
    for number, item in enumerate(batches_of(reader, FIRST), 1):
        rows = rows_of(item, number, n_features)
        n_features = rows.n_features
        fields = fields_of(rows) if fields is None else fields
        if fields_of(rows) != fields:
            raise ValueError(
                f"batch {number} of the stream has {fields_of(rows)}, but those before have "
                f"{fields}; give all batches the same fields and dtype."
            )
        if rows.n_samples == 0:
            continue
        check_batch(rows, number)
        reservoir.add(rows)
        weight = np.ones(rows.n_samples) if rows.weight is None else rows.weight.astype(float)
        n += rows.n_samples
        total, squares = total + float(weight.sum()), squares + float(weight @ weight)
        if rows.missing is not None:
            seen = seen + weight @ ~rows.missing
        bits = (bits + checksum(rows)) % 2**64
    if n == 0:
        raise ValueError(f"the stream has no rows: the source gave {number} batches.")
    if total == 0:
        raise ValueError("all weights of the stream are 0.")
    sample = _weighted(reservoir.rows(), n, total)
    missing = sample.missing is not None
    return Survey(n, number, total, squares, seen if missing else None, bits, sample)


def _weighted(sample: Rows, n: int, total: float) -> Rows:
    """The sample with weights that stand for all rows."""
    if sample.n_samples == n:
        return sample
    weight = np.ones(sample.n_samples) if sample.weight is None else sample.weight.astype(float)
    scaled = (weight * (total / weight.sum())).astype(sample.x.dtype)
    return Rows(sample.x, scaled, sample.missing, sample.noise, sample.labels)


def batches_of(reader: Reader, when: str) -> Iterator[Any]:
    """The batches of one pass; what goes wrong in the source says which batch it was.

    Raises:
        StreamError: with the source's exception as its cause.
    """
    number, iterator = 0, None
    try:
        while True:
            number += 1
            try:
                iterator = reader() if iterator is None else iterator
                item = next(iterator)
            except StopIteration:
                return
            except (ValueError, ImportError) as error:
                if when == FIRST:  # the source is wrong, and says how
                    raise
                raise _failed(number, when, error) from error
            except Exception as error:
                raise _failed(number, when, error) from error
            yield item
    finally:
        getattr(iterator, "close", bool)()


def _failed(number: int, when: str, error: Exception) -> StreamError:
    return StreamError(
        f"the stream failed at batch {number} of {when}: {type(error).__name__}: {error}"
    )
