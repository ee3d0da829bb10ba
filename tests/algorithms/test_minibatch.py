"""Minibatches: a permutation every epoch, and sums that are unbiased for the whole data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxgmm import Rows
from jaxgmm._algorithms.minibatch import minibatch, permute
from jaxgmm._estep.data import prepare

SIZES = [1, 2, 3, 10, 100, 1000, 4097]


@pytest.mark.parametrize("n", SIZES)
def test_permute_is_a_permutation(n: int):
    for seed in range(5):
        image = permute(jax.random.key(seed), jnp.arange(n, dtype=jnp.int32), n)
        np.testing.assert_array_equal(np.sort(image), np.arange(n))


@pytest.mark.parametrize("n", [10, 100, 1000, 4097])
def test_permute_differs_between_keys_and_is_not_the_identity(n: int):
    index = jnp.arange(n, dtype=jnp.int32)
    images = [np.asarray(permute(jax.random.key(seed), index, n)) for seed in range(5)]
    images.append(np.arange(n))
    for i, a in enumerate(images):
        for b in images[:i]:
            # independent permutations share one image on average
            assert np.sum(a == b) <= 8


def test_permute_of_a_part_is_the_part_of_the_permutation(key: jax.Array):
    index = jnp.arange(1000, dtype=jnp.int32)
    whole = permute(key, index, 1000)
    np.testing.assert_array_equal(permute(key, index[300:340], 1000), whole[300:340])


@pytest.mark.parametrize("n", [2, 3, 10, 37])
def test_every_row_is_equally_likely_at_every_place(n: int):
    keys = jax.random.split(jax.random.key(1), 6000)
    index = jnp.arange(n, dtype=jnp.int32)
    images = np.asarray(jax.jit(jax.vmap(lambda k: permute(k, index, n)))(keys))
    counts = np.stack([np.bincount(images[:, place], minlength=n) for place in range(n)])
    # a doubly stochastic table has (n - 1)^2 degrees of freedom
    square = np.sum((counts - 6000 / n) ** 2) / (6000 / n)
    degrees = (n - 1) ** 2
    # each place is an exact chi-squared; their sum has (n - 1)^2 degrees of freedom if uniform
    assert scipy.stats.chi2(degrees).sf(square * (n - 1) / n) > 1e-4


def test_neighbours_are_not_kept_together():
    n, index = 1000, jnp.arange(1000, dtype=jnp.int32)
    keys = jax.random.split(jax.random.key(2), 50)
    images = np.asarray(jax.vmap(lambda k: permute(k, index, n))(keys), float)
    correlation = [np.corrcoef(row[:-1], row[1:])[0, 1] for row in images]
    # of a random permutation the serial correlation is about -1/n with deviation 1/sqrt(n)
    assert abs(np.mean(correlation) + 1 / n) < 4 / np.sqrt(n * 50)


@pytest.mark.parametrize(("n", "size"), [(10, 3), (100, 32), (64, 16), (4097, 500)])
def test_an_epoch_sees_every_row_once_and_the_next_in_another_order(n: int, size: int, key):
    data = prepare(Rows(jnp.arange(n, dtype=jnp.float64)[:, None]))
    n_batches = -(-n // size)
    orders = []
    for epoch in range(2):
        seen = []
        for i in range(n_batches):
            batch = minibatch(key, data, jnp.asarray(epoch * n_batches + i), size)
            assert batch.x.shape == (size, 1)
            present = np.asarray(batch.weight) > 0
            seen.append(np.asarray(batch.x[:, 0])[present])
            np.testing.assert_allclose(batch.scale, n / present.sum(), rtol=1e-12)
        orders.append(np.concatenate(seen))
        np.testing.assert_array_equal(np.sort(orders[-1]), np.arange(n))
    assert not np.array_equal(*orders)


@pytest.mark.parametrize("weighted", [False, True])
def test_an_epochs_scaled_sums_average_to_the_whole_exactly(weighted: bool, key: jax.Array):
    n, size = 10, 4  # batches of 4, 4 and 2 rows
    values = np.random.default_rng(0).standard_normal(n)
    weight = np.random.default_rng(1).uniform(0, 2, n) if weighted else np.ones(n)
    data = prepare(Rows(jnp.asarray(values)[:, None], jnp.asarray(weight) if weighted else None))
    average = 0.0
    for i in range(3):
        batch = minibatch(key, data, jnp.asarray(i), size)
        # scale = N / rows, so the average with each batch weighted by its rows is the plain sum
        rows = min(size, n - i * size)
        average += rows / n * float(batch.scale * jnp.sum(batch.weight * batch.x[:, 0]))
        np.testing.assert_allclose(batch.total, weight.sum(), rtol=1e-12)
    np.testing.assert_allclose(average, weight @ values, rtol=1e-12)


@pytest.mark.parametrize("number", [0, 2])
def test_every_batch_alone_is_unbiased_the_short_last_one_too(number: int):
    n, size = 10, 4
    values = np.random.default_rng(0).standard_normal(n) + 1
    data = prepare(Rows(jnp.asarray(values)[:, None]))

    def scaled(key: jax.Array) -> jax.Array:
        batch = minibatch(key, data, jnp.asarray(number), size)
        return batch.scale * jnp.sum(batch.weight * batch.x[:, 0])

    draws = np.asarray(jax.vmap(scaled)(jax.random.split(jax.random.key(3), 20_000)))
    rows = min(size, n - number * size)
    # sampling without replacement (Cochran 1977, eq. 2.9)
    variance = n**2 / rows * (1 - rows / n) * values.var(ddof=1)
    assert abs(draws.mean() - values.sum()) < 4 * np.sqrt(variance / len(draws))
    np.testing.assert_allclose(draws.var(), variance, rtol=0.05)


def test_minibatches_keep_the_dtype(dtype: str, key: jax.Array):
    data = prepare(Rows(jnp.ones((10, 2), dtype), jnp.ones(10, dtype)))
    batch = minibatch(key, data, jnp.asarray(2), 4)
    assert {str(a.dtype) for a in jax.tree.leaves(batch)} == {dtype}
