"""Several processes, each with a stream of its own, fit what one process fits to all rows."""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxgmm
from jaxgmm._stream import processes

TESTS = Path(__file__).parents[1]
CLUSTER = TESTS.parent / "examples" / "cluster"
ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu"}


def start(count: int, what: str) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    program = [sys.executable, str(TESTS / "programs" / "stream_process.py")]
    return [
        subprocess.Popen(
            [*program, str(rank), str(count), port, what],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        for rank in range(count)
    ]


def found(text: str) -> Any:
    lines = [line for line in text.splitlines() if line.startswith("found ")]
    return json.loads(lines[0].removeprefix("found "))


def outcomes(count: int, what: str) -> list[Any]:
    running = start(count, what)
    texts = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0] * count, texts
    return [found(out) for out, _ in texts]


@pytest.mark.slow
def test_processes_with_unequal_shares_give_what_one_gives():
    (one,) = outcomes(1, "fit")
    for count in (2, 4):
        for several in outcomes(count, "fit"):
            assert several["n_samples"] == one["n_samples"] == 272
            assert several["n_iter"] == one["n_iter"]
            assert several["objective"] == pytest.approx(one["objective"], rel=1e-12)
            np.testing.assert_allclose(several["means"], one["means"], rtol=1e-9)


@pytest.mark.slow
def test_a_process_that_fails_tells_the_others():
    texts = outcomes(2, "failing")
    cause = "the stream failed at batch 7 of the first pass: OSError: the disk is gone"
    assert texts == [
        f"StreamError: process 1 failed: StreamError: {cause}",
        f"StreamError: {cause}",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [1, 0])
def test_where_one_process_is_killed_the_others_end_within_a_minute(victim: int):
    running = start(2, "killed")
    assert running[1].stdout is not None
    while "about to die" not in (line := running[1].stdout.readline()):
        assert line, running[1].communicate()
    running[victim].send_signal(signal.SIGKILL)
    began = time.monotonic()
    out, error = running[1 - victim].communicate(timeout=60)
    assert time.monotonic() - began < 60
    assert running[1 - victim].returncode != 0
    if victim == 1:
        assert "another process is gone" in found(out)
    else:  # with the first process the runtime's own service is gone
        assert "another process is gone" in out or "distributed service" in error
    running[victim].communicate()


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """As if there were another process, of which the fixture is what it sends."""
    other: list[bytes] = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes, "_gathered", lambda text: [text, *other])
    return other


def test_what_the_processes_make_comes_in_their_order(two: list[bytes]):
    two.append(pickle.dumps((True, "b")))
    assert processes.of_everyone(lambda: "a") == ["a", "b"]
    tree = {"a": np.arange(3.0)}
    assert processes.from_first(tree)["a"].tolist() == [0, 1, 2]


def test_an_error_is_everyones(two: list[bytes]):
    two.append(pickle.dumps((False, "OSError: no disk")))
    with pytest.raises(jaxgmm.StreamError, match="process 1 failed: OSError: no disk"):
        processes.of_everyone(lambda: "a")

    def failing() -> str:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        processes.of_everyone(failing)


def test_a_process_that_is_gone(two: list[bytes], monkeypatch: pytest.MonkeyPatch):
    def gone(text: bytes) -> list[bytes]:
        raise RuntimeError("connection reset")

    monkeypatch.setattr(processes, "_gathered", gone)
    with pytest.raises(jaxgmm.StreamError, match=r"process is gone.*connection reset"):
        processes.of_everyone(lambda: "a")


@pytest.mark.usefixtures("two")
def test_svi_is_of_one_process():
    x = np.random.default_rng(0).normal(size=(50, 2))
    prior = jaxgmm.default_prior(x, 2)
    svi = jaxgmm.svi(prior, jaxgmm.natural_gradient(), batch_size=10)
    with pytest.raises(ValueError, match="one process, but there are 2"):
        jaxgmm.fit(jax.random.key(0), jaxgmm.Stream(x), svi)


@pytest.mark.slow
def test_the_example_of_a_cluster_on_this_machine(tmp_path: Path):
    rng = np.random.default_rng(0)
    for i in range(5):
        np.save(tmp_path / f"{i}.npy", rng.normal(size=(400, 3)) + 4 * rng.integers(0, 2, (400, 1)))
    command = ["bash", str(CLUSTER / "local.sh"), "2", str(tmp_path), "2"]
    environment = ENVIRONMENT | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    # only the first process prints
    assert done.stdout.count("2000 rows") == 1
    assert "CONVERGED" in done.stdout
    assert (tmp_path / "mixture.npz").exists()
