"""The options of stochastic inference: divergences, averages, schedules, and when it has ended."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from algorithms import FAMILIES, assert_trees_close, components, data
from conftest import clusters

import jaxgmm
from jaxgmm import Prior, Rows, Status
from jaxgmm._algorithms.monitor import Noisy, Tolerance
from jaxgmm._estep.data import prepare
from jaxgmm._model.views import draw, log_density

# --- sticking the landing ---------------------------------------------------------------------


def one_component(family: str) -> Prior:
    whole = components(family, "float64", proper=True)
    own = [name for name in whole.expected_shapes() if name not in whole.shared]
    first = {name: getattr(whole, name)[:1] for name in own}
    return Prior(jaxgmm.Dirichlet(jnp.ones(1)), type(whole)(**{**vars(whole), **first}))


@functools.partial(jax.jit, static_argnames="n")
def gradients(algorithm: jaxgmm.SVI, state: jaxgmm.State, x: jax.Array, n: int) -> Any:
    """Gradients of the objective at one point, for n draws."""

    def one(key: jax.Array) -> Any:
        def objective(coordinates: Any) -> jax.Array:
            q = algorithm.posterior(coordinates, jnp.asarray(x.shape[0], x.dtype))
            return algorithm.view.objective(key, q, algorithm.prior, prepare(Rows(x)))

        return jax.grad(objective)(state.memory.coordinates)

    return jax.vmap(one)(jax.random.split(jax.random.key(0), n))


def also_slowly(names: list[str], first: str) -> list[Any]:
    """The first by default, since the others compile much the same again."""
    return [n if n == first else pytest.param(n, marks=pytest.mark.slow) for n in names]


CONJUGATE = [name for name in FAMILIES if not name.startswith("independent")]


@pytest.mark.parametrize("family", also_slowly(CONJUGATE, "full"))
def test_sticking_the_landing_has_no_variance_at_the_exact_posterior(family: str):
    """With one component the conjugate update is exact: every draw's gradient is then 0."""
    x, prior = data("float64"), one_component(family)
    update = jaxgmm.cavi(prior)
    exact = jax.jit(update.step)(update.init(jax.random.key(0), x), x).posterior
    largest = {}
    for divergence in ("closed_form", "sampled", "sticking_the_landing"):
        algorithm = jaxgmm.svi(prior, optax.sgd, learning_rate=0.0, divergence=divergence)
        state = algorithm.init(jax.random.key(0), x, {"posterior": exact})
        found = gradients(algorithm, state, x, 16)
        largest[divergence] = max(float(jnp.abs(a).max()) for a in jax.tree.leaves(found))
    assert largest["sticking_the_landing"] < 1e-9
    assert largest["closed_form"] > 0.1
    assert largest["sampled"] > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    "divergence", also_slowly(["sampled", "sticking_the_landing"], "sticking_the_landing")
)
def test_estimators_of_the_gradient_agree_on_average(divergence: Any):
    x = clusters(n=60)
    prior = jaxgmm.default_prior(x, 2, "diag")
    start = jaxgmm.fit(jax.random.key(0), x, jaxgmm.cavi(prior), max_iter=3).best.posterior
    found = []
    for name in ("closed_form", divergence):
        algorithm = jaxgmm.svi(prior, optax.sgd, learning_rate=0.0, divergence=name)
        state = algorithm.init(jax.random.key(0), x, {"posterior": start})
        found.append(gradients(algorithm, state, x, 4000))
    for a, b in zip(*(jax.tree.leaves(tree) for tree in found), strict=True):
        # the same draws in both, so that their differences have errors of their own
        error = (a - b).std(axis=0) / np.sqrt(4000)
        assert (np.abs((a - b).mean(axis=0)) < 5 * error + 1e-10).all()
        assert np.abs(a.mean(axis=0)).max() > 0.01


# --- no prior: the divergence is minus the entropy --------------------------------------------


def flat_in_one_dimension(k: int) -> Prior:
    """Flat over means, standard deviations and weights."""
    zeros = jnp.zeros((k, 1))
    flat = jaxgmm.IndependentNormalGamma(zeros, zeros, jnp.full(k, -0.5), jnp.zeros(k))
    return Prior(jaxgmm.Dirichlet(jnp.ones(k)), flat)


def two_groups() -> jax.Array:
    rng = np.random.default_rng(0)
    return jnp.asarray(np.concatenate([rng.normal(1, 1, 100), rng.normal(7, 2, 100)])[:, None])


def climb(objective: Callable[[jaxgmm.stats.Potentials], jax.Array]) -> np.ndarray:
    """The means, sorted, after 3000 steps of Adam (0.1) on one draw each, of 8 lanes."""
    x, prior = two_groups(), flat_in_one_dimension(2)
    algorithm = jaxgmm.svi(prior, optax.adam, learning_rate=0.1, divergence="sampled")
    states = jax.jit(jax.vmap(algorithm.init, (0, None)))(jax.random.split(jax.random.key(0), 8), x)
    total = jnp.asarray(x.shape[0], x.dtype)
    optimizer = optax.adam(0.1)

    @jax.jit
    @jax.vmap
    def lane(start: Any, key: jax.Array) -> jax.Array:
        def loss(coordinates: Any, key: jax.Array) -> jax.Array:
            q = algorithm.posterior(coordinates, total)
            point = draw(key, q)
            divergence = log_density(q, point) - log_density(prior, point)
            return divergence - objective(point.potentials())

        def step(carry: Any, key: jax.Array) -> Any:
            coordinates, memory = carry
            gradient = jax.grad(loss)(coordinates, key)
            with jax.numpy_dtype_promotion("standard"):
                updates, memory = optimizer.update(gradient, memory)
            return (optax.apply_updates(coordinates, updates), memory), None

        carry = (start, optimizer.init(start))
        carry, _ = jax.lax.scan(step, carry, jax.random.split(key, 3000))
        return algorithm.posterior(carry[0], total).components.mean[:, 0]

    keys = jax.random.split(jax.random.key(1), 8)
    return np.sort(np.asarray(lane(states.memory.coordinates, keys)), axis=1)


def test_summed_out_assignments_recover_both_groups():
    means = climb(lambda potentials: jaxgmm.stats.log_evidence(two_groups(), potentials))
    np.testing.assert_allclose(means, np.broadcast_to([1, 7], (8, 2)), atol=0.6)


def test_sum_of_log_joints_collapses_onto_the_mean_of_the_data():
    """The classic bug, written here: the sum over components outside the logarithm."""
    x = two_groups()

    def wrong(potentials: jaxgmm.stats.Potentials) -> jax.Array:
        whitened = (x - potentials.mean[:, 0]) * potentials.factor
        return jnp.sum(potentials.const - 0.5 * whitened**2)

    means = climb(wrong)
    np.testing.assert_allclose(means, float(x.mean()), atol=1)


def test_improper_priors_need_a_sampled_divergence():
    with pytest.raises(ValueError, match='divergence="sampled"'):
        jaxgmm.svi(flat_in_one_dimension(2), optax.adam(0.1))


# --- averages and schedules -------------------------------------------------------------------


def walk(algorithm: jaxgmm.Algorithm, x: jax.Array, steps: int) -> list[jaxgmm.State]:
    states = [algorithm.init(jax.random.key(0), x)]
    step = jax.jit(algorithm.step)
    for _ in range(steps):
        states.append(step(states[-1], x))
    return states


@pytest.mark.slow
def test_average_of_the_iterates_is_the_weighted_mean_of_the_coordinates():
    x = clusters(n=60)
    prior = jaxgmm.default_prior(x, 2)
    algorithm = jaxgmm.svi(prior, optax.adam, learning_rate=0.05, average=True)
    plain = jaxgmm.svi(prior, optax.adam, learning_rate=0.05)
    states, others = walk(algorithm, x, 6), walk(plain, x, 6)
    # the option changes what is reported, not where the steps go
    assert_trees_close(states[-1].memory.coordinates, others[-1].memory.coordinates, rtol=1e-12)
    iterates = [s.memory.coordinates for s in states[:-1]]
    average = iterates[0]
    for t, iterate in enumerate(iterates, start=1):
        share = 4 / (t + 3)
        average = jax.tree.map(lambda a, b, s=share: (1 - s) * a + s * b, average, iterate)
    expected = algorithm.posterior(average, jnp.asarray(60.0))
    assert_trees_close(states[-1].posterior, expected, rtol=1e-10)


def test_average_of_natural_gradient_steps():
    x = clusters(n=60)
    prior = jaxgmm.default_prior(x, 2)
    rule = jaxgmm.natural_gradient()
    states = walk(jaxgmm.svi(prior, rule, 20, average=True), x, 6)
    others = walk(jaxgmm.svi(prior, rule, 20), x, 6)
    average = others[0].posterior
    for t, other in enumerate(others[1:], start=1):
        average = jaxgmm.views.interpolate(average, other.posterior, jnp.asarray(4 / (t + 3)))
    assert_trees_close(states[-1].memory.coordinates, others[-1].posterior, rtol=1e-12)
    assert_trees_close(states[-1].posterior, average, rtol=1e-10)


@pytest.mark.slow
def test_average_is_steadier_than_the_iterates():
    x = clusters(n=120)
    prior = jaxgmm.default_prior(x, 3, "diag")
    spread = {}
    for average in (False, True):
        algorithm = jaxgmm.svi(prior, optax.adam, 30, learning_rate=0.05, average=average)
        start = jaxgmm.cavi(prior).init(jax.random.key(0), x).posterior
        lanes = jax.tree.map(lambda a: jnp.stack([a] * 8), start)
        result = jaxgmm.fit(
            jax.random.key(0), x, algorithm, 8, {"posterior": lanes}, max_iter=600, tol=0.0
        )
        spread[average] = float(result.states.posterior.components.mean.std(axis=0).mean())
    assert spread[True] < 0.5 * spread[False]


def test_learning_rate_may_be_a_schedule():
    x = clusters(n=60)
    prior = jaxgmm.default_prior(x, 2)
    schedule = optax.piecewise_constant_schedule(0.05, {3: 0.0})
    given = jaxgmm.svi(prior, optax.adam, learning_rate=schedule, view="expectation")
    made = jaxgmm.svi(prior, optax.adam(schedule), view="expectation")
    states = walk(given, x, 6)
    assert_trees_close(states[-1].posterior, walk(made, x, 6)[-1].posterior, rtol=1e-12)
    # it has stopped where the schedule says 0
    assert_trees_close(states[-1].memory.coordinates, states[3].memory.coordinates, rtol=0)
    before, after = states[1].memory.coordinates, states[2].memory.coordinates
    assert float(jnp.abs(before["components"]["mean"] - after["components"]["mean"]).max()) > 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"divergence": "sampled", "view": "mode"}, "of draws, which the mode view has none of"),
        ({"divergence": "sampled", "view": "expectation"}, "expectation view has none of"),
    ],
)
def test_divergences_that_a_view_does_not_have(given: dict[str, Any], message: str):
    prior = jaxgmm.default_prior(clusters(n=20), 2)
    with pytest.raises(ValueError, match=message):
        jaxgmm.svi(prior, optax.adam(0.1), **given)


def test_mode_view_refuses_weights_without_a_mode():
    prior = jaxgmm.default_prior(clusters(n=20), 2)
    sparse = Prior(jaxgmm.Dirichlet(jnp.full(2, 0.1)), prior.components)
    for optimizer in (optax.adam(0.1), jaxgmm.natural_gradient()):
        with pytest.raises(ValueError, match="posterior has a mode"):
            jaxgmm.svi(sparse, optimizer, view="mode")


# --- convergence of a noisy objective ---------------------------------------------------------


@jax.jit
def comparisons(values: jax.Array, allowed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How often in a row no rise was found, and the length of the last window, step by step."""

    monitor = Noisy()

    def step(trace: Any, seen: tuple[jax.Array, jax.Array]) -> Any:
        value, n_iter = seen
        trace, _ = monitor.observe(
            trace, value, n_iter, Tolerance(allowed, jnp.zeros(()), jnp.zeros(()))
        )
        return trace, (trace.quiet, trace.last_count)

    n_iter = jnp.arange(1, values.shape[0] + 1, dtype=jnp.int32)
    return jax.lax.scan(step, monitor.begin(values.dtype), (values, n_iter))[1]


def noise(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n)


def test_windows_double_in_length():
    _, lengths = comparisons(jnp.zeros(1600), jnp.asarray(1e-3))
    assert np.unique(np.asarray(lengths)).tolist() == [0, 50, 100, 200, 400, 800]


def test_noise_that_hides_a_rise_is_not_taken_for_rest():
    """A rise twice what is allowed, under noise a thousand times as large in one iteration."""
    n, allowed = 30_000, 1e-3
    wrongly = 0
    for seed in range(40):
        values = 2 * allowed * np.arange(n) + noise(n, seed)
        quiet, _ = comparisons(jnp.asarray(values), jnp.asarray(allowed))
        wrongly += bool((np.asarray(quiet) > 0).any())
    assert wrongly <= 4


def test_an_objective_at_rest_is_found_at_rest():
    n, allowed = 30_000, 1e-3
    ended = []
    for seed in range(20):
        quiet, _ = comparisons(jnp.asarray(noise(n, seed)), jnp.asarray(allowed))
        found = np.flatnonzero(np.asarray(quiet) > 0)
        assert len(found)
        ended.append(found[0])
    # where 2 sqrt(1.5 / L) / (0.75 L) is 1e-3: windows of some 220 iterations
    assert 50 < np.median(ended) < 3000


@pytest.mark.slow
def test_a_slow_fit_is_not_called_converged():
    """A learning rate that gets nowhere: the objective rises all the time, under its own noise."""
    x = clusters(n=120)
    prior = jaxgmm.default_prior(x, 3)
    algorithm = jaxgmm.svi(prior, optax.adam, 20, learning_rate=3e-4)
    result = jaxgmm.fit(
        jax.random.key(0), x, algorithm, 8, "random_responsibilities", max_iter=800, tol=1e-5
    )
    assert result.statuses() == {Status.MAX_ITERATIONS: 8}
