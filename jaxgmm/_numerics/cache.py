"""Compiled programs that outlive a process."""

import os
import stat
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

_HIT = "/jax/compilation_cache/cache_hits"


def cache_programs(
    path: str | os.PathLike[str] | None = None, *, max_bytes: int = 1 << 30
) -> str | None:
    """Keep compiled programs in a folder, where later processes find them.

    Call it once, at the start of a program. It turns on JAX's persistent compilation cache for
    every program of the process, those of jaxgmm and all others, however short they take to
    compile. What this package itself does in Python remains: the first fit of a process traces its
    programs, which takes about a second.

    What is in the folder is run. So nobody else may be able to write to it: a new folder is made
    for its owner alone, and one that others can write to is refused.

    Args:
        path: the folder; by default what JAX is configured to use (``JAX_COMPILATION_CACHE_DIR``),
            or ``jaxgmm`` in the user's folder for caches (``XDG_CACHE_HOME``).
        max_bytes: the oldest entries of the folder are removed, now, until it holds no more.

    Returns:
        The folder. None, with a warning, where jaxlib does not read its own entries again, as on
        some processors.

    Raises:
        ValueError: for a folder that belongs to, or can be written to by, somebody else.

    Example:
        >>> import tempfile, jaxgmm
        >>> folder = tempfile.mkdtemp()
        >>> jaxgmm.cache_programs(folder) == folder
        True
    """
    if path is None:
        path = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    folder = Path(_user_folder() if path is None else path).expanduser()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_private(folder)
    _remove_oldest(folder, max_bytes)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # whatever has been compiled already has decided that there is no cache
    compilation_cache.reset_cache()
    if _is_read_again():
        return str(folder)
    warnings.warn(
        f"jaxlib does not read what it has just written to {folder}, as on some processors: "
        "compiled programs are not kept.",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


def _user_folder() -> Path:
    given = os.environ.get("XDG_CACHE_HOME")
    if given:
        return Path(given) / "jaxgmm"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "jaxgmm"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "jaxgmm"
    return Path.home() / ".cache" / "jaxgmm"


def _check_private(folder: Path) -> None:
    if not hasattr(os, "getuid"):  # Windows: a user's folders are the user's
        return
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError(
            f"{folder} can be written to by others (its mode is {stat.filemode(found.st_mode)}), "
            "and what is in it would be run; give a folder of your own, or take the right away "
            f"with: chmod go-w {folder}"
        )


def _remove_oldest(folder: Path, max_bytes: int) -> None:
    entries = []
    for entry in folder.glob("*-cache"):
        try:
            found = entry.stat()
        except FileNotFoundError:  # another process removes them too
            continue
        entries.append((found.st_mtime, found.st_size, entry))
    total = sum(size for _, size, _ in entries)
    for _, size, entry in sorted(entries):
        if total <= max_bytes:
            break
        entry.unlink(missing_ok=True)
        total -= size


def _is_read_again() -> bool:
    """Whether a program is found again that has been compiled a moment ago, or earlier."""
    hits = []

    def listen(event: str, **_: object) -> None:
        if event == _HIT:
            hits.append(event)

    jax.monitoring.register_event_listener(listen)
    try:
        for _ in range(2):
            shape = jax.ShapeDtypeStruct((3,), np.float32)
            jax.jit(lambda a: a + 1, inline=False).lower(shape).compile()
    finally:
        jax.monitoring.unregister_event_listener(listen)
    return bool(hits)
