"""The parameters of a mixture as NumPyro's sites, and where they are at a fit."""

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array

from jaxgmm._estep.structures import structure
from jaxgmm._lane.state import Fitted, State, state_of
from jaxgmm._model.prior import Prior
from jaxgmm._numerics import linalg
from jaxgmm._numerics.bijections import interior
from jaxgmm.numpyro._distributions import check_learnt, mixture_of


def draw_parameters(p: Prior) -> dist.MixtureSameFamily:
    """Draw all parameters from a prior or a posterior; the mixture at them."""
    return mixture_of(_draw_weights(p.weights), _draw_components(p.components))


# NumPyro's own functions have the types of all that a site's value may be.
def _draw(name: str, site: dist.Distribution) -> Any:
    return numpyro.sample(name, site)


def _record(name: str, value: Array) -> Any:
    return numpyro.deterministic(name, value)


def _draw_weights(w: Any) -> Array:
    site = w.site() if w.n_components > 1 else None  # a simplex of a single point
    if site is None:
        return _record("weights", w.mean())
    name, distribution = site
    weights = w.at_site(_draw(name, distribution))
    return weights if name == "weights" else _record("weights", weights)


def _draw_components(c: Any) -> dist.Distribution:
    kind, precisions, shape = structure(c.structure), c.precisions, c.mean.shape
    matrices, site = kind.separate == "full", precisions.site()
    if site is None:
        covariance = precisions.covariance_at(None)
    else:
        covariance = precisions.at_site(_draw(*site))
        if matrices:
            _record("covariances", kind.matrices(covariance, *shape))
    means = _draw("means", _normals(c.mean, c.mean_variance(covariance)).to_event(1))
    if matrices:
        return _normals(means, kind.matrices(covariance, *shape))
    return _normals(means, kind.variances(covariance, *shape))


def _normals(mean: Array, covariance: Array) -> dist.Distribution:
    """Normals of covariance matrices (K, D, D), or of variances (K, D) or (K,)."""
    if covariance.ndim == 3:
        return dist.MultivariateNormal(mean, scale_tril=linalg.cholesky(covariance))
    variances = covariance if covariance.ndim == 2 else covariance[:, None]
    return dist.Normal(mean, jnp.sqrt(variances)).to_event(1)


def init_values(state: State | Fitted) -> dict[str, Array]:
    """The sites of `model` at a fit, for ``numpyro.infer.init_to_value(values=...)``.

    After EM they are the estimate, after CAVI and SVI the posterior's expectations.

    Raises:
        ValueError: for the states of several lanes.

    Example:
        >>> import jax, jaxgmm, jaxgmm.numpyro
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> prior = jaxgmm.default_prior(x, 2)
        >>> state = jaxgmm.cavi(prior).init(jax.random.key(1), x, {"posterior": prior})
        >>> sorted(jaxgmm.numpyro.init_values(state))
        ['means', 'precision_cholesky', 'weights']
    """
    state = state_of(state, "init_values")
    check_learnt(state.prior, "jaxgmm.numpyro.init_values")
    m, p = state.view.estimate(state.posterior), state.posterior
    values = {"means": m.means}
    if p.weights.n_components > 1 and p.weights.site() is not None:
        values[p.weights.site()[0]] = p.weights.site_value(interior(m.weights))
    site = p.components.precisions.site()
    if site is not None:
        values[site[0]] = p.components.precisions.site_value(m.covariance)
    return {name: a for name, a in values.items() if a.size}
