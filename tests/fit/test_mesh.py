"""Several devices and several processes give what one device gives."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import clusters

import jaxgmm

PROGRAMS = Path(__file__).parents[1] / "programs"
DATA = Path(__file__).parents[2] / "examples" / "data"
KEY = jax.random.key(0)
ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu"}


def run(*cases: str) -> dict[str, Any]:
    """What programs/mesh.py prints: it needs four devices, which this process has not."""
    command = [sys.executable, str(PROGRAMS / "mesh.py"), *cases]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return run("race and moves", "weights", "collectives")


@pytest.mark.parametrize("case", ["race and moves", "weights"])
def test_any_mesh_gives_what_one_device_gives(case: str, found: dict[str, Any]):
    check(case, found[case])


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["race", "lanes", "cavi", "truncated", "svi", "gaps", "gaps, errors and labels"]
)
def test_other_fits_on_a_mesh(case: str):
    check(case, run(case)[case])


def check(case: str, gaps: dict[str, Any]) -> None:
    assert gaps["same status"]
    # lanes on other devices are the same program; rows on other devices are summed in another order
    assert gaps["iterations"] <= (0 if case in ("lanes", "svi") else 1)
    assert gaps["objective"] < 1e-6
    assert gaps["posterior"] < (1e-9 if case in ("lanes", "svi") else 1e-3)
    assert gaps.get("history", 0) < 1e-6


@pytest.mark.slow
def test_rows_may_lie_on_the_mesh_already_and_run_takes_a_mesh_too():
    found = run("placed", "pure")
    assert found["placed"]["objective"] < 1e-6
    assert found["pure"]["objective"] < 1e-6
    assert found["pure"]["history"] < 1e-6


def test_devices_talk_once_a_pass(found: dict[str, Any]):
    # one of the feature pass, one of the whitened pass
    assert found["collectives"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["data", pytest.param("restarts", marks=pytest.mark.slow)])
def test_two_processes_hold_half_each(axis: str):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, str(PROGRAMS / "process.py")]
    processes = [
        subprocess.Popen(
            [*command, str(rank), port, axis],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        for rank in (0, 1)
    ]
    texts = [process.communicate(timeout=300) for process in processes]
    assert [p.returncode for p in processes] == [0, 0], texts[0][1] + texts[1][1]
    a, b = (
        json.loads(
            next(t for t in out.splitlines() if t.startswith("found ")).removeprefix("found ")
        )
        for out, _ in texts
    )
    assert a == b
    assert a["processes"] == 2
    x = np.loadtxt(DATA / "faithful.csv", delimiter=",", skiprows=1)
    alone = jaxgmm.fit(KEY, x, jaxgmm.em(jaxgmm.flat_prior(3, 2)), 16)
    np.testing.assert_allclose(a["objective"], alone.states.objective, rtol=1e-9)
    np.testing.assert_allclose(a["means"], jaxgmm.mixture(alone.best).means, rtol=1e-4)
    if axis == "data":
        assert "NaN or infinity in some row of some process" in a["error"]
        missing = np.random.default_rng(1).uniform(size=x.shape) < 0.1
        for name, noise in (("gaps", None), ("noise", np.full(x.shape, 0.01))):
            rows = jaxgmm.Rows(x, missing=missing, noise=noise)
            algorithm = jaxgmm.em(jaxgmm.flat_prior(3, 2))
            alone = jaxgmm.fit(KEY, rows, algorithm, 4, max_iter=20, moves=False)
            assert a[name] == pytest.approx(float(alone.best.objective), rel=1e-9)


def test_bad_meshes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    x = clusters(n=30)
    em = jaxgmm.em(jaxgmm.flat_prior(2, 2))
    with pytest.raises(ValueError, match=r"must be a jax\.sharding\.Mesh, but it is a int"):
        jaxgmm.fit(KEY, x, em, mesh=2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r'named "restarts" .* but they are \(\'batch\',\)'):
        jaxgmm.fit(KEY, x, em, mesh=jax.make_mesh((1,), ("batch",)))
    svi = jaxgmm.svi(jaxgmm.default_prior(x, 2), optax.adam, 10, learning_rate=0.1)
    one = jax.make_mesh((1,), ("data",))
    assert jnp.isfinite(jaxgmm.fit(KEY, x, svi, max_iter=2, mesh=one).best.objective)
    monkeypatch.setattr("jaxgmm._fit.mesh.size_of", lambda mesh, axis: 2)
    with pytest.raises(ValueError, match='use a mesh without a "data" axis'):
        jaxgmm.fit(KEY, x, svi, mesh=one)
