"""A fit as a NumPyro distribution."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike
from numpyro.distributions import constraints

from jaxgmm._lane.state import State
from jaxgmm._mixture.density import mixture
from jaxgmm._model import families
from jaxgmm._numerics.checks import check_one_lane
from jaxgmm._numerics.linalg import cholesky


def distribution(state: State) -> dist.MixtureSameFamily:
    """The fitted `mixture` as a NumPyro distribution: EM's estimate, else the plug-in.

    Raises:
        ValueError: for the states of several lanes.

    Example:
        >>> import jax, jaxgmm, jaxgmm.numpyro
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> prior = jaxgmm.default_prior(x, 2)
        >>> state = jaxgmm.em(prior).init(jax.random.key(1), x, posterior=prior)
        >>> jaxgmm.numpyro.distribution(state).sample(jax.random.key(2), (5,)).shape
        (5, 2)
    """
    check_one_lane(state, "distribution")
    weights, means, covariances = mixture(state)
    return mixture_of(weights, dist.MultivariateNormal(means, scale_tril=cholesky(covariances)))


def predictive(state: State) -> dist.MixtureSameFamily:
    """The density of `log_prob` as a NumPyro distribution: the posterior predictive.

    A mixture of Student-t distributions, or products of them for diagonal covariances, of wider
    normal ones for a known covariance; of components integrated by quadrature for
    `IndependentNormalGamma`; after EM that of `distribution`.

    Raises:
        ValueError: for the states of several lanes.

    Example:
        >>> import jax, jaxgmm, jaxgmm.numpyro
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> prior = jaxgmm.default_prior(x, 2)
        >>> state = jaxgmm.cavi(prior).init(jax.random.key(1), x, posterior=prior)
        >>> type(jaxgmm.numpyro.predictive(state).component_distribution).__name__
        'MultivariateStudentT'
    """
    if state.view == "mode":
        return distribution(state)
    check_one_lane(state, "predictive")
    return mixture_of(state.posterior.weights.mean(), _predictive(state.posterior.components))


def mixture_of(weights: Array, components: dist.Distribution) -> dist.MixtureSameFamily:
    """A mixture of components that are batched, with the given weights."""
    return dist.MixtureSameFamily(dist.Categorical(probs=weights), components)


def _predictive(c: Any) -> dist.Distribution:
    if isinstance(c, families.IndependentNormalGamma):
        return _Integrated(c)
    if isinstance(c, families.KnownCovariance):
        mean, covariance = c.predictive()
        return dist.MultivariateNormal(mean, scale_tril=cholesky(covariance))
    if isinstance(c, families.NormalGamma):
        variance, degrees = c._predictive()
        return dist.StudentT(degrees, c.mean, jnp.sqrt(variance)).to_event(1)
    if isinstance(c, families.SphericalNormalGamma):
        scale, degrees = c._predictive()
    else:
        degrees, scale = c.predictive()
    return dist.MultivariateStudentT(degrees, c.mean, cholesky(scale))


class _Integrated(dist.Distribution):
    """Normal components whose independent gamma precisions are integrated out by quadrature."""

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector  # type: ignore[assignment]
    pytree_data_fields = ("components",)

    def __init__(self, components: families.IndependentNormalGamma):
        self.components = components
        k, d = components.n_components, components.n_features
        super().__init__(batch_shape=(k,), event_shape=(d,))

    def log_prob(self, value: ArrayLike, intermediates: Any = None) -> Array:
        value = jnp.asarray(value)
        k, d = self.batch_shape[0], self.event_shape[0]
        value = jnp.broadcast_to(value, jnp.broadcast_shapes(value.shape, (k, d)))
        rows = jnp.moveaxis(value, -2, 0).reshape(k, -1, d)

        def of_one(component: Any, x: Array) -> Array:
            return jax.tree.map(lambda a: a[None], component).log_predictive(x)[:, 0]

        density = jax.vmap(of_one)(self.components, rows)
        return jnp.moveaxis(density.reshape(k, *value.shape[:-2]), 0, -1)

    def sample(self, key: Array | None, sample_shape: tuple[int, ...] = ()) -> Array:
        assert key is not None
        shape = (*sample_shape, *self.batch_shape)
        component = jnp.broadcast_to(jnp.arange(shape[-1]), shape).reshape(-1)
        draws = self.components.sample_predictive(key, component)
        return draws.reshape(*shape, *self.event_shape)

    @property
    def mean(self) -> Array:
        return self.components.mean

    @property
    def variance(self) -> Array:
        c = self.components
        finite = c.shape > 1
        within = jnp.where(finite, c.rate / jnp.where(finite, c.shape - 1, 1), jnp.inf)
        return c._by_feature(within) + 1 / c.precision
