"""Annealing: tempered responsibilities, an honest objective, and the plain algorithm in the end."""

from typing import Any

import jax
import numpy as np
import optax
import pytest
from conftest import clusters
from scipy.stats import multivariate_normal

import jaxgmm
from jaxgmm import Status

x = clusters(n=150)
KEY = jax.random.key(0)
PRIOR = jaxgmm.default_prior(x, 3)
MEANS = x[np.array([0, 50, 100])]


def test_one_step_is_em_with_responsibilities_to_the_power_beta():
    algorithm = jaxgmm.annealed(jaxgmm.em(jaxgmm.flat_prior(3, 2)), 4, 0.3)
    state = algorithm.init(KEY, x, {"means": MEANS})
    weights, means, covariances = (np.asarray(a) for a in jaxgmm.mixture(state))
    for iteration, beta in enumerate((0.3, 0.3**0.75)):
        log = np.stack(
            [
                np.log(w) + multivariate_normal(m, c).logpdf(x)
                for w, m, c in zip(weights, means, covariances, strict=True)
            ],
            axis=1,
        )
        r = np.exp(beta * log)
        r /= r.sum(1, keepdims=True)
        count = r.sum(0)
        weights, means = count / len(x), r.T @ np.asarray(x) / count[:, None]
        covariances = np.stack(
            [(r[:, k] * (np.asarray(x) - m).T) @ (np.asarray(x) - m) for k, m in enumerate(means)]
        )
        covariances /= count[:, None, None]
        state = jax.jit(algorithm.step)(state, x)
        assert int(state.n_iter) == iteration + 1
        for ours, theirs in zip(jaxgmm.mixture(state), (weights, means, covariances), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9)
        # the objective is the bound of these responsibilities, with all its constants
        new = np.stack(
            [
                np.log(w) + multivariate_normal(m, c).logpdf(x)
                for w, m, c in zip(weights, means, covariances, strict=True)
            ],
            axis=1,
        )
        np.testing.assert_allclose(state.objective, (r * (new - np.log(r))).sum(), rtol=1e-10)


@pytest.mark.parametrize("make", [jaxgmm.em, jaxgmm.cavi])
def test_it_ends_at_an_optimum_of_the_plain_algorithm(make: Any):
    plain = make(PRIOR)
    algorithm = jaxgmm.annealed(plain, 20, 0.7)
    result = jaxgmm.fit(KEY, x, algorithm, 4, max_iter=1000, tol=1e-9, history=True)
    states = result.states
    assert (np.asarray(states.status) == Status.CONVERGED).all()
    assert (np.asarray(states.n_iter) > 20).all()
    again = jax.jit(jax.vmap(plain.step, (0, None)))(states, x)
    np.testing.assert_allclose(again.objective, states.objective, rtol=1e-9)
    assert result.history is not None
    assert (np.nan_to_num(np.diff(result.history[20:], axis=0)) > -1e-9).all()
    assert "annealed" in result.summary()


def test_at_beta_one_it_is_the_plain_algorithm():
    plain = jaxgmm.cavi(PRIOR)
    algorithm = jaxgmm.annealed(plain, 5, 1.0)
    a = b = plain.init(KEY, x, {"means": MEANS})
    step = jax.jit(lambda algorithm, state: algorithm.step(state, x))
    for _ in range(7):
        a, b = step(plain, a), step(algorithm, b)
    np.testing.assert_allclose(b.objective, a.objective, rtol=1e-12)
    np.testing.assert_allclose(
        b.posterior.components.scale, a.posterior.components.scale, rtol=1e-9
    )


def test_wrappers_nest_in_either_order():
    plain = jaxgmm.em(PRIOR)
    inside = jaxgmm.squarem(jaxgmm.annealed(plain, 5, 0.8))
    outside = jaxgmm.annealed(jaxgmm.squarem(plain), 5, 0.8)
    assert jax.tree.structure(outside) == jax.tree.structure(inside)
    for a, b in zip(jax.tree.leaves(outside), jax.tree.leaves(inside), strict=True):
        np.testing.assert_array_equal(a, b)
    assert outside.core is plain


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((jaxgmm.svi(PRIOR, optax.adam(0.1)),), "jaxgmm.em and jaxgmm.cavi.*given an SVI"),
        ((jaxgmm.cavi(PRIOR), 0), "n_steps must be an integer of at least 1"),
        ((jaxgmm.cavi(PRIOR), 10, 0.0), "start must be above 0 and at most 1, but it is 0.0"),
        ((jaxgmm.cavi(PRIOR), 10, 1.5), "start must be above 0 and at most 1, but it is 1.5"),
    ],
)
def test_bad_input(arguments: Any, message: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        jaxgmm.annealed(*arguments)


def test_no_new_program_for_another_schedule():
    step = jax.jit(lambda algorithm, state: algorithm.step(state, x))
    state = jaxgmm.cavi(PRIOR).init(KEY, x, {"means": MEANS})
    for n_steps, start in ((5, 0.5), (9, 0.8)):
        step(jaxgmm.annealed(jaxgmm.cavi(PRIOR), n_steps, start), state)
    assert step._cache_size() == 1
