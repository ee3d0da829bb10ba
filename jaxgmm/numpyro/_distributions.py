"""A fit as a NumPyro distribution."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike
from numpyro.distributions import constraints

from jaxgmm._lane.state import Fitted, State, state_of
from jaxgmm._mixture.mixture import mixture
from jaxgmm._model.checks import check_normal
from jaxgmm._model.known import anything_known
from jaxgmm._model.prior import Prior
from jaxgmm._numerics.checks import is_traced
from jaxgmm._numerics.linalg import cholesky


def distribution(state: State | Fitted) -> dist.MixtureSameFamily:
    """The fitted `mixture` as a NumPyro distribution, without the posterior's uncertainty.

    Raises:
        ValueError: for the states of several lanes.

    Example:
        >>> import jax, jaxgmm, jaxgmm.numpyro
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> prior = jaxgmm.default_prior(x, 2)
        >>> state = jaxgmm.em(prior).init(jax.random.key(1), x, {"posterior": prior})
        >>> jaxgmm.numpyro.distribution(state).sample(jax.random.key(2), (5,)).shape
        (5, 2)
    """
    state = state_of(state, "distribution")
    weights, means, covariances = mixture(state)
    return mixture_of(weights, dist.MultivariateNormal(means, scale_tril=cholesky(covariances)))


def predictive(state: State | Fitted) -> dist.MixtureSameFamily:
    """The density of `log_prob` as a NumPyro distribution: the posterior predictive.

    For full covariances it is a mixture of Student-t distributions, for diagonal covariances a
    mixture of products of them, and for a known covariance a mixture of wider normal distributions.
    The components of `IndependentNormalGamma` are integrated by quadrature. After EM it is the same
    as `distribution`.

    Raises:
        ValueError: for the states of several lanes, and for a fit with a background.

    Example:
        >>> import jax, jaxgmm, jaxgmm.numpyro
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> prior = jaxgmm.default_prior(x, 2)
        >>> state = jaxgmm.cavi(prior).init(jax.random.key(1), x, {"posterior": prior})
        >>> type(jaxgmm.numpyro.predictive(state).component_distribution).__name__
        'MultivariateStudentT'
    """
    state = state_of(state, "predictive")
    if state.prior.background:
        raise ValueError(
            "NumPyro has no distribution with a background; take "
            "jaxgmm.numpyro.distribution(result), in which the background is a normal component."
        )
    if state.view.point:
        return distribution(state)
    check_learnt(state.prior, "jaxgmm.numpyro.predictive")
    components = state.posterior.components.predictive()
    found = components.numpyro()
    return mixture_of(state.posterior.weights.mean(), found or _Numerical(components))


def check_learnt(p: Prior, what: str) -> None:
    """Refuse parameters that `jaxgmm.freeze` made known, and components that are not normal."""
    check_normal(p, what)
    if not is_traced(p) and (anything_known(p.components) or _partly_known(p)):
        raise ValueError(
            f"{what} has no sites of known parameters, but some of this prior are known "
            "(jaxgmm.freeze); write a NumPyro model of those that are learnt, or take the prior "
            "before it was frozen."
        )


def _partly_known(p: Prior) -> bool:
    """Whether some of the weights are known: they are learnt, and have no site."""
    return bool(p.weights.transforms()) and p.weights.site() is None


def mixture_of(weights: Array, components: dist.Distribution) -> dist.MixtureSameFamily:
    """A mixture of components that are batched, with the given weights."""
    return dist.MixtureSameFamily(dist.Categorical(probs=weights), components)


class _Numerical(dist.Distribution):
    """Components that NumPyro has no distribution of, from their densities and draws."""

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector  # type: ignore[assignment]
    pytree_data_fields = ("components",)

    def __init__(self, components: Any):
        self.components = components
        super().__init__(
            batch_shape=components.mean.shape[:1], event_shape=components.mean.shape[1:]
        )

    def log_prob(self, value: ArrayLike, intermediates: Any = None) -> Array:
        value = jnp.asarray(value)
        k, d = self.components.mean.shape
        value = jnp.broadcast_to(value, jnp.broadcast_shapes(value.shape, (k, d)))
        rows = jnp.moveaxis(value, -2, 0).reshape(k, -1, d)

        def of_one(component: Any, x: Array) -> Array:
            return jax.tree.map(lambda a: a[None], component).log_density(x)[:, 0]

        density = jax.vmap(of_one)(self.components, rows)
        return jnp.moveaxis(density.reshape(k, *value.shape[:-2]), 0, -1)

    def sample(self, key: Array | None, sample_shape: tuple[int, ...] = ()) -> Array:
        assert key is not None
        shape = (*sample_shape, *self.batch_shape)
        component = jnp.broadcast_to(jnp.arange(shape[-1]), shape).reshape(-1)
        return self.components.draw(key, component).reshape(*shape, *self.event_shape)

    @property
    def mean(self) -> Array:
        return self.components.mean

    @property
    def variance(self) -> Array:
        return self.components.variance
