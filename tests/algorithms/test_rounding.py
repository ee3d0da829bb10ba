"""What rounding alone may change in a bound: more where covariances are long and thin."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import also_slow

import jaxgmm
from jaxgmm import Status
from jaxgmm._algorithms import monitor
from jaxgmm._numerics.pytree import replace

# Of seven rows in twelve dimensions each component has more directions than samples; there its
# covariance is the prior's.
N, D, K = 7, 12, 3
CASES = {
    "full CAVI": ("full", jaxgmm.cavi, "float32", (1.0, 0.1, 1e-2, 1e4)),
    "full MAP": ("full", jaxgmm.em, "float32", (1.0, 0.1, 1e-2, 1e4)),
    "tied CAVI": ("tied", jaxgmm.cavi, "float32", (1.0, 0.1, 1e-2, 1e4)),
    "full CAVI in 64 bits": ("full", jaxgmm.cavi, "float64", (1.0, 1e-4, 1e-7, 1e4)),
}


def lanes(covariance: str, kind: Any, dtype: str, scales: tuple[float, ...]) -> jaxgmm.State:
    """A lane for each scale of the prior, beside that of the default one."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((N, D)), dtype)
    prior = jaxgmm.default_prior(x, K, covariance)

    def one(scale: jax.Array) -> jaxgmm.State:
        wishart = replace(prior.components, scale=scale * prior.components.scale)
        algorithm = kind(jaxgmm.Prior(prior.weights, wishart))
        state = algorithm.init(jax.random.key(0), x)
        states = jax.tree.map(lambda a: a[None], state)
        return jaxgmm.run(algorithm, states, x, max_iter=200)[0]

    return jax.jit(jax.vmap(one))(jnp.asarray(scales, dtype))


@pytest.mark.parametrize(
    "case", ["full CAVI", "tied CAVI", *also_slow("full MAP", "full CAVI in 64 bits")]
)
def test_rounding_is_no_fall(case: str):
    states = lanes(*CASES[case])
    assert set(np.ravel(states.status).tolist()) == {Status.CONVERGED}


def test_without_the_products_that_cancel_rounding_is_a_fall(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(monitor, "_ROUNDED", 0.0)
    status = np.ravel(lanes(*CASES["full CAVI"]).status)
    assert status[0] == Status.CONVERGED
    assert status[2] == Status.DECREASED


def test_a_wrong_update_is_a_fall_for_covariances_of_any_shape(monkeypatch: pytest.MonkeyPatch):
    right = jaxgmm.CAVI.advance

    def wrong(self: jaxgmm.CAVI, state: jaxgmm.State, data: object) -> jaxgmm.State:
        new = right(self, state, data)
        return replace(new, objective=new.objective - jnp.where(state.n_iter == 1, 10, 0))

    monkeypatch.setattr(jaxgmm.CAVI, "advance", wrong)
    assert (lanes(*CASES["full CAVI"]).status == Status.DECREASED).all()


def test_the_products_that_cancel_are_those_of_correlated_features():
    mixing = jnp.array([[1.0, 0.9, 0], [0, 0.1, 0], [0, 0, 50]])
    x = jax.random.normal(jax.random.key(0), (40, 3)) @ mixing
    eps = np.finfo(x.dtype).eps
    for covariance in ("full", "tied", "diag"):
        q = jaxgmm.default_prior(x, 2, covariance)
        lost = monitor.cancellation(q, jaxgmm.views.Expectation())
        if covariance == "diag":
            assert lost == 0
            continue
        scales = np.reshape(q.components.scale, (-1, 3, 3))
        degrees = np.ravel(q.components.degrees_of_freedom)
        inflation = [np.diag(s) @ np.diag(np.linalg.inv(s)) for s in scales]
        np.testing.assert_allclose(lost, 0.25 * eps * (degrees @ inflation), rtol=1e-9)
        # without correlations it would be the degrees of freedom times D
        assert lost > 5 * 0.25 * eps * 3 * degrees.sum()
