"""`Rows`: samples with what is known of them, in the place of an array."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import clusters

import jaxgmm
from jaxgmm import Rows

x = clusters(n=80)
WEIGHT = jnp.asarray(np.random.default_rng(0).integers(1, 4, 80).astype(float))
ROWS = Rows(x, WEIGHT)
PRIOR = jaxgmm.default_prior(x, 3)
KEY = jax.random.key(0)


def test_rows_are_an_array_and_its_weights():
    algorithm = jaxgmm.cavi(PRIOR)
    one = jaxgmm.fit(KEY, ROWS, algorithm, 4, moves=False)
    other = jaxgmm.fit(KEY, x, algorithm, 4, sample_weight=WEIGHT, moves=False)
    np.testing.assert_array_equal(one.states.objective, other.states.objective)
    assert jaxgmm.elbo(one.best, ROWS) == jaxgmm.elbo(one.best, x, sample_weight=WEIGHT)
    q = algorithm.view.potentials(one.best.posterior)
    a, b = jaxgmm.estep(ROWS, q), jaxgmm.estep(x, q, sample_weight=WEIGHT)
    np.testing.assert_array_equal(a.scatter, b.scatter)
    np.testing.assert_array_equal(
        jaxgmm.stats.log_evidence(ROWS, q), jaxgmm.stats.log_evidence(x, q, WEIGHT)
    )
    # what weights do not matter to takes them, too
    np.testing.assert_array_equal(jaxgmm.predict(one.best, ROWS), jaxgmm.predict(one.best, x))
    state = algorithm.init(KEY, ROWS)
    stepped = algorithm.step(state, ROWS)
    np.testing.assert_allclose(
        stepped.objective, algorithm.step(state, x, sample_weight=WEIGHT).objective, rtol=1e-12
    )


def test_a_selection_takes_rows():
    one = jaxgmm.select(KEY, ROWS, [1, 2], "spherical")
    other = jaxgmm.select(KEY, x, [1, 2], "spherical", sample_weight=WEIGHT)
    np.testing.assert_array_equal(one.table["bic"], other.table["bic"])


def test_what_rows_say_of_themselves():
    assert (ROWS.n_samples, ROWS.n_features) == x.shape
    assert ROWS.total == WEIGHT.sum()
    assert Rows(x).total == 80
    mean, covariance = ROWS.moments()
    np.testing.assert_allclose(mean, np.average(x, axis=0, weights=WEIGHT), rtol=1e-12)
    counted = np.cov(np.asarray(x).T, fweights=np.asarray(WEIGHT, int))
    np.testing.assert_allclose(covariance, counted, rtol=1e-12)
    np.testing.assert_allclose(ROWS.moments("diag")[1], np.diag(covariance), rtol=1e-12)
    few = ROWS.sample(KEY, 10)
    assert few.x.shape == (10, 2)
    for row, weight in zip(few.x, few.weight, strict=True):
        (i,) = np.flatnonzero((np.asarray(x) == row).all(axis=1))
        assert weight == WEIGHT[i]
    assert ROWS.sample(KEY, 100) is ROWS


@pytest.mark.parametrize("block_size", [7, 80, 100])
def test_blocks_cover_every_row_once(block_size: int):
    def add(carry: jax.Array, block: jax.Array, weight: jax.Array) -> jax.Array:
        return carry + weight[0] @ block

    total = ROWS.blocks(add, jnp.zeros(2), min(block_size, 80))
    np.testing.assert_allclose(total, WEIGHT @ x, rtol=1e-12)


def test_weights_are_given_once():
    with pytest.raises(ValueError, match="give only one"):
        jaxgmm.fit(KEY, ROWS, jaxgmm.cavi(PRIOR), sample_weight=WEIGHT)


def test_rows_are_checked_as_arrays_are():
    with pytest.raises(ValueError, match="rows 3"):
        jaxgmm.fit(KEY, Rows(x.at[3].set(jnp.nan)), jaxgmm.cavi(PRIOR))
    with pytest.raises(ValueError, match="non-negative"):
        jaxgmm.fit(KEY, Rows(x, -WEIGHT), jaxgmm.cavi(PRIOR))


def test_a_start_may_be_a_function():
    def first_rows(key: jax.Array, rows: Rows, n_components: int) -> jax.Array:
        return rows.x[:n_components]

    algorithm = jaxgmm.em(PRIOR)
    one = algorithm.init(KEY, x, first_rows)
    other = algorithm.init(KEY, x, {"means": x[:3]})
    np.testing.assert_allclose(
        one.posterior.components.mean, other.posterior.components.mean, rtol=1e-12
    )
    lanes = jaxgmm.fit(KEY, x, algorithm, 3, first_rows, max_iter=1, moves=False).states
    assert np.ptp(np.asarray(lanes.objective)) < 1e-9
