"""One batch as a source gives it, checked and as NumPy's arrays."""

from typing import Any

import jax
import numpy as np

from jaxgmm._estep.row_checks import check_rows
from jaxgmm._estep.rows import Rows
from jaxgmm._numerics.calls import described
from jaxgmm._numerics.checks import check_samples, check_weights, is_float
from jaxgmm._numerics.inputs import as_floats
from jaxgmm._numerics.pytree import replace

# Rows whose hashes are in the cache together; and 2^64 over the golden ratio.
_CHUNK = 1 << 13
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def rows_of(item: Any, number: int, n_features: int | None = None) -> Rows:
    """The rows of a batch, of which nothing is NaN: values that are missing are 0 and in the mask.

    Args:
        item: what the source gave.
        number: of the batch, for errors.
        n_features: D, if it is known.

    Raises:
        ValueError: for what is no batch.
    """
    if isinstance(item, list | tuple) and len(item) == 1:  # as a loader of PyTorch gives it
        item = item[0]
    try:
        if isinstance(item, list | tuple | dict):
            raise ValueError(
                f"it is {described(item)}; give arrays (n, D), or jaxgmm.Rows(x, weight=weight) "
                "where there is more to a row."
            )
        rows = item if isinstance(item, Rows) else Rows(item)
        x = np.asarray(as_floats(rows.x))
        if x.ndim != 2 or not is_float(x.dtype):
            check_samples(x)
        if n_features is not None and x.shape[1] != n_features:
            raise ValueError(f"x has {x.shape[1]} features, but those before have {n_features}.")
        return _others(replace(rows, x=x, groups=None))
    except ValueError as error:
        raise _of_batch(number, error) from None


def _others(rows: Rows) -> Rows:
    x, missing = rows.x, rows.missing
    if isinstance(missing, str):
        if missing != "nan":
            raise ValueError(f'missing must be a mask or "nan", but it is {missing!r}.')
        missing = np.isnan(x)
    if missing is not None:
        missing = np.asarray(missing)
        if missing.shape != x.shape or missing.dtype != bool:
            raise ValueError(
                f"missing must be booleans of the shape of x, {x.shape}, but it is "
                f"{described(missing)}."
            )
        x = np.where(missing, np.zeros_like(x), x)
    others = (rows.weight, missing, rows.noise, rows.labels)
    return Rows(x, *(None if a is None else np.asarray(a) for a in others))


def fields_of(rows: Rows) -> str:
    """The fields that rows have, and the dtype and the width of their values."""
    names = ("weight", "missing", "noise", "labels")
    own = "".join(f" and {name}" for name in names if getattr(rows, name) is not None)
    return f"{rows.n_features} values of {rows.x.dtype}{own}"


def taken(rows: Rows, index: np.ndarray | slice) -> Rows:
    return jax.tree.map(lambda a: a[index], rows)


def joined(parts: list[Rows]) -> Rows:
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def check_batch(rows: Rows, number: int) -> None:
    """The values of a batch are finite, its weights are not negative, and so on.

    Raises:
        ValueError: with the number of the batch, and rows of it.
    """
    bare = rows.missing is None and rows.noise is None and rows.labels is None
    try:
        with np.errstate(all="ignore"):
            # one number tells, and is 64 times as fast to look at
            fine = np.isfinite(np.sum(rows.x, dtype=np.float64))
        if not (bare and fine):
            check_rows(replace(rows, weight=None, missing=None), far=True)
        weight = rows.weight
        if weight is not None and (weight.shape != (len(rows.x),) or not _is_weight(weight)):
            check_weights(weight, jax.numpy.asarray(rows.x))
    except ValueError as error:
        raise _of_batch(number, error) from None


def _is_weight(weight: np.ndarray) -> bool:
    return weight.dtype.kind in "iuf" and bool(np.isfinite(weight).all() and (weight >= 0).all())


def _of_batch(number: int, error: ValueError) -> ValueError:
    return ValueError(f"batch {number} of the stream: {error}")


def checksum(rows: Rows) -> int:
    """A number that other rows hardly share; the same in any order, and for any batches.

    It is of all that is known of a row.
    """
    others = (rows.weight, rows.missing, rows.noise, rows.labels)
    parts = [a.reshape(len(a), -1).astype(rows.x.dtype) for a in others if a is not None]
    columns = np.concatenate([rows.x, *parts], axis=1) if parts else rows.x
    total = 0
    for i in range(0, len(columns), _CHUNK):
        total += int(np.sum(_hashes(columns[i : i + _CHUNK]), dtype=np.uint64))
    return total % 2**64


def _hashes(rows: np.ndarray) -> np.ndarray:
    """A number of 64 bits for each row: a sum of its bits times odd numbers.

    It is stirred before and after: a sum alone, which is linear, does not see two signs change.
    """
    bits = np.ascontiguousarray(rows)
    if bits.dtype.itemsize * bits.shape[1] % 8:
        bits = bits.view(np.uint32).astype(np.uint64)
    else:
        bits = bits.view(np.uint64)
    factors = np.random.default_rng(0).integers(1, 2**63, bits.shape[1], dtype=np.uint64)
    hashes = (bits ^ (bits >> 29)) @ (2 * factors + 1)
    hashes ^= hashes >> 32
    hashes *= _GOLDEN
    return hashes ^ (hashes >> 29)
