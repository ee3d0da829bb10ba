"""`partial_fit`: stepwise EM, one batch after the other."""

import pickle

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from jaxgmm.sklearn import GaussianMixture

RNG = np.random.default_rng(0)
CENTRES = np.array([[0.0, 0.0], [4.0, 1.0], [1.0, 5.0]])
X = RNG.normal(size=(3000, 2)) + CENTRES[RNG.choice(3, 3000, p=[0.5, 0.3, 0.2])]
BATCHES = np.split(X, 15)
REG = 1e-6


def moments(x: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, ...]:
    """Weights, and first and second moments about 0, of a sample under responsibilities."""
    second = np.einsum("nk,ni,nj->kij", r, x, x) / len(x)
    return r.mean(axis=0), r.T @ x / len(x), second


def expected(x: np.ndarray, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray):
    """Moments of a batch under an estimate, and its mean log-likelihood."""
    density = np.stack(
        [
            w * multivariate_normal(m, c).pdf(x)
            for w, m, c in zip(weights, means, covariances, strict=True)
        ],
        axis=1,
    )
    total = density.sum(axis=1)
    return moments(x, density / total[:, None]), np.log(total).mean()


def test_steps_are_those_of_stepwise_em():
    model = GaussianMixture(3, random_state=0).partial_fit(BATCHES[0])
    first = GaussianMixture(3, random_state=0).fit(BATCHES[0])
    np.testing.assert_array_equal(model.means_, first.means_)
    estimate = (first.weights_, first.means_, first.covariances_)
    mean, _ = expected(BATCHES[0], *estimate)
    for t, batch in enumerate(BATCHES[1:4], 2):
        new, bound = expected(batch, *estimate)
        rho = t**-0.7
        mean = tuple((1 - rho) * a + rho * b for a, b in zip(mean, new, strict=True))
        weights, sums, squares = mean
        means = sums / weights[:, None]
        covariances = squares / weights[:, None, None] - means[:, :, None] * means[:, None]
        estimate = (weights, means, covariances + REG * np.eye(2))
        model.partial_fit(batch)
        np.testing.assert_allclose(model.lower_bound_, bound, rtol=1e-9)
        np.testing.assert_allclose(model.weights_, weights, rtol=1e-9)
        np.testing.assert_allclose(model.means_, means, rtol=1e-8)
        np.testing.assert_allclose(model.covariances_, estimate[2], rtol=1e-7)
        assert model.n_iter_ == t
    assert model.to_state().view.point


@pytest.mark.parametrize(
    "covariance_type",
    ["full", *(pytest.param(t, marks=pytest.mark.slow) for t in ("tied", "diag", "spherical"))],
)
def test_many_batches_come_near_to_a_fit_of_all(covariance_type: str):
    model = GaussianMixture(3, covariance_type=covariance_type, random_state=0)
    for batch in BATCHES:
        model.partial_fit(batch)
    whole = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(X)
    # a batch of 200 has a standard error of 0.05 nats a sample
    assert 0 <= whole.score(X) - model.score(X) < 0.01
    again = pickle.loads(pickle.dumps(model)).partial_fit(BATCHES[0])
    np.testing.assert_array_equal(again.means_, model.partial_fit(BATCHES[0]).means_)


@pytest.mark.slow
def test_weights_are_repetitions():
    weight = np.arange(200) % 3
    a = GaussianMixture(2, random_state=0).partial_fit(BATCHES[0])
    b = clone(a).partial_fit(BATCHES[0])
    a.partial_fit(BATCHES[1], sample_weight=weight)
    b.partial_fit(np.repeat(BATCHES[1], weight, axis=0))
    np.testing.assert_allclose(a.means_, b.means_, rtol=1e-9)
    np.testing.assert_allclose(a.covariances_, b.covariances_, rtol=1e-8)


def test_fit_begins_anew_and_bad_batches_are_refused():
    model = GaussianMixture(2, random_state=0)
    with pytest.raises(NotFittedError):
        model.predict(X)
    model.partial_fit(BATCHES[0]).partial_fit(BATCHES[1]).fit(BATCHES[2])
    assert model.converged_
    other = clone(model).partial_fit(BATCHES[2])
    np.testing.assert_array_equal(model.partial_fit(BATCHES[2]).means_, other.means_)
    with pytest.raises(ValueError, match="2 features"):
        other.partial_fit(BATCHES[0][:, :1])
    with pytest.raises(ValueError, match="NaN"):
        other.partial_fit(np.full((3, 2), np.nan))
    means = other.means_
    other.partial_fit(BATCHES[0][:1])  # one sample is enough after the first batch
    assert not np.array_equal(means, other.means_)


def test_an_estimator_with_steps_of_its_own_is_refused():
    class Own(GaussianMixture):
        def _m_step(self, X, log_resp):  # noqa: N803
            return super()._m_step(X, log_resp)

    with pytest.raises(ValueError, match="Own"):
        Own(2).partial_fit(BATCHES[0])
