"""Stochastic inference: its estimates of the bound, its limits EM and CAVI, and its minibatches."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from algorithms import MODELESS, ROWS, WEIGHTS, N, assert_trees_close, components
from conftest import also_slow, clusters
from scipy.stats import dirichlet, multivariate_normal, wishart

import jaxgmm
from jaxgmm import Prior, Rows, Status
from jaxgmm._algorithms.minibatch import minibatch
from jaxgmm._estep.data import prepare

K = 3
# three groups that no estimate confuses
CENTRES = jnp.asarray([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])


@pytest.fixture(scope="module")
def separated() -> jax.Array:
    noise = jax.random.normal(jax.random.key(7), (240, 2))
    return CENTRES[jnp.arange(240) % 3] + noise


@partial(jax.jit, static_argnames="steps")
def path(algorithm: jaxgmm.Algorithm, state: jaxgmm.State, x: jax.Array, steps: int = 15):
    def step(state: jaxgmm.State, _: None):
        state = algorithm.step(state, x)
        return state, (state.posterior, state.objective)

    return jax.lax.scan(step, state, length=steps)[1]


# by default those that differ most: the others compile much the same again
STEPS = [("full", "dirichlet"), ("tied", "dirichlet process"), ("independent diag", "fixed")]
OTHERS = [(family, weights) for _, family, weights in ROWS if (family, weights) not in STEPS]


@pytest.mark.parametrize(
    ("family", "weights"),
    STEPS + [pytest.param(*row, marks=pytest.mark.slow) for row in dict.fromkeys(OTHERS)],
)
@pytest.mark.parametrize("view", ["expectation", *also_slow("mode")])
def test_natural_step_of_1_on_all_data_is_coordinate_ascent(view: str, family: str, weights: str):
    x = clusters(n=N)
    if view == "mode" and weights in MODELESS:
        pytest.skip("its posterior has no mode")
    prior = Prior(WEIGHTS[weights]("float64"), components(family, "float64", proper=True))
    classic = jaxgmm.em(prior) if view == "mode" else jaxgmm.cavi(prior)
    stochastic = jaxgmm.svi(prior, jaxgmm.natural_gradient(1.0), view=view)
    key = jax.random.key(0)
    start = classic.init(key, x)
    a = path(classic, start, x)
    b = path(stochastic, stochastic.init(key, x, {"posterior": start.posterior}), x)
    assert_trees_close(a, b, rtol=1e-10, atol=1e-10)


def test_robbins_monro_steps():
    schedule = jaxgmm.natural_gradient(delay=3.0, forgetting=0.75)
    assert (
        float(schedule.rho(jnp.asarray(12), jnp.dtype("float64"))) == 16**-0.75
    )  # (12 + 1 + 3)^-0.75
    for bad in ({"step_size": 0.0}, {"step_size": 1.5}, {"delay": -1.0}, {"forgetting": 0.5}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            jaxgmm.natural_gradient(**bad)


def monte_carlo(x: np.ndarray, q: Prior, n: int) -> tuple[float, float]:
    """``E_q[log p(x | theta)]`` by SciPy's draws, and its standard error."""
    rng = np.random.default_rng(0)
    c = q.components
    pis = dirichlet(np.asarray(q.weights.concentration)).rvs(n, random_state=rng)
    values = np.empty(n)
    precisions = [
        wishart(float(c.degrees_of_freedom[k]), np.linalg.inv(c.scale[k])).rvs(n, random_state=rng)
        for k in range(K)
    ]
    for i in range(n):
        joint = np.empty((len(x), K))
        for k in range(K):
            covariance = np.linalg.inv(precisions[k][i])
            mean = rng.multivariate_normal(c.mean[k], covariance / float(c.mean_precision[k]))
            joint[:, k] = np.log(pis[i, k]) + multivariate_normal(mean, covariance).logpdf(x)
        values[i] = np.logaddexp.reduce(joint, axis=1).sum()
    return float(values.mean()), float(values.std() / np.sqrt(n))


@pytest.mark.slow
def test_sampled_objective_estimates_the_bound():
    x = clusters(n=60)
    prior = jaxgmm.default_prior(x, K)
    state = jaxgmm.fit(jax.random.key(0), x, jaxgmm.cavi(prior), max_iter=5).best
    algorithm = jaxgmm.svi(prior, optax.sgd, learning_rate=0.0, n_draws=1000)

    @jax.jit
    def draw(key: jax.Array, x: jax.Array) -> jax.Array:
        start = algorithm.init(key, x, {"posterior": state.posterior})
        return algorithm.step(start, x).objective

    ours = np.asarray([draw(key, x) for key in jax.random.split(jax.random.key(1), 16)])
    expected, error = monte_carlo(np.asarray(x), state.posterior, 1500)
    expected -= float(jaxgmm.views.kl_divergence(state.posterior, prior))
    error = np.hypot(error, ours.std() / 4)
    assert error < 0.5
    assert abs(ours.mean() - expected) < 5 * error
    # with the sum over components inside the logarithm it is above CAVI's bound, which splits it
    assert ours.mean() - 5 * error > float(jaxgmm.elbo(state, x))


@pytest.mark.parametrize("batch_size", [pytest.param(7, marks=pytest.mark.slow), 20, 60, 100])
def test_scaled_minibatches_average_to_all_the_data(batch_size: int):
    x = clusters(n=60)
    prior = jaxgmm.default_prior(x, K)
    key = jax.random.key(0)
    algorithm = jaxgmm.svi(prior, optax.sgd, batch_size, learning_rate=0.0, view="expectation")
    state = algorithm.init(key, x)
    exact = float(jaxgmm.elbo(state, x))
    kl = float(jaxgmm.views.kl_divergence(state.posterior, prior))
    n_batches = -(-60 // batch_size)
    data = prepare(Rows(x))
    seen, total = [], 0.0
    for i in range(n_batches):
        batch = algorithm.batch(data, state.memory, jnp.asarray(i))
        objective = float(algorithm.advance(state, batch).objective)
        rows = 60 / float(batch.scale)
        seen.append(rows)
        total += (objective + kl) * rows / 60
    expected = [min(batch_size, 60 - i * batch_size) for i in range(n_batches)]
    assert seen == pytest.approx(expected)
    assert total - kl == pytest.approx(exact, rel=1e-10)


def test_every_epoch_visits_every_row_once_in_another_order():
    x = jnp.arange(53.0)[:, None]
    data = prepare(Rows(x))
    epochs = []
    for epoch in range(3):
        rows: list[float] = []
        for i in range(6):
            batch = minibatch(jax.random.key(0), data, jnp.asarray(6 * epoch + i), 10)
            assert batch.weight is not None
            rows += np.asarray(batch.x)[np.asarray(batch.weight) > 0, 0].tolist()
        assert sorted(rows) == list(range(53))
        epochs.append(rows)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != list(range(53))


def test_lanes_share_the_minibatches():
    x = clusters(n=60)
    prior = jaxgmm.default_prior(x, K)
    algorithm = jaxgmm.svi(prior, jaxgmm.natural_gradient(0.5), 7)
    start = jaxgmm.cavi(prior).init(jax.random.key(3), x).posterior
    lanes = jax.tree.map(lambda a: jnp.stack([a] * 4), start)
    result = jaxgmm.fit(
        jax.random.key(0), x, algorithm, 4, {"posterior": lanes}, max_iter=9, tol=0.0
    )
    for leaf in jax.tree.leaves(result.states.posterior):
        assert bool(jnp.all(leaf == leaf[:1]))
    other = jaxgmm.fit(
        jax.random.key(1), x, algorithm, 4, {"posterior": lanes}, max_iter=9, tol=0.0
    )
    assert not np.allclose(
        other.best.posterior.components.mean, result.best.posterior.components.mean
    )


def assert_centres(state: jaxgmm.State, atol: float) -> None:
    weights, means, covariances = jaxgmm.mixture(state)
    nearest = jnp.argmin(jnp.sum((means[:, None] - CENTRES) ** 2, axis=-1), axis=1)
    assert sorted(nearest.tolist()) == [0, 1, 2]
    np.testing.assert_allclose(means, CENTRES[nearest], atol=atol)
    np.testing.assert_allclose(weights, 1 / 3, atol=0.1)
    np.testing.assert_allclose(covariances, jnp.broadcast_to(jnp.eye(2), (3, 2, 2)), atol=0.6)


@pytest.mark.slow
def test_sample_view_recovers_separated_clusters(separated: jax.Array):
    prior = jaxgmm.default_prior(separated, K)
    algorithm = jaxgmm.svi(prior, optax.adam, 80, learning_rate=0.05)
    result = jaxgmm.fit(
        jax.random.key(0), separated, algorithm, 4, max_iter=600, init="random_points"
    )
    assert_centres(result.best, atol=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("view", ["mode", "expectation"])
def test_stochastic_natural_gradient_recovers_separated_clusters(separated: jax.Array, view: str):
    prior = jaxgmm.default_prior(separated, K)
    algorithm = jaxgmm.svi(prior, jaxgmm.natural_gradient(), 50, view=view)
    result = jaxgmm.fit(jax.random.key(0), separated, algorithm, 4, max_iter=400)
    assert_centres(result.best, atol=0.5)


def test_gradient_em_reaches_the_optimum_of_em(faithful: np.ndarray):
    x = jnp.asarray(faithful)
    prior = jaxgmm.flat_prior(2, 2)
    algorithm = jaxgmm.svi(prior, optax.adam, learning_rate=0.05, view="mode")
    result = jaxgmm.fit(jax.random.key(0), x, algorithm, 8, max_iter=5000, tol=1e-9)
    assert abs(float(result.best.objective) + 1130.263960) < 1e-3
    assert int(result.best.status) == Status.CONVERGED


@pytest.mark.slow
def test_gradient_variational_bayes_reaches_the_optimum_of_cavi():
    x = clusters()
    prior = jaxgmm.default_prior(x, K)
    exact = jaxgmm.fit(jax.random.key(0), x, jaxgmm.cavi(prior), 8, tol=1e-10, max_iter=2000).best
    algorithm = jaxgmm.svi(prior, optax.adam, learning_rate=0.05, view="expectation")
    result = jaxgmm.fit(jax.random.key(0), x, algorithm, 8, tol=1e-9, max_iter=3000)
    np.testing.assert_allclose(result.best.objective, exact.objective, atol=1e-2)
    assert float(result.best.objective) <= float(exact.objective) + 1e-6


def test_sum_over_components_is_inside_the_logarithm(separated: jax.Array):
    """Gradient EM recovers the means; the sum of the log-joints sends all to the data's mean."""

    def wrong(potentials: jaxgmm.stats.Potentials) -> jax.Array:
        residual = separated[:, None] - potentials.mean
        logits = potentials.const - 0.5 * jnp.sum(residual**2, axis=-1)
        return jnp.sum(logits)  # over the components, too: the published bug

    def right(potentials: jaxgmm.stats.Potentials) -> jax.Array:
        return jaxgmm.stats.log_evidence(separated, potentials)

    start = jnp.asarray([[1.0, 2.0], [6.0, 1.0], [-1.0, 6.0]])
    const = jnp.full(K, -jnp.log(2 * jnp.pi) - jnp.log(3.0))

    def climb(objective) -> jax.Array:
        def step(mean: jax.Array, _: None):
            potentials = jaxgmm.stats.Potentials(const, mean, jnp.eye(2), "tied")
            return mean + 1e-3 * jax.grad(objective)(potentials).mean, None

        return jax.lax.scan(step, start, length=300)[0]

    np.testing.assert_allclose(jax.jit(partial(climb, right))(), CENTRES, atol=0.3)
    everyone = jnp.broadcast_to(separated.mean(0), (K, 2))
    np.testing.assert_allclose(jax.jit(partial(climb, wrong))(), everyone, atol=1e-6)
