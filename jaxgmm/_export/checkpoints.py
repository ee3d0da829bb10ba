"""Fits that are kept while they run: a folder with the fit as it was asked for, and its stages."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.typing import ArrayLike

from jaxgmm._algorithms.base import Algorithm
from jaxgmm._estep.row_checks import check_rows
from jaxgmm._estep.rows import Samples, floats_of
from jaxgmm._export.encoding import MissingOptimizer, encode
from jaxgmm._export.files import check_path, installed_version, load, save
from jaxgmm._export.fingerprints import check_same_rows, fingerprint
from jaxgmm._export.folder import Folder, interval_of
from jaxgmm._export.steps import import_orbax
from jaxgmm._fit.fit import fit
from jaxgmm._fit.keeping import Folders, Given, Opener
from jaxgmm._fit.result import Result
from jaxgmm._lane.state import State
from jaxgmm._numerics.calls import usage
from jaxgmm._numerics.checks import check_positive_int
from jaxgmm._stream.stream import Stream

_CALL = "jaxgmm.resume(path, x)"
_FIT = "fit.safetensors"
# What `fit` and `resume` take; a bar is not part of a fit.
_OPTIONS = ("n_restarts", "history", "racing", "moves", "effort")


def in_folder(checkpoint: str | os.PathLike[str], every: Any, keep: Any) -> Opener:
    """What begins to keep a fit in a new folder."""
    path, interval = Path(checkpoint), interval_of(every)
    check_positive_int("keep", keep)
    import_orbax()
    _check_one_process()
    if path.exists() and not path.is_dir():
        raise ValueError(f"checkpoint must be a folder, but {path} is a file; give another path.")
    if (path / _FIT).exists():
        raise ValueError(
            f"{path} keeps a fit already; go on with it by jaxgmm.resume({str(path)!r}, x), or "
            "give checkpoint= another path."
        )

    def opened(given: Given) -> Folder:
        text = described_fit(given) | {"every": every, "keep": keep}
        path.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(path)
        save(path / _FIT, text)
        return Folder(path, interval, keep)

    return opened


def described_fit(given: Given) -> dict[str, Any]:
    """A fit as it was asked for, as `save` takes it."""
    options, init = given.options, given.options.init
    function = None
    if callable(init) and not isinstance(init, State | Mapping):
        init, function = None, getattr(init, "__name__", type(init).__name__)
    return {
        "version": installed_version(),
        "key": given.key,
        "algorithm": given.algorithm,
        "init": dict(init) if isinstance(init, Mapping) else init,
        "function": function,
        "options": {name: getattr(options, name) for name in _OPTIONS} | options.limits._asdict(),
        "mesh": _form_of(options.mesh),
        "rows": fingerprint(given.x, given.rows),
    }


@usage(_CALL)
def resume(
    path: str | os.PathLike[str],
    x: Samples | Stream,
    algorithm: Algorithm | None = None,
    *,
    init: Callable[..., Array] | None = None,
    sample_weight: ArrayLike | None = None,
    mesh: Mesh | None = None,
    progress: bool | None = None,
) -> Result:
    """Go on with a fit from its last checkpoint, after a crash, a time limit or Ctrl-C.

    On the same devices, with the same version of JAX, the result is that of a fit which was never
    interrupted, bit by bit: the race, moves and the history go on where they were. The folder keeps
    what follows, too. Of a fit that has ended the result is returned at once. A memoized fit of a
    stream begins again with a plain pass.

    Args:
        path: the folder that was the ``checkpoint`` of `fit`.
        x: the samples of the fit, ``(N, D)``, or the `Rows`, or a `Stream` of the same rows.
        algorithm: of the fit; only an `SVI` with an optax optimiser needs it, because no file can
            hold the optimiser.
        init: of the fit, if it was a function.
        sample_weight: of the fit, ``(N,)``.
        mesh: of the fit, with axes of the same names and sizes.
        progress: whether to show a progress bar; by default only on a terminal.

    Returns:
        The `Result` of the fit.

    Raises:
        ValueError: for a folder that keeps no fit, or one of another version of jaxgmm; for samples
            of another shape or dtype, or with other values or weights; for another algorithm or
            mesh.
        OSError: where a checkpoint cannot be read or written.
        ImportError: without Orbax.

    Example:
        >>> import jax, jaxgmm, pathlib, tempfile
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> algorithm = jaxgmm.em(jaxgmm.default_prior(x, 2))
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "fit"
        >>> result = jaxgmm.fit(jax.random.key(1), x, algorithm, checkpoint=path)
        >>> jaxgmm.resume(path, x) == result
        True
    """
    import_orbax()
    _check_one_process()
    check_path(path, _CALL)
    path = Path(path)
    if not (path / _FIT).is_file():
        raise ValueError(
            f"{path} keeps no fit; give the folder of jaxgmm.fit(key, x, algorithm, "
            "checkpoint=folder), or call that again."
        )
    then = load(path / _FIT)
    if not isinstance(then, dict) or "rows" not in then:
        raise ValueError(f"{path / _FIT} is not of jaxgmm.fit(..., checkpoint=folder).")
    if then["version"] != installed_version():
        raise ValueError(
            f"{path} keeps a fit of jaxgmm {then['version']}, but this is "
            f"{installed_version()}; install that version."
        )
    x = x if isinstance(x, Stream) else floats_of(x)
    rows = None if isinstance(x, Stream) else check_rows(x, sample_weight)
    check_same_rows(path, fingerprint(x, rows), then["rows"])
    if _form_of(mesh) != then["mesh"]:
        raise ValueError(
            f"{path} keeps a fit on {_mesh_in_words(then['mesh'])}, but mesh= is "
            f"{_mesh_in_words(_form_of(mesh))}; give the same."
        )
    every, keep = interval_of(then["every"]), then["keep"]
    return fit(
        then["key"],
        x,
        _algorithm(path, then["algorithm"], algorithm),
        init=_init(path, then, init),
        sample_weight=sample_weight,
        mesh=mesh,
        progress=progress,
        checkpoint=lambda given: Folder(path, every, keep, resumes=True),
        **then["options"],
    )


def _algorithm(path: Path, then: Any, now: Algorithm | None) -> Any:
    """The algorithm of a fit, which is that of the file or has its optimiser besides."""
    if now is None:
        if isinstance(getattr(then, "optimizer", None), MissingOptimizer):
            raise ValueError(
                f"{path} cannot hold the optimiser of this SVI; call jaxgmm.resume(path, x, "
                "algorithm), with the algorithm of the fit."
            )
        return then
    if _encoded(now) != _encoded(then):
        raise ValueError(
            f"algorithm is not that of the fit that {path} keeps; give the same, with the same "
            "prior and settings, or leave it out unless it is an SVI."
        )
    return now


def _encoded(algorithm: Any) -> Any:
    arrays: dict[str, np.ndarray] = {}
    text = encode(algorithm, "", arrays)
    return text, {name: (a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()}


def _init(path: Path, then: dict[str, Any], init: Any) -> Any:
    """The start of a fit, of which a file can hold all but a function."""
    if (then["function"] is None) == (init is None):
        return then["init"] if init is None else init
    if init is None:
        raise ValueError(
            f"{path} cannot hold the function {then['function']} that made the starts; call "
            "jaxgmm.resume(path, x, init=function)."
        )
    raise ValueError(
        f"the starts of the fit that {path} keeps were made by no function; leave init= out."
    )


def _form_of(mesh: Mesh | None) -> Any:
    """The names and the sizes of the axes."""
    return None if mesh is None else [list(mesh.axis_names), list(mesh.devices.shape)]


def _mesh_in_words(mesh: Any) -> str:
    if mesh is None:
        return "no mesh"
    return "a mesh " + " x ".join(f"{n} {name}" for name, n in zip(*mesh, strict=True))


def _check_one_process() -> None:
    if jax.process_count() > 1:
        raise ValueError(
            f"checkpoints are of fits in one process, but there are {jax.process_count()}; leave "
            "checkpoint= out."
        )


def _remove_unfinished(path: Path) -> None:
    """Remove what a process left that was killed before its fit began."""
    for left in path.glob(f".{_FIT}.*.tmp"):
        left.unlink(missing_ok=True)


Folders.opener = staticmethod(in_folder)
