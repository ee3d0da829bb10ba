"""Absent components change nothing: the padded fit is the plain one."""

from typing import Any

import algorithms
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Prior, Rows
from jaxgmm._estep.data import prepare
from jaxgmm._estep.moments import data_covariance
from jaxgmm._model.padding import completed, pad, unpad
from jaxgmm._numerics.pytree import replace

K, WIDE = algorithms.K, algorithms.K + 2
# Run by default; the others are marked slow: each compiles two steps.
DEFAULT = {
    ("map", "tied", "dirichlet process"),
    ("em", "spherical", "fixed"),
}
# what is known of the samples has no part in padding
OTHERS = [name for name in algorithms.VARIANTS if not name.startswith("student-t")]
ROWS = [
    pytest.param(*row, marks=[] if row in DEFAULT else pytest.mark.slow)
    for row in algorithms.ROWS
    if row[0] in ("em", "map", "cavi") and row[1] not in OTHERS
]


def padded(prior: Prior, x: jax.Array) -> Prior:
    return completed(pad(prior, WIDE), x.mean(0), data_covariance(x))


@pytest.mark.parametrize(("kind", "family", "weights"), ROWS)
def test_the_padded_fit_is_the_plain_one(kind: str, family: str, weights: str):
    plain = algorithms.build(kind, family, weights, "float64")
    x = algorithms.data("float64")
    wide = replace(plain, prior=padded(plain.prior, x))
    assert wide.prior.weights.present().tolist() == [True] * K + [False] * 2
    key, data = jax.random.key(0), prepare(Rows(x))
    start = {"means": x[np.array([3, 40, 77])]}
    a = jax.jit(plain.init_on)(key, key, data, start)
    b = wide.begin(key, key, padded(a.posterior, x), data)
    for _ in range(6):
        a, b = step(plain, a, x), step(wide, b, x)
        assert int(a.status) == int(b.status) == jaxgmm.Status.RUNNING
        np.testing.assert_allclose(b.objective, a.objective, rtol=1e-11)
    q = unpad(b.posterior, K)
    for (path, u), v in zip(
        jax.tree.leaves_with_path(a.posterior), jax.tree.leaves(q), strict=True
    ):
        np.testing.assert_allclose(v, u, rtol=1e-9, atol=1e-9, err_msg=str(path))
    # what is absent has stayed as it was
    for u, v in zip(_absent(wide.prior), _absent(b.posterior), strict=True):
        np.testing.assert_array_equal(u, v)
    assert bool(jaxgmm.is_degenerate(b)) == bool(jaxgmm.is_degenerate(a))


@jax.jit
def step(algorithm: Any, state: jaxgmm.State, x: jax.Array) -> jaxgmm.State:
    return algorithm.step(state, x)


def _absent(prior: Prior) -> list[Any]:
    names = set(prior.components.expected_shapes()) - set(prior.components.shared)
    return [getattr(prior.components, name)[K:] for name in sorted(names)]


@pytest.mark.parametrize("weights", algorithms.WEIGHTS)
def test_absent_weights_are_never_drawn_and_cost_nothing(weights: str, dtype: str):
    prior = algorithms.WEIGHTS[weights](dtype)
    wide = prior.padded(2)
    count = jnp.asarray([5.0, 3.0, 2.0, 0, 0], dtype)
    narrow_q, wide_q = prior.update(count[:3]), wide.update(count)
    np.testing.assert_allclose(wide_q.mean(), np.pad(narrow_q.mean(), (0, 2)), rtol=1e-6)
    for view in ("expectation", "mode"):
        log_weights = getattr(wide_q, view)()
        np.testing.assert_allclose(log_weights[:3], getattr(narrow_q, view)(), rtol=1e-6)
        assert np.isneginf(log_weights[3:]).all()
    np.testing.assert_allclose(wide_q.kl(wide), narrow_q.kl(prior), rtol=1e-5, atol=1e-6)
    draws = jax.vmap(wide_q.sample)(jax.random.split(jax.random.key(0), 100))
    assert np.isneginf(draws[:, 3:]).all()
    np.testing.assert_allclose(jnp.exp(draws).sum(-1), 1, rtol=1e-5)
    at = narrow_q.mode() if weights != "sparse" else jnp.log(narrow_q.mean())
    at_wide = jnp.concatenate([at, jnp.full(2, -jnp.inf, at.dtype)])
    np.testing.assert_allclose(wide.log_prior(at_wide), prior.log_prior(at), rtol=1e-5, atol=1e-6)
    back = wide_q.truncated(3)
    for u, v in zip(jax.tree.leaves(back), jax.tree.leaves(narrow_q), strict=True):
        np.testing.assert_array_equal(u, v)
