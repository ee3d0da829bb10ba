"""The parameters of a mixture as NumPyro's sites, and where they are at a fit."""

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array

from jaxgmm._lane.state import State
from jaxgmm._mixture.density import mixture
from jaxgmm._model import families
from jaxgmm._model.prior import Prior
from jaxgmm._numerics import linalg
from jaxgmm._numerics.bijections import interior
from jaxgmm._numerics.checks import check_one_lane
from jaxgmm.numpyro._distributions import mixture_of


def draw_parameters(p: Prior) -> dist.MixtureSameFamily:
    """Draw all parameters from a prior or a posterior; the mixture at them."""
    return mixture_of(_draw_weights(p.weights), _draw_components(p.components))


# NumPyro's own functions have the types of all that a site's value may be.
def _draw(name: str, site: dist.Distribution) -> Any:
    return numpyro.sample(name, site)


def _record(name: str, value: Array) -> Any:
    return numpyro.deterministic(name, value)


def _draw_weights(w: Any) -> Array:
    if isinstance(w, families.FixedWeights):
        return _record("weights", w.weights)
    if w.n_components == 1:  # a simplex of a single point
        return _record("weights", w.mean())
    if isinstance(w, families.Dirichlet):
        return _draw("weights", dist.Dirichlet(w.concentration))
    sticks = _draw("sticks", dist.Beta(w.alpha, w.beta).to_event(1))
    one = jnp.ones((1,), sticks.dtype)
    left = jnp.concatenate([one, jnp.cumprod(1 - sticks)])
    return _record("weights", left * jnp.concatenate([sticks, one]))


def _draw_components(c: Any) -> dist.Distribution:
    if isinstance(c, families.KnownCovariance):
        return _draw_means(c, linalg.cholesky(c.covariance))
    if isinstance(c, families.NormalWishart | families.TiedNormalWishart):
        wishart = dist.WishartCholesky(c.degrees_of_freedom, rate_matrix=c.scale)
        site = wishart.to_event(len(wishart.batch_shape))
        factor = linalg.inverse_factor(_draw("precision_cholesky", site))
        covariance = linalg.matmul(factor, jnp.swapaxes(factor, -1, -2))
        shape = (c.n_components, c.n_features, c.n_features)
        _record("covariances", jnp.broadcast_to(covariance, shape))
        return _draw_means(c, linalg.cholesky(covariance))
    gamma = dist.Gamma(c.shape, c.rate)
    tau = _draw("precisions", gamma.to_event(len(gamma.batch_shape)))
    sd = tau**-0.5 if c.structure == "diag" else tau[:, None] ** -0.5
    width = sd / jnp.sqrt(c.mean_precision)[:, None] if c.conjugate else c.precision**-0.5
    means = _draw("means", dist.Normal(c.mean, width).to_event(2))
    return dist.Normal(means, sd).to_event(1)


def _draw_means(c: Any, lower: Array) -> dist.Distribution:
    """Means of the covariances with these factors, and the components."""
    width = lower / jnp.sqrt(c.mean_precision)[:, None, None]
    site = dist.MultivariateNormal(c.mean, scale_tril=width).to_event(1)
    return dist.MultivariateNormal(_draw("means", site), scale_tril=lower)


def init_values(state: State) -> dict[str, Array]:
    """The sites of `model` at a fit, for ``numpyro.infer.init_to_value(values=...)``.

    After EM the estimate, else the posterior's expectations.

    Raises:
        ValueError: for the states of several lanes.

    Example:
        >>> import jax, jaxgmm, jaxgmm.numpyro
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> prior = jaxgmm.default_prior(x, 2)
        >>> state = jaxgmm.cavi(prior).init(jax.random.key(1), x, posterior=prior)
        >>> sorted(jaxgmm.numpyro.init_values(state))
        ['means', 'precision_cholesky', 'weights']
    """
    check_one_lane(state, "init_values")
    weights, means, covariances = mixture(state)
    p, weights = state.posterior, interior(weights)
    values = {"means": means}
    if isinstance(p.weights, families.StickBreaking):
        left = jnp.cumsum(weights[::-1])[::-1]
        # the last one may be all that is left, to rounding
        values["sticks"] = jnp.clip(weights / left, max=1 - jnp.finfo(left.dtype).eps)[:-1]
    elif isinstance(p.weights, families.Dirichlet) and p.n_components > 1:
        values["weights"] = weights
    if isinstance(p.components, families.NormalWishart | families.TiedNormalWishart):
        tied = isinstance(p.components, families.TiedNormalWishart)
        factor = linalg.inverse_factor(linalg.cholesky(covariances[0] if tied else covariances))
        precision = linalg.matmul(factor, jnp.swapaxes(factor, -1, -2))
        values["precision_cholesky"] = linalg.cholesky(precision)
    elif not isinstance(p.components, families.KnownCovariance):
        precisions = 1 / linalg.diagonal(covariances)
        spherical = p.components.structure == "spherical"
        values["precisions"] = precisions[:, 0] if spherical else precisions
    return {name: a for name, a in values.items() if a.size}
