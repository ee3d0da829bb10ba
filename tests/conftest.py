"""Fixtures and settings common to the tests.

64-bit types are enabled and type promotion is strict: a float32 computation in which some constant
is silently float64 is an error here. Annotations are checked when a function is called.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # workers may share a GPU
os.environ.setdefault("MPLBACKEND", "Agg")
# each worker is a process: OpenBLAS's threads would wait for one another on the same cores
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "allow")

from jaxtyping import install_import_hook

install_import_hook("jaxgmm", "beartype.beartype")


import jax.numpy as jnp
import numpy as np
import pytest

DATA = Path(__file__).parents[1] / "examples" / "data"


class Tolerance(NamedTuple):
    """How far from an oracle a computation of one dtype may be; the one place that says so."""

    value: float  # of quantities of order 1, by one pass over a few hundred samples
    path: float  # after some iterations of a fit, which amplify rounding


TOLERANCE = {"float32": Tolerance(2e-5, 2e-3), "float64": Tolerance(1e-11, 1e-8)}


# Rows of the contract table that run by default; the others are marked slow. Compiling their
# programs takes minutes, and they differ from these in the dtype or in one family only.
DEFAULT_ROWS = {
    ("float64", "full"): None,  # every algorithm
    ("float64", "known"): {"cavi", "natural mode"},
    ("float32", "full"): {"map", "cavi"},
    ("float32", "known"): set(),
}


def is_slow(item: pytest.Item) -> bool:
    parameters = getattr(item, "callspec", None)
    if parameters is None:
        return False
    values = parameters.params
    if item.path.name == "test_contract.py":
        row = (values.get("dtype", "float64"), values.get("covariance"))
        kinds = DEFAULT_ROWS[row]
        if "warm_start" in item.name and values.get("kind") != "cavi":
            return True  # each of these compiles every algorithm
        return kinds is not None and values.get("kind") not in kinds
    if item.path.name == "test_lowering.py":
        return values.get("covariance") == "known" and values.get("name") != "cavi"
    if item.path.name == "test_estep.py":
        return values.get("dtype") == "float32" and "tied" in values.values()
    return False


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if is_slow(item):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", autouse=True)
def forget_programs() -> Iterator[None]:
    """Release a module's compiled programs: a process may map only so much memory."""
    yield
    jax.clear_caches()


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
