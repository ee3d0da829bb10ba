"""Fixtures and settings common to the tests.

64-bit types are enabled and type promotion is strict: a float32 computation in which some constant
is silently float64 is an error here. Annotations are checked when a function is called.
"""

import atexit
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

# The suite compiles for most of its time, and runs what it compiled once or twice: so it compiles
# with few optimisations, here and below. XLA_FLAGS= turns this one off. The examples, which it runs
# as a user does, have all of them.
if version("jaxlib").startswith("0.10."):  # later ones do not know the flag
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # workers may share a GPU
os.environ.setdefault("MPLBACKEND", "Agg")
# each worker is a process: OpenBLAS's threads would wait for one another on the same cores
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# and what one of them compiled no other compiles again, nor a process that a test starts
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxgmm-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import jax

jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "allow")

from jaxtyping import install_import_hook

install_import_hook("jaxgmm", "beartype.beartype")


import jax.numpy as jnp
import numpy as np
import pytest

DATA = Path(__file__).parents[1] / "examples" / "data"
# scripts that tests run in processes with devices of their own
collect_ignore_glob = ["programs/*"]


class Tolerance(NamedTuple):
    """How far from an oracle a computation of one dtype may be; the one place that says so."""

    value: float  # of quantities of order 1, by one pass over a few hundred samples
    path: float  # after some iterations of a fit, which amplify rounding


TOLERANCE = {"float32": Tolerance(2e-5, 2e-3), "float64": Tolerance(1e-11, 1e-8)}


# Rows of the contract table that run by default, besides those of every algorithm with full
# covariances in float64: every family and every kind of weights is in one. The others are marked
# slow, since compiling all their programs takes hours of a core.
DEFAULT_ROWS = {
    ("float64", "cavi", "known", "dirichlet"),
    ("float64", "cavi", "tied", "dirichlet process"),
    ("float64", "cavi", "independent diag", "pitman-yor"),
    ("float64", "map", "diag", "fixed"),
    ("float64", "em", "independent spherical", "dirichlet process"),
    ("float64", "natural expectation", "spherical", "sparse"),
    ("float64", "natural mode", "known", "fixed"),
    ("float64", "svi expectation", "independent spherical", "sparse"),
    ("float64", "svi mode", "tied", "fixed"),
    ("float64", "svi landing", "diag", "pitman-yor"),
    ("float32", "map", "full", "dirichlet"),
    ("float32", "cavi", "full", "dirichlet"),
}
# Models of the other tests that go through all of them
DEFAULT_MODELS = {
    ("full", "dirichlet"),
    ("diag", "pitman-yor"),
    ("tied", "fixed"),
    ("independent spherical", "dirichlet"),
}


def is_slow(item: pytest.Item) -> bool:
    parameters = getattr(item, "callspec", None)
    if parameters is None:
        return False
    values = parameters.params
    if item.path.name == "test_contract.py":
        if "kind" not in values:  # compiles every algorithm
            return (values["family"], values["weights"]) != ("known", "dirichlet")
        row = (values.get("dtype", "float64"), *(values[n] for n in ("kind", "family", "weights")))
        if item.name.startswith("test_lanes_equal") and row[1] in ("svi landing", "svi mode"):
            return True  # two of four whose long programs differ little
        every_kind = row[::2] == ("float64", "full") and row[3] == "dirichlet"
        return not every_kind and row not in DEFAULT_ROWS
    if item.path.name == "test_evidence.py" and "family" in values:
        return (values["family"], values.get("weights", "dirichlet")) not in DEFAULT_MODELS
    if item.path.name == "test_lowering.py":
        return values.get("covariance") == "known" and values.get("name") != "cavi"
    if item.path.name == "test_estep.py":
        return values.get("dtype") == "float32" and "tied" in values.values()
    if item.path.name == "test_squarem.py" and "family" in values:
        return values.get("dtype") == "float32" or values["family"] not in ("tied", "known")
    return False


# Rows of one program: they differ in the numbers of the prior only
SAME_PROGRAM = {"sparse": "dirichlet", "pitman-yor": "dirichlet process", "map": "em"}


def program_of(item: pytest.Item) -> tuple[str, ...]:
    """What the programs of a test of the table depend on: tests that share them run in a row."""
    parameters = getattr(item, "callspec", None)
    if parameters is None or "family" not in parameters.params:
        return ()
    values = parameters.params
    names = (values.get(name, "float64") for name in ("dtype", "family", "weights", "kind"))
    return tuple(SAME_PROGRAM.get(name, name) for name in names)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if is_slow(item):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: (str(item.path), program_of(item)))


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


_last: list[tuple[str, ...]] = []


@pytest.fixture(autouse=True)
def forget_programs(request: pytest.FixtureRequest) -> None:
    """Release compiled programs that no other test will use: a process maps only so much memory."""
    current = (request.node.path.name, *program_of(request.node))
    if _last != [current]:
        jax.clear_caches()
        _last[:] = [current]


@pytest.fixture
def tolerance(dtype: str) -> Tolerance:
    return TOLERANCE[dtype]


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)


@pytest.fixture(scope="session")
def faithful() -> np.ndarray:
    """Old Faithful, 272 eruptions: (N, 2) float64."""
    return np.loadtxt(DATA / "faithful.csv", delimiter=",", skiprows=1)


def clusters(dtype: str = "float64", n: int = 300, seed: int = 0) -> jax.Array:
    """Three overlapping anisotropic clusters in the plane, (n, 2)."""
    rng = np.random.default_rng(seed)
    means = np.array([[0.0, 0.0], [4.0, 1.0], [1.0, 5.0]])
    factors = np.array([[[1.0, 0.0], [0.4, 0.7]], [[0.6, 0.0], [-0.3, 1.2]], [[1.3, 0], [0, 0.5]]])
    labels = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    noise = rng.standard_normal((n, 2))
    return jnp.asarray(means[labels] + np.einsum("nij,nj->ni", factors[labels], noise), dtype)
