"""The model is its prior; prior and posterior are one type."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxgmm._estep.stats import Stats, reorder
from jaxgmm._model.families import FAMILIES, WEIGHTS, Components, KnownCovariance, Weights
from jaxgmm._numerics import linalg
from jaxgmm._numerics.checks import (
    check_choice,
    check_covariance,
    check_positive_int,
    check_samples,
)
from jaxgmm._numerics.pytree import pytree, replace

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
    By conjugacy the posterior has the same type, and so every algorithm walks this one pytree.

    Attributes:
        weights: `Dirichlet`, `StickBreaking` or `FixedWeights`.
        components: `NormalWishart` (full covariances), `TiedNormalWishart`, `NormalGamma`
            (diagonal), `SphericalNormalGamma`, `IndependentNormalGamma` (diagonal or spherical)
            or `KnownCovariance`.

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
    def n_parameters(self) -> int:
        """Free parameters of the mixture, the df of `bic` and `aic`."""
        return self.weights.n_parameters + self.components.n_parameters

    def is_proper(self) -> Array:
        """Whether it integrates to one, as CAVI and SVI need."""
        return self.weights.is_proper() & self.components.is_proper()


def update(
    prior: Prior, stats: Stats, current: Prior | None = None, *, mode: bool = False
) -> Prior:
    """The conjugate update: the posterior of every parameter given the statistics.

    Bishop 2006, eq. 10.58 to 10.63, for Dirichlet weights and Normal-Wishart components. For
    stick-breaking weights see `sort_by_mass`.

    Args:
        prior: whose leaves have no lane axis.
        stats: of the same structure, from `estep` or `responsibility_stats`.
        current: the posterior to improve, which only `IndependentNormalGamma` needs: its factors
            are updated one given the other.
        mode: whether the posterior's mode is the estimate, for the same family.

    Example:
        >>> import jax, jax.numpy as jnp, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (10, 2))
        >>> prior = jaxgmm.default_prior(x, 2)
        >>> posterior = jaxgmm.update(prior, jaxgmm.responsibility_stats(x, jnp.full((10, 2), 0.5)))
        >>> print(posterior.weights.concentration)
        [6. 6.]
    """
    known = None if current is None else current.components
    components = prior.components.update(stats, known, mode=mode)
    return Prior(prior.weights.update(stats.count), components)


def sort_by_mass(prior: Prior, stats: Stats, current: Prior) -> tuple[Stats, Prior]:
    """Rename the components by decreasing count where the weights' prior wants it.

    Under stick-breaking weights the order changes the bound, and this is the best one (Kurihara,
    Welling & Teh 2007); a prior that tells the components apart is left alone. Other weights do
    not care, and nothing is computed for them.
    """
    if not prior.weights.ordered:
        return stats, current
    own = [n for n in prior.components.expected_shapes() if n not in prior.components.shared]
    fields = [getattr(prior.components, name) for name in own]
    present = prior.weights.present()

    def same(field: Array) -> Array:
        shape = (-1,) + (1,) * (field.ndim - 1)
        return jnp.all((field == field[:1]) | ~present.reshape(shape))

    alike = jnp.all(jnp.stack([same(field) for field in fields]))
    order = jnp.where(alike, jnp.argsort(-stats.count), jnp.arange(prior.n_components))
    moved = {name: getattr(current.components, name)[order] for name in own}
    components = replace(current.components, **moved)
    return reorder(stats, order), replace(current, components=components)


def interpolate(a: Prior, b: Prior, rho: ArrayLike) -> Prior:
    """``(1 - rho) a + rho b`` in natural parameters: a natural-gradient step towards ``b``.

    Hoffman et al. 2013, eq. 15; always a valid distribution for ``0 <= rho <= 1``.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> a, b = jaxgmm.flat_prior(2, 1), jaxgmm.flat_prior(2, 1)
        >>> print(jaxgmm.interpolate(a, b, 0.5).weights.concentration)
        [1. 1.]
    """
    rho = jnp.asarray(rho, a.dtype)
    return Prior(a.weights.interpolate(b.weights, rho), a.components.interpolate(b.components, rho))


def flat_prior(
    n_components: int,
    n_features: int,
    covariance: str | Float[Array, "D D"] = "full",
    dtype: Any = None,
    *,
    weights: str = "dirichlet",
) -> Prior:
    """The improper prior under which the mode is exactly the maximum-likelihood estimate.

    Args:
        n_components: K.
        n_features: D.
        covariance: ``"full"``, ``"tied"``, ``"diag"``, ``"spherical"``, or a known covariance
            matrix ``(D, D)`` itself.
        dtype: of the leaves; by default JAX's default float.
        weights: ``"dirichlet"``, ``"dirichlet_process"`` (either makes the weights free), or
            ``"fixed"`` for equal ones.

    Raises:
        ValueError: for an unknown name, a matrix that is no covariance, sizes below 1.

    Example:
        >>> import jaxgmm
        >>> jaxgmm.flat_prior(3, 2).n_parameters
        17
    """
    check_positive_int("n_components", n_components)
    check_positive_int("n_features", n_features)
    check_choice("weights", weights, WEIGHTS)
    kind, dtype = WEIGHTS[weights], jnp.result_type(float if dtype is None else dtype)
    if isinstance(covariance, str):
        check_choice("covariance", covariance, FAMILIES, _KNOWN_HINT)
        components = FAMILIES[covariance].flat(n_components, n_features, dtype)
        return Prior(kind.flat(n_components, dtype), components)
    matrix = check_covariance("covariance", jnp.asarray(covariance, dtype), n_features)
    components = KnownCovariance.flat(n_components, matrix)
    return Prior(kind.flat(n_components, matrix.dtype), components)


_KNOWN_HINT = "; for a known covariance pass the (D, D) matrix itself"


def default_prior(
    x: ArrayLike,
    n_components: int,
    covariance: str | Float[Array, "D D"] = "full",
    weights: str = "dirichlet",
) -> Prior:
    """A weak proper prior from the data's mean and covariance.

    For full covariances that of Fraley & Raftery (2007): ``mean_precision = 0.01``,
    ``degrees_of_freedom = D + 2``, ``scale = var(x) / K^(2/D)``; uniform weights. Where
    the data do not vary in some direction each variance is raised by a share of eps^(1/3), so that
    the prior exists; a fit then says which column it was.

    Args:
        x: samples, ``(N, D)``, finite.
        n_components: K.
        covariance: ``"full"``, ``"tied"``, ``"diag"``, ``"spherical"``, or a known covariance
            matrix ``(D, D)`` itself.
        weights: ``"dirichlet"``, uniform on the simplex; ``"dirichlet_process"`` of concentration
            1, truncated; or ``"fixed"``, equal ones.

    Raises:
        ValueError: for bad samples, an unknown name, a matrix that is no covariance.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> prior = jaxgmm.default_prior(x, 3)
        >>> print(prior.components.degrees_of_freedom)
        [4. 4. 4.]
    """
    check_positive_int("n_components", n_components)
    x = check_samples(x)
    check_choice("weights", weights, WEIGHTS)
    mean = jnp.mean(x, axis=0)
    kind = WEIGHTS[weights].flat(n_components, x.dtype)
    if isinstance(covariance, str):
        check_choice("covariance", covariance, FAMILIES, _KNOWN_HINT)
        spread = data_covariance(x)
        return Prior(kind, FAMILIES[covariance].default(mean, spread, n_components))
    matrix = check_covariance("covariance", jnp.asarray(covariance, x.dtype), x.shape[1])
    return Prior(kind, KnownCovariance.default(mean, matrix, n_components))


@jax.jit
def data_covariance(x: Float[Array, "N D"]) -> Float[Array, "D D"]:
    """Sample covariance (divisor N - 1), made positive definite where the data are flat."""
    centred = x - jnp.mean(x, axis=0)
    matrix = linalg.matmul(centred.T, centred) / max(x.shape[0] - 1, 1)
    variances = linalg.diagonal(matrix)
    largest = jnp.max(variances)
    # a constant feature has no unit of its own, and takes the largest
    units = jnp.where(variances > 0, variances, jnp.where(largest > 0, largest, 1))
    eps = jnp.finfo(x.dtype).eps
    sd = jnp.sqrt(units)
    correlation = matrix / (sd[:, None] * sd)
    eye = jnp.eye(x.shape[1], dtype=x.dtype)
    singular = jnp.any(jnp.isnan(linalg.cholesky(correlation - 64 * eps * eye)))
    return matrix + jnp.where(singular, eps ** (1 / 3), 0) * units * eye
