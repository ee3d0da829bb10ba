"""Files that are damaged, foreign or forged are refused; a crash leaves the old one whole."""

import hashlib
import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from test_persist import assert_same, lanes_of, model, state_of

import jaxgmm
from jaxgmm._export.files import load, save


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.fit"


# --- damage -------------------------------------------------------------------------------------


def edited(raw: bytes, rng: np.random.Generator) -> bytes:
    """Another JSON header, of any length."""
    size = struct.unpack("<Q", raw[:8])[0]
    header = raw[8 : 8 + size].decode()
    words = re.findall(r"[A-Za-z]+|\d+", header)
    old = words[rng.integers(len(words))]
    new = ["0", "7", "null", "Prior", "", old + "1", '"', "{"][rng.integers(8)]
    header = header.replace(old, new, 1).encode()
    return struct.pack("<Q", len(header)) + header + raw[8 + size :]


def damaged(raw: bytes, rng: np.random.Generator) -> bytes:
    kind = rng.choice(["flip"] * 5 + ["cut"] * 2 + ["longer", "random", "json", "foreign"])
    if kind == "flip":
        out = bytearray(raw)
        for i in rng.integers(len(raw), size=rng.integers(1, 4)):
            out[i] ^= int(rng.integers(1, 256))
        return bytes(out)
    if kind == "cut":
        return raw[: rng.integers(len(raw))]
    if kind == "longer":
        return raw + rng.bytes(rng.integers(1, 20))
    if kind == "random":
        return rng.bytes(rng.integers(2000))
    if kind == "json":
        return edited(raw, rng)
    arrays = {"mean": rng.standard_normal((3, 2)), "scale": np.arange(3)}
    return safetensors.numpy.save(arrays, {"format": "1"})


def test_a_thousand_damaged_files(path: Path):
    save(path, state_of(model()))
    raw = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(1000):
        bad = damaged(raw, rng)
        if bad == raw:  # an edit that changed nothing
            continue
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"a\.fit (fails its checksum|has no header).*; give"):
            load(path)
        refused += 1
    assert refused > 980


def test_every_bit_counts(path: Path):
    save(path, jaxgmm.Dirichlet(jnp.ones(1)))
    raw = path.read_bytes()
    for i in range(len(raw)):
        path.write_bytes(raw[:i] + bytes([raw[i] ^ (1 << i % 8)]) + raw[i + 1 :])
        with pytest.raises(ValueError, match=r"jaxgmm\.save"):
            load(path)


def forged(raw: bytes, change: Callable[[dict[str, Any], Any], None]) -> bytes:
    """A file with another header and structure, and the checksum that goes with it."""
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    metadata = header["__metadata__"]
    structure = json.loads(metadata["structure"])
    before = metadata["structure"]
    change(header, structure)
    if metadata.get("structure") == before:
        metadata["structure"] = json.dumps(structure)
    metadata["sha256"] = "0" * 64
    text = json.dumps(header, separators=(",", ":")).encode()
    out = struct.pack("<Q", len(text)) + text + raw[8 + size :]
    return out.replace(b"0" * 64, hashlib.sha256(out).hexdigest().encode(), 1)


def at(tree: Any, *keys: Any) -> Any:
    for key in keys:
        tree = tree[key]
    return tree


FORGERIES: dict[str, tuple[Callable[[dict[str, Any], Any], Any], str]] = {
    "later": (
        lambda h, s: h["__metadata__"].update(format="3"),
        "has format '3' .* reads 2;",
    ),
    "no format": (lambda h, s: h["__metadata__"].pop("format"), "has format ''"),
    "no structure": (lambda h, s: h["__metadata__"].pop("structure"), "did not write"),
    "not strings": (lambda h, s: h["__metadata__"].update(structure=None), "did not write"),
    "other type": (lambda h, s: s.update(type="subprocess.Popen"), "a subprocess.Popen with"),
    "optax's other": (lambda h, s: s.update(type="optax.adam"), "has a optax.adam with the fields"),
    "no field": (
        lambda h, s: s["fields"].pop("weights"),
        "Prior with the fields components, background, tails, but",
    ),
    "more fields": (
        lambda h, s: s["fields"].update(a=1),
        "one with weights, components, background, tails; install",
    ),
    "no array": (lambda h, s: h.pop("weights.concentration"), "KeyError"),
    "unused array": (lambda h, s: h["__metadata__"].update(structure="7"), "nothing refers to"),
    "twice": (
        lambda h, s: at(s, "fields", "components", "fields", "mean").update(array="x"),
        "KeyError",
    ),
    "outside": (
        lambda h, s: h["components.mean"].update(data_offsets=[0, 10**6]),
        "header that jaxgmm.save did not write",
    ),
    "size": (lambda h, s: h["components.mean"].update(shape=[7]), "bytes for shape"),
    "negative": (lambda h, s: h["components.mean"].update(shape=[-3, -2]), "of shape"),
    "dtype": (lambda h, s: h["components.mean"].update(dtype="F7"), "did not write"),
    "entry": (lambda h, s: h.update(a=3), "did not write"),
    "number": (lambda h, s: s.update(fields=3), "did not write"),
    "list": (lambda h, s: s.update(fields=[3]), "did not write"),
    "bottomless": (
        lambda h, s: h["__metadata__"].update(structure='{"list":[' * 10**5 + "]}" * 10**5),
        "did not write",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_files(path: Path, name: str):
    change, message = FORGERIES[name]
    save(path, model())
    path.write_bytes(forged(path.read_bytes(), change))
    with pytest.raises(ValueError, match=rf"a\.fit.*{message}"):
        load(path)


def test_a_file_of_before_there_were_backgrounds(path: Path):
    save(path, model())
    path.write_bytes(forged(path.read_bytes(), lambda h, s: s["fields"].pop("background")))
    assert_same(load(path), model())


def test_nothing_is_rounded_silently(path: Path):
    save(path, [model(), np.arange(3.0)])
    with jax.enable_x64(False):
        with pytest.raises(ValueError, match=r'is float64, but.*update\("jax_enable_x64", True\)'):
            load(path)
        save(path, [model(dtype="float32"), np.arange(3.0)])
        found = load(path)  # what is NumPy's stays NumPy's
    assert found[1].dtype == np.float64
    assert_same(found[0], model(dtype="float32"))


# --- the file -----------------------------------------------------------------------------------


def test_a_crash_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch):
    save(path, model("diag"))
    old = path.read_bytes()

    def crash(*args: Any) -> None:
        # all is written by now, but not under its name
        (temporary,) = path.parent.glob(".a.fit.*.tmp")
        assert temporary.stat().st_size > 1000
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            save(path, model("full"))
    assert path.read_bytes() == old
    assert os.listdir(path.parent) == ["a.fit"]
    assert_same(load(path), model("diag"))
    save(path, model("full"))
    assert_same(load(path), model("full"))


def test_a_link_keeps_pointing(path: Path):
    link = path.with_name("link")
    link.symlink_to(path)
    save(link, model("diag"))
    assert link.is_symlink()
    assert_same(load(path), model("diag"))
    mask = os.umask(0o022)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_any_safetensors_reader_opens_it(path: Path):
    state = lanes_of(state_of(model("full")))
    save(str(path), state)
    found = safetensors.numpy.load_file(path)
    assert len(found) == len(jax.tree.leaves(state))
    np.testing.assert_array_equal(
        found["posterior.components.scale"], state.posterior.components.scale
    )
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata()["jaxgmm"] == jaxgmm.__version__


def test_no_such_file(path: Path):
    with pytest.raises(FileNotFoundError):
        load(path)
