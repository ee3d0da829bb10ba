"""Rows of weight 0 at the end change no result, and let other numbers of rows share programs."""

import jax
import numpy as np
import pytest
from conftest import clusters
from counting import compiled
from hypothesis import given
from hypothesis import strategies as st

import jaxgmm
from jaxgmm._estep.padded import padded, padded_size

X = np.asarray(clusters(n=80))


@given(st.integers(1, 1 << 24))
def test_sizes_are_few_and_near(n: int):
    size = padded_size(n)
    assert n <= size <= max(32, (2 if n <= 1024 else 1.125) * n)
    assert padded_size(size) == size


@pytest.mark.parametrize("weight", [None, np.linspace(0, 2, 80)], ids=["unweighted", "weighted"])
def test_padded_rows_have_the_same_moments(weight: np.ndarray | None):
    rows = jaxgmm.Rows(jax.device_put(X), None if weight is None else jax.device_put(weight))
    wide = padded(rows)
    assert wide.x.shape == (128, 2)
    assert wide.weight.shape == (128,)
    np.testing.assert_array_equal(wide.x[:80], X)
    assert not np.asarray(wide.weight[80:]).any()
    np.testing.assert_allclose(wide.total, rows.total, rtol=1e-14)
    for mine, theirs in zip(wide.moments(), rows.moments(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)


def test_what_stays_as_it_is():
    whole = jaxgmm.Rows(jax.device_put(np.zeros((64, 2))))
    assert padded(whole) is whole
    placed = jaxgmm.Rows(jax.device_put(X, jax.devices()[0]))
    assert padded(placed) is placed
    many = jaxgmm.Rows(jax.device_put(np.zeros(((1 << 16) + 1, 1))))
    assert padded(many) is many
    assert jax.eval_shape(lambda x: padded(jaxgmm.Rows(x)).x, X).shape == X.shape


def test_other_numbers_of_rows_compile_nothing_and_are_right():
    algorithm = jaxgmm.em(jaxgmm.default_prior(X, 2))

    def all_of(x: np.ndarray) -> tuple:
        prior = jaxgmm.default_prior(x, 2)
        best = jaxgmm.fit(jax.random.key(0), x, jaxgmm.em(prior), moves=False).best
        density = jaxgmm.log_prob(best, x)
        labels, r = jaxgmm.predict(best, x), jaxgmm.responsibilities(best, x)
        return best, density, labels, r, jaxgmm.bic(best, x), jaxgmm.aic(best, x)

    all_of(X)
    compiled.clear()
    x = X[:70]
    best, density, labels, r, bic, aic = all_of(x)
    assert compiled == []
    # the same functions as parts of a larger program, where nothing is padded
    whole = jax.jit(lambda x: (jaxgmm.log_prob(best, x), jaxgmm.responsibilities(best, x)))(x)
    np.testing.assert_allclose(density, whole[0], rtol=1e-12)
    np.testing.assert_allclose(r, whole[1], atol=1e-12)
    np.testing.assert_array_equal(labels, np.argmax(whole[1], axis=1))
    df = best.posterior.n_parameters
    np.testing.assert_allclose(aic, 2 * df - 2 * np.sum(density), rtol=1e-12)
    np.testing.assert_allclose(bic, df * np.log(70) - 2 * np.sum(density), rtol=1e-12)
    # a fixed point of the rows themselves, of the same objective: given starts are not padded
    same = algorithm.with_prior(best.prior)
    again = jaxgmm.fit(jax.random.key(0), x, same, init=best, max_iter=1, tol=0.0).best
    np.testing.assert_allclose(again.objective, best.objective, rtol=1e-6)


def test_a_selection_of_other_numbers_of_rows_compiles_nothing():
    def chosen(x: np.ndarray) -> jaxgmm.Selection:
        return jaxgmm.select(
            jax.random.key(0), x, [1, 2], covariance="diag", criterion="cv", n_folds=2, n_restarts=2
        )

    chosen(X[:40])
    compiled.clear()
    selection = chosen(X[:50])
    assert compiled == []
    # the scores are those of the rows alone: K = 1 of diagonal covariances in closed form
    x = X[:50]
    table = selection.table
    assert table["n_components"][0] == 1
    expected = -0.5 * np.sum(np.log(2 * np.pi * x.var(axis=0)) + 1) * len(x)
    np.testing.assert_allclose(table["log_likelihood"][0], expected, rtol=1e-9)
