"""Samples as people have them: lists, data frames, integers."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxgmm._numerics.calls import described
from jaxgmm._numerics.devices import is_on_host


def as_floats(x: Any, name: str = "x") -> Any:
    """The samples as an array of floats that is not rounded yet: NumPy's, or JAX's own as it is.

    Integers and booleans become floats of 64 bits in NumPy, and JAX's default floats in JAX. What
    lies in a data frame does so column by column; a missing value becomes NaN. An array of some
    other dtype stays as it is.

    Raises:
        ValueError: for what is no array of numbers: strings, sparse matrices, a mapping.
    """
    if isinstance(x, jax.Array | Tracer):
        if not (jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == bool):
            return x
        if isinstance(x, Tracer) or not is_on_host(x):
            return x.astype(jnp.result_type(float))
    if hasattr(x, "columns") and hasattr(x, "dtypes"):
        x = _of_frame(x, name)
    if hasattr(x, "toarray") and not hasattr(x, "__array__"):
        raise ValueError(
            f"{name} is sparse, {described(x)}, and mixtures are fitted to dense samples; pass "
            f"{name}.toarray()."
        )
    try:
        array = np.asarray(unmasked(name, x))
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise
        raise ValueError(
            f"{name} must be samples by features (N, D), but its rows are of different lengths."
        ) from None
    if array.dtype.kind in "OUSMmc" or array.ndim == 0:
        kind = f"of dtype {array.dtype}" if array.ndim else described(x)
        raise ValueError(
            f"{name} must be real numbers, samples by features (N, D), but it is {kind}; convert "
            f"it, for instance with np.asarray({name}, float)."
        )
    return array.astype(np.float64) if array.dtype.kind in "iub" else array


def _of_frame(x: Any, name: str) -> np.ndarray:
    for column, dtype in _columns(x):
        # the kind of pandas' own dtypes is that of their values
        known = getattr(dtype, "kind", None) in ("b", "i", "u", "f")
        if not known and not _is_numeric(dtype):
            raise ValueError(
                f"column {column!r} of {name} is {dtype}, not numbers; leave it out, for instance "
                f"with {name}.drop(columns=[{column!r}]), or encode it as numbers."
            )
    if not hasattr(x, "iloc"):  # not of pandas
        return np.asarray(x)
    narrow = all(dtype == np.float32 for dtype in x.dtypes)
    return x.to_numpy(dtype=np.float32 if narrow else np.float64, na_value=np.nan)


def _columns(x: Any) -> Iterator[tuple[Any, Any]]:
    return zip(list(x.columns), list(x.dtypes), strict=True)


def _is_numeric(dtype: Any) -> bool:
    """Of another library's dtypes, which know it by themselves."""
    numeric = getattr(dtype, "is_numeric", None)
    return bool(callable(numeric) and numeric()) or str(dtype) == "Boolean"


def unmasked(name: str, values: Any) -> Any:
    """The values, a masked array as a plain one; refuse it if any value is masked."""
    if not isinstance(values, np.ma.MaskedArray):
        return values
    mask = np.ma.getmaskarray(values)
    if mask.any():
        rows = some_rows(mask.any(axis=tuple(range(1, mask.ndim))))
        raise ValueError(
            f"{name} is a masked array with masked values in rows {rows}; drop these rows, or pass "
            f"jaxgmm.Rows({name}.data, missing={name}.mask)."
        )
    return values.data


def some_rows(mask: Any, what: str = "rows") -> str:
    """The first of the rows in which something holds, and how many there are."""
    rows = np.flatnonzero(np.asarray(mask))
    shown = ", ".join(str(r) for r in rows[:10])
    return f"{shown}, ... ({len(rows)} {what})" if len(rows) > 10 else shown
