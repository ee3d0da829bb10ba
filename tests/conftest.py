"""Fixtures and settings common to the tests.

64-bit types are enabled and type promotion is strict: a float32 computation in which some constant
is silently float64 is an error here. Annotations are checked when a function is called.
"""

import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

# The suite compiles for most of its time, and runs what it compiled once or twice: so it compiles
# with few optimisations, here and below. XLA_FLAGS= turns this one off. The examples, which it runs
# as a user does, have all of them.
if version("jaxlib").startswith("0.10."):  # later ones do not know the flag
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # workers may share a GPU
os.environ.setdefault("MPLBACKEND", "Agg")
# each worker is a process: OpenBLAS's threads would wait for one another on the same cores
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# and what one of them compiled no other compiles again, nor a process that a test starts: of the
# smallest program this takes a third of the time
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxgmm-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import jax

jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_traceback_in_locations_limit", 0)  # of what is traced, nobody reads them
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "allow")

import jaxtyping
from jaxtyping import install_import_hook

install_import_hook("jaxgmm", "beartype.beartype")


import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

import jaxgmm
from jaxgmm._numerics import programs

# a loop over few samples, too; the examples compile it as a user does
programs._OPTIONS[programs.Effort.LIGHT] = {}

DATA = Path(__file__).parents[1] / "examples" / "data"
# scripts that tests run in processes with devices of their own
collect_ignore_glob = ["programs/*"]


class Tolerance(NamedTuple):
    """How far from an oracle a computation of one dtype may be; the one place that says so."""

    value: float  # of quantities of order 1, by one pass over a few hundred samples
    path: float  # after some iterations of a fit, which amplify rounding


TOLERANCE = {"float32": Tolerance(2e-5, 2e-3), "float64": Tolerance(1e-11, 1e-8)}
DTYPES = tuple(TOLERANCE)


def parametrize(
    names: Sequence[str], rows: Iterable[Sequence[Any]], slow: Callable[..., bool]
) -> pytest.MarkDecorator:
    """`pytest.mark.parametrize` that marks slow the rows of which ``slow(*row)`` says so."""
    marked = [pytest.param(*row, marks=pytest.mark.slow if slow(*row) else ()) for row in rows]
    return pytest.mark.parametrize(names, marked)


def also_slow(*values: Any) -> list[Any]:
    """Values of one parameter whose tests are marked slow."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


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
    items.sort(key=lambda item: (str(item.path), program_of(item)))
    # tracing makes many small objects, and what is imported by now stays: look for garbage rarely
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


CACHE = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


class SameCache:
    """Gives back the cache of programs that a test or an example has changed."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Iterator[None]:
        before = {name: getattr(jax.config, name) for name in CACHE}
        result = yield
        if before != {name: getattr(jax.config, name) for name in CACHE}:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()
        return result


def pytest_configure(config: pytest.Config) -> None:
    # hooks of this file are not called for the examples in the package
    config.pluginmanager.register(SameCache())


@pytest.fixture(params=["float64", *also_slow("float32")])
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


@pytest.fixture
def no_type_checker(monkeypatch: pytest.MonkeyPatch) -> None:
    # users have none: the library's own checks must see what they pass
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def nothing_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    def traced(*args: Any, **kwargs: Any) -> None:
        pytest.fail("an algorithm was traced before its input was checked")

    for name in ("init_on", "step_on"):
        monkeypatch.setattr(jaxgmm.Algorithm, name, traced)
    starts = ("launch._labels", "launch._random_start", "launch._given_start")
    for name in (*starts, "driver._advance"):
        monkeypatch.setattr(f"jaxgmm._fit.{name}", traced)


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
