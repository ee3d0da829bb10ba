"""Programs kept in a folder."""

import json
import os
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import pytest

import jaxgmm
from jaxgmm._numerics.cache import _remove_oldest, _user_folder

PROGRAM = Path(__file__).parents[1] / "programs" / "cached.py"


def process(folder: Path) -> dict[str, int]:
    done = subprocess.run([sys.executable, PROGRAM, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_second_process_compiles_nothing(tmp_path: Path):
    folder = tmp_path / "programs"
    first = process(folder)
    if first["folder"] is None:
        pytest.skip("jaxlib does not read its own entries on this processor")
    assert first["cache_misses"] > 3
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    second = process(folder)
    assert second["cache_hits"] == first["compile_requests_use_cache"]
    assert "cache_misses" not in second


def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path):
    tmp_path.chmod(0o777)
    with pytest.raises(ValueError, match=r"written to by others.*chmod go-w"):
        jaxgmm.cache_programs(tmp_path)


def test_what_the_user_configured_is_kept(tmp_path: Path):
    tmp_path.chmod(0o700)
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # on some processors, see above
        assert jaxgmm.cache_programs() in (str(tmp_path), None)
    assert jax.config.jax_compilation_cache_dir == str(tmp_path)


def test_the_default_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _user_folder() == tmp_path / "jaxgmm"


def test_the_oldest_entries_go_first(tmp_path: Path):
    for i in range(4):
        entry = tmp_path / f"{i}-cache"
        entry.write_bytes(bytes(100))
        os.utime(entry, (i, i))
    _remove_oldest(tmp_path, 250)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["2-cache", "3-cache"]
