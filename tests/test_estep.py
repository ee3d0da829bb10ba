"""The E-step against a naive one in NumPy float64, which stores the N x K responsibilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from conftest import Tolerance

import jaxgmm
from jaxgmm import Potentials, Stats
from jaxgmm._kernel import feature_path_is_safe

N, D, K = 203, 3, 4
STRUCTURES = ("full", "tied")
PATHS = ("feature", "whitened", "auto")


def potentials(
    dtype: str = "float64", structure: str = "full", seed: int = 0, k: int = K, spread: float = 2.0
) -> Potentials:
    rng = np.random.default_rng(seed)
    shape = (D, D) if structure == "tied" else (k, D, D)
    factor = np.triu(rng.standard_normal(shape) * 0.4) + np.eye(D)
    mean = rng.standard_normal((k, D)) * spread
    const = rng.standard_normal(k)
    arrays = (jnp.asarray(a, dtype) for a in (const, mean, factor))
    return Potentials(*arrays, structure)


def samples(dtype: str = "float64", n: int = N, seed: int = 1) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal((n, D)) * 2 + 1, dtype)


def stack(trees: list) -> Potentials:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def naive(x: jax.Array, p: Potentials, weight: object = None) -> dict[str, np.ndarray]:
    rows = np.asarray(x, np.float64)
    const, mean, factor = (np.asarray(a, np.float64) for a in (p.const, p.mean, p.factor))
    w = np.ones(len(rows)) if weight is None else np.asarray(weight, np.float64)
    factor = np.broadcast_to(factor, (len(mean), *factor.shape[-2:]))
    whitened = np.einsum("nkd,kde->nke", rows[:, None] - mean, factor)
    logits = const - 0.5 * np.sum(whitened**2, -1)
    lse = scipy.special.logsumexp(logits, axis=1)
    r = np.exp(logits - lse[:, None])
    entropy = scipy.special.entr(r).sum(1) @ w
    r *= w[:, None]
    count = r.sum(0)
    mean_hat = (r.T @ rows) / np.where(count > 0, count, 1)[:, None]
    residual = rows[:, None] - mean_hat
    scatter = np.einsum("nk,nkd,nke->kde", r, residual, residual)
    if p.structure == "tied":
        scatter = scatter.sum(0)
    log_evidence = lse @ w
    return {
        "count": count,
        "mean": mean_hat,
        "scatter": scatter,
        "entropy": entropy,
        "log_evidence": log_evidence,
    }


def assert_stats(actual: Stats, expected: dict[str, np.ndarray], tolerance: float) -> None:
    n = expected["count"].sum()
    seen = expected["count"] > 0
    for name, value in expected.items():
        found = np.asarray(getattr(actual, name))
        if name == "mean":  # of no meaning where nothing was counted
            found, value = found[seen], value[seen]
        # sums over n samples, so their rounding is of order n
        scale = tolerance if name == "mean" else tolerance * n
        np.testing.assert_allclose(found, value, rtol=tolerance, atol=scale, err_msg=name)


@pytest.mark.parametrize(
    ("block_size", "weighted"), [(None, False), (1000, True), (29, True), (64, True), (64, False)]
)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("structure", STRUCTURES)
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
@pytest.mark.parametrize("structure", STRUCTURES)
def test_weights_count_rows(structure: str, path: str, dtype: str, tolerance: Tolerance):
    x, p = samples(dtype, 40), potentials(dtype, structure)
    weight = jnp.ones(40, dtype).at[:7].set(2).at[30:].set(0)
    weighted = jaxgmm.estep(x, p, sample_weight=weight, path=path)
    rows = jnp.concatenate([x[:7], x[:30]])
    duplicated = jaxgmm.estep(rows, p, path=path)
    assert_stats(weighted, stats_dict(duplicated), 2 * tolerance.value)
    assert_stats(weighted, naive(rows, p), tolerance.value)


def stats_dict(stats: Stats) -> dict[str, np.ndarray]:
    names = ("count", "mean", "scatter", "entropy", "log_evidence")
    return {name: np.asarray(getattr(stats, name)) for name in names}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_component_of_zero_weight_counts_nothing(structure, path, dtype, tolerance: Tolerance):
    x, p = samples(dtype), potentials(dtype, structure)
    p = jaxgmm.Potentials(p.const.at[1].set(-jnp.inf), p.mean, p.factor, structure)
    stats = jaxgmm.estep(x, p, path=path)
    assert float(stats.count[1]) == 0.0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(stats))
    assert_stats(stats, naive(x, p), tolerance.value)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("distance", [1e3, 1e12])
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
@pytest.mark.parametrize("structure", STRUCTURES)
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


@pytest.mark.parametrize(("path", "structure"), [("auto", "full"), ("whitened", "tied")])
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


@pytest.mark.parametrize(("path", "structure"), [("auto", "full"), ("feature", "tied")])
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


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("weighted", [False, True])
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
