"""The default prior: of weighted samples, of integers, and far from 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithms import assert_trees_close
from conftest import clusters

import jaxgmm

x = np.asarray(clusters(n=60))
rng = np.random.default_rng(0)
TIMES = rng.integers(0, 4, 60)


@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical", "known"])
def test_whole_weights_are_repetitions_and_those_of_0_absence(covariance: str):
    given = jnp.eye(2) if covariance == "known" else covariance
    # what nobody counts may lie anywhere
    far = np.where(TIMES[:, None] == 0, 1e6, x)
    found = jaxgmm.default_prior(far, 3, given, sample_weight=TIMES)
    expected = jaxgmm.default_prior(np.repeat(x, TIMES, axis=0), 3, given)
    assert_trees_close(found, expected, rtol=1e-10)
    rows = jaxgmm.Rows(jnp.asarray(far), jnp.asarray(TIMES, float))
    assert jaxgmm.default_prior(rows, 3, given) == found


def test_a_column_that_is_constant_where_it_counts_is_flat():
    flat = x.copy()
    flat[TIMES > 0, 1] = 2.5
    found = jaxgmm.default_prior(flat, 3, "diag", sample_weight=TIMES)
    expected = jaxgmm.default_prior(np.repeat(flat, TIMES, axis=0), 3, "diag")
    assert_trees_close(found, expected, rtol=1e-10)


def test_the_scale_of_importance_weights_hardly_matters():
    """Weights that sum to 1, and ones that sum to millions: the divisor stays positive."""
    w = rng.exponential(size=60)
    priors = [jaxgmm.default_prior(x, 3, sample_weight=s * w / w.sum()) for s in (1.0, 30.0, 1e6)]
    for prior in priors[1:]:
        assert_trees_close(prior, priors[0], rtol=1 / 20)
    alone = jaxgmm.default_prior(x[:1], 1, sample_weight=np.asarray([0.3]))
    assert bool(alone.is_proper())
    equal = jaxgmm.default_prior(x, 3, sample_weight=np.full(60, 1 / 60))
    assert_trees_close(equal, jaxgmm.default_prior(x, 3), rtol=1e-10)


def test_64_bits_are_centred_before_they_are_rounded():
    """Also in lists, rows and weighted, and for the evidence's prior of a selection."""
    far, weight = x + 1e7, 1.0 + TIMES
    with jax.enable_x64(False):
        near = jaxgmm.default_prior(x, 2, sample_weight=weight)
        for rows in (far, far.tolist(), jaxgmm.Rows(far)):
            prior = jaxgmm.default_prior(rows, 2, sample_weight=weight)
            assert prior.dtype == jnp.float32
            np.testing.assert_allclose(
                prior.components.scale, near.components.scale, rtol=1e-5, atol=1e-6
            )
        prior = jaxgmm._fit.select._default_algorithm(
            far, jaxgmm._estep.row_checks.check_rows(far), 2, "elbo"
        )(2, "full").prior
        expected = jaxgmm.default_prior(x, 2).components.scale
        np.testing.assert_allclose(prior.components.scale, expected, rtol=1e-5, atol=1e-6)


def refused(what: str, z: jax.Array) -> None:
    n, key = z.shape[1], jax.random.key(0)
    match what:
        case "select":
            jaxgmm.select(key, z, [1, 2], "diag")
        case "flat":
            jaxgmm.fit(key, z, jaxgmm.em(jaxgmm.flat_prior(2, n, dtype=z.dtype)))
        case _:
            jaxgmm.default_prior(z, 2, what)


@pytest.mark.parametrize("what", ["full", "tied", "diag", "spherical", "flat", "select"])
def test_units_that_32_bits_cannot_hold_are_said_of_the_data(what: str):
    """Of variances that underflow, in one feature or in all."""
    words = "of x have a variance of .*float32 cannot hold .* divide x by its standard deviation"
    for sd in ([1e-17, 1e-17], [1, 1e-19], [1e-30, 1e-30]):
        z = jnp.asarray((x - x.mean(0)) * np.asarray(sd), "float32")
        columns = "1" if sd[0] == 1 else "0, 1"
        with pytest.raises(ValueError, match=rf"column\(s\) {columns} {words}"):
            refused(what, z)


def test_a_constant_feature_has_no_units_to_refuse():
    z = jnp.asarray(np.stack([x[:, 0], np.full(60, 1e-30)], 1), "float32")
    assert np.isfinite(jaxgmm.default_prior(z, 2).components.scale).all()
