"""Sufficient statistics are a commutative monoid, whatever the data and however they are cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Tolerance
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_estep import N, assert_stats, naive, potentials, samples, stats_dict

import jaxgmm
from jaxgmm._estep.potentials import logits
from jaxgmm.stats import Potentials, Stats, from_responsibilities, merge

CHEAP = settings(deadline=None, max_examples=25, derandomize=True)


@st.composite
def stats(draw, structure: str) -> Stats:
    """Of real data, since a scatter must belong to some: components may be empty."""
    seed = draw(st.integers(0, 2**32 - 1))
    n = draw(st.integers(0, 4))
    empty = draw(st.integers(0, 3))
    rng = np.random.default_rng(seed)
    k, d = 3, 2
    if n == 0:
        return jaxgmm.stats.empty(k, d, structure, jnp.float64)
    r = rng.dirichlet(np.ones(k), n)
    if empty < k:
        r[:, empty] = 0
    rows = rng.standard_normal((n, d)) * draw(st.sampled_from([1e-3, 1.0, 1e3]))
    count = r.sum(0)
    mean = (r.T @ rows) / np.where(count > 0, count, 1)[:, None]
    residual = rows[:, None] - mean
    scatter = np.einsum("nk,nkd,nke->kde", r, residual, residual)
    scatter = scatter.sum(0) if structure == "tied" else scatter
    scalars = (jnp.asarray(v) for v in rng.standard_normal(2))
    return Stats(*map(jnp.asarray, (count, mean, scatter)), *scalars, structure)


def assert_equal(a: Stats, b: Stats) -> None:
    largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves((a, b)))
    seen = np.asarray(a.count) > 0
    left, right = stats_dict(a), stats_dict(b)
    left["mean"], right["mean"] = left["mean"][seen], right["mean"][seen]
    for name, value in left.items():
        np.testing.assert_allclose(value, right[name], rtol=1e-12, atol=1e-13 * (1 + largest))


@CHEAP
@given(stats("full"), stats("full"))
def test_merge_commutes(a: Stats, b: Stats):
    assert_equal(merge(a, b), merge(b, a))


@CHEAP
@given(stats("tied"), stats("tied"))
def test_tied_merge_commutes(a: Stats, b: Stats):
    assert_equal(merge(a, b), merge(b, a))


@CHEAP
@given(stats("full"), stats("full"), stats("full"))
def test_merge_is_associative(a: Stats, b: Stats, c: Stats):
    assert_equal(merge(merge(a, b), c), merge(a, merge(b, c)))


@CHEAP
@given(stats("tied"), stats("tied"), stats("tied"))
def test_tied_merge_is_associative(a: Stats, b: Stats, c: Stats):
    assert_equal(merge(merge(a, b), c), merge(a, merge(b, c)))


@pytest.mark.parametrize("structure", ["full", "tied"])
def test_empty_stats_are_the_identity(structure: str, dtype: str):
    a = jaxgmm.estep(samples(dtype), potentials(dtype, structure))
    nothing = jaxgmm.stats.empty(4, 3, structure, dtype)
    for merged in (merge(a, nothing), merge(nothing, a)):
        for left, right in zip(jax.tree.leaves(merged), jax.tree.leaves(a), strict=True):
            assert left.dtype == dtype
            np.testing.assert_array_equal(left, right)
    both = merge(nothing, nothing)
    for left, right in zip(jax.tree.leaves(both), jax.tree.leaves(nothing), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("structure", ["full", "tied"])
@pytest.mark.parametrize("n_blocks", [2, 7])
def test_merged_blocks_equal_the_whole(structure, n_blocks, dtype, tolerance: Tolerance):
    x, p = samples(dtype), potentials(dtype, structure)
    total = jaxgmm.stats.empty(4, 3, structure, dtype)
    for rows in np.array_split(np.arange(N), n_blocks):
        total = merge(total, jaxgmm.estep(x[rows], p))
    assert_stats(total, naive(x, p), 2 * tolerance.value)


def test_merge_keeps_the_scatter_of_far_apart_blocks():
    # raw second moments would lose it all: (1e6)^2 eps = 1e5 in float32
    blocks = [jnp.asarray([[c - 1.0], [c + 1.0]], jnp.float32) for c in (1e6, 1e6 + 8)]
    one = jnp.ones((2, 1), jnp.float32)
    merged = merge(*(from_responsibilities(b, one) for b in blocks))
    np.testing.assert_array_equal(merged.scatter, [[[2 + 2 + 4 * 16.0]]])


@pytest.mark.parametrize("structure", ["full", "tied"])
def test_scaled_stats_are_those_of_repeated_data(structure: str, dtype, tolerance: Tolerance):
    x, p = samples(dtype), potentials(dtype, structure)
    scaled = jaxgmm.stats.scale(jaxgmm.estep(x, p), jnp.asarray(3.0, dtype))
    assert_stats(scaled, naive(jnp.concatenate([x] * 3), p), tolerance.value)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("structure", ["full", "tied"])
def test_stats_of_given_responsibilities(structure, weighted, dtype, tolerance: Tolerance):
    x, p = samples(dtype), potentials(dtype, structure)
    weight = jnp.linspace(0, 2, N, dtype=dtype) if weighted else None
    given_r = from_responsibilities(x, soft(x, p), sample_weight=weight, structure=structure)
    expected = naive(x, p, weight) | {"log_evidence": np.zeros(())}
    assert_stats(given_r, expected, tolerance.value)


def soft(x: jax.Array, p: Potentials) -> jax.Array:
    return jax.nn.softmax(logits(x, p), axis=-1)


def test_label_stats_are_those_of_one_hot_responsibilities(dtype: str):
    x = samples(dtype)
    labels = jnp.asarray(np.random.default_rng(0).integers(0, 3, N))
    hard = jaxgmm.stats.from_labels(x, labels, 5)
    soft_stats = from_responsibilities(x, jax.nn.one_hot(labels, 5, dtype=dtype))
    assert_stats(hard, stats_dict(soft_stats), 1e-6)
    assert hard.count[3:].tolist() == [0, 0]
    assert float(hard.entropy) == 0.0


def test_expected_log_joint_and_entropy_make_the_log_evidence(dtype: str, tolerance: Tolerance):
    x, p = samples(dtype), potentials(dtype)
    own = from_responsibilities(x, soft(x, p))  # computed apart from any potentials
    optimum = jaxgmm.stats.expected_log_joint(own, p) + own.entropy
    np.testing.assert_allclose(optimum, naive(x, p)["log_evidence"], rtol=10 * tolerance.value)
    other = from_responsibilities(x, soft(x, potentials(dtype, seed=5)))
    assert float(jaxgmm.stats.expected_log_joint(other, p) + other.entropy) < float(optimum) - 1
