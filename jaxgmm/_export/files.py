"""Fits as files."""

import json
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from jaxgmm._export.encoding import CannotLoadError, Reader, encode
from jaxgmm._export.safetensors import pack, unpack, write_whole
from jaxgmm._numerics.calls import described, usage

# Of the structure in the header; another number for every change that this reader cannot read.
_FORMAT = 2


def installed_version() -> str:
    """The version of jaxgmm."""
    try:
        return version("jaxgmm")
    except PackageNotFoundError:  # a checkout that is not installed
        return "?"


def check_path(path: Any, call: str) -> None:
    """Refuse what is no path."""
    if not isinstance(path, str | os.PathLike):
        raise ValueError(
            f"path must be a string or a pathlib.Path, but it is {described(path)}; call {call}."
        )


@usage('jaxgmm.save("fit.safetensors", result)')
def save(path: str | os.PathLike[str], obj: Any) -> None:
    """Write a fit to one file, in the safetensors format with a JSON header; no pickle.

    The file is written under another name and then renamed, so that a crash leaves an old file
    whole. `load` gives back the same bits, so that predictions are equal, and a fit that continues
    gives the same result. The devices of the arrays are not saved.

    Args:
        path: of the file; an existing file is replaced.
        obj: a `State` (of one lane or of R), `Result`, `Selection`, `Prior`, `Mixture` or
            `Algorithm`, or a list, tuple or dictionary of such.

    Raises:
        ValueError: for a type that no file can hold, such as your own optimiser's state; for
            traced arrays; for arrays of which this process has only a part.

    Example:
        >>> import jax, jaxgmm, pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "prior.safetensors"
        >>> jaxgmm.save(path, jaxgmm.flat_prior(3, 2))
        >>> jaxgmm.load(path).n_parameters
        17
    """
    check_path(path, 'jaxgmm.save("fit.safetensors", result)')
    arrays: dict[str, np.ndarray] = {}
    structure = json.dumps(encode(obj, "", arrays), separators=(",", ":"))
    metadata = {"format": str(_FORMAT), "jaxgmm": installed_version(), "structure": structure}
    write_whole(Path(path), pack(arrays, metadata))


@usage('jaxgmm.load("fit.safetensors")')
def load(path: str | os.PathLike[str], *, optimizer: Any = None) -> Any:
    """Read what `save` wrote, after a check of the whole file.

    Args:
        path: of the file.
        optimizer: the ``optimizer`` that was given to `svi`. Only an `SVI` with an optax optimiser
            needs it, because no file can hold the optimiser. Without it everything works except
            steps of the algorithm.

    Raises:
        ValueError: for a file that is damaged, or not written by `save`, or written by a later
            jaxgmm; for 64-bit arrays if JAX has them disabled; for an ``optimizer`` that the file
            does not need.
        OSError: for a file that cannot be read.

    Example:
        >>> import jaxgmm, pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "algorithm.safetensors"
        >>> jaxgmm.save(path, jaxgmm.em(jaxgmm.flat_prior(3, 2)))
        >>> jaxgmm.load(path).name
        'EM'
    """
    check_path(path, 'jaxgmm.load("fit.safetensors")')
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
