"""Bridge to NumPyro: fits become distributions, priors models, posteriors guides and starts.

In jaxgmm a prior and a posterior have the same type. So a model and a guide have the same sites
here: the parameters, drawn one after the other.

| site | of |
| --- | --- |
| ``weights`` (K,) | `Dirichlet` |
| ``sticks`` (K - 1,) | `StickBreaking` |
| ``precision_cholesky`` (K, D, D) | `NormalWishart`: L with ``L L^T`` the precision matrix |
| ``precision_cholesky`` (D, D) | `TiedNormalWishart` |
| ``precisions`` (K, D) | `NormalGamma`, `IndependentNormalGamma` |
| ``precisions`` (K,) | `SphericalNormalGamma` |
| ``means`` (K, D) | all |

If a model has no site ``weights``, it records the weights as a deterministic site of that name. It
also records the ``covariances`` of the Wishart families. Inside a larger model,
``numpyro.handlers.scope`` gives the names a prefix.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike
from numpyro.distributions import constraints

from jaxgmm._lane.state import Fitted, State, posterior_state, state_of
from jaxgmm._model.checks import check_proper
from jaxgmm._model.prior import Prior
from jaxgmm._numerics.checks import check_samples
from jaxgmm._numerics.pytree import replace
from jaxgmm.numpyro._distributions import check_learnt, distribution, predictive
from jaxgmm.numpyro._sites import draw_parameters, init_values

__all__ = ["distribution", "guide", "init_values", "model", "predictive", "with_params"]


def model(prior: Prior, x: ArrayLike | None = None) -> dist.MixtureSameFamily:
    """A NumPyro model of mixtures, for NUTS and SVI: the assignments are summed out.

    The model draws the parameters from the prior (the sites are listed above). With ``x`` it
    observes the samples as site ``x`` in a plate ``samples``. Without ``x`` use the mixture that it
    returns in a model of your own, to observe data or to draw latent variables. NUTS from a fit::

        start = numpyro.infer.init_to_value(values=jaxgmm.numpyro.init_values(state))
        kernel = numpyro.infer.NUTS(jaxgmm.numpyro.model, init_strategy=start)
        chain = numpyro.infer.MCMC(kernel, num_warmup=500, num_samples=1000)
        chain.run(key, state.prior, x)

    Args:
        prior: a proper prior of any family and kind of weights.
        x: samples, ``(N, D)``.

    Returns:
        The mixture at the drawn parameters, a distribution of single samples ``(D,)``.

    Raises:
        ValueError: for an improper prior, one of which parameters are frozen, or bad samples.

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
    check_learnt(prior, "jaxgmm.numpyro.model")
    if x is not None:
        x = check_samples(x, prior.n_features)
    out = draw_parameters(prior)
    if x is not None:
        with numpyro.plate("samples", x.shape[0]):
            numpyro.sample("x", out, obs=x)
    return out


def guide(state: State | Fitted, *, trainable: bool = False) -> Callable[..., None]:
    """The posterior of a state as a NumPyro guide for `model`, whose arguments it ignores.

    Args:
        state: of one lane, after CAVI or SVI.
        trainable: whether the hyperparameters are NumPyro parameters (``weights.concentration``,
            ``components.mean`` and so on) that SVI improves. They begin at those of the state.
            `with_params` makes a state from the result of SVI.

    Raises:
        ValueError: for the state of a point estimate, or of several lanes.

    Example:
        >>> import jax, jaxgmm, jaxgmm.numpyro, numpyro
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> prior = jaxgmm.default_prior(x, 2)
        >>> state = jaxgmm.cavi(prior).init(jax.random.key(1), x, {"posterior": prior})
        >>> guide = numpyro.handlers.seed(jaxgmm.numpyro.guide(state), jax.random.key(2))
        >>> with jax.numpy_dtype_promotion("standard"):
        ...     sites = numpyro.handlers.trace(guide).get_trace()
        >>> list(sites)
        ['weights', 'precision_cholesky', 'covariances', 'means']
    """
    state = posterior_state(state, "guide")
    check_learnt(state.prior, "jaxgmm.numpyro.guide")
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


def with_params(state: State | Fitted, params: dict[str, Array]) -> State:
    """The state with the hyperparameters that a trainable `guide` has learnt.

    Args:
        state: the state from which the guide was made.
        params: parameters by name, as in the result of NumPyro's SVI.

    Raises:
        ValueError: if a parameter is missing.
    """
    state = state_of(state, "with_params")
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
