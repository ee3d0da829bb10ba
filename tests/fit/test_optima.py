"""The default fit finds the best optimum, or one as good as the truth's, whatever the problem."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Status
from jaxgmm._fit.result import Result, resolution_of


class Problem(NamedTuple):
    """Components with means of deviation ``spread``, in units of their own; or a square grid."""

    n_components: int
    n_features: int
    spread: float
    unbalanced: bool = False
    anisotropic: bool = False
    grid: bool = False


PROBLEMS = [
    Problem(3, 2, 2.0),
    Problem(3, 2, 2.0, True, True),
    Problem(4, 2, 3.0, False, True),
    Problem(5, 2, 3.0, True),
    Problem(5, 3, 2.0, False, True),
    Problem(6, 2, 4.0, True, True),
    Problem(8, 4, 2.0, False, True),
    Problem(8, 2, 4.0, True, True),
    Problem(10, 2, 5.0),
    Problem(10, 4, 2.0, True, True),
    Problem(12, 3, 3.0, False, True),
    Problem(12, 2, 6.0, True),
    Problem(15, 2, 6.0, False, True),
    Problem(15, 4, 2.5, True, True),
    Problem(18, 2, 7.0),
    Problem(20, 3, 4.0, True, True),
    Problem(22, 5, 2.5, False, True),
    Problem(25, 2, 8.0, True),
    Problem(25, 2, 4.0, grid=True),
    Problem(100, 2, 4.0, grid=True),
]


def draw(problem: Problem, seed: int) -> tuple[jax.Array, jax.Array]:
    """The points (N, D), and the component of each."""
    rng = np.random.default_rng(seed)
    k, d = problem.n_components, problem.n_features
    n = max(1500, 100 * k) if not problem.grid else 25 * int(k**0.5) * max(int(k**0.5), 20)
    if problem.grid:
        side = np.arange(round(k**0.5))
        means = problem.spread * np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
        weights = np.full(k, 1 / k)
    else:
        means = problem.spread * rng.standard_normal((k, d))
        weights = rng.dirichlet(np.full(k, 1.0 if problem.unbalanced else 20.0))
        weights = np.maximum(weights, 0.02) / np.maximum(weights, 0.02).sum()
    labels = rng.choice(k, n, p=weights)
    x = rng.standard_normal((n, d))
    for j in range(k if problem.anisotropic else 0):
        rotation = np.linalg.qr(rng.standard_normal((d, d)))[0]
        rows = labels == j
        x[rows] = x[rows] @ (rotation * np.exp(rng.uniform(-1, 0.7, d))).T
    return jnp.asarray(x + means[labels]), jnp.asarray(labels)


# Of five keys, how many may end lower. On this problem about one key in ten does, by 0.010 to 0.015
# nats a sample (25 keys, before and after starts took turns): all in all 98 of 100 keep the limit.
MISSED = {13: 2}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(PROBLEMS)))
def test_sixteen_lanes_are_as_good_as_a_start_at_the_truth(number: int):
    """Within 0.01 nats a sample, for five keys of five, or nearly; within 0.02 for all."""
    problem = PROBLEMS[number]
    x, labels = draw(problem, number)
    algorithm = jaxgmm.em(jaxgmm.default_prior(x, problem.n_components))
    truth = jaxgmm.fit(jax.random.key(0), x, algorithm, 1, {"labels": labels}, max_iter=2000).best
    assert truth.status == Status.CONVERGED
    gains = []
    for key in jax.random.split(jax.random.key(number), 5):
        best = jaxgmm.fit(key, x, algorithm, 16, max_iter=2000).best
        gains.append(float(best.objective - truth.objective) / len(x))
    assert sum(gain <= -0.01 for gain in gains) <= MISSED.get(number, 0), gains
    assert min(gains) > -0.02


@pytest.mark.parametrize(
    ("n", "gap", "seed"),
    [
        (10_000, 2.5, 1),
        pytest.param(20_000, 2.5, 0, marks=pytest.mark.slow),
        pytest.param(20_000, 2.3, 0, marks=pytest.mark.slow),
    ],
)
def test_lanes_that_stopped_short_of_one_optimum_are_at_one(n: int, gap: float, seed: int):
    """Overlapping clusters: EM is slow, and lanes stop up to 0.3 nats apart."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 2)) + gap / 2**0.5 * (np.arange(n) >= n // 2)[:, None]
    algorithm = jaxgmm.em(jaxgmm.default_prior(x, 2))
    found = jaxgmm.fit(jax.random.key(seed), x, algorithm, 16, racing=False, moves=False)
    assert len(found.optima(0.01)) > 1
    resolution = resolution_of(1e-6, n)
    result = Result(algorithm, found.states, None, False, (), resolution=resolution)
    assert [lanes for _, lanes in result.optima()] == [16]
    assert "(16 lanes)" in result.summary()
    assert result.optima(0.01) == found.optima(0.01)
    assert resolution_of(0, n) == Result(algorithm, found.states, None, False, ()).resolution
