"""Bridge to NumPyro: fits as distributions, priors as models, posteriors as guides and starts.

A prior and a posterior of this package are one type, and so are a model and a guide here: the sites
of either are the parameters, drawn one after the other.

=====================================  ==========================================================
site                                   of
=====================================  ==========================================================
``weights`` (K,)                       `Dirichlet`
``sticks`` (K - 1,)                    `StickBreaking`
``precision_cholesky`` (K, D, D)       `NormalWishart`: L with ``L L^T`` the precision matrix
``precision_cholesky`` (D, D)          `TiedNormalWishart`
``precisions`` (K, D) or (K,)          `NormalGamma`, `SphericalNormalGamma`,
                                       `IndependentNormalGamma`
``means`` (K, D)                       all
=====================================  ==========================================================

with ``weights`` and ``covariances`` (of the Wisharts) recorded as deterministic sites where they
are none of these. Inside a larger model, ``numpyro.handlers.scope`` gives the names a prefix.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike
from numpyro.distributions import constraints

from jaxgmm._lane.state import State
from jaxgmm._model.prior import Prior
from jaxgmm._numerics.checks import check_one_lane, check_posterior, check_proper, check_samples
from jaxgmm._numerics.pytree import replace
from jaxgmm.numpyro._distributions import distribution, predictive
from jaxgmm.numpyro._sites import draw_parameters, init_values

__all__ = ["distribution", "guide", "init_values", "model", "predictive", "with_params"]


def model(prior: Prior, x: ArrayLike | None = None) -> dist.MixtureSameFamily:
    """A NumPyro model of mixtures, for NUTS and SVI: the assignments are summed out.

    Draws the parameters from the prior (the sites are listed above), and with ``x`` observes it, as
    site ``x`` in a plate ``samples``. Without, use what it returns in a model of your own: the
    mixture at these parameters, to observe or to draw latent variables from. NUTS from a fit::

        start = numpyro.infer.init_to_value(values=jaxgmm.numpyro.init_values(state))
        kernel = numpyro.infer.NUTS(jaxgmm.numpyro.model, init_strategy=start)
        chain = numpyro.infer.MCMC(kernel, num_warmup=500, num_samples=1000)
        chain.run(key, state.prior, x)

    Args:
        prior: any, proper; every family and kind of weights.
        x: samples, ``(N, D)``.

    Returns:
        The mixture, a distribution of single samples ``(D,)``.

    Raises:
        ValueError: for an improper prior, or bad samples.

    Example:
        >>> import jax, jaxgmm, jaxgmm.numpyro, numpyro
        >>> prior = jaxgmm.default_prior(jax.random.normal(jax.random.key(0), (100, 2)), 3)
        >>> seeded = numpyro.handlers.seed(jaxgmm.numpyro.model, jax.random.key(1))
        >>> with jax.numpy_dtype_promotion("standard"):
        ...     mixture = seeded(prior)
        >>> mixture.event_shape, mixture.mixture_size
        ((2,), 3)
    """
    check_proper(prior, "jaxgmm.numpyro.model")
    if x is not None:
        x = check_samples(x, prior.n_features)
    out = draw_parameters(prior)
    if x is not None:
        with numpyro.plate("samples", x.shape[0]):
            numpyro.sample("x", out, obs=x)
    return out


def guide(state: State, *, trainable: bool = False) -> Callable[..., None]:
    """The posterior of a state as a NumPyro guide for `model`, whose arguments it ignores.

    Args:
        state: of one lane, after CAVI or SVI.
        trainable: whether its hyperparameters are NumPyro parameters, ``weights.concentration``,
            ``components.mean`` and so on, that begin at the state's, for SVI to improve; for the
            state that has those SVI found see `with_params`.

    Raises:
        ValueError: for the state of a point estimate, or of several lanes.

    Example:
        >>> import jax, jaxgmm, jaxgmm.numpyro, numpyro
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> prior = jaxgmm.default_prior(x, 2)
        >>> state = jaxgmm.cavi(prior).init(jax.random.key(1), x, posterior=prior)
        >>> guide = numpyro.handlers.seed(jaxgmm.numpyro.guide(state), jax.random.key(2))
        >>> with jax.numpy_dtype_promotion("standard"):
        ...     sites = numpyro.handlers.trace(guide).get_trace()
        >>> list(sites)
        ['weights', 'precision_cholesky', 'covariances', 'means']
    """
    check_posterior(state, "guide")
    check_one_lane(state, "guide")
    q = state.posterior

    def learnable(part: str) -> Any:
        node = getattr(q, part)
        # the covariances' map of this package is no transform of NumPyro's
        supports = {
            name: getattr(transform, "codomain", constraints.positive_definite)
            for name, transform in node.transforms().items()
        }
        return _with_fields(
            node,
            {
                name: numpyro.param(f"{part}.{name}", getattr(node, name), constraint=support)
                for name, support in supports.items()
            },
        )

    def guide(*args: Any, **kwargs: Any) -> None:
        if trainable:
            draw_parameters(Prior(learnable("weights"), learnable("components")))
        else:
            draw_parameters(q)

    return guide


def with_params(state: State, params: dict[str, Array]) -> State:
    """The state with the hyperparameters that a trainable `guide` has learnt.

    Args:
        state: that the guide was made from.
        params: by name, as in the result of NumPyro's SVI.

    Raises:
        ValueError: if one is missing.
    """
    parts = {}
    for part in ("weights", "components"):
        node = getattr(state.posterior, part)
        names = {name: f"{part}.{name}" for name in node.transforms()}
        missing = [name for name in names.values() if name not in params]
        if missing:
            raise ValueError(
                f"params lacks {', '.join(missing)}; give those that SVI found for a guide of this "
                "state with trainable=True."
            )
        parts[part] = _with_fields(node, {field: params[name] for field, name in names.items()})
    return replace(state, posterior=Prior(**parts))


def _with_fields(node: Any, fields: dict[str, Any]) -> Any:
    dtypes = {name: getattr(node, name).dtype for name in fields}
    return replace(node, **{name: jnp.asarray(a, dtypes[name]) for name, a in fields.items()})
