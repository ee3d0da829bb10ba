"""Moves: what a merge and a split do to a mixture, and the optima that they find."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithms import FAMILIES, WEIGHTS, components, data
from conftest import clusters, parametrize
from numpy.testing import assert_allclose

import jaxgmm
from jaxgmm import Prior, Status
from jaxgmm._estep.data import prepare
from jaxgmm._estep.rows import Rows
from jaxgmm._fit.moves import Move, apply, moved_lanes
from jaxgmm._fit.search import _beside, _resting
from jaxgmm._mixture.merging import merge_cost, merged
from jaxgmm._model.estimate import Estimate
from jaxgmm._numerics.programs import Program

K, D = 4, 3


def moments(seed: int = 0) -> Estimate:
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((K, D, D))
    return Estimate(
        jnp.asarray(rng.dirichlet(np.ones(K))),
        jnp.asarray(3 * rng.standard_normal((K, D))),
        jnp.asarray(a @ a.swapaxes(1, 2) + 0.5 * np.eye(D)),
        "full",
    )


def total_moments(m: Estimate) -> tuple[np.ndarray, np.ndarray]:
    """Mean and second moment of the whole mixture."""
    w, mean, covariance = (np.asarray(a) for a in jax.tree.leaves(m))
    second = covariance + mean[:, :, None] * mean[:, None, :]
    return np.einsum("k,kd->d", w, mean), np.einsum("k,kde->de", w, second)


MOVES = [(0, 1, 2), (0, 1, 0), (2, 3, 3), (1, 3, 0), (2, 2, 1), (1, 2, -1)]


@pytest.mark.parametrize("move", MOVES)
def test_moves_keep_the_mean_and_the_covariance_of_the_whole(move: tuple[int, int, int]):
    m = moments()
    if move[0] == move[1]:  # a split into a component that is empty
        m = replace(m, weights=m.weights.at[move[1]].set(0))
    empty = replace(moments(1), weights=jnp.zeros(K))
    new = apply(m, empty, Move(*(jnp.asarray(i) for i in move)))
    assert_allclose(new.weights.sum(), m.weights.sum(), rtol=1e-12)
    for a, b in zip(total_moments(new), total_moments(m), strict=True):
        assert_allclose(a, b, rtol=1e-10, atol=1e-10)
    assert (np.linalg.eigvalsh(np.asarray(new.covariance)) > 0).all()
    i, j, k = move
    changed = {i, j, k} - {-1}
    for c in set(range(K)) - changed:
        for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(m), strict=True):
            np.testing.assert_array_equal(a[c], b[c])
    if k < 0:  # a merge alone leaves the second empty, as the prior has it
        assert float(new.weights[j]) == 0
        np.testing.assert_array_equal(new.means[j], empty.means[j])


def test_halves_lie_along_the_longest_axis():
    m = moments()
    new = apply(m, m, Move(*(jnp.asarray(i) for i in (0, 1, 2))))
    gap = np.asarray(new.means[2] - new.means[1])
    variances, axes = np.linalg.eigh(np.asarray(m.covariance[2]))
    assert abs(gap @ axes[:, -1]) == pytest.approx(2 * 0.8 * np.sqrt(variances[-1]))


def test_merge_cost_is_runnalls_bound():
    m = moments()
    w, _, covariance = (np.asarray(a) for a in jax.tree.leaves(m))
    cost = np.asarray(merge_cost(m))
    for i, j in ((0, 1), (2, 3)):
        weight, _, together = (np.asarray(a) for a in merged(m, jnp.asarray(i), jnp.asarray(j)))
        log_det = np.linalg.slogdet
        expected = 0.5 * (
            weight * log_det(together)[1]
            - w[i] * log_det(covariance[i])[1]
            - w[j] * log_det(covariance[j])[1]
        )
        assert cost[i, j] == pytest.approx(expected)
        assert cost[i, j] > 0


@parametrize(("family",), [(f,) for f in FAMILIES], slow=lambda f: f not in ("full", "known"))
@pytest.mark.parametrize("mode", [True, False])
def test_proposals_are_valid_and_differ(family: str, mode: bool):
    x = data("float64")
    prior = Prior(WEIGHTS["dirichlet"]("float64"), components(family, "float64", proper=True))
    algorithm = jaxgmm.em(prior) if mode else jaxgmm.cavi(prior)
    state = algorithm.init(jax.random.key(0), x)
    best, sizes = jax.tree.map(lambda a: a[None], state), jnp.asarray([prior.n_components])
    for n_ranked in (8, 0):  # by rank, and drawn
        lanes = moved_lanes(
            jax.random.key(1),
            jnp.zeros((1,), jnp.uint32),
            algorithm,
            best,
            sizes,
            prepare(Rows(x)),
            jnp.asarray([n_ranked]),
            n=8,
            grouped=False,
        )
        found = lanes.posterior
        for leaf in jax.tree.leaves(found):
            assert leaf.shape[0] == 8
            assert bool(jnp.all(jnp.isfinite(leaf)))
        assert len(np.unique(np.asarray(found.components.mean).reshape(8, -1), axis=0)) >= 3
        assert bool(jnp.all(jax.vmap(lambda q: q.is_proper())(found)))


@pytest.mark.slow
def test_one_lane_finds_the_optimum_of_old_faithful(faithful: np.ndarray):
    """Of plain fits a fifth do."""
    x = jnp.asarray(faithful)
    algorithm = jaxgmm.em(jaxgmm.flat_prior(3, 2))
    found = {True: 0, False: 0}
    for seed in range(20):
        for moves in found:
            best = jaxgmm.fit(jax.random.key(seed), x, algorithm, 1, moves=moves).best
            assert best.status == Status.CONVERGED
            found[moves] += abs(float(best.objective) + 1114.44) < 0.01
    assert found[True] >= 18
    assert found[False] <= 10


@pytest.mark.slow
def test_sixteen_lanes_find_it_every_time(faithful: np.ndarray):
    x = jnp.asarray(faithful)
    algorithm = jaxgmm.em(jaxgmm.flat_prior(3, 2))
    hits = 0
    for seed in range(100):
        best = jaxgmm.fit(jax.random.key(seed), x, algorithm, 16).best
        hits += abs(float(best.objective) + 1114.4399) < 0.01
    assert hits >= 98


@pytest.mark.slow
def test_births_and_deaths_change_the_number_of_occupied_components():
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])
    x = jnp.asarray(centres[np.arange(200) % 4] + rng.standard_normal((200, 2)))
    prior = jaxgmm.default_prior(x, 1, "full")
    narrow = jax.tree.map(lambda a: jnp.repeat(a, 6, axis=0), prior.components)
    algorithm = jaxgmm.cavi(Prior(jaxgmm.Dirichlet(jnp.full(6, 0.1)), narrow))

    def occupied(labels: np.ndarray, moves: bool) -> int:
        result = jaxgmm.fit(
            jax.random.key(0), x, algorithm, init={"labels": jnp.asarray(labels)}, moves=moves
        )
        return int((np.asarray(jaxgmm.mixture(result.best).weights) > 0.02).sum())

    truth = np.arange(200) % 4
    two = truth // 2  # pairs of clusters in one component: births are needed
    six = np.where((truth < 2) & (rng.random(200) < 0.5), truth + 4, truth)  # halves: deaths
    assert occupied(two, moves=False) == 2
    assert occupied(two, moves=True) == 4
    assert occupied(six, moves=True) == 4


def test_moves_do_nothing_without_convergence(faithful: np.ndarray):
    x = jnp.asarray(faithful)
    algorithm = jaxgmm.em(jaxgmm.flat_prior(3, 2))
    plain, moved = (
        jaxgmm.fit(jax.random.key(0), x, algorithm, 4, tol=0.0, max_iter=30, moves=moves).states
        for moves in (False, True)
    )
    # to rounding: with moves the four lanes are in a batch of the moves' size
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(moved), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_interrupted_moves_lose_nothing(faithful: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    x = jnp.asarray(faithful)
    algorithm = jaxgmm.em(jaxgmm.flat_prior(3, 2))
    plain = jaxgmm.fit(jax.random.key(0), x, algorithm, moves=False)

    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxgmm._fit.search.moved_lanes", Program(interrupt))
    result = jaxgmm.fit(jax.random.key(0), x, algorithm)
    assert result.interrupted
    for a, b in zip(jax.tree.leaves(result.states), jax.tree.leaves(plain.states), strict=True):
        np.testing.assert_array_equal(a, b)


def test_groups_rest_until_one_beside_them_is_better():
    sizes, better = np.array([2, 3, 4, 5]), np.array([False, False, False, True])
    assert _beside(better, sizes).tolist() == [False, False, True, True]
    em = jaxgmm.em(jaxgmm.flat_prior(2, 2))
    x = clusters(n=20)
    states = jax.vmap(em.init, (0, None))(jax.random.split(jax.random.key(0), 4), x)
    resting = _resting(states, np.array([True, False, False, True]))
    final, _ = jaxgmm.run(em, resting, x, max_iter=3, tol=0.0)
    assert final.n_iter.tolist() == [0, 3, 3, 0]
    assert resting.status.dtype == states.status.dtype
