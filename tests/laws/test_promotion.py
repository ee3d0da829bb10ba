"""With ``jax_numpy_rank_promotion="raise"``, as careful users have it: nothing is promoted by rank.

Tracing says it, so that most of it costs no compilation.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import clusters, parametrize
from sklearn.exceptions import ConvergenceWarning

import jaxgmm
import jaxgmm.sklearn

x = clusters(n=60)
KEY = jax.random.key(0)
MAKERS: dict[str, Callable[[Any], Any]] = {
    "em": lambda prior: jaxgmm.em(prior, 0.1),
    "squarem": lambda prior: jaxgmm.squarem(jaxgmm.annealed(jaxgmm.em(prior))),
    "cavi": jaxgmm.cavi,
    "natural": lambda prior: jaxgmm.svi(prior, jaxgmm.natural_gradient(), 20, average=True),
    "sample": lambda prior: jaxgmm.svi(prior, optax.adam(0.1), 20),
    "expectation": lambda prior: jaxgmm.svi(prior, optax.adam(0.1), view="expectation"),
    "mode": lambda prior: jaxgmm.svi(prior, optax.adam(0.1), view="mode"),
}
FAMILIES = {"full": "full", "tied": "tied", "diag": "diag", "spherical": "spherical", "known": None}
WEIGHTS = ("dirichlet", "dirichlet_process")


@pytest.fixture(autouse=True)
def nothing_is_promoted():
    with jax.numpy_rank_promotion("raise"):
        yield


def test_the_setting_is_in_force():
    with pytest.raises(ValueError, match="rank_promotion"):
        x - x[0]


def few(kind: str, family: str, weights: str) -> bool:
    """Whether a row is traced by default."""
    usual = {("em", "full"), ("cavi", "tied"), ("sample", "diag"), ("cavi", "spherical")}
    return (kind, family) in usual and weights == "dirichlet"


ROWS = [(kind, family, weights) for kind in MAKERS for family in FAMILIES for weights in WEIGHTS]


@parametrize(("kind", "family", "weights"), ROWS, slow=lambda *row: not few(*row))
def test_a_run_and_what_follows(kind: str, family: str, weights: str):
    given = FAMILIES[family] or jnp.eye(2)
    algorithm = MAKERS[kind](jaxgmm.default_prior(x, 3, given, weights))

    def run(keys: jax.Array, x: jax.Array) -> Any:
        rows = jaxgmm.Rows(x, x[:, 0] ** 2)
        states = jax.vmap(algorithm.init, (0, None))(keys, rows)
        states, history = jaxgmm.run(algorithm, states, rows, history_length=2)
        state = jax.tree.map(lambda a: a[0], states)
        values = [f(state, rows) for f in (jaxgmm.bic, jaxgmm.icl, jaxgmm.elbo)]
        density = jaxgmm.log_prob(state, x), jaxgmm.predict(state, x)
        draws = jaxgmm.sample(KEY, state, 5), jaxgmm.cdf(state, x[:, 0], 0)
        return state, history, values, density, draws

    out = jax.eval_shape(run, jax.random.split(KEY, 2), x)
    assert out[1].shape == (2, 2)


@pytest.mark.parametrize("weighted", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_data_on_devices(weighted: bool, monkeypatch: pytest.MonkeyPatch):
    """Programs look at what NumPy cannot read without a transfer, here as if that were all data."""
    for module in ("_numerics.devices", "_numerics.inputs", "_fit.whitening"):
        monkeypatch.setattr(f"jaxgmm.{module}.is_on_host", lambda _: False)
    rows = jaxgmm.Rows(x, x[:, 0] ** 2 if weighted else None)
    prior = jaxgmm.default_prior(rows, 2)
    result = jaxgmm.fit(KEY, rows, jaxgmm.em(prior), 1, max_iter=2, moves=False)
    assert np.isfinite(result.best.objective)


@pytest.mark.slow
def test_fits_selections_and_estimators():
    prior = jaxgmm.default_prior(np.asarray(x), 4)
    for algorithm in (jaxgmm.em(jaxgmm.flat_prior(6, 2)), jaxgmm.cavi(prior)):
        assert jaxgmm.fit(KEY, x, algorithm).best.n_iter > 0
    svi = MAKERS["sample"](prior)
    assert jaxgmm.fit(KEY, x, svi, 2, max_iter=5).best.n_iter == 5
    # with lanes that collapse and start again
    assert jaxgmm.fit(KEY, x, jaxgmm.em(jaxgmm.flat_prior(20, 2))).best.n_iter > 0
    chosen = jaxgmm.select(KEY, x, [1, 2, 3], ["full", "diag"], "elbo")
    assert chosen.n_components in (1, 2, 3)
    for kind in (jaxgmm.sklearn.GaussianMixture, jaxgmm.sklearn.BayesianGaussianMixture):
        for covariance in ("full", "tied", "diag", "spherical"):
            model = kind(n_components=2, covariance_type=covariance, tol=1e-2)
            try:
                model.fit(x)
            except ConvergenceWarning:
                continue
            assert model.predict_proba(x).shape == (60, 2)
            assert model.score_samples(x).shape == (60,)
