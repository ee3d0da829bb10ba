"""What tells the rows of a fit from others, without the rows."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from jaxgmm._estep.rows import Rows
from jaxgmm._stream.stream import Stream


def fingerprint(x: Any, rows: Rows | None) -> dict[str, Any]:
    """What tells rows from others: shape, dtype, and a digest of all bytes in their order.

    Of a `Stream` the digest does not depend on their order.
    """
    if isinstance(x, Stream):
        survey, values = x.survey(), x.sample().x
        form = {"shape": [survey.n_samples, survey.n_features], "dtype": str(values.dtype)}
        return form | {"digests": {"rows": f"{survey.own.checksum:x}"}}
    assert rows is not None
    values = np.asarray(x.x if isinstance(x, Rows) else x)
    parts = {"values": values, "weights": rows.weight, "missing values": rows.missing}
    parts |= {"errors": rows.noise, "labels": rows.labels}
    digests = {name: _digest(a) for name, a in parts.items()}
    return {"shape": list(values.shape), "dtype": str(values.dtype), "digests": digests}


def _digest(a: Any) -> str | None:
    if a is None:
        return None
    a = np.ascontiguousarray(a)
    form = f"{a.dtype.str} {a.shape}".encode()
    return hashlib.blake2b(a.view(np.uint8).data, digest_size=8, key=form[:64]).hexdigest()


def check_same_rows(path: Path, now: dict[str, Any], then: dict[str, Any]) -> None:
    """Refuse other rows than those of a fit that is kept."""
    if now["digests"].keys() != then["digests"].keys():
        a, b = ("a stream" if "rows" in v["digests"] else "an array" for v in (now, then))
        raise ValueError(f"x is {a}, but {path} keeps a fit of {b}; give that.")
    for name in ("shape", "dtype"):
        if now[name] != then[name]:
            a, b = (tuple(v[name]) if name == "shape" else v[name] for v in (now, then))
            raise ValueError(
                f"x has the {name} {a}, but {path} keeps a fit of samples with the {name} {b}; "
                "give those samples."
            )
    for name, digest in then["digests"].items():
        if now["digests"][name] != digest:
            raise ValueError(
                f"the {name} of the samples are not those of the fit that {path} keeps; give the "
                "same rows in the same order, with the same weights."
            )
