"""The first pass over a stream: how many rows there are, and a sample of them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgmm._estep.rows import Rows
from jaxgmm._stream.errors import StreamError
from jaxgmm._stream.items import check_batch, checksum, fields_of, joined, rows_of, taken
from jaxgmm._stream.processes import of_everyone
from jaxgmm._stream.sources import Reader

# What the pass is called that surveys a stream.
FIRST = "the first pass"


# Numbers of their own: the rows may be made with default_rng(seed), too.
_OWN = 18


class Share(NamedTuple):
    """What the first pass finds out about the rows of one process.

    Attributes:
        n_samples: that the source gave.
        n_batches: that it gave.
        total: sum of the weights.
        squares: sum of their squares.
        seen: the weight of the values of each feature that are not missing, ``(D,)``; or None.
        checksum: of all rows, modulo 2^64, see `checksum`.
        kept: some of the rows, with their numbers and places; None without any row.
        fields: what each row has, see `fields_of`.
    """

    n_samples: int
    n_batches: int
    total: float
    squares: float
    seen: np.ndarray | None
    checksum: int
    kept: "Kept | None"
    fields: str


class Survey(NamedTuple):
    """What is known of all rows of a stream, those of other processes included.

    Attributes:
        n_samples: N.
        total: sum of the weights.
        squares: sum of their squares.
        seen: the weight of the values of each feature that are not missing, ``(D,)``; or None.
        sample: some rows, in the order of the stream, whose weights add up to ``total``; or all.
        own: the rows of this process.
    """

    n_samples: int
    total: float
    squares: float
    seen: np.ndarray | None
    sample: Rows
    own: Share

    @property
    def n_features(self) -> int:
        return self.sample.x.shape[1]


class Kept(NamedTuple):
    """Rows with the random numbers by which they were chosen, and their places in the stream."""

    numbers: np.ndarray
    places: np.ndarray
    rows: Rows

    def smallest(self, size: int) -> "Kept":
        """Those with the smallest numbers, in the order of their places."""
        chosen = np.arange(len(self.numbers))
        if len(chosen) > size:
            chosen = np.argpartition(self.numbers, size)[:size]
        chosen = chosen[np.argsort(self.places[chosen], kind="stable")]
        return Kept(self.numbers[chosen], self.places[chosen], taken(self.rows, chosen))


def _joined(parts: list[Kept]) -> Kept:
    numbers = np.concatenate([part.numbers for part in parts])
    places = np.concatenate([part.places for part in parts])
    return Kept(numbers, places, joined([part.rows for part in parts]))


class Reservoir:
    """A sample of rows without replacement: those with the smallest of random numbers.

    Row n has the n-th number of the generator, whatever batches the rows come in.

    Args:
        size: of the sample.
        seed: of the numbers; each process has others.
    """

    def __init__(self, size: int, seed: int):
        self.size = size
        self.generator = np.random.default_rng((seed, _OWN, jax.process_index()))
        self.below = np.inf
        self.parts: list[Kept] = []
        self.n_kept = self.n_rows = 0

    def add(self, rows: Rows) -> None:
        numbers = self.generator.random(rows.n_samples)
        places = self.n_rows + np.arange(rows.n_samples)
        self.n_rows += rows.n_samples
        chosen = np.flatnonzero(numbers < self.below)
        if len(chosen):
            self.parts.append(Kept(numbers[chosen], places[chosen], taken(rows, chosen)))
            self.n_kept += len(chosen)
        if self.n_kept > 2 * self.size:
            kept = _joined(self.parts).smallest(self.size)
            self.parts, self.n_kept, self.below = [kept], self.size, float(kept.numbers.max())

    def kept(self) -> Kept | None:
        return _joined(self.parts).smallest(self.size) if self.parts else None


def survey_of(reader: Reader, size: int, seed: int) -> Survey:
    """Read all rows once, in every process those of its own stream.

    Raises:
        ValueError: for rows that no fit can use: what came in which batch.
        StreamError: if the source fails, or another process does.
    """
    shares = of_everyone(lambda: _share_of(reader, size, seed))
    own = shares[jax.process_index()]._replace(kept=None)
    parts: list[Kept] = []
    n = 0
    for share in shares:
        if share.kept is not None:
            parts.append(share.kept._replace(places=share.kept.places + n))
        n += share.n_samples
    if not parts:
        raise ValueError(f"the stream has no rows: the source gave {own.n_batches} batches.")
    fields = sorted({share.fields for share in shares if share.kept is not None})
    if len(fields) > 1:
        raise ValueError(
            f"the streams of the processes have {', and '.join(fields)}; give all of them the same "
            "fields, dtype and width."
        )
    total, squares = sum(share.total for share in shares), sum(share.squares for share in shares)
    if total == 0:
        raise ValueError("all weights of the stream are 0.")
    seen = [share.seen for share in shares if share.seen is not None]
    sample = _weighted(_joined(parts).smallest(size).rows, n, total)
    return Survey(n, total, squares, np.sum(seen, axis=0) if seen else None, sample, own)


def _share_of(reader: Reader, size: int, seed: int) -> Share:
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
    gaps = np.ndim(seen) > 0
    seen = seen if gaps else None
    return Share(n, number, total, squares, seen, bits, reservoir.kept(), fields or "")


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
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def _failed(number: int, when: str, error: Exception) -> StreamError:
    return StreamError(
        f"the stream failed at batch {number} of {when}: {type(error).__name__}: {error}"
    )
