"""Draws for ArviZ: the posterior's own, with names for every axis."""

import builtins
import sys
import warnings
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import clusters

import jaxgmm
from jaxgmm import State
from jaxgmm._export.arviz import to_arviz
from jaxgmm._lane.state import initial_state
from jaxgmm.views import Expectation, Mode


@pytest.fixture(scope="module")
def state() -> State:
    x = clusters(n=60)
    prior = jaxgmm.default_prior(x, 3)
    own = jax.nn.one_hot(jnp.arange(60) % 3, 3, dtype=x.dtype)
    q = jaxgmm.update(prior, jaxgmm.stats.from_responsibilities(x, own))
    return initial_state(prior, q, Expectation())


def test_draws_of_the_posterior(state: State):
    data = to_arviz(jax.random.key(0), state, 500)
    found = data.posterior
    assert found["weights"].dims == ("chain", "draw", "component")
    assert found["means"].dims == ("chain", "draw", "component", "feature")
    assert found["covariances"].dims[2:] == ("component", "feature", "other_feature")
    assert dict(found.sizes) == {
        **{"chain": 1, "draw": 500, "component": 3, "feature": 2, "other_feature": 2}
    }
    # the moments of Dirichlet, Student-t and inverse Wishart (Murphy 2012, section 4.5)
    q = state.posterior
    c = q.components
    exact = {
        "weights": q.weights.concentration / q.weights.concentration.sum(),
        "means": c.mean,
        "covariances": c.scale / (c.degrees_of_freedom - 3)[:, None, None],
    }
    for name, mean in exact.items():
        draws = found[name].values[0]
        error = draws.std(axis=0) / np.sqrt(len(draws))
        assert np.all(np.abs(draws.mean(axis=0) - mean) < 4.5 * error), name


def test_arviz_reads_them(state: State):
    data = to_arviz(jax.random.key(0), state, 500)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that its next version will differ
        import arviz
    table = arviz.summary(data, var_names=["weights"], kind="stats")
    assert list(table.index) == [f"weights[{k}]" for k in range(3)]
    np.testing.assert_allclose(
        table["mean"].astype(float), data.posterior["weights"].mean(("chain", "draw")), atol=6e-4
    )


def test_the_next_arviz(state: State, monkeypatch: pytest.MonkeyPatch):
    """Since 1.0 ``from_dict`` takes the groups as a dictionary."""

    def from_dict(data: Any, *, coords: Any = None, dims: Any = None) -> Any:
        return data, coords, dims

    monkeypatch.setitem(sys.modules, "arviz", SimpleNamespace(from_dict=from_dict))
    data, coords, dims = to_arviz(jax.random.key(0), state, 7)
    assert data["posterior"]["means"].shape == (1, 7, 3, 2)
    assert [len(coords[name]) for name in dims["covariances"]] == [3, 2, 2]


def test_bad_input(state: State, monkeypatch: pytest.MonkeyPatch):
    lanes = jax.tree.map(lambda a: jnp.stack([a, a]), state)
    with pytest.raises(ValueError, match=r"one lane, but this one has 2 lanes; take result\.best"):
        to_arviz(jax.random.key(0), lanes)
    with pytest.raises(ValueError, match="n_draws must be an integer of at least 1, but it is 0"):
        to_arviz(jax.random.key(0), state, 0)
    point = initial_state(state.prior, state.posterior, Mode())
    with pytest.raises(ValueError, match="needs a posterior"):
        to_arviz(jax.random.key(0), point)
    real = builtins.__import__

    def without_arviz(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "arviz":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_arviz)
    with pytest.raises(ImportError, match=r'pip install "jaxgmm\[arviz\]"'):
        to_arviz(jax.random.key(0), state)
