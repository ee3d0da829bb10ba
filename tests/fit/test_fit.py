"""The driver: lanes, histories, weights, progress, interruption, and going on."""

import os
import re
import signal
import threading
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from algorithms import assert_trees_close, lane
from conftest import clusters, parametrize

import jaxgmm
from jaxgmm import Status
from jaxgmm._numerics.programs import Program

K, R = 3, 5


@pytest.fixture(scope="module")
def x() -> jax.Array:
    return clusters(n=120)


@pytest.fixture(scope="module")
def em() -> jaxgmm.EM:
    return jaxgmm.em(jaxgmm.flat_prior(K, 2))


@pytest.fixture(scope="module")
def cavi(x: jax.Array) -> jaxgmm.CAVI:
    return jaxgmm.cavi(jaxgmm.default_prior(x, K))


def test_states_lead_with_the_lanes(x: jax.Array, em: jaxgmm.EM):
    result = jaxgmm.fit(jax.random.key(0), x, em, R)
    assert all(leaf.shape[0] == R for leaf in jax.tree.leaves(result.states))
    assert result.history is None
    best = result.best
    assert best.status.shape == ()
    assert float(best.objective) == float(result.states.objective.max())
    for a, b in zip(
        jax.tree.leaves(best), jax.tree.leaves(lane(result.states, result.best_index)), strict=True
    ):
        assert bool(jnp.all(a == b))
    assert result.summary() in repr(result)


def test_same_key_same_result_and_other_key_other_starts(x: jax.Array, em: jaxgmm.EM):
    runs = [
        jaxgmm.fit(jax.random.key(seed), x, em, R, max_iter=1, tol=0.0).states.objective
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.allclose(runs[0], runs[2])
    assert len(set(np.asarray(runs[0]).tolist())) > 1


def test_history_is_nan_where_a_lane_did_nothing(x: jax.Array, cavi: jaxgmm.CAVI):
    result = jaxgmm.fit(jax.random.key(0), x, cavi, R, tol=1e-7, history=True)
    history, states = result.history, result.states
    assert history is not None
    assert history.shape == (int(states.n_iter.max()), R)
    assert len(set(np.asarray(states.n_iter).tolist())) > 1
    for r in range(R):
        n = int(states.n_iter[r])
        assert np.isfinite(history[:n, r]).all()
        assert np.isnan(history[n:, r]).all()
        assert history[n - 1, r] == float(states.objective[r])


def test_history_longer_than_its_buffer(x: jax.Array, cavi: jaxgmm.CAVI):
    result = jaxgmm.fit(jax.random.key(0), x, cavi, R, max_iter=600, tol=0.0, history=True)
    assert result.history is not None
    assert result.history.shape == (600, R)
    assert np.isfinite(result.history).all()


@pytest.mark.parametrize("tol", [1e-3, 1e-6])
def test_tol_is_the_change_per_sample(x: jax.Array, cavi: jaxgmm.CAVI, tol: float):
    result = jaxgmm.fit(jax.random.key(0), x, cavi, 5, tol=tol, history=True)
    assert result.history is not None
    assert set(result.statuses()) == {Status.CONVERGED}
    for r in range(5):
        column = result.history[: int(result.states.n_iter[r]), r]
        change = np.abs(np.diff(column)) / 120
        assert change[-1] <= tol * (1 + 1e-9)
        assert (change[:-1] > tol).all()


def test_tol_0_never_converges(x: jax.Array, em: jaxgmm.EM):
    result = jaxgmm.fit(jax.random.key(0), x, em, R, tol=0.0, max_iter=2000)
    assert set(result.statuses()) == {Status.MAX_ITERATIONS}
    assert "max_iter" in result.summary()


@parametrize(
    ("name", "init"), [("em", "k-means++"), ("cavi", "random_points")], lambda name, _: name == "em"
)
def test_weights_equal_repeated_rows(name: str, init: str, request: pytest.FixtureRequest):
    algorithm = request.getfixturevalue(name)
    x = clusters(n=120)
    times = jnp.asarray(np.random.default_rng(0).integers(0, 4, 120))
    repeated = jnp.repeat(x, times, axis=0)
    labels = jnp.arange(120) % K
    start, again = {"labels": labels}, {"labels": jnp.repeat(labels, times)}
    weighted = jaxgmm.fit(
        jax.random.key(0), x, algorithm, init=start, sample_weight=times.astype(float)
    )
    longer = jaxgmm.fit(jax.random.key(0), repeated, algorithm, init=again)
    assert int(weighted.best.n_iter) == int(longer.best.n_iter)
    assert_trees_close(weighted.best.posterior, longer.best.posterior, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(weighted.best.objective, longer.best.objective, rtol=1e-12)
    # by name: no row of weight 0 is ever a seed
    heavy = (x[:, 0] > 2).astype(float)
    result = jaxgmm.fit(
        jax.random.key(0), x, algorithm, 8, init=init, sample_weight=heavy, max_iter=1
    )
    inside = x[:, 0] > 2
    means = result.states.posterior.components.mean[..., 0]
    assert float(means.min()) > float(x[inside, 0].min()) - 0.2


def test_numpy_input_is_taken_in_the_default_float(
    em: jaxgmm.EM, x: jax.Array, monkeypatch: pytest.MonkeyPatch
):
    # annotations promise JAX arrays; a user, who has no type checker, may pass NumPy's
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    a = jaxgmm.fit(jax.random.key(0), np.asarray(x), em, 2, max_iter=3)
    b = jaxgmm.fit(jax.random.key(0), x, em, 2, max_iter=3)
    np.testing.assert_array_equal(a.states.objective, b.states.objective)


def test_progress_shows_the_iterations(
    x: jax.Array, em: jaxgmm.EM, capfd: pytest.CaptureFixture[str]
):
    # long enough for the bar to be drawn again, which it is every tenth of a second
    jaxgmm.fit(jax.random.key(0), x, em, R, tol=0.0, max_iter=50_000, progress=True)
    shown = capfd.readouterr().err
    assert re.search(rf"EM: +\d+%.* [1-9]\d*/50000 .*{R} of {R} lanes running", shown)
    jaxgmm.fit(jax.random.key(0), x, em, R, tol=0.0, max_iter=64, progress=False)
    jaxgmm.fit(jax.random.key(0), x, em, R, tol=0.0, max_iter=64)  # stderr is no terminal
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("history", [False, True])
def test_interruption_returns_what_there_is(x: jax.Array, em: jaxgmm.EM, history: bool):
    # a shell that starts the tests in the background has them ignore the signal
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def run(max_iter: int) -> jaxgmm.Result:
        return jaxgmm.fit(jax.random.key(0), x, em, R, tol=0.0, max_iter=max_iter, history=history)

    run(20)  # compile first: the interruption is meant for the loop
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    began = time.perf_counter()
    timer.start()
    result = run(10**9)
    timer.join()
    assert time.perf_counter() - began < 30
    assert result.interrupted
    assert set(result.statuses()) == {Status.RUNNING}
    assert "Interrupted" in result.summary()
    n = int(result.best.n_iter)
    assert n > 10
    assert np.isfinite(result.best.objective)
    if history:
        assert result.history is not None
        assert result.history.shape == (n, R)
        np.testing.assert_array_equal(result.history[-1], result.states.objective)


def test_interruption_of_the_first_call(
    x: jax.Array, em: jaxgmm.EM, monkeypatch: pytest.MonkeyPatch
):
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxgmm._fit.driver._advance", Program(interrupt))
    result = jaxgmm.fit(jax.random.key(0), x, em, R, history=True)
    assert result.interrupted
    assert set(result.statuses()) == {Status.RUNNING}
    assert result.history is not None
    assert result.history.shape == (0, R)
    assert "Interrupted" in result.summary()


@pytest.mark.parametrize("name", ["em", "cavi"])
def test_a_state_goes_on_exactly(name: str, x: jax.Array, request: pytest.FixtureRequest):
    algorithm = request.getfixturevalue(name)
    key = jax.random.key(0)
    whole = jaxgmm.fit(key, x, algorithm, R, tol=0.0, max_iter=20).states
    half = jaxgmm.fit(key, x, algorithm, R, tol=0.0, max_iter=8).states
    rest = jaxgmm.fit(jax.random.key(9), x, algorithm, R, half, tol=0.0, max_iter=12).states
    # to rounding: the state went from the coordinates of the fit to the data's units and back
    for a, b in zip(jax.tree.leaves(whole.posterior), jax.tree.leaves(rest.posterior), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)
    np.testing.assert_allclose(whole.objective, rest.objective, rtol=1e-12)


def test_a_stochastic_state_goes_on_exactly(x: jax.Array):
    prior = jaxgmm.default_prior(x, K)
    algorithm = jaxgmm.svi(prior, optax.adam, 25, learning_rate=0.05, view="expectation")
    starts = jax.vmap(algorithm.init, (0, None))(jax.random.split(jax.random.key(0), R), x)
    run = jax.jit(jaxgmm.run)
    whole, _ = run(algorithm, starts, x, max_iter=20, tol=0.0)
    half, _ = run(algorithm, starts, x, max_iter=8, tol=0.0)
    half = replace(half, status=jnp.zeros_like(half.status))
    rest, _ = run(algorithm, half, x, max_iter=20, tol=0.0)
    assert_trees_close(whole, rest, rtol=1e-10, atol=1e-14)


def test_a_stochastic_fit_goes_on_in_the_units_of_the_data(x: jax.Array):
    """Its counters and keys stay; the moments of its optimiser, which have units, begin anew."""
    prior = jaxgmm.default_prior(x, K)
    algorithm = jaxgmm.svi(prior, optax.adam, 25, learning_rate=0.05, view="expectation")
    half = jaxgmm.fit(jax.random.key(0), x, algorithm, R, tol=0.0, max_iter=8).states
    adam = half.memory.optimizer_state[0]
    assert (adam.count == 8).all()
    assert all((np.asarray(a) == 0).all() for a in jax.tree.leaves((adam.mu, adam.nu)))
    half = replace(half, status=jnp.zeros_like(half.status))
    rest, _ = jax.jit(jaxgmm.run)(algorithm, half, x, max_iter=300, tol=0.0)
    assert (rest.objective > half.objective).all()


def test_one_state_starts_every_lane(x: jax.Array, em: jaxgmm.EM):
    best = jaxgmm.fit(jax.random.key(0), x, em, R).best
    result = jaxgmm.fit(jax.random.key(1), x, em, R, best)
    np.testing.assert_allclose(result.states.objective, best.objective, rtol=1e-6)


@pytest.mark.parametrize("name", ["means", "labels", "responsibilities", "parameters", "posterior"])
def test_given_starts_lead_with_the_lanes(name: str, x: jax.Array, em: jaxgmm.EM):
    rng = np.random.default_rng(0)
    labels = jnp.asarray(rng.integers(0, K, (R, 120)))
    means = x[jnp.asarray(rng.integers(0, 120, (R, K)))]
    covariances = jnp.broadcast_to(4 * jnp.eye(2), (R, K, 2, 2))
    starts = {
        "means": means,
        "labels": labels,
        "responsibilities": jax.nn.one_hot(labels, K),
        "parameters": (jnp.full((R, K), 1 / K), means, covariances),
        "posterior": jaxgmm.fit(jax.random.key(0), x, em, R, max_iter=1).states.posterior,
    }
    given = starts[name]
    together = jaxgmm.fit(jax.random.key(0), x, em, R, {name: given}, max_iter=2, tol=0.0)
    for r in (0, R - 1):
        one = {name: jax.tree.map(lambda a, r=r: a[r], given)}
        alone = jaxgmm.fit(jax.random.key(0), x, em, 1, one, max_iter=2, tol=0.0)
        np.testing.assert_allclose(alone.best.objective, together.states.objective[r], rtol=1e-10)
    assert np.ptp(together.states.objective) > 1e-6
