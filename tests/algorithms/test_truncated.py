"""Truncated posteriors: the exact algorithm where nothing is left out, a bound elsewhere."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TOLERANCE, also_slow, parametrize

import jaxgmm
from jaxgmm import Algorithm, Prior, State
from jaxgmm._estep.neighbours import best_of, least_of
from jaxgmm._estep.passes.truncated import Kept
from jaxgmm._lane.seeds import many_seeds
from jaxgmm._numerics.grouping import grouped, tiled
from jaxgmm._numerics.pytree import same_bits

K, D, N, C = 12, 3, 150, 2
KEY = jax.random.key(0)
ALGORITHMS: dict[str, Any] = {"em": jaxgmm.em, "cavi": jaxgmm.cavi}
STRUCTURES = ("diag", "full", "tied", "spherical")
PAIRS = [(name, kind) for name in ALGORITHMS for kind in STRUCTURES]


def pairs(*default: tuple[str, str]) -> pytest.MarkDecorator:
    """Every algorithm and structure; those not named are slow, being as many programs again."""
    return parametrize(("name", "kind"), PAIRS, lambda *pair: pair not in default)


def overlapping(dtype: str = "float64", seed: int = 0, n: int = N) -> jax.Array:
    """Clusters near one another, so that what is left out matters."""
    rng = np.random.default_rng(seed)
    centres = 2 * rng.normal(size=(K, D))
    return jnp.asarray(centres[rng.integers(0, K, n)] + rng.normal(size=(n, D)), dtype)


def prior_of(x: jax.Array, kind: str = "diag", **weights: Any) -> Prior:
    return jaxgmm.default_prior(x, K, kind, **weights)


def course(algorithm: Algorithm, x: Any, n_iter: int, n_lanes: int = 1) -> tuple[State, np.ndarray]:
    """The states of lanes after some iterations, and the objectives (T, R) on the way."""

    @jax.jit
    def run(keys: jax.Array, x: Any) -> tuple[State, jax.Array]:
        states = jax.vmap(algorithm.init, (0, None, None))(keys, x, "random_points")
        return jaxgmm.run(algorithm, states, x, max_iter=n_iter, tol=0.0, history_length=n_iter)

    states, history = run(jax.random.split(KEY, n_lanes), x)
    return states, np.asarray(history)


def one(states: State, lane: int = 0) -> State:
    return jax.tree.map(lambda a: a[lane], states)


@pairs(("cavi", "full"))
def test_with_all_components_it_is_the_exact_algorithm(name: str, kind: str):
    x = overlapping()
    prior, make = prior_of(x, kind), ALGORITHMS[name]
    exact, history = course(make(prior), x, 6)
    ours, found = course(make(prior, truncation=K), x, 6)
    np.testing.assert_allclose(found, history, rtol=TOLERANCE["float64"].path)
    for a, b in zip(*map(jax.tree.leaves, (ours.posterior, exact.posterior)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=TOLERANCE["float64"].path)


def free_energy(state: State, before: State, x: np.ndarray, weight: np.ndarray) -> float:
    """The bound by brute force: responsibilities (N, K) that are 0 outside of what rows kept.

    They are those at the posterior before the pass, on the components kept after it.
    """
    logits = np.asarray(jaxgmm._estep.potentials.logits(jnp.asarray(x), before.potentials))
    kept = np.asarray(state.memory.components)
    r = np.zeros_like(logits)
    for n, components in enumerate(kept):
        own = components[components >= 0]
        assert len(own) == len(set(own))
        values = np.exp(logits[n, own] - logits[n, own].max())
        r[n, own] = values / values.sum()
    after = np.asarray(jaxgmm._estep.potentials.logits(jnp.asarray(x), state.potentials))
    entropy = -np.sum(r * np.log(np.where(r > 0, r, 1)), axis=1)
    return float(weight @ (np.sum(r * after, axis=1) + entropy) - state.penalty)


@pairs(("em", "tied"))
def test_the_bound_is_the_free_energy_of_what_rows_keep(name: str, kind: str):
    x = overlapping()
    weight = np.random.default_rng(1).integers(0, 3, N).astype(float)
    rows = jaxgmm.Rows(x, jnp.asarray(weight))
    algorithm = ALGORITHMS[name](prior_of(x, kind), truncation=C)
    step = jax.jit(algorithm.step)
    state = algorithm.init(KEY, rows, "random_points")
    for _ in range(3):
        before, state = state, step(state, rows)
        brute = free_energy(state, before, np.asarray(x), weight)
        np.testing.assert_allclose(state.objective, brute, rtol=1e-9)
    assert state.memory.components.shape == (N, C)


@pytest.mark.parametrize("dtype", ["float64", *also_slow("float32")])
@pytest.mark.parametrize("weights", ["dirichlet", *also_slow("dirichlet_process")])
def test_the_bound_never_goes_down(dtype: str, weights: str, monkeypatch: pytest.MonkeyPatch):
    """Wide searches and narrow ones of so few that some rows keep what is not searched any more."""
    for name, value in {"_WIDE": 4, "_NARROW": 3, "_PER_KEPT": 1}.items():
        monkeypatch.setattr(f"jaxgmm._estep.passes.truncated.{name}", value)
    x = overlapping(dtype)
    prior = prior_of(x, weights=weights)
    algorithm = jaxgmm.cavi(prior, truncation=C)
    states, history = course(algorithm, x, 40, n_lanes=4)
    slack = 1e-9 if dtype == "float64" else 100 * N * D * float(jnp.finfo(dtype).eps)
    assert np.diff(history, axis=0).min() > -slack
    assert (np.asarray(states.status) == jaxgmm.Status.MAX_ITERATIONS).all()
    kept, near = (np.asarray(a) for a in (states.memory.components, states.memory.neighbours))
    assert near.shape == (4, K, 4)
    searched = near[np.arange(4)[:, None], kept[:, :, 0], :3]
    inside = (kept[..., :, None] == searched[..., None, :]).any(axis=-1).all(axis=-1)
    assert inside.mean() < 0.95  # or no row was looked at by itself
    # a lane is what it is alone, of which this is the second
    first = jax.jit(algorithm.init, static_argnums=2)
    state, step = first(jax.random.split(KEY, 4)[1], x, "random_points"), jax.jit(algorithm.step)
    for _ in range(3):
        state = step(state, x)
    np.testing.assert_allclose(state.objective, history[2, 1], rtol=TOLERANCE[dtype].value)
    # whatever a row keeps, and however it was found, is no more than the exact bound
    exact = jaxgmm.elbo(one(states), x)
    assert states.objective[0] <= exact + slack


@pytest.mark.slow
def test_weights_are_repetitions_and_rows_of_weight_zero_do_not_count():
    x = overlapping()
    times = np.random.default_rng(2).integers(0, 3, N)
    algorithm = jaxgmm.em(prior_of(x), truncation=C)
    weighted = algorithm.init(KEY, jaxgmm.Rows(x, jnp.asarray(times, x.dtype)))
    repeated = x[np.repeat(np.arange(N), times)]
    start = algorithm.init(KEY, repeated, {"posterior": weighted.posterior})
    a, b = weighted, start
    for _ in range(4):
        a = algorithm.step(a, jaxgmm.Rows(x, jnp.asarray(times, x.dtype)))
        b = algorithm.step(b, repeated)
    np.testing.assert_allclose(a.objective, b.objective, rtol=1e-10)


def test_a_fit_of_separated_clusters_is_nearly_exact():
    rng = np.random.default_rng(3)
    centres = 20 * rng.normal(size=(K, D))
    x = jnp.asarray(centres[np.arange(N) % K] + rng.normal(size=(N, D)))
    prior = prior_of(x)
    init = {"means": jnp.asarray(centres + rng.normal(size=(K, D)))}
    ours = jaxgmm.fit(KEY, x, jaxgmm.em(prior, truncation=C), init=init)
    assert ours.best.status == jaxgmm.Status.CONVERGED
    exact = jaxgmm.log_prob(ours, x).sum() - ours.best.penalty
    np.testing.assert_allclose(ours.best.objective, exact, rtol=1e-6)
    assert ours.best.objective <= exact + 1e-6
    assert "truncated EM" in ours.summary()
    # all that follows a fit takes its state
    np.testing.assert_array_equal(jaxgmm.predict(ours, x), ours.best.memory.components[:, 0])
    assert jaxgmm.mixture(ours).weights.shape == (K,)


@pytest.mark.slow
def test_a_fit_with_many_components_and_its_file(tmp_path):
    rng = np.random.default_rng(4)
    k, n, d = 600, 6_000, 8  # more components than labels have one-hot rows for
    x = jnp.asarray(2 * rng.normal(size=(k, d))[rng.integers(0, k, n)] + rng.normal(size=(n, d)))
    prior = jaxgmm.default_prior(x, k, "diag")
    result = jaxgmm.fit(KEY, x, jaxgmm.cavi(prior, truncation=4), 4, max_iter=30, racing=True)
    assert not result.failed.any()
    jaxgmm.save(tmp_path / "fit.safetensors", result)
    assert same_bits(jaxgmm.load(tmp_path / "fit.safetensors"), result)
    again, _ = jaxgmm.run(result.algorithm, result.states, x, max_iter=40)
    assert bool((again.objective >= result.states.objective).all())


@pytest.mark.usefixtures("no_type_checker")
def test_what_it_does_not_take():
    x = overlapping()
    prior = prior_of(x)
    for truncation, message in (
        (0, r"truncation must be from 1 to the 12 components of the prior, but it is 0"),
        (13, r"from 1 to the 12 components"),
        (2.0, r"must be an integer, the number of components that a row keeps, or None"),
        (True, r"must be an integer"),
    ):
        for make in ALGORITHMS.values():
            with pytest.raises(ValueError, match=message):
                make(prior, truncation=truncation)
    with pytest.raises(ValueError, match="no background"):
        jaxgmm.cavi(jaxgmm.with_background(prior, x), truncation=2)
    algorithm = jaxgmm.em(prior, truncation=2)
    for rows, what in (
        (jaxgmm.Rows(x, missing=np.zeros(x.shape, bool)), "missing"),
        (jaxgmm.Rows(x, noise=np.ones(N)), "noise"),
        (jaxgmm.Rows(x, labels=np.full(N, -1)), "labels"),
    ):
        with pytest.raises(ValueError, match=f"complete rows without labels.* have {what}"):
            jaxgmm.fit(KEY, rows, algorithm)
        with pytest.raises(ValueError, match=f"complete rows without labels.* have {what}"):
            algorithm.init(KEY, rows)
    with pytest.raises(ValueError, match="without a truncation"):
        jaxgmm.squarem(algorithm)
    with pytest.raises(ValueError, match="without a truncation"):
        jaxgmm.annealed(algorithm)
    with pytest.raises(ValueError, match="without a truncation, but this is truncated EM"):
        jaxgmm.fit(KEY, x, algorithm, moves=True)
    with pytest.raises(ValueError, match="without a truncation"):
        jaxgmm.select(KEY, x, [K], algorithm=lambda k, name: algorithm)
    with pytest.raises(ValueError, match=r"of 150 rows.*but x has 100"):
        algorithm.step(algorithm.init(KEY, x), x[:100])


def test_groups_and_tiles_are_a_counting_sort():
    rng = np.random.default_rng(5)
    for n, k in ((1000, 7), (5000, 2**19)):  # pieces of the last have 4,096 rows
        labels = rng.integers(0, k, n).astype(np.int32)
        groups = jax.jit(grouped, static_argnums=1)(jnp.asarray(labels), k)
        np.testing.assert_array_equal(groups.order, np.argsort(labels, kind="stable"))
        np.testing.assert_array_equal(groups.count, np.bincount(labels, minlength=k))

    @jax.jit
    def tile(labels: jax.Array) -> Any:
        tiles = tiled(labels, 7, 16)
        return tiles.number, tiles.take(jnp.arange(80, dtype=jnp.int32))

    number, (_, rows, there) = jax.tree.map(np.asarray, tile(jnp.asarray(labels[:1000] % 7)))
    np.testing.assert_array_equal(np.sort(rows[there]), np.arange(1000))
    assert number == (there.sum(axis=1) > 0).sum() <= 80


def test_the_best_of_few():
    values = np.random.default_rng(6).normal(size=(9, 50))
    values[3] = -np.inf
    at, top, chosen = best_of(jnp.asarray(values), 4)
    expected = np.argsort(-values, axis=0)[:4]
    np.testing.assert_array_equal(at, expected)
    np.testing.assert_array_equal(top, np.take_along_axis(values, expected, 0))
    assert (np.asarray(chosen).sum(axis=0) == 4).all()
    gaps = np.append(np.abs(values[:, 0]), 0)
    np.testing.assert_array_equal(least_of(jnp.asarray(gaps), 5), np.argsort(gaps)[:5])


def test_many_seeds_are_rows_far_apart():
    rng = np.random.default_rng(7)
    k = 100
    centres = 50 * rng.normal(size=(k, D))
    x = jnp.asarray(centres[np.arange(2000) % k] + rng.normal(size=(2000, D)))
    points = np.asarray(jax.jit(many_seeds, static_argnums=2)(KEY, jaxgmm.Rows(x), k))
    assert (points[:, None] == np.asarray(x)[None]).all(axis=-1).any(axis=-1).all()
    nearest = ((points[:, None] - centres[None]) ** 2).sum(axis=-1).argmin(axis=-1)
    assert len(set(nearest)) > 0.85 * k  # of random points 63


def test_kept_components_are_renamed():
    order = jnp.asarray([2, 0, 1])
    kept = Kept(jnp.asarray([[0, 2], [1, -1]], jnp.int32), jnp.asarray([[0], [1], [2]], jnp.int32))
    new = kept.renamed(order)
    np.testing.assert_array_equal(new.components, [[1, 0], [2, -1]])
    np.testing.assert_array_equal(new.neighbours, [[0], [1], [2]])
