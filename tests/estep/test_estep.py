"""The E-step against a naive one in NumPy float64, which stores the N x K responsibilities."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import DTYPES, Tolerance, parametrize
from naive_estep import N, assert_stats, naive, potentials, samples, stack, stats_dict

import jaxgmm
from jaxgmm._estep.passes.automatic import feature_path_is_safe
from jaxgmm._numerics.blocks import choose_feature_block
from jaxgmm.stats import Potentials, Stats

STRUCTURES = ("full", "tied")
PATHS = ("feature", "whitened", "auto")


def of_each(names: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Any:
    """Rows that end with the structure, in each dtype; tied ones in float32 are slow."""
    rows = [(dtype, *row) for dtype in DTYPES for row in rows]
    return parametrize(
        ("dtype", *names), rows, lambda *row: (row[0], row[-1]) == ("float32", "tied")
    )


structures = of_each(("structure",), [(structure,) for structure in STRUCTURES])


@pytest.mark.parametrize(
    ("block_size", "weighted"), [(None, False), (1000, True), (29, True), (64, True), (64, False)]
)
@pytest.mark.parametrize("path", PATHS)
@structures
def test_equals_naive(structure, path, block_size, weighted, dtype, tolerance: Tolerance):
    assert N % 29 == 0
    assert N % 64 != 0
    x, p = samples(dtype), potentials(dtype, structure)
    weight = None
    if weighted:
        weight = jnp.asarray(np.random.default_rng(2).uniform(0, 3, N), dtype).at[5:9].set(0)
    stats = jaxgmm.estep(x, p, sample_weight=weight, path=path, block_size=block_size)
    assert {str(a.dtype) for a in jax.tree.leaves(stats)} == {dtype}
    assert_stats(stats, naive(x, p, weight), tolerance.value)


@pytest.mark.parametrize("path", PATHS)
@structures
def test_weights_count_rows(structure: str, path: str, dtype: str, tolerance: Tolerance):
    x, p = samples(dtype, 40), potentials(dtype, structure)
    weight = jnp.ones(40, dtype).at[:7].set(2).at[30:].set(0)
    weighted = jaxgmm.estep(x, p, sample_weight=weight, path=path)
    rows = jnp.concatenate([x[:7], x[:30]])
    duplicated = jaxgmm.estep(rows, p, path=path)
    assert_stats(weighted, stats_dict(duplicated), 2 * tolerance.value)
    assert_stats(weighted, naive(rows, p), tolerance.value)


@pytest.mark.parametrize("path", PATHS)
@structures
def test_a_component_of_zero_weight_counts_nothing(structure, path, dtype, tolerance: Tolerance):
    x, p = samples(dtype), potentials(dtype, structure)
    p = jaxgmm.stats.Potentials(p.const.at[1].set(-jnp.inf), p.mean, p.factor, structure)
    stats = jaxgmm.estep(x, p, path=path)
    assert float(stats.count[1]) == 0.0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(stats))
    assert_stats(stats, naive(x, p), tolerance.value)


@pytest.mark.parametrize("path", PATHS)
@of_each(
    ("distance", "structure"),
    [(distance, structure) for distance in (1e3, 1e12) for structure in STRUCTURES],
)
def test_far_points_neither_overflow_nor_underflow(structure, path, distance, dtype: str):
    x, p = samples(dtype), potentials(dtype, structure)
    x = x.at[3].set(distance)
    stats = jaxgmm.estep(x, p, path=path)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(stats))
    expected = naive(x, p)["log_evidence"]
    # the far point alone makes this -distance^2; its rounding is relative
    np.testing.assert_allclose(stats.log_evidence, expected, rtol=1e-5)
    np.testing.assert_allclose(stats.count.sum(), N, rtol=1e-5)


def test_points_on_the_means_of_crisp_clusters_have_no_entropy(dtype: str):
    p = potentials(dtype, spread=1e3)
    stats = jaxgmm.estep(p.mean, p, path="whitened")
    np.testing.assert_allclose(stats.count, 1, rtol=1e-6)
    assert float(stats.entropy) == 0.0
    np.testing.assert_allclose(stats.log_evidence, p.const.sum(), rtol=1e-6)


# --- lanes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@structures
def test_vmap_over_potentials_equals_a_loop(structure, path, dtype, tolerance: Tolerance):
    x = samples(dtype)
    lanes = [potentials(dtype, structure, seed) for seed in range(5)]
    weight = jnp.linspace(0, 2, N, dtype=dtype)

    def estep(p: Potentials) -> Stats:
        return jaxgmm.estep(x, p, sample_weight=weight, path=path, block_size=64)

    together = jax.jit(jax.vmap(estep))(stack(lanes))
    for lane, p in enumerate(lanes):
        one = jax.tree.map(lambda a, i=lane: a[i], together)
        assert_stats(one, naive(x, p, weight), tolerance.value)


@pytest.mark.parametrize("path", PATHS)
def test_vmap_over_weights_and_potentials(path: str, dtype: str, tolerance: Tolerance):
    x = samples(dtype)
    lanes = [potentials(dtype, "full", seed) for seed in range(3)]
    weights = jnp.asarray(np.random.default_rng(4).uniform(0, 2, (3, N)), dtype)

    def estep(p: Potentials, w: jax.Array) -> Stats:
        return jaxgmm.estep(x, p, sample_weight=w, path=path)

    both = jax.vmap(estep)(stack(lanes), weights)
    shared = jax.vmap(estep, (None, 0))(lanes[0], weights)
    for i, w in enumerate(weights):
        assert_stats(
            jax.tree.map(lambda a, i=i: a[i], both), naive(x, lanes[i], w), tolerance.value
        )
        assert_stats(
            jax.tree.map(lambda a, i=i: a[i], shared), naive(x, lanes[0], w), tolerance.value
        )


@of_each(("path", "structure"), [("auto", "full"), ("whitened", "tied")])
def test_nested_vmap_with_weights_of_the_inner_axis(structure, path, dtype, tolerance: Tolerance):
    x = samples(dtype)
    lanes = [[potentials(dtype, structure, 10 * i + j) for j in range(3)] for i in range(2)]
    weights = jnp.asarray(np.random.default_rng(4).uniform(0, 2, (3, N)), dtype)

    def estep(p: Potentials, w: jax.Array) -> Stats:
        return jaxgmm.estep(x, p, sample_weight=w, path=path)

    nested = jax.vmap(jax.vmap(estep), (0, None))(stack([stack(row) for row in lanes]), weights)
    for i in range(2):
        for j in range(3):
            one = jax.tree.map(lambda a, i=i, j=j: a[i, j], nested)
            assert_stats(one, naive(x, lanes[i][j], weights[j]), tolerance.value)


@of_each(("path", "structure"), [("auto", "full"), ("feature", "tied")])
def test_vmap_over_data_sets_and_lanes(structure: str, path: str, dtype, tolerance: Tolerance):
    data = jnp.stack([samples(dtype, seed=seed) for seed in range(2)])
    lanes = [potentials(dtype, structure, seed) for seed in range(3)]

    def estep(x: jax.Array, p: Potentials) -> Stats:
        return jaxgmm.estep(x, p, path=path, block_size=64)

    over_lanes = jax.vmap(estep, (None, 0))
    outer_data = jax.jit(jax.vmap(over_lanes, (0, None)))(data, stack(lanes))
    inner_data = jax.vmap(jax.vmap(estep, (0, None)), (None, 0))(data, stack(lanes))
    paired = jax.vmap(estep)(data, stack(lanes[:2]))
    for i in range(2):
        for j in range(3):
            expected = naive(data[i], lanes[j])
            one = jax.tree.map(lambda a, i=i, j=j: a[i, j], outer_data)
            assert_stats(one, expected, tolerance.value)
            one = jax.tree.map(lambda a, i=i, j=j: a[j, i], inner_data)
            assert_stats(one, expected, tolerance.value)
        one = jax.tree.map(lambda a, i=i: a[i], paired)
        assert_stats(one, naive(data[i], lanes[i]), tolerance.value)


@of_each(
    ("weighted", "structure"),
    [(weighted, structure) for weighted in (False, True) for structure in STRUCTURES],
)
def test_the_wide_layout_of_many_lanes(structure, weighted, dtype, tolerance: Tolerance):
    n_lanes, k = 40, 7
    assert n_lanes * k >= 256
    x = samples(dtype)
    lanes = [potentials(dtype, structure, seed, k) for seed in range(n_lanes)]
    weights = jnp.asarray(np.random.default_rng(4).uniform(0, 2, (n_lanes, N)), dtype)

    def estep(p: Potentials, w: jax.Array) -> Stats:
        weight = w if weighted else None
        return jaxgmm.estep(x, p, sample_weight=weight, path="feature", block_size=64)

    together = jax.jit(jax.vmap(estep))(stack(lanes), weights)
    for lane in (0, 17, n_lanes - 1):
        one = jax.tree.map(lambda a, i=lane: a[i], together)
        expected = naive(x, lanes[lane], weights[lane] if weighted else None)
        assert_stats(one, expected, tolerance.value)


@pytest.mark.parametrize("block_size", [None, 29])
def test_the_layout_of_an_accelerator(block_size: int | None, monkeypatch, dtype, tolerance):
    """Features side by side and logits last, for few of them too."""
    monkeypatch.setattr("jaxgmm._estep.passes.feature.on_cpu", lambda: False)
    monkeypatch.setattr("jaxgmm._numerics.blocks.on_cpu", lambda: False)
    x, p = samples(dtype), potentials(dtype, "full")
    weight = jnp.asarray(np.random.default_rng(2).uniform(0, 3, N), dtype)
    jax.clear_caches()
    stats = jaxgmm.estep(x, p, sample_weight=weight, path="feature", block_size=block_size)
    jax.clear_caches()
    assert_stats(stats, naive(x, p, weight), tolerance.value)


@pytest.mark.parametrize(
    ("n_samples", "n_logits", "block"), [(10_240, 8192, 10_240), (100_000, 8192, 14_336)]
)
def test_blocks_of_an_accelerator_are_as_long_as_each_other(
    n_samples: int, n_logits: int, block: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("jaxgmm._numerics.blocks.on_cpu", lambda: False)
    assert choose_feature_block(n_samples, 15, n_logits, "wide", "float32") == block


def test_a_bad_lane_leaves_the_others_bit_equal(dtype: str):
    x = samples(dtype)
    lanes = stack([potentials(dtype, "full", seed) for seed in range(4)])
    estep = jax.jit(jax.vmap(lambda p: jaxgmm.estep(x, p)))
    good = estep(lanes)
    centre = jnp.mean(x, axis=0)
    far = lanes.mean.at[2].set(1e9)  # its lane needs the careful pass
    unsafe = Potentials(lanes.const[2], far[2], lanes.factor[2], "full")
    assert not bool(feature_path_is_safe(unsafe, centre))
    for mean, const in (
        (lanes.mean.at[2].set(jnp.nan), lanes.const),
        (lanes.mean.at[2, 1].set(jnp.inf), lanes.const),
        (lanes.mean, lanes.const.at[2].set(jnp.nan)),
        (far, lanes.const),
    ):
        bad = estep(Potentials(const, mean, lanes.factor, "full"))
        for before, after in zip(jax.tree.leaves(good), jax.tree.leaves(bad), strict=True):
            for lane in (0, 1, 3):
                np.testing.assert_array_equal(before[lane], after[lane])
        if not bool(jnp.isfinite(mean).all() & jnp.isfinite(const).all()):
            assert not np.isfinite(bad.log_evidence[2])
