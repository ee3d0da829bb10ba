"""One file in the safetensors format: 8 bytes of length, a JSON header, the arrays' bytes.

Written and read here, without the package of that name, whose reader for NumPy has no bfloat16 and
which knows no checksum. Its files are ordinary ones all the same, that any other reader opens.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
import struct
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

_DTYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "I16": np.int16,
    "U32": np.uint32,
    "I32": np.int32,
    "U64": np.uint64,
    "I64": np.int64,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_NO_DIGEST = "0" * 64
# as `pack` writes it: quotes inside of strings are escaped, so that it cannot stand in one of them
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')


def pack(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """The bytes of a file, with their own SHA-256 (taken with zeros in its place) among them.

    Raises:
        ValueError: for an array whose dtype the format does not have.
    """
    header: dict[str, Any] = {"__metadata__": {"sha256": _NO_DIGEST, **metadata}}
    chunks, end = [], 0
    # wide items first, so that every array is aligned
    for name, a in sorted(arrays.items(), key=lambda pair: -pair[1].dtype.itemsize):
        native = a.dtype.newbyteorder("=") if a.dtype.byteorder == ">" else a.dtype
        if native not in _NAMES:
            raise ValueError(f"cannot save {name}: its dtype {a.dtype} has no place in a file.")
        chunks.append(a.astype(native).tobytes())
        start, end = end, end + len(chunks[-1])
        entry = {"dtype": _NAMES[native], "shape": a.shape, "data_offsets": (start, end)}
        header[name] = entry
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    raw = b"".join([struct.pack("<Q", len(text)), text, *chunks])
    return raw.replace(_NO_DIGEST.encode(), hashlib.sha256(raw).hexdigest().encode(), 1)


def unpack(raw: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata of a file's bytes.

    Raises:
        ValueError: for anything but the bytes that `pack` made, which ends "it ...".
    """
    size = struct.unpack("<Q", raw[:8])[0] if len(raw) >= 8 else 0
    found = _DIGEST.search(raw[8 : 8 + size])
    if not found:
        raise ValueError("has no header of jaxgmm.save: it is another program's, or cut short")
    start, end = found.start(1) + 8, found.end(1) + 8
    blank = hashlib.sha256(raw[:start])
    blank.update(_NO_DIGEST.encode())
    blank.update(memoryview(raw)[end:])
    if blank.hexdigest().encode() != found[1]:
        raise ValueError("fails its checksum: it was cut short or changed after it was saved")
    try:
        header = json.loads(raw[8 : 8 + size])
        metadata = header.pop("__metadata__")
        data = memoryview(raw)[8 + size :]
        arrays = {name: _array(data, **entry) for name, entry in header.items()}
        if any(not isinstance(value, str) for value in metadata.values()):
            raise TypeError("metadata that is no string")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"has a header that jaxgmm.save did not write ({error!r})") from error
    return arrays, metadata


def _array(
    data: memoryview, *, dtype: str, shape: list[int], data_offsets: list[int]
) -> np.ndarray:
    start, end = data_offsets
    if not 0 <= start <= end <= len(data) or any(n < 0 for n in shape):
        raise ValueError(f"an array of shape {shape} at {data_offsets} of {len(data)} bytes")
    kind = np.dtype(_DTYPES[dtype])
    if end - start != math.prod(shape) * kind.itemsize:
        raise ValueError(f"{end - start} bytes for shape {shape} of {dtype}")
    return np.frombuffer(data[start:end], kind).reshape(shape)


def write_whole(path: Path, raw: bytes) -> None:
    """Write a file such that a crash at any moment leaves the old one, or the new one, whole."""
    path = Path(os.path.realpath(path))
    # beside it, since a rename is atomic within one file system only
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if os.name == "posix":  # the rename itself, too, is to survive a loss of power
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
