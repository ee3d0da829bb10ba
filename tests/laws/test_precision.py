"""Rounding of the E-step's two passes where the clusters are small beside their distances."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import also_slow
from naive_estep import naive

import jaxgmm
from jaxgmm._estep.passes import automatic
from jaxgmm._estep.passes.automatic import FEATURE_PATH_ERROR, feature_path_is_safe, relative_spread
from jaxgmm.stats import Potentials

N, D, K = 4000, 8, 4


def scattered(spread: float, structure: str, dtype: str) -> tuple[jax.Array, Potentials]:
    """Clusters of unit standard deviation, ``spread`` apart, and the true potentials."""
    rng = np.random.default_rng(0)
    mean = rng.standard_normal((K, D)) * spread / np.sqrt(D)
    x = mean[rng.integers(K, size=N)] + rng.standard_normal((N, D))
    shape = (D, D) if structure == "tied" else (K, D, D)
    # a rotation: unit deviations in every direction, and nothing is exact in binary
    rotation = np.linalg.qr(rng.standard_normal((D, D)))[0]
    factor = np.broadcast_to(rotation, shape)
    # both precisions start from the float32 numbers, so that only the computation differs
    x, const, mean, factor = (
        jnp.asarray(np.float32(a), dtype) for a in (x, np.zeros(K), mean, factor)
    )
    return x, Potentials(const, mean, factor, structure)


def error_per_sample(x: jax.Array, p: Potentials, path: str) -> float:
    stats = jaxgmm.estep(x, p, path=path)
    return abs(float(stats.log_evidence) - naive(x, p)["log_evidence"]) / N


def is_safe(x: jax.Array, p: Potentials) -> bool:
    return bool(feature_path_is_safe(p, jnp.mean(x, axis=0)))


@pytest.mark.parametrize("structure", ["full", "tied"])
@pytest.mark.parametrize("spread", [1.0, 10.0, 100.0, 1000.0])
def test_float32_agrees_to_a_thousandth_of_a_nat_per_sample(spread: float, structure: str):
    x, p = scattered(spread, structure, "float32")
    assert error_per_sample(x, p, "auto") < 1e-3
    assert error_per_sample(x, p, "whitened") < 1e-3


@pytest.mark.parametrize("structure", ["full", "tied"])
def test_float32_does_not_take_the_feature_path_at_a_thousand(structure: str):
    x, p = scattered(1000.0, structure, "float32")
    assert not is_safe(x, p)
    # what the choice protects from; rounding errors of both signs mostly cancel in the sum
    assert error_per_sample(x, p, "feature") > 1e-3
    assert error_per_sample(x, p, "feature") > 20 * error_per_sample(x, p, "auto")
    taken, careful = jaxgmm.estep(x, p), jaxgmm.estep(x, p, path="whitened")
    for a, b in zip(jax.tree.leaves(taken), jax.tree.leaves(careful), strict=True):
        np.testing.assert_array_equal(a, b)


def test_float32_scatter_at_a_thousand():
    x, p = scattered(1000.0, "full", "float32")
    exact = naive(x, p)["scatter"]

    def error(path: str) -> float:
        scatter = np.asarray(jaxgmm.estep(x, p, path=path).scatter, np.float64)
        return float(np.abs(scatter - exact).max() / np.abs(exact).max())

    assert error("auto") < 1e-4
    assert error("feature") > 1e-2


@pytest.mark.parametrize("structure", ["full", "tied"])
def test_the_fast_path_is_taken_where_it_is_safe(structure: str, monkeypatch: pytest.MonkeyPatch):
    careful = automatic.whitened_lane

    def poisoned(*args: Any) -> Any:
        return jax.tree.map(lambda a: a * jnp.nan, careful(*args))

    monkeypatch.setattr(automatic, "whitened_lane", poisoned)
    for spread, dtype in ((1.0, "float32"), (1000.0, "float64"), (1000.0, "float32")):
        x, p = scattered(spread, structure, dtype)
        # a block size of its own, so that no program from before is used
        taken = jaxgmm.estep(x, p, block_size=61)
        assert is_safe(x, p) == ((spread, dtype) != (1000.0, "float32"))
        assert bool(jnp.all(jnp.isfinite(taken.scatter))) == is_safe(x, p)
    jax.clear_caches()  # no later test must meet the poison


def test_relative_spread_is_the_farthest_mean_in_standard_deviations(dtype: str):
    x, p = scattered(30.0, "full", dtype)
    centre = jnp.mean(x, axis=0)
    p = Potentials(p.const, p.mean, 0.5 * p.factor, "full")
    expected = 0.25 * np.max(np.sum((np.asarray(p.mean) - np.asarray(centre)) ** 2, -1))
    np.testing.assert_allclose(relative_spread(p, centre), expected, rtol=1e-5)


def test_the_rule_is_the_rounding_error_of_the_spread():
    eps = np.finfo(np.float32).eps
    for factor, safe in ((0.99, True), (1.01, False)):
        distance = np.sqrt(factor * FEATURE_PATH_ERROR / eps)
        mean = jnp.asarray([[distance]], jnp.float32)
        p = Potentials(jnp.zeros(1, jnp.float32), mean, jnp.ones((1, 1, 1), jnp.float32), "full")
        assert bool(feature_path_is_safe(p, jnp.zeros(1, jnp.float32))) is safe


def test_nan_potentials_are_never_called_safe():
    x, p = scattered(1.0, "full", "float32")
    assert not is_safe(x, Potentials(p.const, p.mean.at[0, 0].set(jnp.nan), p.factor, "full"))


def test_a_common_offset_of_the_data_costs_nothing():
    x, p = scattered(10.0, "full", "float32")
    shift = jnp.float32(4096.0)
    shifted = x + shift
    moved = Potentials(p.const, p.mean + shift, p.factor, "full")
    assert is_safe(shifted, moved)
    assert error_per_sample(shifted, moved, "feature") < 1e-3


def test_the_log_evidence_of_many_samples_is_summed_with_compensation():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((400_000, 1)), jnp.float32)
    one = jnp.ones(1, jnp.float32)
    p = Potentials(one - 40, one[None] * 0, one[None, None], "full")
    exact = np.sum(-39 - 0.5 * np.asarray(x, np.float64) ** 2)
    for path in ("feature", "whitened"):
        total = float(jaxgmm.estep(x, p, path=path, block_size=128).log_evidence)
        # 3,125 blocks added plainly lose about 1e-5 of it
        assert abs(total - exact) < 2e-7 * abs(exact)


@pytest.mark.parametrize("order", ["float32,float64", *also_slow("float64,float32")])
def test_two_precisions_live_in_one_process(order: str) -> None:
    """An index array that JAX converted under one default must not be met under the other."""
    program = Path(__file__).parents[1] / "programs" / "mixed_precision.py"
    run = subprocess.run(
        [sys.executable, str(program), order], capture_output=True, text=True, timeout=300
    )
    assert run.stdout.split() == ["done"], run.stderr[-2000:]
