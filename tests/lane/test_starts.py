"""Start points: what each random start is, and what each given one becomes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Tolerance, clusters

import jaxgmm
from jaxgmm import Rows
from jaxgmm._estep.data import Data, prepare
from jaxgmm._fit.launch import random_lanes
from jaxgmm._lane.seeds import parallel_seeds, seeds
from jaxgmm._lane.starts import labels_of_lanes

K = 3
CENTRES = jnp.asarray([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])


@pytest.fixture(scope="module")
def separated() -> jax.Array:
    return CENTRES[jnp.arange(90) % 3] + jax.random.normal(jax.random.key(1), (90, 2))


def seeded(x: jax.Array, spread: bool, n: int = 64) -> np.ndarray:
    keys = jax.random.split(jax.random.key(0), n)
    rows = Rows(x)
    return np.asarray(jax.jit(jax.vmap(lambda k: seeds(k, rows, K, spread=spread)))(keys))


def is_row(points: np.ndarray, x: jax.Array) -> np.ndarray:
    return (points[..., None, :] == np.asarray(x)).all(-1).any(-1)


def n_groups(points: np.ndarray) -> np.ndarray:
    nearest = ((points[..., None, :] - np.asarray(CENTRES)) ** 2).sum(-1).argmin(-1)
    return np.array([len(set(row)) for row in nearest])


def test_seeds_are_rows_of_the_data(separated: jax.Array):
    for spread in (True, False):
        points = seeded(separated, spread)
        assert is_row(points, separated).all()
        assert len(np.unique(points[:, 0], axis=0)) > 10
        for row in points:
            assert len(np.unique(row, axis=0)) == K


def test_spread_seeds_find_separated_groups_and_random_ones_often_do_not(separated: jax.Array):
    assert (n_groups(seeded(separated, spread=True)) == 3).mean() > 0.9
    # three of three by chance: 2 in 9
    assert 0.05 < (n_groups(seeded(separated, spread=False)) == 3).mean() < 0.45


def test_spread_seeds_do_not_depend_on_the_units(separated: jax.Array):
    units = jnp.asarray([1024.0, 1 / 1024])
    np.testing.assert_array_equal(seeded(separated * units, True), seeded(separated, True) * units)


def test_seeds_of_equal_rows_are_finite():
    assert np.isfinite(seeded(jnp.ones((90, 2)), True)).all()


def test_k_means_starts_assign_every_row(separated: jax.Array):
    """One-hot seeds alone would leave components with one sample each."""
    algorithm = jaxgmm.em(jaxgmm.flat_prior(K, 2))
    init = jax.jit(jax.vmap(algorithm.init, (0, None)))
    states = init(jax.random.split(jax.random.key(0), 16), separated)
    weights = jax.vmap(jaxgmm.mixture)(states).weights
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_allclose(np.median(weights, axis=0), 1 / 3, atol=0.01)
    assert bool(jnp.all(states.objective == -jnp.inf))


def test_random_responsibilities_are_near_the_whole(dtype: str):
    x = clusters(dtype)
    algorithm = jaxgmm.em(jaxgmm.flat_prior(K, 2, dtype=dtype))
    init = jax.jit(algorithm.init, static_argnums=2)
    state = init(jax.random.key(0), x, "random_responsibilities")
    weights, means, _ = jaxgmm.mixture(state)
    assert weights.dtype == dtype
    np.testing.assert_allclose(weights, 1 / 3, atol=0.1)
    np.testing.assert_allclose(means, jnp.broadcast_to(x.mean(0), (K, 2)), atol=0.7)
    assert np.ptp(means, axis=0).max() > 1e-3


@pytest.mark.parametrize("covariance", ["full", "known"])
@pytest.mark.parametrize("name", ["em", "cavi"])
def test_parameters_become_the_mixture(
    name: str, covariance: str, dtype: str, tolerance: Tolerance
):
    x = clusters(dtype)
    known = jnp.asarray([[2.0, 0.5], [0.5, 1.0]], dtype)
    prior = jaxgmm.default_prior(x, K, known if covariance == "known" else "full")
    algorithm = jaxgmm.em(prior) if name == "em" else jaxgmm.cavi(prior)
    given = (
        jnp.asarray([0.5, 0.2, 0.3], dtype),
        jnp.asarray([[0.0, 1], [2, 3], [4, 5]], dtype),
        jnp.stack([known, known, known]),
    )
    state = algorithm.init(jax.random.key(0), x, {"parameters": given})
    for ours, value in zip(jaxgmm.mixture(state), given, strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours, value, rtol=tolerance.value)


def test_labels_are_one_hot_responsibilities_and_their_moments():
    x = clusters()
    algorithm = jaxgmm.em(jaxgmm.flat_prior(K, 2))
    labels = jnp.arange(300) % K
    a = algorithm.init(jax.random.key(0), x, {"labels": labels})
    b = algorithm.init(jax.random.key(1), x, {"responsibilities": jax.nn.one_hot(labels, K)})
    for state in (a, b):
        weights, means, covariances = jaxgmm.mixture(state)
        np.testing.assert_allclose(weights, 1 / 3)
        for k in range(K):
            rows = np.asarray(x)[k::K]
            np.testing.assert_allclose(means[k], rows.mean(0), rtol=1e-10)
            np.testing.assert_allclose(covariances[k], np.cov(rows.T, bias=True), rtol=1e-10)


def test_means_are_the_nearest_rows_centres(separated: jax.Array):
    algorithm = jaxgmm.cavi(jaxgmm.default_prior(separated, K))
    state = algorithm.init(jax.random.key(0), separated, {"means": CENTRES + 10})
    for k in range(K):
        expected = separated[k::3].mean(0)  # shrunk by a prior of 0.01 samples
        np.testing.assert_allclose(jaxgmm.mixture(state).means[k], expected, atol=0.02)


def test_a_given_posterior_is_kept():
    x = clusters()
    algorithm = jaxgmm.cavi(jaxgmm.default_prior(x, K))
    given = algorithm.init(jax.random.key(0), x).posterior
    state = algorithm.init(jax.random.key(1), x, {"posterior": given})
    for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(state.posterior), strict=True):
        assert bool(jnp.all(a == b))


def test_init_and_step_inside_a_larger_program():
    """The samples may be a constant of the program that is traced, not only its argument."""
    x = clusters()
    algorithm = jaxgmm.cavi(jaxgmm.default_prior(x, K))
    key = jax.random.key(0)
    objective = jax.jit(lambda key: algorithm.step(algorithm.init(key, x), x).objective)(key)
    start = jax.jit(algorithm.init)(key, x)
    expected = jax.jit(algorithm.step)(start, x).objective
    np.testing.assert_allclose(objective, expected, rtol=1e-10)


def test_parallel_seeds_find_separated_groups(separated: jax.Array):
    keys = jax.random.split(jax.random.key(0), 64)
    rows = Rows(separated)
    points = np.asarray(jax.jit(jax.vmap(lambda k: parallel_seeds(k, rows, K)))(keys))
    assert is_row(points, separated).all()
    assert (n_groups(points) == 3).mean() > 0.95
    units = jnp.asarray([1024.0, 1 / 1024])
    scaled = jax.jit(lambda k: parallel_seeds(k, Rows(separated * units), K))(keys[0])
    np.testing.assert_array_equal(scaled, points[0] * units)


def test_parallel_seeds_take_no_row_without_weight_and_bear_few_rows(separated: jax.Array):
    weight = jnp.where(jnp.arange(90) % 3 == 1, 0.0, 1.0)
    rows = Rows(separated, weight)
    points = jax.jit(lambda k: parallel_seeds(k, rows, 2))(jax.random.key(0))
    assert set((((points[:, None] - CENTRES) ** 2).sum(-1)).argmin(-1).tolist()) == {0, 2}
    few = Rows(separated[:3])
    points = jax.jit(lambda k: parallel_seeds(k, few, K))(jax.random.key(0))
    assert len(np.unique(points, axis=0)) == 3
    state = jaxgmm.em(jaxgmm.default_prior(separated, K)).init(
        jax.random.key(0), separated, "k-means||"
    )
    np.testing.assert_allclose(jaxgmm.mixture(state).weights, 1 / 3, rtol=1e-6)


def random_starts(keys: jax.Array, data: Data, algorithm: jaxgmm.EM, name: str) -> jaxgmm.Prior:
    """The posteriors of lanes at random starts, made as `jaxgmm.fit` makes them."""
    present = jnp.ones((len(keys), K), bool)
    labels = labels_of_lanes(keys, data.rows, K, present, name)
    both = jnp.stack([keys, keys], axis=1)
    return random_lanes(both, keys[0], data, algorithm, labels, None).posterior


def test_mixed_starts_take_turns(separated: jax.Array):
    algorithm, data = jaxgmm.em(jaxgmm.flat_prior(K, 2)), prepare(Rows(separated))
    keys = jax.random.split(jax.random.key(3), 5)

    def starts(name: str, n: int = 5) -> jax.Array:
        made = jax.jit(lambda: random_starts(keys[:n], data, algorithm, name))
        return made().components.mean

    spread, at_random, mixed = map(starts, ("k-means++", "random_points", "mixed"))
    assert (spread != at_random).any(axis=(1, 2)).all()
    np.testing.assert_array_equal(mixed[::2], spread[::2])
    np.testing.assert_array_equal(mixed[1::2], at_random[1::2])
    np.testing.assert_array_equal(starts("mixed", 1), spread[:1])


@pytest.mark.parametrize("name", ["mixed", "k-means||"])
def test_starts_of_many_lanes_take_little_memory(name: str):
    keys = jax.random.split(jax.random.key(0), 512)
    algorithm = jaxgmm.em(jaxgmm.flat_prior(K, 2, dtype="float32"))

    def starts(x: jax.Array) -> jaxgmm.Prior:
        return random_starts(keys, prepare(Rows(x)), algorithm, name)

    shape = jax.ShapeDtypeStruct((200_000, 2), "float32")
    memory = jax.jit(starts).lower(shape).compile().memory_analysis()
    assert memory is not None
    # one number for each row and lane would be 410 MB
    assert memory.temp_size_in_bytes < 200e6


# every field of each is one that a state could share with its algorithm
OWNERS = {
    "em": lambda x: jaxgmm.em(jaxgmm.default_prior(x, K), reg_covar=1e-3),
    "known and fixed": lambda x: jaxgmm.cavi(
        jaxgmm.default_prior(x, K, jnp.eye(2), weights="fixed")
    ),
    "squarem": lambda x: jaxgmm.squarem(jaxgmm.cavi(jaxgmm.default_prior(x, K, "tied"))),
    "svi": lambda x: jaxgmm.svi(
        jaxgmm.default_prior(x, K), jaxgmm.natural_gradient(), 20, average=True
    ),
}


@pytest.mark.parametrize("name", OWNERS)
def test_a_donated_state_leaves_its_algorithm_alone(name: str, separated: jax.Array):
    algorithm = OWNERS[name](separated)
    step = jax.jit(lambda a, state, x: a.step(state, x), donate_argnums=1)
    for _ in range(2):
        state = algorithm.init(jax.random.key(0), separated)
        state = step(algorithm, step(algorithm, state, separated), separated)
        assert int(state.n_iter) == 2
    assert not any(a.is_deleted() for a in jax.tree.leaves(algorithm))
