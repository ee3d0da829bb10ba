"""An update after every batch: the bound never goes down, and the optimum is the plain one's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgmm
from jaxgmm._estep.stats import merge
from jaxgmm._fit.memoized import MemoizedDriver, Sums

KEY = jax.random.key(0)
RNG = np.random.default_rng(1)
CENTRES = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 4.0], [8.0, 2.0]])
X = RNG.normal(size=(1000, 2)) + CENTRES[RNG.choice(5, 1000, p=[0.1, 0.15, 0.05, 0.4, 0.3])]
MEANS = CENTRES + RNG.normal(size=(5, 2))
START = {"parameters": (np.full(5, 0.2), MEANS, np.tile(4 * np.eye(2), (5, 1, 1)))}


def fit(algorithm: Any, source: Any = X, **options: Any) -> jaxgmm.Result:
    stream = jaxgmm.Stream(source, 100)
    return jaxgmm.fit(KEY, stream, algorithm, init=START, tol=1e-8, history=True, **options)


@pytest.mark.parametrize(
    ("make", "weights", "family"),
    [
        (jaxgmm.cavi, "dirichlet_process", "diag"),
        pytest.param(jaxgmm.cavi, "dirichlet", "full", marks=pytest.mark.slow),
        pytest.param(jaxgmm.em, "dirichlet", "full", marks=pytest.mark.slow),
        pytest.param(jaxgmm.em, "dirichlet", "tied", marks=pytest.mark.slow),
        pytest.param(jaxgmm.cavi, "dirichlet_process", "spherical", marks=pytest.mark.slow),
    ],
)
def test_the_bound_never_goes_down_and_ends_at_the_plain_optimum(
    make: Any, weights: str, family: str, monkeypatch: pytest.MonkeyPatch
):
    bounds: list[float] = []
    update = MemoizedDriver._update

    def recorded(self: MemoizedDriver, states: Any, stats: Any) -> Any:
        new = update(self, states, stats)
        bounds.append(float(new.objective[0]))
        return new

    monkeypatch.setattr(MemoizedDriver, "_update", recorded)
    algorithm = make(jaxgmm.default_prior(X, 5, family, weights))
    plain, ours = fit(algorithm, max_iter=300), fit(jaxgmm.memoized(algorithm), max_iter=300)
    assert ours.best.status == plain.best.status == jaxgmm.Status.CONVERGED
    assert int(ours.best.n_iter) < 0.8 * int(plain.best.n_iter)
    # a bound of 2,000 nats, of a thousand summands each of them rounded
    assert np.diff(bounds).min() > -1e-9
    assert len(bounds) >= 10 * (int(ours.best.n_iter) - 1) + 1
    np.testing.assert_allclose(ours.best.objective, plain.best.objective, atol=1e-4)
    # a bound of one pass at the end
    x = jnp.asarray(X)
    again = algorithm.step(algorithm.init(KEY, x, {"state": ours.best}), x)
    np.testing.assert_allclose(ours.best.objective, again.objective, atol=1e-4)
    assert ours.best.objective <= again.objective + 1e-9


def test_a_sum_in_which_parts_are_replaced():
    def stats(seed: int) -> Any:
        x = np.random.default_rng(seed).normal(size=(20, 2))
        r = np.random.default_rng(seed).dirichlet(np.ones(3), 20)
        one = jaxgmm.stats.from_responsibilities(jax.numpy.asarray(x), jax.numpy.asarray(r))
        return jax.tree.map(lambda a: a[None], one)

    sums = Sums(5)
    for number in range(5):
        sums.put(number, stats(number))
    for number in (3, 0, 3):
        sums.put(number, stats(10 + number))
    parts = [stats(i) for i in (10, 1, 2, 13, 4)]
    expected = parts[0]
    for part in parts[1:]:
        expected = jax.vmap(merge)(expected, part)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), sums.total, expected)
    order = np.array([[2, 0, 1]])
    count = np.asarray(sums.total.count)
    sums.reorder(order)
    np.testing.assert_array_equal(sums.total.count, count[:, order[0]])
    sums.put(0, stats(0))
    assert Sums(1).size == 1


def test_batches_must_come_in_the_same_order():
    orders = iter((np.arange(1000), np.arange(1000), np.arange(1000)[::-1]))
    algorithm = jaxgmm.memoized(jaxgmm.cavi(jaxgmm.default_prior(X, 5, "diag")))
    with pytest.raises(jaxgmm.StreamError, match=r"batch 1 of pass 2 holds other rows .* shuffled"):
        fit(algorithm, lambda: iter([X[next(orders)]]))


@pytest.mark.slow
def test_in_memory_it_is_the_plain_algorithm():
    plain = jaxgmm.cavi(jaxgmm.default_prior(X, 5, "diag"))
    ours = jaxgmm.fit(KEY, X, jaxgmm.memoized(plain), init=START, moves=False)
    expected = jaxgmm.fit(KEY, X, plain, init=START, moves=False)
    np.testing.assert_array_equal(ours.best.objective, expected.best.objective)
    assert "memoized CAVI" in ours.summary()


@pytest.mark.usefixtures("no_type_checker")
def test_it_wraps_plain_algorithms_only():
    prior = jaxgmm.default_prior(X, 2)
    for wrong in (jaxgmm.squarem(jaxgmm.em(prior)), jaxgmm.memoized(jaxgmm.em(prior))):
        with pytest.raises(ValueError, match="wrapped already"):
            jaxgmm.memoized(wrong)
    with pytest.raises(ValueError, match=r"memoized wraps the algorithms of jaxgmm\.em"):
        jaxgmm.memoized(jaxgmm.svi(prior, jaxgmm.natural_gradient()))
