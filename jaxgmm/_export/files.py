"""Fits as files."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxgmm._export.encoding import CannotLoadError, Reader, encode
from jaxgmm._export.safetensors import pack, unpack, write_whole

# Of the structure in the header; another number for every change that this reader cannot read.
_FORMAT = 1


def save(path: str | os.PathLike[str], obj: Any) -> None:
    """Write a fit to one file, in the safetensors format with a JSON header; no pickle.

    The file is written beside its place and renamed, so that a crash leaves the old one whole.
    What `load` gives back from it is equal to the last bit: predictions, and the rest of a fit that
    goes on. Where the arrays lie on devices is not kept.

    Args:
        path: of the file; one that is there is replaced.
        obj: a `State` (of one lane or of R), `Result`, `Selection`, `Prior`, `Mixture` or
            `Algorithm`, or a list, tuple or dictionary of such.

    Raises:
        ValueError: for a type that no file can hold, such as an optimiser's state of your own, or
            arrays that are traced, or of which this process has only a part.

    Example:
        >>> import jax, jaxgmm, pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "prior.safetensors"
        >>> jaxgmm.save(path, jaxgmm.flat_prior(3, 2))
        >>> jaxgmm.load(path).n_parameters
        17
    """
    from jaxgmm import __version__

    arrays: dict[str, np.ndarray] = {}
    structure = json.dumps(encode(obj, "", arrays), separators=(",", ":"))
    metadata = {"format": str(_FORMAT), "jaxgmm": __version__, "structure": structure}
    write_whole(Path(path), pack(arrays, metadata))


def load(path: str | os.PathLike[str], *, optimizer: Any = None) -> Any:
    """What `save` wrote; checked as a whole before any of it is used.

    Args:
        path: of the file.
        optimizer: for the `SVI` of an optax optimiser, which no file can hold, the ``optimizer``
            that `svi` was given; without it all but the algorithm's own steps works.

    Raises:
        ValueError: for a file that is damaged or not of `save`, one of a later jaxgmm, one with
            64-bit arrays where JAX has them disabled, or an ``optimizer`` that it has no use for.
        OSError: for a file that cannot be read.

    Example:
        >>> import jaxgmm, pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "algorithm.safetensors"
        >>> jaxgmm.save(path, jaxgmm.em(jaxgmm.flat_prior(3, 2)))
        >>> jaxgmm.load(path).name
        'EM'
    """
    try:
        arrays, metadata = unpack(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(
            f"{os.fspath(path)} {error}; give the path of a file that jaxgmm.save wrote, a whole "
            "copy of it, or fit and save again."
        ) from error
    version = metadata.get("format", "")
    if version != str(_FORMAT):
        raise ValueError(
            f"{os.fspath(path)} has format {version!r} (jaxgmm {metadata.get('jaxgmm')}), but this "
            f"jaxgmm reads {_FORMAT}; install that version."
        )
    reader = Reader(arrays, optimizer)
    try:
        out = reader.decode(json.loads(metadata["structure"]))
        if reader.unused:
            raise KeyError(f"arrays that nothing refers to: {', '.join(sorted(reader.unused))}")
    except CannotLoadError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{os.fspath(path)} has a structure that jaxgmm.save did not write ({error!r})."
        ) from error
    if optimizer is not None and not reader.took_optimizer:
        raise ValueError(f"{os.fspath(path)} has no SVI that optimizer= is for; leave it out.")
    return out
