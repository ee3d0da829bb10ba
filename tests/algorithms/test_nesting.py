"""Wrappers wrap a protocol: they nest, and `select` takes whatever ascends."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import also_slow, clusters

import jaxgmm
from jaxgmm import Status

x = clusters(n=150)
PRIOR = jaxgmm.default_prior(x, 3)
KEYS = jax.random.split(jax.random.key(3), 4)


def run(algorithm: jaxgmm.Algorithm) -> tuple[jaxgmm.State, jax.Array]:
    states = jax.vmap(algorithm.init, (0, None))(KEYS, x)
    loop = jax.jit(jaxgmm.run, static_argnames="history_length")
    return loop(algorithm, states, x, max_iter=400, tol=1e-9, history_length=400)


@pytest.mark.slow
@pytest.mark.parametrize("make", [jaxgmm.em, jaxgmm.cavi])
def test_squarem_of_annealed_cools_like_annealed_and_then_ascends(make):
    steps = 20
    plain, slow = run(jaxgmm.annealed(make(PRIOR), steps))
    nested = jaxgmm.squarem(jaxgmm.annealed(make(PRIOR), steps))
    states, fast = run(nested)
    assert nested.name == f"annealed {make(PRIOR).name} with SQUAREM"
    # the same iterations until it has cooled
    np.testing.assert_allclose(fast[:steps], slow[:steps], rtol=1e-10)
    # and then never down
    rest = np.asarray(fast[steps:])
    assert np.nanmin(np.diff(rest, axis=0)) > -1e-8
    assert (states.status == Status.CONVERGED).all()
    np.testing.assert_allclose(states.objective, plain.objective, rtol=1e-6)
    assert (states.n_iter > steps).all()


def test_annealed_of_squarem_is_squarem_of_annealed():
    one = jaxgmm.annealed(jaxgmm.squarem(jaxgmm.em(PRIOR)), 10)
    other = jaxgmm.squarem(jaxgmm.annealed(jaxgmm.em(PRIOR), 10))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert one.core is one.inner.inner


@pytest.mark.parametrize("wrap", [jaxgmm.squarem, jaxgmm.annealed])
def test_what_does_not_ascend_is_refused(wrap, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(ValueError, match="wraps the algorithms"):
        wrap(jaxgmm.svi(PRIOR, optax.adam(0.1)))
    with pytest.raises(ValueError, match="wraps the algorithms"):
        wrap(PRIOR)


@pytest.mark.parametrize("wrap", also_slow(jaxgmm.squarem, jaxgmm.annealed))
def test_select_takes_wrapped_algorithms(wrap):
    def model(k: int, covariance: str) -> jaxgmm.Algorithm:
        return jaxgmm.em(jaxgmm.flat_prior(k, 2, covariance))

    key, sizes = jax.random.key(0), range(1, 4)
    plain = jaxgmm.select(key, x, sizes, "full", algorithm=model)
    wrapped = jaxgmm.select(key, x, sizes, "full", algorithm=lambda *a: wrap(model(*a)))
    np.testing.assert_allclose(wrapped.table["bic"], plain.table["bic"], atol=0.02)
    assert wrapped.n_components == plain.n_components


@pytest.mark.slow
def test_derivatives_of_a_fit_look_through_wrappers():
    algorithm = jaxgmm.squarem(jaxgmm.em(PRIOR))
    state = jaxgmm.fit(jax.random.key(0), x, algorithm, 4, tol=1e-10, max_iter=2000).best

    def mean(x: jax.Array) -> jax.Array:
        return jnp.sum(jaxgmm.fixed_point(algorithm, state, x).posterior.components.mean)

    plain = jaxgmm.em(PRIOR)

    def direct(x: jax.Array) -> jax.Array:
        return jnp.sum(jaxgmm.fixed_point(plain, state, x).posterior.components.mean)

    np.testing.assert_allclose(jax.grad(mean)(x), jax.grad(direct)(x), rtol=1e-12)
