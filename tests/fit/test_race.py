"""Racing: which lanes are dropped, that the others are untouched, and that results repeat."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithms import assert_trees_close, lane
from conftest import also_slow, clusters

import jaxgmm
from jaxgmm import Status
from jaxgmm._fit import driver, race
from jaxgmm._fit.driver import Driver, Limits
from jaxgmm._fit.progress import Progress, at_start
from jaxgmm._fit.race import beaten, give_up, last_batch, looks, rungs, shrink, weight_of

K, R = 3, 64


@pytest.fixture(scope="module")
def x() -> jax.Array:
    return clusters(n=150)


@pytest.fixture(scope="module")
def cavi(x: jax.Array) -> jaxgmm.CAVI:
    return jaxgmm.cavi(jaxgmm.default_prior(x, K))


def fit(x: jax.Array, algorithm: jaxgmm.Algorithm, **given: object) -> jaxgmm.Result:
    options = {"moves": False, "tol": 1e-8, "max_iter": 2000, **given}
    return jaxgmm.fit(jax.random.key(0), x, algorithm, R, **options)  # type: ignore


def test_rungs_quarter_the_lanes_as_the_iterations_double():
    assert rungs(256, 500) == ((16, 64), (32, 16), (64, 4))
    assert rungs(17, 500) == ((16, 4),)
    assert rungs(256, 40) == ((16, 64), (32, 16))
    assert rungs(4, 500) == ()


def states_of(x: jax.Array, cavi: jaxgmm.CAVI, objective: list[float], status: list[int]):
    states = jax.vmap(cavi.init, (0, None))(jax.random.split(jax.random.key(0), len(status)), x)
    return dataclasses.replace(  # type: ignore
        states,
        objective=jnp.asarray(objective, x.dtype),
        status=jnp.asarray(status, jnp.int32),
    )


def lost(states: jaxgmm.State, n_left: int) -> np.ndarray:
    none = np.zeros(states.status.shape, bool)
    return beaten(np.asarray(states.status), np.asarray(states.objective), none, n_left)


def test_a_lane_that_would_be_refused_is_beaten_however_high_it_is():
    status, spike = np.zeros(3, np.int32), np.array([False, True, False])
    assert beaten(status, np.array([1.0, 9.0, 2.0]), spike, 1).tolist() == [True, True, False]


def test_the_beaten_are_running_lanes_below_the_best(x: jax.Array, cavi: jaxgmm.CAVI):
    running, done, failed = Status.RUNNING, Status.CONVERGED, Status.COLLAPSED
    states = states_of(
        x,
        cavi,
        [-5.0, -1.0, 9.0, -3.0, -2.0, float("nan"), -6.0],
        [running, running, failed, done, running, running, done],
    )
    # a failed lane, however high, takes no place; one that has converged does, and is not beaten
    assert lost(states, 2).tolist() == [True, False, False, False, False, True, False]
    assert lost(states, 3).tolist() == [True, False, False, False, False, True, False]
    assert lost(states, 1).tolist() == [True, False, False, False, True, True, False]
    ties = states_of(x, cavi, [-1.0] * 4, [running] * 4)
    assert lost(ties, 2).tolist() == [False, False, True, True]


def test_a_shrunken_batch_keeps_those_that_run_and_forgets_no_one(x: jax.Array, cavi: jaxgmm.CAVI):
    status = [Status.DROPPED] * 13
    status[3] = status[7] = status[12] = Status.RUNNING
    states = states_of(x, cavi, list(range(13)), [int(s) for s in status])
    assert len(shrink(at_start(states), 1 << 20).lanes) == 13  # 4 is not a quarter of it
    states = states_of(x, cavi, list(range(19)), [int(s) for s in [*status, *[6] * 6]])
    progress = at_start(states)
    assert len(shrink(progress, 1000).lanes) == 19  # not worth it
    progress = shrink(progress, 1 << 20)
    assert len(progress.lanes) == 4
    assert {3, 7, 12} <= set(progress.lanes.tolist())
    assert progress.batch.status.shape == (4,)
    batch = dataclasses.replace(progress.batch, objective=progress.batch.objective + 100)  # type: ignore
    progress = dataclasses.replace(progress, batch=batch)  # type: ignore
    everyone = np.asarray(progress.states().objective)
    expected = np.arange(19.0)
    expected[progress.lanes] += 100
    np.testing.assert_array_equal(everyone, expected)
    np.testing.assert_array_equal(progress.of_all("objective"), expected)


@pytest.mark.parametrize("shrinking", [True, *also_slow(False)])
def test_survivors_are_what_they_would_be_without_a_race(
    x: jax.Array, cavi: jaxgmm.CAVI, shrinking: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(race, "_LARGE", 0 if shrinking else 1 << 62)
    monkeypatch.setattr(race, "_SAVED", 0)
    raced = fit(x, cavi, racing=True, history=True)
    plain = fit(x, cavi, racing=False, history=True)
    kept = np.asarray(raced.states.status) != Status.DROPPED
    assert 1 <= kept.sum() < R
    # batches of other sizes round otherwise
    for a, b in zip(
        jax.tree.leaves(lane(raced.states.posterior, kept)),
        jax.tree.leaves(lane(plain.states.posterior, kept)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    assert float(raced.best.objective) == pytest.approx(float(plain.best.objective), abs=1e-6)
    assert raced.best.status == Status.CONVERGED
    assert raced.history is not None
    assert plain.history is not None
    for r in range(R):
        n = int(raced.states.n_iter[r])
        np.testing.assert_allclose(raced.history[:n, r], plain.history[:n, r], rtol=1e-9)
        assert np.isnan(raced.history[n:, r]).all()
    dropped = np.asarray(raced.states.n_iter)[~kept]
    assert set(dropped.tolist()) <= {16, 32, 64, 128}
    assert f"{(~kept).sum()} DROPPED: Beaten by other lanes" in raced.summary()


def test_a_race_repeats(x: jax.Array, cavi: jaxgmm.CAVI):
    a, b = (fit(x, cavi, racing=True) for _ in range(2))
    assert_trees_close(a.states, b.states, rtol=0)


class Timed(Driver):
    """Its lanes end after so many iterations, and it notes the sizes of the batches."""

    def __init__(self, ends: list[int]):
        self.ends, self.sizes = np.array(ends), {}
        self.limits, self.work, self.weight = Limits(500, 1e-6), 1 << 17, 1.0
        self.shrinks, self.n_groups, self.longest, self.length = True, None, None, 0

    def _call(self, progress: Progress, n_steps: int) -> Progress:
        ends, n_iter = self.ends[progress.lanes], progress.n_iter
        did = min(n_steps, ends.max() - n_iter)
        for i in range(n_iter, n_iter + did):
            self.sizes[i] = len(ends)
        status = np.where(ends <= n_iter + did, Status.CONVERGED, Status.RUNNING).astype(np.int32)
        batch = dataclasses.replace(progress.batch, status=jnp.asarray(status))  # type: ignore
        return dataclasses.replace(progress, batch=batch, done=n_iter, did=did)  # type: ignore


def test_batches_do_not_depend_on_the_clock(
    x: jax.Array, cavi: jaxgmm.CAVI, monkeypatch: pytest.MonkeyPatch
):
    # or else results would, which depend on the sizes of batches by rounding
    ends = [3, 5, 9, 9, 14, 19, 23, 23, 30, 31, 37, 44, 61, 80, 123, 200]
    states = states_of(x, cavi, [0.0] * 16, [int(Status.RUNNING)] * 16)
    found = []
    for seconds, longest in ((0.0, None), (1e9, None), (1e9, 7)):
        monkeypatch.setattr(driver, "_CHUNK_SECONDS", seconds)
        timed = Timed(ends)
        timed.longest = longest
        timed.run(states, race=False)
        found.append(timed.sizes)
    assert found[0] == found[1] == found[2]
    assert set(found[0].values()) == {16, 4}
    assert len(found[0]) == 200


@pytest.mark.slow
def test_racing_is_for_16_lanes_or_more_of_em_and_cavi(x: jax.Array, cavi: jaxgmm.CAVI):
    assert Status.DROPPED in fit(x, cavi).statuses()
    few = jaxgmm.fit(jax.random.key(0), x, cavi, 15, moves=False)
    assert Status.DROPPED not in few.statuses()
    steps = jaxgmm.svi(cavi.prior, jaxgmm.natural_gradient(), 50)
    assert Status.DROPPED not in fit(x, steps, max_iter=100).statuses()
    states = jax.vmap(cavi.init, (0, None))(jax.random.split(jax.random.key(0), R), x)
    assert Status.DROPPED not in fit(x, cavi, init=states).statuses()


def test_moves_are_looked_at_as_long_as_they_run():
    assert looks(16, 100, 1000) == ((16, 4), (32, 4), (64, 4))
    # of much data sooner; a batch of a few lanes has nobody to drop
    assert looks(3, 30, 1 << 20) == ((4, 3), (8, 3), (16, 3))


def test_a_race_with_many_features_begins_sooner():
    assert rungs(16, 500, 64) == ((4, 4),)


@pytest.mark.parametrize("power", [0.6, 1.0, 2.0])
def test_a_lane_that_can_still_win_is_not_given_up(power: float):
    # objectives that approach their limits as a power of the iterations, between 16 and 32
    limits, gap = np.array([0.0, 1.0, 3.0]), 50.0
    before, now = limits - gap * 16.0**-power, limits - gap * 32.0**-power
    state = jaxgmm.em(jaxgmm.flat_prior(2, 1)).init(jax.random.key(0), jnp.zeros((9, 1)))
    states = jax.tree.map(lambda a: jnp.broadcast_to(a, (3, *a.shape)), state)
    states = dataclasses.replace(states, objective=jnp.asarray(now))  # type: ignore
    progress = at_start(states)
    status = np.asarray(give_up(progress, before, np.array([2.0])).batch.status)
    assert status[2] == Status.RUNNING
    far = give_up(progress, before, np.array([2.0 + 3 * gap])).batch.status
    assert (np.asarray(far) == Status.MAX_ITERATIONS).all()
    # at the first look nothing is known
    first = give_up(progress, np.full(3, -np.inf), np.array([1e9])).batch.status
    assert (np.asarray(first) == Status.RUNNING).all()


def test_the_last_batch_of_a_race_is_known_ahead():
    assert last_batch(16, 1 << 10) == 16
    assert last_batch(16, 1 << 20) == 4
    assert last_batch(16, 1 << 10, weight_of("full", 300)) == 4
    assert weight_of("diag", 8) == weight_of("full", 8) == 1
