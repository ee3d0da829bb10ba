"""The model is its prior; prior and posterior are one type."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxgmm._estep.stats import Stats, reorder
from jaxgmm._model.components.base import Components
from jaxgmm._model.families import Weights
from jaxgmm._model.known import put_known, tamed
from jaxgmm._model.tails import Tails
from jaxgmm._numerics.affine import Affine
from jaxgmm._numerics.pytree import all_finite, pytree, replace, static

# Fields of a family of its own are no part of the protocols: type checkers let them through, and
# the tests check the protocols.
if TYPE_CHECKING:
    AnyWeights = AnyComponents = Any
else:
    AnyWeights, AnyComponents = Weights, Components


@pytree
class Prior:
    """Weights times components: a distribution over all the parameters of a mixture.

    Its type says the covariance family and the kind of weights; its leaves are hyperparameters.
    By conjugacy the posterior has the same type, so all algorithms work on this one pytree.

    Attributes:
        weights: `Dirichlet`, `StickBreaking` or `FixedWeights`.
        components: `NormalWishart` (full covariances), `TiedNormalWishart`, `NormalGamma`
            (diagonal), `SphericalNormalGamma`, `IndependentNormalGamma` (diagonal or spherical)
            or `KnownCovariance`.
        background: whether component 0 has the density of a box, the same everywhere (static); see
            `with_background`.
        tails: None, or the degrees of freedom of Student-t components; see `with_student_t`.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> prior = jaxgmm.Prior(
        ...     weights=jaxgmm.Dirichlet(jnp.ones(3)),
        ...     components=jaxgmm.KnownCovariance(jnp.zeros((3, 2)), jnp.ones(3), jnp.eye(2)),
        ... )
        >>> prior.n_components, prior.n_features
        (3, 2)
    """

    weights: AnyWeights
    components: AnyComponents
    background: bool = static(default=False)
    tails: Tails | None = None

    @property
    def n_components(self) -> int:
        return self.components.n_components

    @property
    def n_features(self) -> int:
        return self.components.n_features

    @property
    def dtype(self) -> jnp.dtype:
        return self.components.mean.dtype

    @property
    def n_parameters(self) -> int | Array:
        """Number of free parameters of the mixture: the df of `bic` and `aic`."""
        number = self.weights.n_parameters + self.components.n_parameters
        if self.tails is None:
            return number
        return number + self.tails.n_parameters(self.n_components - self.background)

    @property
    def box(self) -> Array | None:
        """The covariance of the background's box, in the structure's shape; None without one."""
        return self.components.mean_covariance()[0] if self.background else None

    @property
    def degrees(self) -> Array | None:
        """Degrees of freedom of Student-t components; None of normal ones."""
        return None if self.tails is None else self.tails.degrees

    def mapped(self, to: Affine) -> "Prior":
        """The same distribution in other coordinates of the data."""
        return replace(self, components=self.components.mapped(to))

    def put_known(self, prior: "Prior") -> "Prior":
        """The same distribution with all that a prior knows in its place."""
        weights = put_known(self.weights, prior.weights)
        components = put_known(self.components, prior.components)
        return replace(self, weights=weights, components=components)

    def tamed(self) -> "Prior":
        """The same distribution with strengths of 1 in the place of infinite ones."""
        return replace(self, weights=tamed(self.weights), components=tamed(self.components))

    def is_finite(self) -> Array:
        """Whether all hyperparameters are finite, but for the strengths of what is known."""
        return all_finite(self.tamed())

    def is_proper(self) -> Array:
        """Whether it integrates to one, as CAVI and SVI need."""
        return self.weights.is_proper() & self.components.is_proper()


def update(
    prior: Prior, stats: Stats, current: Prior | None = None, *, point: bool = False
) -> Prior:
    """The conjugate update: the posterior of every parameter given the statistics.

    Bishop 2006, eq. 10.58 to 10.63, for Dirichlet weights and Normal-Wishart components. For
    stick-breaking weights see `put_in_order`.

    Args:
        prior: a prior without a lane axis.
        stats: from `estep` or `jaxgmm.stats.from_responsibilities`, with the prior's structure.
        current: the posterior to improve. Only `IndependentNormalGamma` needs it, because each of
            its factors is updated given the other.
        point: whether the posterior's mode is the estimate; also for this family only.

    Example:
        >>> import jax, jax.numpy as jnp, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (10, 2))
        >>> prior = jaxgmm.default_prior(x, 2)
        >>> halves = jaxgmm.stats.from_responsibilities(x, jnp.full((10, 2), 0.5))
        >>> print(jaxgmm.update(prior, halves).weights.concentration)
        [6. 6.]
    """
    known = None if current is None else current.components
    components = prior.components.update(stats, known, point=point)
    tails = prior.tails
    if tails is not None:
        own = prior.weights.present() & (jnp.arange(prior.n_components) >= int(prior.background))
        known = None if current is None else current.tails
        tails = tails.update(stats, known or tails, own)
    weights = prior.weights.update(stats.count)
    return replace(prior, weights=weights, components=components, tails=tails)


def best_order(prior: Prior, count: Array, *, point: bool) -> Array:
    """The components' order of the highest bound, where the weights have an order.

    A prior that tells the components apart keeps the order there is.
    """
    present = prior.weights.present()

    def same(field: Array) -> Array:
        shape = (-1,) + (1,) * (field.ndim - 1)
        return jnp.all((field == field[:1]) | ~present.reshape(shape))

    own = prior.components.own_fields().values()
    alike = [same(a) for a in (*own, *jax.tree.leaves(prior.tails))]
    best = prior.weights.best_order(count, point=point)
    return jnp.where(jnp.all(jnp.stack(alike)), best, jnp.arange(prior.n_components))


def put_in_order(prior: Prior, stats: Stats, current: Prior, *, point: bool) -> tuple[Stats, Prior]:
    """Statistics, and the components behind them, in the `best_order`.

    Weights without an order do not care, and nothing is computed for them.
    """
    if not prior.weights.ordered:
        return stats, current
    order = best_order(prior, stats.count, point=point)
    return reorder(stats, order), reordered(current, order)


def reorder_posterior(prior: Prior, q: Prior, order: Array) -> Prior:
    """A posterior that some counts led to, with its components and its sticks in another order."""
    weights = prior.weights.update(q.weights.counts(prior.weights)[order])
    return replace(reordered(q, order), weights=weights)


def reordered(q: Prior, order: Array) -> Prior:
    """With renamed components, or some of them, but for the weights: the new k is ``order[k]``."""
    tails = None if q.tails is None else q.tails.reorder(order)
    return replace(q, components=q.components.reorder(order), tails=tails)


def interpolate(a: Prior, b: Prior, rho: ArrayLike) -> Prior:
    """``(1 - rho) a + rho b`` in natural parameters: a natural-gradient step towards ``b``.

    Hoffman et al. 2013, eq. 15. The result is a valid distribution for ``0 <= rho <= 1``.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> a, b = jaxgmm.flat_prior(2, 1), jaxgmm.flat_prior(2, 1)
        >>> print(jaxgmm.views.interpolate(a, b, 0.5).weights.concentration)
        [1. 1.]
    """
    rho = jnp.asarray(rho, a.dtype)
    weights = a.weights.interpolate(b.weights, rho)
    components = a.components.interpolate(b.components, rho)
    tails = a.tails
    if tails is not None and b.tails is not None:
        tails = tails.interpolate(b.tails, rho)
    return replace(a, weights=weights, components=components, tails=tails)
