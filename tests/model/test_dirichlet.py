"""Dirichlet weights against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from conftest import Tolerance
from jax.test_util import check_grads

from jaxgmm import Dirichlet
from jaxgmm._model.coordinates import constrain, unconstrain
from jaxgmm.views import expected_log_weights

A = np.array([0.7, 2.0, 5.5])
B = np.array([1.5, 0.9, 3.0])


def test_expected_log_weights(dtype: str, tolerance: Tolerance):
    expected = scipy.special.digamma(A) - scipy.special.digamma(A.sum())
    actual = expected_log_weights(jnp.asarray(A, dtype))
    assert actual.dtype == dtype
    np.testing.assert_allclose(actual, expected, rtol=tolerance.value)
    np.testing.assert_array_equal(Dirichlet(jnp.asarray(A, dtype)).expectation(), actual)


def test_expected_log_weights_of_lanes():
    lanes = jnp.asarray(np.stack([A, B]))
    both = expected_log_weights(lanes)
    for row, lane in zip(both, lanes, strict=True):
        np.testing.assert_array_equal(row, expected_log_weights(lane))


def test_expected_log_weights_equal_simulated():
    draws = np.log(np.random.default_rng(0).dirichlet(A + 1, 40_000))
    error = draws.std(0) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(0) - expected_log_weights(jnp.asarray(A + 1))) < 4 * error).all()


def test_kl_equals_simulated(dtype: str):
    draws = np.random.default_rng(1).dirichlet(A, 40_000).T
    draws = np.maximum(draws, 1e-300)
    draws /= draws.sum(0)
    ratio = scipy.stats.dirichlet.logpdf(draws, A) - scipy.stats.dirichlet.logpdf(draws, B)
    kl = float(Dirichlet(jnp.asarray(A, dtype)).kl(Dirichlet(jnp.asarray(B, dtype))))
    assert abs(kl - ratio.mean()) < 4 * ratio.std() / np.sqrt(ratio.size)


def test_kl_of_two_components_equals_the_integral(dtype: str, tolerance: Tolerance):
    q, p = scipy.stats.beta(2.5, 4.0), scipy.stats.beta(1.5, 1.0)
    expected, _ = scipy.integrate.quad(
        lambda t: q.pdf(t) * (q.logpdf(t) - p.logpdf(t)), 0, 1, epsabs=1e-13, epsrel=1e-13
    )
    kl = Dirichlet(jnp.asarray([2.5, 4.0], dtype)).kl(Dirichlet(jnp.asarray([1.5, 1.0], dtype)))
    # the quadrature itself is good to about 1e-12
    np.testing.assert_allclose(kl, expected, rtol=10 * tolerance.value)


def test_kl_is_zero_to_itself_and_positive_otherwise(dtype: str, tolerance: Tolerance):
    rng = np.random.default_rng(2)
    for _ in range(10):
        a, b = (Dirichlet(jnp.asarray(rng.gamma(2.0, 2.0, 4) + 0.1, dtype)) for _ in range(2))
        assert abs(float(a.kl(a))) < 10 * tolerance.value
        assert float(a.kl(b)) > 0


def test_samples_have_the_moments_and_marginals(key: jax.Array, dtype: str):
    q = Dirichlet(jnp.asarray(A, dtype))
    logs = jax.vmap(q.sample)(jax.random.split(key, 20_000))
    assert logs.dtype == dtype
    weights = np.exp(np.asarray(logs, np.float64))
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    exact = scipy.stats.dirichlet(A)
    error = np.sqrt(exact.var() / len(weights))
    assert (np.abs(weights.mean(0) - exact.mean()) < 4 * error).all()
    np.testing.assert_allclose(q.mean(), exact.mean(), rtol=1e-6)
    np.testing.assert_allclose(np.cov(weights.T), exact.cov(), atol=0.03 * exact.var().max())
    for k in range(3):
        marginal = scipy.stats.beta(A[k], A.sum() - A[k])
        assert scipy.stats.kstest(weights[:, k], marginal.cdf).pvalue > 1e-3


def test_samples_of_tiny_concentrations_are_finite_and_so_are_their_gradients(key: jax.Array):
    def draw(a: jax.Array) -> jax.Array:
        return jnp.sum(jnp.exp(Dirichlet(a).sample(key)) * jnp.arange(3.0))

    a = jnp.full((3,), 1e-3)
    assert np.isfinite(Dirichlet(a).sample(key)).all()
    assert np.isfinite(jax.grad(draw)(a)).all()


def test_sample_gradient_is_that_of_the_mean(key: jax.Array):
    # d E[pi_0] / d a, by reparameterised draws and from the closed form
    def first_weight(a: jax.Array, key: jax.Array) -> jax.Array:
        return jnp.exp(Dirichlet(a).sample(key))[0]

    a = jnp.asarray(A + 1)
    draws = jax.vmap(jax.grad(first_weight), (None, 0))(a, jax.random.split(key, 20_000))
    exact = jax.grad(lambda a: Dirichlet(a).mean()[0])(a)
    error = np.std(draws, 0) / np.sqrt(len(draws))
    assert (np.abs(np.mean(draws, 0) - exact) < 4 * error).all()


def test_mode_maximises_the_density(dtype: str, tolerance: Tolerance):
    a = A + 1
    mode = np.exp(np.asarray(Dirichlet(jnp.asarray(a, dtype)).mode(), np.float64))
    np.testing.assert_allclose(mode, (a - 1) / (a - 1).sum(), rtol=tolerance.value)
    mode /= mode.sum()
    top = scipy.stats.dirichlet.logpdf(mode, a)
    rng = np.random.default_rng(3)
    for _ in range(20):
        near = mode * np.exp(0.1 * rng.standard_normal(3))
        assert scipy.stats.dirichlet.logpdf(near / near.sum(), a) < top


def test_mode_of_empty_components_is_minus_infinity_and_of_no_data_uniform(dtype: str):
    mode = Dirichlet(jnp.asarray([1.0, 3.0, 3.0], dtype)).mode()
    assert mode[0] == -jnp.inf
    np.testing.assert_allclose(mode[1:], np.log(0.5), rtol=1e-6)
    np.testing.assert_allclose(Dirichlet(jnp.ones(4, dtype)).mode(), np.log(0.25), rtol=1e-6)


def test_log_prior_is_the_density_relative_to_the_uniform_one(dtype: str, tolerance: Tolerance):
    weights = np.array([0.2, 0.5, 0.3])
    uniform = scipy.stats.dirichlet.logpdf(weights, np.ones(3))
    expected = scipy.stats.dirichlet.logpdf(weights, A) - uniform
    actual = Dirichlet(jnp.asarray(A, dtype)).log_prior(jnp.log(jnp.asarray(weights, dtype)))
    np.testing.assert_allclose(actual, expected, rtol=tolerance.value, atol=tolerance.value)


@pytest.mark.parametrize("k", [1, 2, 7, 64])
def test_log_prior_of_the_flat_one_is_exactly_zero(dtype: str, k: int):
    flat = Dirichlet.flat(k, dtype)
    log_weights = jax.nn.log_softmax(jnp.arange(k, dtype=dtype)).at[0].set(-jnp.inf)
    assert float(flat.log_prior(log_weights)) == 0.0


def test_update_adds_counts_in_one_go_or_in_two(dtype: str, tolerance: Tolerance):
    q = Dirichlet(jnp.asarray(A, dtype))
    first, second = jnp.asarray([1.0, 0, 2], dtype), jnp.asarray([0.5, 3, 0], dtype)
    twice = q.update(first).update(second).concentration
    np.testing.assert_allclose(twice, A + np.array([1.5, 3, 2]), rtol=tolerance.value)
    np.testing.assert_allclose(twice, q.update(first + second).concentration, rtol=1e-6)


def test_interpolate_is_the_weighted_mean(dtype: str, tolerance: Tolerance):
    a, b = Dirichlet(jnp.asarray(A, dtype)), Dirichlet(jnp.asarray(B, dtype))
    actual = a.interpolate(b, jnp.asarray(0.3, dtype)).concentration
    np.testing.assert_allclose(actual, 0.7 * A + 0.3 * B, rtol=tolerance.value)


def test_with_weights_round_trips(dtype: str, tolerance: Tolerance):
    prior, total = Dirichlet(jnp.asarray(A, dtype)), jnp.asarray(100.0, dtype)
    weights = jnp.asarray([0.2, 0.5, 0.3], dtype)
    by_mode = prior.with_weights(weights, total, point=True)
    np.testing.assert_allclose(jnp.exp(by_mode.mode()), weights, rtol=tolerance.value)
    by_mean = prior.with_weights(weights, total, point=False)
    np.testing.assert_allclose(by_mean.mean(), weights, rtol=tolerance.value)
    np.testing.assert_allclose(by_mean.concentration.sum(), 100 + A.sum(), rtol=tolerance.value)


def test_unconstrained_round_trip(dtype: str, tolerance: Tolerance):
    q = Dirichlet(jnp.asarray(A, dtype))
    back = constrain(q, unconstrain(q))
    assert back.concentration.dtype == dtype
    np.testing.assert_allclose(back.concentration, A, rtol=tolerance.value)


def test_gradient_of_kl_in_the_prior_also_of_an_empty_component():
    q = Dirichlet(jnp.asarray([5.0, 1.0, 2.5]))  # the second has no samples

    def kl(prior_concentration: jax.Array) -> jax.Array:
        return q.kl(Dirichlet(jnp.asarray(prior_concentration)))

    check_grads(kl, (jnp.asarray([1.0, 1.0, 0.5]),), order=1, modes=("rev",))
