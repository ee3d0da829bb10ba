"""Linear algebra and special functions against NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from conftest import Tolerance
from jax.test_util import check_grads

from jaxgmm._numerics import linalg
from jaxgmm._numerics.arrays import masked_product, safe_divide
from jaxgmm._numerics.special import multivariate_digamma, multivariate_gammaln


def positive_definite(k: int, d: int, seed: int = 0) -> np.ndarray:
    a = np.random.default_rng(seed).standard_normal((k, d, d + 2))
    return a @ a.swapaxes(-1, -2)


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_multivariate_gammaln_equals_scipy(dtype: str, tolerance: Tolerance, dimension: int):
    a = np.array([0.01, 0.5, 3.0, 40.0]) + (dimension - 1) / 2
    expected = scipy.special.multigammaln(a, dimension)
    np.testing.assert_allclose(
        multivariate_gammaln(jnp.asarray(a, dtype), dimension),
        expected,
        rtol=tolerance.value,
        atol=10 * tolerance.value,  # gammaln(0.01 + 0) amplifies the rounding of its argument
    )


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_multivariate_digamma_equals_scipy(dtype: str, tolerance: Tolerance, dimension: int):
    a = np.array([0.5, 3.0, 40.0]) + (dimension - 1) / 2
    expected = sum(scipy.special.digamma(a - i / 2) for i in range(dimension))
    actual = multivariate_digamma(jnp.asarray(a, dtype), dimension)
    np.testing.assert_allclose(actual, expected, rtol=tolerance.value, atol=tolerance.value)


def test_multivariate_digamma_is_the_derivative():
    a = jnp.asarray([2.5, 7.0])
    check_grads(lambda a: jnp.sum(multivariate_gammaln(jnp.asarray(a), 3)), (a,), 1, ["rev"])
    gradient = jax.grad(lambda a: jnp.sum(multivariate_gammaln(a, 3)))(a)
    np.testing.assert_allclose(gradient, multivariate_digamma(a, 3), rtol=1e-12)


def test_factors_reproduce_inverse_and_determinant(dtype: str, tolerance: Tolerance):
    a = positive_definite(3, 4)
    lower = linalg.cholesky(jnp.asarray(a, dtype))
    factor = linalg.inverse_factor(lower)
    inverse = np.linalg.inv(a)
    np.testing.assert_allclose(
        factor @ factor.swapaxes(-1, -2), inverse, atol=tolerance.value * np.abs(inverse).max() * 10
    )
    logdet = np.linalg.slogdet(a)[1]
    np.testing.assert_allclose(2 * linalg.log_det(lower), logdet, rtol=tolerance.value)
    np.testing.assert_allclose(-2 * linalg.log_det(factor), logdet, rtol=tolerance.value)


@pytest.mark.parametrize("transpose", [False, True])
def test_solve_lower(dtype: str, tolerance: Tolerance, transpose: bool):
    lower = np.linalg.cholesky(positive_definite(3, 4))
    b = np.random.default_rng(1).standard_normal((3, 4))
    matrix = lower.swapaxes(-1, -2) if transpose else lower
    actual = linalg.solve_lower(
        jnp.asarray(lower, dtype), jnp.asarray(b, dtype), transpose=transpose
    )
    np.testing.assert_allclose(
        actual, np.linalg.solve(matrix, b[..., None])[..., 0], atol=10 * tolerance.value
    )


def test_cholesky_of_what_is_not_positive_definite_is_nan_there_alone():
    matrices = jnp.stack([jnp.eye(2), -jnp.eye(2), jnp.zeros((2, 2))])
    finite = jnp.isfinite(linalg.diagonal(linalg.cholesky(matrices))).all(-1)
    assert finite.tolist() == [True, False, False]


def test_safe_divide_is_zero_with_zero_gradient_at_zero():
    def ratio(b: jax.Array) -> jax.Array:
        return jnp.sum(safe_divide(jnp.asarray([1.0, 3.0]), b))

    b = jnp.asarray([0.0, 2.0])
    assert float(ratio(b)) == 1.5
    np.testing.assert_array_equal(jax.grad(ratio)(b), [0.0, -0.75])


def test_masked_product_of_zero_and_infinity_is_zero_with_finite_gradients():
    weight, value = jnp.asarray([0.0, 2.0]), jnp.asarray([-jnp.inf, 3.0])
    np.testing.assert_array_equal(masked_product(weight, value), [0.0, 6.0])
    for argument, expected in ((0, [0.0, 3.0]), (1, [0.0, 2.0])):
        gradient = jax.grad(lambda w, v: jnp.sum(masked_product(w, v)), argument)(weight, value)
        np.testing.assert_array_equal(gradient, expected)


def test_products_ask_for_full_precision():
    a = jnp.ones((3, 3), jnp.float32)
    for product in (linalg.matmul, lambda a, b: linalg.einsum("ij,jk->ik", a, b)):
        assert "HIGHEST" in str(jax.make_jaxpr(product)(a, a))


@pytest.mark.parametrize("dimension", [1, 2, 5, 80])
def test_factors_are_those_of_lapack(dimension: int, dtype: str, tolerance: Tolerance):
    root = jax.random.normal(jax.random.key(0), (3, 2, dimension, dimension + 3), dtype)
    a = linalg.matmul(root, jnp.swapaxes(root, -1, -2)) / dimension
    lower = linalg.cholesky(a)
    expected = np.linalg.cholesky(np.asarray(a, np.float64))
    np.testing.assert_allclose(lower, expected, rtol=0, atol=50 * tolerance.value)
    factor = linalg.inverse_factor(lower)
    inverse = np.linalg.inv(np.asarray(lower, np.float64)).swapaxes(-1, -2)
    atol = 50 * tolerance.value * float(np.abs(inverse).max())
    np.testing.assert_allclose(factor, inverse, rtol=0, atol=atol)
    bad = linalg.cholesky(a.at[1].multiply(-1))
    assert np.isnan(linalg.diagonal(bad)[1]).any(-1).all()
    np.testing.assert_array_equal(bad[0], lower[0])


def test_gradients_of_factors():
    root = jax.random.normal(jax.random.key(0), (2, 3, 5), "float64")
    a = linalg.matmul(root, jnp.swapaxes(root, -1, -2))

    def factors(a: jax.Array) -> tuple[jax.Array, jax.Array]:
        lower = linalg.cholesky(linalg.symmetrize(jnp.asarray(a)))
        return lower, linalg.inverse_factor(lower)

    # the second order is compared with differences of the first, which lose five digits
    check_grads(factors, (a,), order=2, modes=("fwd", "rev"), atol=1e-4, rtol=1e-5)
