"""The bridge to NumPyro: distributions, models and guides against SciPy's densities and ours."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from algorithms import FAMILIES, WEIGHTS, components
from conftest import clusters
from jax import Array
from jax.scipy.special import gammaln
from numpyro.handlers import seed, substitute, trace
from numpyro.infer.util import log_density as site_density

import jaxgmm
import jaxgmm.numpyro as bridge
from jaxgmm import Prior, State
from jaxgmm._lane.state import initial_state
from jaxgmm._model.views import Draw, draw
from jaxgmm._model.views import log_density as parameter_density
from jaxgmm.views import Expectation, Mode

K = 3
# every structure and every kind of weights in one; the rest of the table is marked slow
BY_DEFAULT = {
    ("full", "dirichlet"),
    ("diag", "pitman-yor"),
    ("known", "fixed"),
    ("independent spherical", "dirichlet"),
}
MODELS = [
    pytest.param(*row, marks=() if row in BY_DEFAULT else pytest.mark.slow)
    for row in [
        *((family, "dirichlet") for family in FAMILIES),
        *(("diag", kind) for kind in WEIGHTS if kind != "dirichlet"),
        ("known", "fixed"),
    ]
]


def slow(*rows: str) -> list[Any]:
    return [pytest.param(row, marks=pytest.mark.slow) for row in rows]


@pytest.fixture(autouse=True)
def numpyros_promotion():
    # NumPyro mixes in constants of the default dtype
    with jax.numpy_dtype_promotion("standard"):
        yield


def posterior(family: str, weights: str = "dirichlet", dtype: str = "float64") -> Prior:
    """The posterior of soft random assignments."""
    prior = Prior(WEIGHTS[weights](dtype), components(family, dtype, proper=True))
    x = clusters(dtype, 60)
    r = np.random.default_rng(1).dirichlet(np.full(K, 0.5), 60)
    stats = jaxgmm.stats.from_responsibilities(
        x, jnp.asarray(r, dtype), structure=structure_of(prior)
    )
    return jaxgmm.update(prior, stats, prior)


def structure_of(prior: Prior) -> str:
    return prior.components.structure


def state_of(family: str, weights: str = "dirichlet", *, mode: bool = False) -> State:
    q = posterior(family, weights)
    return initial_state(q, q, Mode(jnp.asarray(0.1)) if mode else Expectation())


def narrow(covariance: str) -> State:
    """The posterior of a single feature and two components."""
    x = clusters(n=30)[:, :1]
    prior = jaxgmm.default_prior(x, 2, covariance)
    r = jnp.stack([jnp.arange(30) % 3 == 0, jnp.arange(30) % 3 > 0], axis=1).astype(x.dtype)
    stats = jaxgmm.stats.from_responsibilities(x, r, structure=structure_of(prior))
    q = jaxgmm.update(prior, stats)
    return initial_state(prior, q, Expectation())


# a distribution is a pytree
log_prob = jax.jit(lambda q, x: q.log_prob(x))


# --- a fit as a distribution --------------------------------------------------------------------


def scipys_density(state: State, x: np.ndarray) -> np.ndarray:
    weights, means, covariances = (np.asarray(a) for a in jaxgmm.mixture(state))
    normals = [
        w * scipy.stats.multivariate_normal(m, c).pdf(x)
        for w, m, c in zip(weights, means, covariances, strict=True)
    ]
    return np.log(np.sum(normals, axis=0))


@pytest.mark.parametrize(("model", "mode"), [("full", False), ("independent spherical", True)])
def test_distribution(model: str, mode: bool):
    x, state = clusters(n=20), state_of(model, mode=mode)
    found = bridge.distribution(state)
    np.testing.assert_allclose(log_prob(found, x), scipys_density(state, np.asarray(x)), rtol=1e-9)
    if mode:
        np.testing.assert_allclose(log_prob(bridge.predictive(state), x), log_prob(found, x))


@pytest.mark.parametrize(
    "model",
    [
        *("full", "diag", "known", "independent spherical"),
        *slow("tied", "spherical", "independent diag"),
    ],
)
def test_predictive(model: str):
    x, state = clusters(n=20), state_of(model)
    found = bridge.predictive(state)
    assert found.event_shape == (2,)
    np.testing.assert_allclose(log_prob(found, x), jaxgmm.log_prob(state, x), rtol=1e-10)
    # in any shape of batch
    batch = x.reshape(4, 5, 2)
    np.testing.assert_allclose(log_prob(found, batch).ravel(), log_prob(found, x), rtol=1e-12)
    assert found.sample(jax.random.key(0), (3, 4)).shape == (3, 4, 2)


@pytest.mark.parametrize("covariance", ["full", "diag", *slow("tied", "spherical")])
def test_predictive_of_one_feature(covariance: str):
    state = narrow(covariance)
    x = jnp.linspace(-4.0, 6.0, 9)[:, None]
    found = log_prob(bridge.predictive(state), x)
    np.testing.assert_allclose(found, jaxgmm.log_prob(state, x), rtol=1e-10)


@pytest.mark.parametrize("model", ["independent spherical", *slow("independent diag")])
def test_integrated_components(model: str):
    """Their draws have the moments that they say, and these are those of their density."""
    q = bridge.predictive(state_of(model))
    parts = q.component_distribution
    draws = np.asarray(parts.sample(jax.random.key(0), (40_000,)))
    error = np.sqrt(np.asarray(parts.variance) / len(draws))
    assert np.all(np.abs(draws.mean(axis=0) - parts.mean) < 4 * error)
    np.testing.assert_allclose(draws.var(axis=0), parts.variance, rtol=0.05)
    # a row of points of its own for every component
    grid = jnp.linspace(-60.0, 60.0, 4001)
    x = jnp.broadcast_to(parts.mean[:, None], (K, 4001, 2)).at[:, :, 0].set(grid)
    density = jnp.exp(parts.log_prob(jnp.moveaxis(x, 0, 1)))
    fixed = jnp.sum(density, axis=0) * (grid[1] - grid[0])
    # integrated over the first feature, which leaves the second's density at its mean
    second = jnp.exp(parts.log_prob(parts.mean)) * 0 + fixed
    assert density.shape == (4001, K)
    first = jnp.sum(density * grid[:, None], axis=0) * (grid[1] - grid[0]) / second
    np.testing.assert_allclose(first, parts.mean[:, 0], atol=1e-3)


def test_dtype_is_kept():
    state = initial_state(*[posterior("full", dtype="float32")] * 2, Expectation())
    x = clusters("float32", 5)
    assert log_prob(bridge.predictive(state), x).dtype == jnp.float32
    params = trained_params(state)
    assert {a.dtype for a in params.values()} == {np.dtype("float32")}
    for name, a in bridge.init_values(state).items():
        assert a.dtype == jnp.float32, name


# --- a prior as a model -------------------------------------------------------------------------


def sites_at(prior: Prior, point: Draw) -> tuple[dict[str, Array], Array]:
    """The model's sites at a draw, and the log of what turns our density into one over them."""
    c, factor = prior.components, point.components.factor
    values, jacobian = {"means": point.components.mean}, jnp.zeros(())
    site = c.precisions.site()
    if site is not None and site[0] == "precision_cholesky":
        d = factor.shape[-1]
        lower = jnp.linalg.cholesky(factor @ factor.mT)
        values["precision_cholesky"] = lower
        diagonal = jnp.log(jnp.diagonal(lower, axis1=-2, axis2=-1))
        # Sigma from Lambda, |Lambda|^-(D + 1); Lambda from L, 2^D prod_i L_ii^(D - i + 1)
        by_lower = jnp.sum(diagonal * (d - jnp.arange(d)), axis=-1) + d * jnp.log(2)
        jacobian = jnp.sum(by_lower - 2 * (d + 1) * jnp.sum(diagonal, axis=-1))
    elif site is not None:  # a precision for each feature, or for each component
        values["precisions"] = factor**2
        jacobian = -2 * jnp.sum(jnp.log(factor**2))
    weights = jnp.exp(point.log_weights)
    if isinstance(prior.weights, jaxgmm.Dirichlet):
        values["weights"] = weights
        jacobian += gammaln(len(weights))  # of the uniform distribution
    elif isinstance(prior.weights, jaxgmm.StickBreaking):
        values["sticks"] = (weights / jnp.cumsum(weights[::-1])[::-1])[:-1]
    return values, jacobian


@pytest.mark.parametrize(("model", "weights"), MODELS)
def test_model_and_guide_are_our_densities(model: str, weights: str):
    """At a draw from the posterior: the joint density of the model, and that of the guides."""
    posterior_here = posterior(model, weights)
    prior_here = Prior(WEIGHTS[weights]("float64"), components(model, "float64", proper=True))
    names: set[str] = set()

    @jax.jit
    def compare(prior: Prior, q: Prior, x: Array) -> tuple[Any, ...]:
        point = draw(jax.random.key(4), q)
        values, jacobian = sites_at(prior, point)
        found, sites = site_density(bridge.model, (prior, x), {}, values)
        ours = jaxgmm.stats.log_evidence(x, point.potentials()) + parameter_density(prior, point)
        names.update(name for name, site in sites.items() if site["type"] == "sample")
        assert names == {*values, "x"}
        pairs = [(found, ours + jacobian)]
        state = initial_state(prior, q, Expectation())
        for trainable in (False, True):
            guide = bridge.guide(state, trainable=trainable)
            found, _ = site_density(guide, (prior, x), {}, values)
            pairs.append((found, parameter_density(q, point) + jacobian))
        recorded = {n: s["value"] for n, s in sites.items() if n in ("weights", "covariances")}
        return pairs, recorded, point

    pairs, recorded, point = compare(prior_here, posterior_here, clusters(n=20))
    # jax.scipy.special.betaln, of the sticks, is off by up to 1e-7 where both arguments are above 8
    atol = 1e-6 if "sticks" in names else 1e-9
    for found, ours in pairs:
        np.testing.assert_allclose(found, ours, atol=atol)
    np.testing.assert_allclose(recorded["weights"], np.exp(point.log_weights), rtol=1e-9)
    if "covariances" in recorded:
        factor = np.asarray(point.components.factor)
        products = recorded["covariances"] @ (factor @ factor.swapaxes(-1, -2))
        np.testing.assert_allclose(products, np.broadcast_to(np.eye(2), (K, 2, 2)), atol=1e-9)


@pytest.mark.parametrize(("model", "weights"), MODELS)
def test_start_is_the_fit(model: str, weights: str):
    state = state_of(model, weights)
    values = bridge.init_values(state)
    start = seed(substitute(bridge.model, data=values), jax.random.key(0))
    sites = trace(start).get_trace(state.prior)
    assert {n for n, site in sites.items() if site["type"] == "sample"} == set(values)
    found = substitute(start, data=values)(state.prior)
    expected = jaxgmm.mixture(state)
    np.testing.assert_allclose(found.mixing_distribution.probs, expected.weights, rtol=1e-9)
    parts = found.component_distribution
    np.testing.assert_allclose(parts.mean, expected.means)
    if hasattr(parts, "covariance_matrix"):
        found = jnp.broadcast_to(parts.covariance_matrix, (K, 2, 2))  # of one, or of each
        np.testing.assert_allclose(found, expected.covariances, rtol=1e-9)
    else:
        variances = jnp.diagonal(expected.covariances, axis1=1, axis2=2)
        np.testing.assert_allclose(parts.variance, variances, rtol=1e-9)


def test_start_after_em_with_an_empty_component():
    prior = jaxgmm.flat_prior(3, 2, weights="dirichlet_process")
    count = jnp.asarray([20.0, 10.0, 0.0])
    q = Prior(prior.weights.update(count), posterior("full").components)
    values = bridge.init_values(initial_state(prior, q, Mode()))
    assert np.all((values["sticks"] > 0) & (values["sticks"] < 1))
    np.testing.assert_allclose(values["sticks"][0], 2 / 3, rtol=1e-6)


def test_one_component():
    x = clusters(n=20)
    state = initial_state(*[jaxgmm.default_prior(x, 1)] * 2, Expectation())
    values = bridge.init_values(state)
    assert set(values) == {"means", "precision_cholesky"}
    start = seed(substitute(bridge.model, data=values), jax.random.key(0))
    assert start(state.prior).mixture_size == 1


# --- a posterior with parameters ----------------------------------------------------------------


def trained_params(state: State) -> dict[str, Array]:
    """The parameters of a trainable guide at its start."""
    guide = substitute(bridge.guide(state, trainable=True), data=bridge.init_values(state))
    sites = trace(seed(guide, jax.random.key(0))).get_trace(state.prior)
    return {name: s["value"] for name, s in sites.items() if s["type"] == "param"}


@pytest.mark.parametrize(("model", "weights"), MODELS)
def test_params_begin_at_the_state(model: str, weights: str):
    state = state_of(model, weights)
    params = trained_params(state)
    learnt = [*state.posterior.weights.transforms(), *state.posterior.components.transforms()]
    assert sorted(name.split(".")[1] for name in params) == sorted(learnt)
    moved = bridge.with_params(state, {name: 2 * a for name, a in params.items()})
    np.testing.assert_array_equal(
        moved.posterior.components.mean, 2 * state.posterior.components.mean
    )
    back = bridge.with_params(moved, params)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)
    name = next(iter(params))
    del params[name]
    with pytest.raises(ValueError, match=f"params lacks {name}; give those that SVI found"):
        bridge.with_params(state, params)


# --- bad input ----------------------------------------------------------------------------------


def test_bad_input():
    x, state = clusters(n=20), state_of("full")
    lanes = jax.tree.map(lambda a: jnp.stack([a, a]), state)
    for function in (bridge.distribution, bridge.predictive, bridge.guide, bridge.init_values):
        with pytest.raises(ValueError, match=r"one lane, but this one has 2 lanes; take result.be"):
            function(lanes)
    with pytest.raises(ValueError, match=r"guide needs a posterior, but .* point estimate"):
        bridge.guide(state_of("full", mode=True))
    with pytest.raises(ValueError, match=r"jaxgmm\.numpyro\.model needs a proper prior"):
        bridge.model(jaxgmm.flat_prior(2, 2))
    with pytest.raises(ValueError, match="x has 1 features, but the model has 2"):
        seed(bridge.model, jax.random.key(0))(state.prior, x[:, :1])
