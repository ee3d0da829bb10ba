"""SQUAREM: as good as without it, in fewer iterations, and never downhill."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from algorithms import WEIGHTS, components, data
from conftest import DTYPES, also_slow, clusters, parametrize

import jaxgmm
from jaxgmm import Prior, Status
from jaxgmm._algorithms.squarem import _extrapolate


def overlapping(seed: int) -> jax.Array:
    """Three components in the plane, 2 standard deviations apart."""
    rng = np.random.default_rng(seed)
    means = 2 * rng.standard_normal((3, 2))
    return jnp.asarray(means[rng.integers(0, 3, 400)] + rng.standard_normal((400, 2)))


def fits(algorithm: Any, x: jax.Array, n: int = 8) -> tuple[jaxgmm.Result, jaxgmm.Result]:
    """The same starts without and with acceleration, to the end."""
    options = {"racing": False, "moves": False, "max_iter": 10_000, "tol": 1e-10, "history": True}
    plain, fast = (
        jaxgmm.fit(jax.random.key(0), x, a, n, **options)
        for a in (algorithm, jaxgmm.squarem(algorithm))
    )
    return plain, fast


@pytest.mark.parametrize("name", ["em", *also_slow("map", "cavi")])
def test_half_the_iterations_and_no_worse_an_optimum(name: str):
    ratios = []
    for seed in range(4):
        x = overlapping(seed)
        prior = jaxgmm.flat_prior(3, 2) if name == "em" else jaxgmm.default_prior(x, 3)
        plain, fast = fits(jaxgmm.cavi(prior) if name == "cavi" else jaxgmm.em(prior), x)
        usable = ~plain.failed & ~fast.failed
        assert usable.sum() >= 6
        assert fast.history is not None
        rise = np.diff(fast.history[:, usable], axis=0)
        assert np.nanmin(rise) > -1e-9
        ends = [np.asarray(r.states.objective)[usable] for r in (plain, fast)]
        # what is left to gain at a tolerance of 1e-10 per sample is 1e-6 nats after slow steps
        assert (ends[1] > ends[0] - 1e-4).all()
        steps = [np.asarray(r.states.n_iter, float)[usable] for r in (plain, fast)]
        ratios.extend(np.log(steps[0] / steps[1]))
    assert np.exp(np.mean(ratios)) > 2


ROWS = [
    ("tied", "dirichlet", "cavi"),
    ("diag", "sparse", "cavi"),
    ("independent spherical", "dirichlet process", "cavi"),
    ("known", "fixed", "map"),
    ("spherical", "dirichlet", "map"),
]


def is_slow(dtype: str, family: str, weights: str, kind: str) -> bool:
    return dtype == "float32" or family not in ("tied", "known")


@pytest.mark.slow
@parametrize(
    ("dtype", "family", "weights", "kind"),
    [(dtype, *row) for dtype in DTYPES for row in ROWS],
    is_slow,
)
def test_every_family_climbs_to_the_same_optimum(family: str, weights: str, kind: str, dtype: str):
    x = data(dtype)
    prior = Prior(WEIGHTS[weights](dtype), components(family, dtype, proper=True))
    algorithm = jaxgmm.cavi(prior) if kind == "cavi" else jaxgmm.em(prior)
    fast = jaxgmm.squarem(algorithm)
    keys = jax.random.split(jax.random.key(0), 3)

    @jax.jit
    def run(algorithm: Any, x: jax.Array) -> tuple[jaxgmm.State, jax.Array]:
        states = jax.vmap(algorithm.init, (0, None))(keys, x)
        return jaxgmm.run(algorithm, states, x, tol=1e-7, max_iter=3000, history_length=200)

    (a, _), (b, history) = run(algorithm, x), run(fast, x)
    assert set(np.asarray(b.status).tolist()) == {Status.CONVERGED}
    assert b.objective.dtype == dtype
    slack = 100 * np.finfo(dtype).eps * float(jnp.abs(b.objective).max())
    assert np.nanmin(np.diff(np.asarray(history, np.float64), axis=0)) >= -slack
    assert bool(jnp.all(b.objective >= a.objective - max(1e-2, slack)))


def test_a_step_too_far_is_taken_back():
    """From a trial that is worse than where it is, a lane stays, and is not called converged."""
    x = clusters()
    algorithm = jaxgmm.squarem(jaxgmm.em(jaxgmm.default_prior(x, 3)))
    step = jax.jit(algorithm.step)
    state = step(step(algorithm.init(jax.random.key(0), x), x), x)
    assert int(state.memory.phase) == 2
    for trial in (algorithm.init(jax.random.key(9), x, "random_responsibilities").posterior, None):
        if trial is None:  # one that is not even finite
            trial = jax.tree.map(lambda a: a * jnp.nan, state.posterior)
        bad = dataclasses.replace(  # type: ignore
            state,
            memory=dataclasses.replace(state.memory, trial=trial),  # type: ignore
        )
        after = step(bad, x)
        assert after.status == Status.RUNNING
        assert float(after.objective) == float(state.objective)
        for a, b in zip(
            jax.tree.leaves(after.posterior), jax.tree.leaves(state.posterior), strict=True
        ):
            np.testing.assert_array_equal(a, b)
        assert float(after.memory.limit) <= float(state.memory.limit)
        assert int(step(after, x).n_iter) == 4


def test_extrapolation_of_a_geometric_sequence_ends_at_its_limit():
    """u_n = u + a 0.9^n, for which one step of the scheme is exact (Varadhan & Roland 2008)."""
    limit, a = jnp.asarray([3.0, -1.0]), jnp.asarray([2.0, 1.0])
    u = [{"u": limit + a * 0.9**n} for n in range(3)]
    units = {"u": jnp.ones(2)}
    length, point = _extrapolate(*u, units, jnp.asarray(1e6))
    assert float(length) == pytest.approx(10)
    np.testing.assert_allclose(point["u"], limit, atol=1e-9)
    # a length of 1 is the third point itself
    _, point = _extrapolate(*u, units, jnp.asarray(1.0))
    np.testing.assert_allclose(point["u"], u[2]["u"], atol=1e-12)


def test_only_em_and_cavi_are_accelerated(monkeypatch: pytest.MonkeyPatch):
    # a user has no type checker that would say so first
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    prior = jaxgmm.default_prior(clusters(), 3)
    with pytest.raises(ValueError, match=r"jaxgmm.em and jaxgmm.cavi.*given an SVI"):
        jaxgmm.squarem(jaxgmm.svi(prior, optax.adam(0.1)))  # type: ignore
