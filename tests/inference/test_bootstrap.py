"""The bootstrap against what is known of one component, and against the information."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import clusters

import jaxgmm
from jaxgmm._inference import replicates
from jaxgmm._inference.bootstrap import Bootstrap
from jaxgmm._lane.state import initial_state

KINDS = ("parametric", "nonparametric", "weighted")
N, D, B = 150, 2, 2000  # the standard error of a standard error is 1.6%


def one_component(x: jax.Array, weight: jax.Array | None = None) -> jaxgmm.State:
    algorithm = jaxgmm.em(jaxgmm.flat_prior(1, D))
    start = algorithm.init(jax.random.key(0), x, {"means": x[:1]}, sample_weight=weight)
    return algorithm.step(start, x, sample_weight=weight)


def replicated(x: jax.Array, kind: str, weight: jax.Array | None = None, n: int = B) -> Bootstrap:
    state, algorithm = one_component(x, weight), jaxgmm.em(jaxgmm.flat_prior(1, D))
    key = jax.random.key(1)
    return jaxgmm.bootstrap(key, state, x, algorithm, n, kind, sample_weight=weight)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_one_component_in_closed_form(kind: str):
    x = clusters(n=N) * jnp.array([1.0, 100.0]) + 1000
    found = replicated(x, kind)
    s = np.cov(x.T, bias=True)
    variances, n = np.diag(s), N + (kind == "weighted")  # Dirichlet weights: Rubin 1981
    np.testing.assert_allclose(found.errors.means[0], np.sqrt(variances / n), rtol=0.05)
    centred = np.asarray(x - x.mean(0))
    of_products = s**2 + np.outer(variances, variances)
    if kind != "parametric":  # the data's own fourth moments
        products = np.einsum("ni,nj->nij", centred, centred)
        of_products = products.var(axis=0)
    expected = np.sqrt(of_products / n)
    np.testing.assert_allclose(found.errors.covariances[0], expected, rtol=0.05)
    lower, upper = found.intervals(0.9)
    z = 1.645 * np.sqrt(variances / n)
    np.testing.assert_allclose(upper.means[0] - lower.means[0], 2 * z, rtol=0.05)
    assert (lower.means[0] < x.mean(0)).all()
    assert (x.mean(0) < upper.means[0]).all()
    assert found.replicates.means.shape == (B, 1, D)
    assert f"{kind} bootstrap: K=1, D=2, {B} replicates" in found.summary()
    assert "note" not in found.summary()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_row_of_weight_two_counts_as_two_rows(kind: str):
    x = clusters(n=N)
    weight = jnp.where(jnp.arange(N) % 3 == 0, 2.0, 1.0).at[-1].set(0)
    found = replicated(x, kind, weight)
    n = float(weight.sum()) + (kind == "weighted")
    variances = np.diag(np.cov(x.T, bias=True, fweights=np.asarray(weight, int)))
    np.testing.assert_allclose(found.errors.means[0], np.sqrt(variances / n), rtol=0.05)


@pytest.mark.slow
def test_a_replicate_does_not_depend_on_the_others(monkeypatch: pytest.MonkeyPatch):
    x = clusters(n=N)
    some = replicated(x, "parametric", n=5)
    monkeypatch.setattr(replicates, "_NUMBERS", 1)  # two lanes of a call
    few = replicated(x, "parametric", n=3)
    for a, b in zip(few.replicates, some.replicates, strict=True):
        np.testing.assert_allclose(a, b[:3], rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_the_bootstrap_agrees_with_the_information():
    # two clusters, many samples: both are right
    key = jax.random.key(0)
    means, covariances = jnp.array([[0.0, 0.0], [4.0, 2.0]]), jnp.stack([jnp.eye(D)] * 2)
    truth = jaxgmm.Mixture(jnp.array([0.4, 0.6]), means, covariances)
    x, _ = jaxgmm.sample(key, truth, 2000)
    algorithm = jaxgmm.em(jaxgmm.flat_prior(2, D))
    state = jaxgmm.fit(key, x, algorithm, tol=1e-9).best
    known = jaxgmm.standard_errors(state, x).errors
    for kind in KINDS:
        found = jaxgmm.bootstrap(key, state, x, algorithm, B, kind)
        # 5%, and for the two kinds that know the data's own fourth moments what these differ by
        for a, b in zip(found.errors, known, strict=True):
            np.testing.assert_allclose(a, b, rtol=0.05 if kind == "parametric" else 0.12)
        for k in range(2):  # no replicate has its components' names swapped
            gaps = found.replicates.means[:, k] - found.estimate.means[k]
            assert float(jnp.max(jnp.linalg.norm(gaps, axis=-1))) < 0.5


def test_bad_arguments_are_refused():
    x = clusters(n=N)
    key, prior = jax.random.key(0), jaxgmm.flat_prior(1, D)
    state, algorithm = initial_state(prior, prior, jaxgmm.views.Mode()), jaxgmm.em(prior)
    with pytest.raises(ValueError, match="kind"):
        jaxgmm.bootstrap(key, state, x, algorithm, kind="smooth")
    with pytest.raises(ValueError, match="rows without weights"):
        jaxgmm.bootstrap(key, state, x, algorithm, sample_weight=jnp.ones(N))
    with pytest.raises(ValueError, match="posterior must have the type, shapes"):
        jaxgmm.bootstrap(key, state, x, jaxgmm.em(jaxgmm.flat_prior(2, D)))
    with pytest.raises(ValueError, match="give the algorithm that fitted it"):
        jaxgmm.bootstrap(key, state, x, jaxgmm.cavi(jaxgmm.default_prior(x, 1)))
    svi = jaxgmm.svi(jaxgmm.default_prior(x, 1), jaxgmm.natural_gradient(), 10)
    with pytest.raises(ValueError, match=r"jaxgmm\.em and jaxgmm\.cavi"):
        jaxgmm.bootstrap(key, state, x, svi)
    with pytest.raises(ValueError, match="n_replicates"):
        jaxgmm.bootstrap(key, state, x, algorithm, 0)
    m = jaxgmm.Mixture(jnp.ones(1), jnp.zeros((1, 1)), jnp.ones((1, 1, 1)))
    found = Bootstrap(m, jax.tree.map(lambda a: jnp.stack([a, 2 * a]), m), "weighted", 2, 1)
    assert "fits of 2 replicates failed" in found.summary()
    assert "1 replicates ended with max_iter" in found.summary()
    np.testing.assert_allclose(found.errors.covariances[0], np.sqrt(0.5))
    with pytest.raises(ValueError, match="mass"):
        found.intervals(95.0)
