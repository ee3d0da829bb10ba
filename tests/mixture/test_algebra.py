"""The algebra of mixtures against numerical integration, closed forms and brute force in NumPy."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from conftest import TOLERANCE
from numpy.testing import assert_allclose
from scipy.integrate import quad
from scipy.stats import multivariate_normal

import jaxgmm
from jaxgmm import Mixture
from jaxgmm._mixture.algebra import (
    affine,
    condition,
    marginal,
    merge_components,
    moments,
    product,
    regress,
)

K, D = 3, 3
VALUES = np.array([[0.3, -0.8], [2.0, 1.0], [-1.0, 40.0]])  # the last far out: weights in logs
MATRIX = np.array([[1.0, -2.0, 0.5], [0.3, 0.0, 1.0]])
OFFSET = np.array([1.0, -3.0])
MEAN, COVARIANCE = np.array([0.5, -1.0, 2.0]), np.diag([0.5, 2.0, 1.0]) + 0.2


def random_mixture(seed: int, k: int = K, d: int = D, dtype: str = "float64") -> Mixture:
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((k, d, d))
    leaves = (
        rng.dirichlet(np.ones(k)),
        2 * rng.standard_normal((k, d)),
        a @ a.swapaxes(1, 2) + 0.3 * np.eye(d),
    )
    return Mixture(*(jnp.asarray(a, dtype) for a in leaves))


def numpy(m: Mixture) -> list[tuple[float, np.ndarray, np.ndarray]]:
    return list(zip(*(np.asarray(a, np.float64) for a in m), strict=True))


def density(m: Mixture) -> Callable[[np.ndarray | float], np.ndarray]:
    """Of (..., D) points, by SciPy."""
    parts = [(w, multivariate_normal(mean, s)) for w, mean, s in numpy(m)]
    return lambda x: sum(w * part.pdf(x) for w, part in parts)


def rows_of(batch: Mixture) -> list[Mixture]:
    return [Mixture(*(a[i] for a in batch)) for i in range(len(batch.weights))]


def integral(function: Callable[[float], object], reach: float = 40) -> float:
    return quad(function, -reach, reach, epsabs=1e-11, limit=400)[0]  # type: ignore[arg-type]


def test_marginal_is_the_integral_of_the_joint():
    m = random_mixture(0)
    joint, part, one = density(m), density(marginal(m, [2, 0])), density(marginal(m, 1))
    for x in (np.array([0.4, -1.0]), np.array([3.0, 1.0])):
        expected = integral(lambda t, x=x: joint(np.array([x[1], t, x[0]])))
        assert_allclose(part(x), expected, rtol=1e-6)
    assert_allclose(integral(one), 1, rtol=1e-6)


def test_conditional_is_the_joint_over_the_marginal():
    m = random_mixture(1)
    joint, batch = density(m), condition(m, [2, 0], VALUES)
    assert batch.covariances.shape == (3, K, 1, 1)
    for a, b in zip(condition(m, [2, 0], VALUES[1]), rows_of(batch)[1], strict=True):
        assert_allclose(a, b, rtol=1e-13)
    for given, one in zip(VALUES, map(density, rows_of(batch)), strict=True):
        assert_allclose(integral(one, 90), 1, rtol=1e-6)

        def at(t: float, given: np.ndarray = given) -> np.ndarray:
            return joint(np.array([given[1], t, given[0]]))

        if abs(given).max() < 10:
            for t in (-1.0, 0.5, 2.0):
                assert_allclose(one(t), at(t) / integral(at), rtol=1e-6)


def test_conditional_weights_do_not_underflow():
    """All densities of the last row are below the smallest float64; their ratios are not."""
    m = random_mixture(1)
    far = condition(m, [0, 2], np.array([3e3, -5e3]))
    log_joint = np.array(
        [
            np.log(w)
            + multivariate_normal(mean[[0, 2]], s[np.ix_([0, 2], [0, 2])]).logpdf([3e3, -5e3])
            for w, mean, s in numpy(m)
        ]
    )
    assert log_joint.max() < -1e4
    assert_allclose(jnp.log(far.weights[log_joint.argmax()]), 0, atol=1e-12)
    # and an empty component stays empty
    empty = m._replace(weights=jnp.asarray([0.5, 0.0, 0.5]))
    assert condition(empty, [0], np.zeros(1)).weights[1] == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_regression_is_the_closed_form(dtype: str):
    """Ghahramani & Jordan 1994, with solves where the library has Cholesky factors."""
    m = random_mixture(2, dtype=dtype)
    mean, covariance = regress(m, [2, 0], jnp.asarray(VALUES, dtype))
    assert {mean.dtype, covariance.dtype} == {jnp.dtype(dtype)}
    b, a = [2, 0], [1]
    for row, value in enumerate(VALUES):
        terms = []
        for w, mu, s in numpy(m):
            gain = np.linalg.solve(s[np.ix_(b, b)], s[np.ix_(b, a)]).T
            log_weight = np.log(w) + multivariate_normal(mu[b], s[np.ix_(b, b)]).logpdf(value)
            terms.append(
                (
                    log_weight,
                    mu[a] + gain @ (value - mu[b]),
                    s[np.ix_(a, a)] - gain @ s[np.ix_(b, a)],
                )
            )
        log_weights, means, covariances = (np.array(t) for t in zip(*terms, strict=True))
        weights = np.exp(log_weights - np.logaddexp.reduce(log_weights))
        expected = weights @ means
        second = np.einsum("k,kij->ij", weights, covariances + means[:, :, None] * means[:, None])
        tolerance = 20 * TOLERANCE[dtype].value
        assert_allclose(mean[row], expected, rtol=tolerance, atol=tolerance)
        total = second - np.outer(expected, expected)
        # the second moment less the squared mean cancels, in the oracle too
        assert_allclose(covariance[row], total, rtol=tolerance, atol=tolerance * abs(second).max())


def test_regression_integrates_the_conditional():
    m = random_mixture(3)
    one = regress(m, [0, 2], VALUES[1])
    conditional = density(condition(m, [0, 2], VALUES[1]))
    mean = integral(lambda t: t * conditional(t))
    square = integral(lambda t: (t - mean) ** 2 * conditional(t))
    assert_allclose(one.mean, [mean], rtol=1e-6)
    assert_allclose(one.covariance, [[square]], rtol=1e-6)


def test_moments_of_draws_and_of_the_parts():
    m = random_mixture(4)
    whole = moments(m)
    second = sum(w * (s + np.outer(mean, mean)) for w, mean, s in numpy(m))
    mean = sum(w * mean for w, mean, _ in numpy(m))
    assert_allclose(whole.mean, mean, rtol=1e-13)
    assert_allclose(whole.covariance, second - np.outer(mean, mean), rtol=1e-12)
    draws = np.asarray(jaxgmm.sample(jax.random.key(0), m, 20_000)[0])
    error = 5 * np.sqrt(np.diag(whole.covariance) / len(draws))
    np.testing.assert_array_less(np.abs(draws.mean(0) - mean), error)


def test_affine_by_a_change_of_variables_and_by_draws():
    m = random_mixture(5)
    square = np.vstack([MATRIX, [[0.0, 1.0, 1.0]]])
    offset = np.append(OFFSET, 0.5)
    image = affine(m, square, offset)
    x = np.array([0.2, -1.0, 0.7])
    # p(A x + b) |det A| = p(x)
    expected = density(m)(x) / abs(np.linalg.det(square))
    assert_allclose(density(image)(square @ x + offset), expected, rtol=1e-11)
    # of fewer rows, the marginal of the square one
    for a, b in zip(affine(m, MATRIX, OFFSET), marginal(image, [0, 1]), strict=True):
        assert_allclose(a, b, rtol=1e-12)
    whole, part = moments(m), moments(affine(m, MATRIX))
    assert_allclose(part.mean, MATRIX @ whole.mean, rtol=1e-12)
    assert_allclose(part.covariance, MATRIX @ whole.covariance @ MATRIX.T, rtol=1e-11)


def test_product_is_the_product_of_the_densities():
    m = random_mixture(6)
    posterior, log_evidence = product(m, MEAN, COVARIANCE)
    assert_allclose(posterior.weights.sum(), 1, rtol=1e-14)
    normal = multivariate_normal(MEAN, COVARIANCE)
    before, after = density(m), density(posterior)
    for x in np.random.default_rng(0).standard_normal((4, D)):
        expected = np.log(before(x)) + normal.logpdf(x) - float(log_evidence)
        assert_allclose(np.log(after(x)), expected, rtol=1e-10)
    one, factor = random_mixture(6, d=1), multivariate_normal(0.7, 0.3)
    before = density(one)
    evidence = integral(lambda t: before(t) * factor.pdf(t))
    found = product(one, np.array([0.7]), np.array([[0.3]]))[1]
    assert_allclose(found, np.log(evidence), rtol=1e-6)


def test_product_with_a_very_wide_and_a_very_narrow_normal():
    """Neither covariance is lost by cancellation."""
    m = random_mixture(7)
    wide, _ = product(m, MEAN, 1e12 * COVARIANCE)
    for a, b in zip(wide, m, strict=True):
        assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    narrow, _ = product(m, MEAN, 1e-12 * COVARIANCE)
    assert_allclose(narrow.covariances, np.broadcast_to(1e-12 * COVARIANCE, (K, D, D)), rtol=1e-9)
    assert_allclose(narrow.means, np.broadcast_to(MEAN, (K, D)), rtol=1e-9)


def runnalls(parts: list[tuple[float, np.ndarray, np.ndarray]], n: int) -> list:
    """Greedy merging as Runnalls 2007 has it, over lists."""

    def together(a: tuple, b: tuple) -> tuple:
        w = a[0] + b[0]
        mean = (a[0] * a[1] + b[0] * b[1]) / w
        spread = [p[0] / w * (p[2] + np.outer(p[1] - mean, p[1] - mean)) for p in (a, b)]
        return w, mean, spread[0] + spread[1]

    def bound(a: tuple, b: tuple) -> float:
        c = together(a, b)
        return 0.5 * sum(
            s * p[0] * np.linalg.slogdet(p[2])[1] for s, p in ((1, c), (-1, a), (-1, b))
        )

    parts = list(parts)
    while len(parts) > n:
        pairs = [(i, j) for j in range(len(parts)) for i in range(j)]
        i, j = min(pairs, key=lambda p: bound(parts[p[0]], parts[p[1]]))
        merged = together(parts[i], parts[j])
        parts = [p for index, p in enumerate(parts) if index not in (i, j)] + [merged]
    return sorted(parts, key=lambda p: p[0])


def test_merging_is_runnalls_greedy_algorithm():
    merge = jax.jit(merge_components, static_argnums=1)
    for n in (7, 4, 1):
        for seed in range(5):
            m = random_mixture(seed, 7, 2)
            ours = sorted(numpy(merge(m, n)), key=lambda p: p[0])
            theirs = runnalls(numpy(m), n)
            assert len(ours) == n
            for a, b in zip(ours, theirs, strict=True):
                for mine, other in zip(a, b, strict=True):
                    assert_allclose(mine, other, rtol=1e-10, atol=1e-12)
            if n == 1:
                whole = moments(m)
                assert_allclose(ours[0][1], whole.mean, rtol=1e-12)
                assert_allclose(ours[0][2], whole.covariance, rtol=1e-12)


SCALARS: dict[str, Callable[[Mixture], jax.Array]] = {
    "marginal": lambda m: jnp.sum(jnp.sin(marginal(m, [2, 0]).covariances)),
    "moments": lambda m: jnp.sum(jnp.sin(moments(m).covariance)),
    "condition": lambda m: sum(jnp.sum(jnp.sin(a)) for a in condition(m, [2, 0], VALUES[:2])),
    "regress": lambda m: jnp.sum(jnp.sin(regress(m, [2, 0], VALUES[:2]).covariance)),
    "affine": lambda m: jnp.sum(jnp.sin(affine(m, MATRIX, OFFSET).covariances)),
    "product": lambda m: (
        product(m, MEAN, COVARIANCE)[1]
        + sum(jnp.sum(jnp.sin(a)) for a in product(m, MEAN, COVARIANCE)[0])
    ),
    "merge": lambda m: sum(jnp.sum(jnp.sin(a) ** 2) for a in merge_components(m, 2)),
}


@pytest.mark.parametrize("name", SCALARS)
def test_under_jit_vmap_and_grad(name: str):
    function = SCALARS[name]
    batch = [random_mixture(seed) for seed in (8, 9)]
    stacked = Mixture(*(jnp.stack(a) for a in zip(*batch, strict=True)))
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(function)))(stacked)
    direction = Mixture(*(a - b for a, b in zip(random_mixture(10), batch[0], strict=True)))
    # along the covariances' and weights' own spaces: symmetric, and with the sum kept
    step = 1e-5

    def at(t: float) -> float:
        return float(
            function(Mixture(*(a + t * d for a, d in zip(batch[0], direction, strict=True))))
        )

    slope = sum(jnp.sum(g[0] * d) for g, d in zip(gradients, direction, strict=True))
    assert_allclose(values[1], function(batch[1]), rtol=1e-12)
    assert_allclose(slope, (at(step) - at(-step)) / (2 * step), rtol=1e-6, atol=1e-8)


def test_gradient_in_the_given_values():
    m, value = random_mixture(11), jnp.asarray([0.3, -0.5])

    def mean(v: jax.Array) -> jax.Array:
        return regress(m, [0, 2], v).mean[0]

    for i, slope in enumerate(jax.grad(mean)(value)):
        e = jnp.zeros(2).at[i].set(1e-6)
        assert_allclose(slope, (mean(value + e) - mean(value - e)) / 2e-6, rtol=1e-7)


GOOD = random_mixture(0)
BAD = {
    "state": (
        lambda: moments(jaxgmm.em(jaxgmm.flat_prior(2, 2))),
        r"Mixture.*EM.*mixture\(result\)",
    ),
    "shape": (lambda: moments(GOOD._replace(weights=jnp.ones(2))), r"\(3,\), \(3, 3\).*\(2,\)"),
    "lanes": (lambda: moments(Mixture(*(a[None] for a in GOOD))), r"jax\.vmap"),
    "dtype": (lambda: moments(GOOD._replace(weights=jnp.ones(3, "float32"))), "float32, float64"),
    "twice": (lambda: marginal(GOOD, [0, 0]), r"distinct integers from 0 to 2.*\[0, 0\]"),
    "beyond": (lambda: marginal(GOOD, [3]), "from 0 to 2"),
    "none": (lambda: marginal(GOOD, []), "at least one"),
    "fraction": (lambda: marginal(GOOD, [0.5]), "distinct integers"),
    "all": (lambda: condition(GOOD, [0, 1, 2], [0.0, 0, 0]), "all 3 features.*one must remain"),
    "width": (lambda: regress(GOOD, [0, 1], [[0.0]]), r"\(2,\) or \(M, 2\).*\(1, 1\)"),
    "matrix": (lambda: affine(GOOD, np.ones((4, 3))), r"E from 1 to 3.*\(4, 3\).*no density"),
    "offset": (lambda: affine(GOOD, MATRIX, [1.0]), r"offset.*\(2,\).*\(1,\)"),
    "mean": (lambda: product(GOOD, [0.0], COVARIANCE), r"\(3,\) and \(3, 3\).*\(1,\)"),
    "covariance": (lambda: product(GOOD, MEAN, -COVARIANCE), "positive definite"),
    "more": (lambda: merge_components(GOOD, 4), "4, but the mixture has only 3"),
    "no components": (lambda: merge_components(GOOD, 0), "at least 1"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(what: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    call, message = BAD[what]
    with pytest.raises(ValueError, match=message):
        call()
