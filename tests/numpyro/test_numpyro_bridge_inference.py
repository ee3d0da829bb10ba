"""NumPyro's inference through the bridge: ELBO, SVI, NUTS.

The models of `test_numpyro`, written by hand, share nothing with the bridge, and are its oracle for
whole chains.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from algorithms import FAMILIES, WEIGHTS, components
from conftest import clusters
from jax import Array
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO, TraceMeanField_ELBO, init_to_value
from test_numpyro import average, quantities, reference, system
from test_numpyro_bridge import K, posterior, state_of

import jaxgmm
import jaxgmm.numpyro as bridge
from jaxgmm import Prior, State
from jaxgmm._lane.state import initial_state
from jaxgmm._numerics.pytree import replace
from jaxgmm.views import Expectation


@pytest.fixture(autouse=True)
def numpyros_promotion():
    # NumPyro mixes in constants of the default dtype
    with jax.numpy_dtype_promotion("standard"):
        yield


# --- ELBO, SVI ----------------------------------------------------------------------------------


# The bridge's densities, equal to ours at every draw, say the same.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "weights"), [*((f, "dirichlet") for f in FAMILIES), ("diag", "pitman-yor")]
)
def test_elbo_of_the_guide_is_ours(model: str, weights: str):
    x = clusters(n=20)
    prior = Prior(WEIGHTS[weights]("float64"), components(model, "float64", proper=True))
    q = jaxgmm.views.interpolate(prior, posterior(model, weights), 0.5)
    state = initial_state(prior, q, Expectation())
    ours, our_error = jaxgmm.sampled_elbo(jax.random.key(0), state, x, 20_000)
    for kind in (Trace_ELBO, TraceMeanField_ELBO):
        loss = kind(num_particles=300).loss

        def estimate(key: Array, loss: Any = loss) -> Array:
            return -loss(key, {}, bridge.model, bridge.guide(state), prior, x)

        theirs, their_error = average(estimate, 1)
        error = np.hypot(our_error, their_error)
        assert error < 0.1
        assert abs(ours - theirs) < 4 * error


def trained(start: State, x: Array, steps: int) -> tuple[State, Array]:
    """The state after steps of NumPyro's SVI, and its losses."""
    svi = SVI(
        bridge.model,
        bridge.guide(start, trainable=True),
        numpyro.optim.Adam(0.03),
        Trace_ELBO(5),
    )
    result = svi.run(jax.random.key(1), steps, start.prior, x, progress_bar=False)
    return bridge.with_params(start, result.params), result.losses


def sampled(state: State, x: Array) -> float:
    return float(jaxgmm.sampled_elbo(jax.random.key(2), state, x)[0])


@pytest.mark.slow
def test_svi_improves_the_guide():
    state, x = state_of("known", "fixed"), clusters(n=20)
    # so wide that its draws are nowhere near the data
    components = replace(state.posterior.components, mean_precision=jnp.full(K, 0.1))
    wide = replace(state, posterior=replace(state.posterior, components=components))
    found, losses = trained(wide, x, 200)
    assert losses[-10:].mean() < losses[:10].mean() - 20
    assert np.all(found.posterior.components.mean_precision > 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("covariance", ["full", "tied", "diag"])
def test_svi_comes_to_the_bound_of_cavi(covariance: str):
    """From a fifth of the way from the prior to the fit; with the assignments summed out, above."""
    x = clusters(n=60)
    prior = jaxgmm.default_prior(x, K, covariance)
    cavi = jaxgmm.fit(jax.random.key(0), x, jaxgmm.cavi(prior), 4).best
    start = replace(cavi, posterior=jaxgmm.views.interpolate(prior, cavi.posterior, 0.2))
    found, _ = trained(start, x, 3000)
    assert sampled(start, x) < sampled(cavi, x) - 5
    assert sampled(found, x) > sampled(cavi, x) - 0.5


# --- NUTS ---------------------------------------------------------------------------------------


def chain(prior: Prior, state: State, x: Array, warmup: int, samples: int) -> MCMC:
    start = init_to_value(values=bridge.init_values(state))
    out = MCMC(
        NUTS(bridge.model, init_strategy=start),
        num_warmup=warmup,
        num_samples=samples,
        progress_bar=False,
    )
    out.run(jax.random.key(0), prior, x, extra_fields=("diverging",))
    assert not np.any(out.get_extra_fields()["diverging"])
    return out


@pytest.mark.slow
def test_nuts_runs_from_a_fit():
    x = system(20)
    prior = jaxgmm.default_prior(x, K, jnp.eye(2))
    own = jax.nn.one_hot(jnp.arange(60) // 20, K, dtype=x.dtype)
    q = jaxgmm.update(prior, jaxgmm.stats.from_responsibilities(x, own, structure="tied"))
    state = initial_state(prior, q, Expectation())
    draws = chain(prior, state, x, 50, 100).get_samples()
    assert draws["weights"].shape == (100, K)
    # it stayed at the mode that it began in
    q = state.posterior.components
    sd = q.mean_precision[:, None] ** -0.5
    assert np.all(np.abs(draws["means"].mean(axis=0) - q.mean) < sd)


@pytest.mark.slow
def test_nuts_recovers_system_5():
    """Its posterior, 300 samples: the moments of a chain of a model written by hand.

    And those of CAVI, near enough, since the clusters hardly overlap.
    """
    ref = reference("independent")
    state = initial_state(ref.prior, ref.cavi, Expectation())
    found = chain(ref.prior, state, ref.x, 500, 2000).get_samples()
    draws = quantities({**found, "precision": found["precisions"]})
    mean, sd = ref.chain.mean(axis=0), ref.chain.std(axis=0)
    n = [effective_sample_size(a[None]) for a in (draws, ref.chain)]
    assert np.all(n[0] > 500)
    error = np.sqrt(1 / n[0] + 1 / n[1])
    assert np.all(np.abs(draws.mean(axis=0) - mean) / sd < 4 * error)
    # a standard deviation's relative error, of tails about as heavy as a gamma's
    assert np.all(np.abs(draws.std(axis=0) / sd - 1) < 4 * error)
    centres = np.sort(found["means"].mean(axis=0)[:, 1])
    np.testing.assert_allclose(centres, [-4, 0, 4], atol=0.3)
