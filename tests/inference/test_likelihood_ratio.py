"""The likelihood-ratio test: its size, its power, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.mixture import GaussianMixture

import jaxgmm
from jaxgmm._inference.likelihood_ratio import LikelihoodRatioTest
from jaxgmm._lane.state import initial_state

N = 200


def algorithms(k: int = 1, d: int = 1, covariance: str = "full") -> tuple[jaxgmm.EM, jaxgmm.EM]:
    small, large = (jaxgmm.em(jaxgmm.flat_prior(k + i, d, covariance)) for i in (0, 1))
    return small, large


def p_values(gap: float, n_sets: int, seed: int) -> np.ndarray:
    """Of one component against two, on data sets of two clusters so many deviations apart."""
    rng, small_and_large = np.random.default_rng(seed), algorithms()
    found = []
    for i in range(n_sets):
        x = rng.standard_normal((N, 1)) + gap * (np.arange(N) % 2)[:, None]
        test = jaxgmm.likelihood_ratio_test(jax.random.key(i), x, *small_and_large, n_replicates=99)
        assert test.n_failed == 0
        found.append(test.p_value)
    return np.asarray(found)


@pytest.mark.slow
def test_size() -> None:
    p = p_values(0.0, 400, seed=0)
    print("size at 5%:", np.mean(p <= 0.05))
    assert 0.03 <= np.mean(p <= 0.05) <= 0.07
    # and at every other level: p-values of a continuous statistic are uniform on 1/100 .. 1
    assert stats.kstest(p - 0.005, "uniform").pvalue > 0.01


@pytest.mark.slow
def test_power() -> None:
    for gap, least in ((2.0, 0.15), (3.0, 0.9)):
        p = p_values(gap, 100, seed=1)
        print(f"power at 5%, clusters {gap} deviations apart:", np.mean(p <= 0.05))
        assert np.mean(p <= 0.05) > least


@pytest.mark.slow  # the docstring's example runs by default
def test_two_clusters_are_two_and_one_is_one():
    rng, models = np.random.default_rng(0), algorithms()
    options = {"n_replicates": 39, "n_starts": 2}
    one = rng.standard_normal((N, 1))
    for x, two in ((one + 6 * (np.arange(N) % 2)[:, None], True), (one, False)):
        test = jaxgmm.likelihood_ratio_test(jax.random.key(0), x, *models, **options)
        assert (test.p_value == 1 / 40) == two
        assert (test.p_value > 0.05) != two
        if two:
            expected = [GaussianMixture(k, tol=1e-9, reg_covar=0).fit(x).score(x) for k in (1, 2)]
            assert test.statistic == pytest.approx(2 * N * (expected[1] - expected[0]), abs=1e-3)
        assert (test.replicates >= 0).all()
        assert "1 component (full covariance) against 2 components" in test.summary()


def test_the_p_value_counts_the_data_among_the_replicates():
    prior = jaxgmm.flat_prior(1, 1)
    null = initial_state(prior, prior, jaxgmm.views.Mode())

    def test_of(statistic: float, replicates: list[float]) -> LikelihoodRatioTest:
        return LikelihoodRatioTest(statistic, np.asarray(replicates), null, ("a", "b"), 1)

    assert test_of(2.0, [1.0, 2.0, 3.0, 0.0]).p_value == 3 / 5
    assert test_of(9.0, [1.0, 2.0, 3.0, 0.0]).p_value == 1 / 5
    nothing = test_of(np.nan, [1.0])
    assert np.isnan(nothing.p_value)
    assert "All fits of the data failed" in nothing.summary()
    assert "1 replicates failed" in nothing.summary()


@pytest.mark.slow
@pytest.mark.parametrize(("small", "freedom"), [("spherical", 4), ("tied", 3)])
def test_regular_models_have_the_distribution_of_the_books(small: str, freedom: int):
    # clusters that are apart, of one covariance: what the null model fixes is regular there
    x = np.random.default_rng(3).standard_normal((N, 2)) + 6 * (np.arange(N) % 2)[:, None]
    models = [jaxgmm.em(jaxgmm.flat_prior(2, 2, name)) for name in (small, "full")]
    test = jaxgmm.likelihood_ratio_test(jax.random.key(0), x, *models, 399, n_starts=2)
    assert stats.kstest(test.replicates, stats.chi2(freedom).cdf).pvalue > 0.01
    assert test.p_value == pytest.approx(stats.chi2(freedom).sf(test.statistic), abs=0.06)


def test_what_cannot_be_tested_is_refused():
    x, key = np.random.default_rng(0).standard_normal((N, 2)), jax.random.key(0)
    one, two = algorithms(d=2)
    tied = jaxgmm.em(jaxgmm.flat_prior(2, 2, "diag"))
    cavi = jaxgmm.cavi(jaxgmm.default_prior(x, 2))
    test = jaxgmm.likelihood_ratio_test
    for models, message in (
        ((two, one), "does not contain the null model"),
        ((one, one), "does not contain the null model"),
        ((one, tied), "does not contain the null model"),
        ((one, cavi), "point estimates"),
    ):
        with pytest.raises(ValueError, match=message):
            test(key, x, *models)
    with pytest.raises(ValueError, match="rows have weights"):
        test(key, jaxgmm.Rows(jnp.asarray(x), jnp.ones(N)), one, two)
    with pytest.raises(ValueError, match="n_starts"):
        test(key, x, one, two, n_starts=0)
