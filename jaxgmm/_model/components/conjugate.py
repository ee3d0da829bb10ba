"""A normal mean times any `Precision`: all that is derived from the two, written once.

A family of this kind is a class with its fields, the name of its precision, and nothing else.
"""

from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from jaxgmm._estep.potentials import Potentials, point_log_det
from jaxgmm._estep.stats import Stats
from jaxgmm._estep.structures import structure
from jaxgmm._model.components.base import Components
from jaxgmm._model.components.precision import Means, Precision
from jaxgmm._model.known import finite, put_known
from jaxgmm._numerics.affine import Affine
from jaxgmm._numerics.arrays import full, safe_divide, sum_where
from jaxgmm._numerics.checks import check_non_negative
from jaxgmm._numerics.pytree import child_names, replace
from jaxgmm._numerics.special import LOG_2PI


class ConjugateNormal(Components):
    """``mu_k | Lambda_k ~ Normal(mean_k, (mean_precision_k Lambda_k)^-1)``, times a precision's.

    A mean whose ``mean_precision`` is infinite is known. All formulas are their limits there; a
    known mean has no density and no divergence.

    A subclass is a pytree with the fields ``mean``, ``mean_precision`` and those of its
    ``distribution``, a kind of `Precision`. Bishop 2006, section 10.2; Murphy 2007.
    """

    distribution: ClassVar[type[Precision]]
    mean_precision: Any

    @property
    def precisions(self) -> Precision:
        return self.distribution.of(self)

    @property
    def strengths(self) -> dict[str, str]:
        return {"mean_precision": "mean", **self.distribution.strengths}

    @final
    def expected_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every field, given the mean's."""
        k, d = self.n_components, self.n_features
        return {"mean": (k, d), "mean_precision": (k,), **self.distribution.shapes(k, d)}

    @final
    def check(self) -> None:
        """Refuse values that are none of a prior's."""
        check_non_negative("the prior's mean_precision", self.mean_precision)
        self.precisions.check()

    # --- the conjugate update -----------------------------------------------------------------

    @final
    def update(self, stats: Stats, current: Any = None, *, point: bool = False) -> Any:
        """Posterior given the statistics (Bishop 2006, eq. 10.60 to 10.63; Murphy 2007, eq. 86).

        ``current`` and ``point`` are for families that are not conjugate.
        """
        mean_precision = self.mean_precision + stats.weight
        share = safe_divide(stats.weight, mean_precision)
        delta = jnp.where(stats.count[:, None] != 0, stats.mean - self.mean, 0)
        # kappa n / (kappa + n), or n about a mean that is known
        known = jnp.isposinf(self.mean_precision)
        weight = jnp.where(known, stats.weight, finite(self.mean_precision) * share)
        between = structure(self.structure).outer(weight, delta)
        precision = self.precisions.counted(stats.count).scattered(stats.scatter + between)
        return self._of(self.mean + share[:, None] * delta, mean_precision, precision)

    @final
    def interpolate(self, other: Any, rho: Array) -> Any:
        """The natural parameters' mean, ``(1 - rho) self + rho other``.

        Written with a difference of means, as in `merge`, so that scales stay positive definite.
        """
        kappa, kappa1 = finite(self.mean_precision), finite(other.mean_precision)
        kept, new = (1 - rho) * kappa, rho * kappa1
        share = safe_divide(new, kept + new)
        delta = other.mean - self.mean
        between = structure(self.structure).outer(kept * share, delta)
        precision = self.precisions.blend(other.precisions, rho).scattered(between)
        return put_known(self._of(self.mean + share[:, None] * delta, kept + new, precision), self)

    @final
    def with_parameters(self, means: Array, covariance: Array, count: Array, n_means: Means) -> Any:
        """The posterior of ``count`` (K,) samples with these means and this covariance.

        Args:
            means: ``(K, D)``.
            covariance: in the structure's shape; shared, also one of each component.
            count: ``(K,)``.
            n_means: None for ``E[Lambda]^-1``, else as `means_in_mode` says.
        """
        precision = self.precisions.counted(count)
        precision = precision.at(covariance, n_means, count / jnp.sum(count))
        return put_known(self._of(means, self.mean_precision + count, precision), self)

    @final
    def without_means(self, chosen: Bool[Array, " K"]) -> Any:
        # the density over (mu, Sigma) of a flat prior is flat: over Sigma alone it has the degree
        # of freedom that the mean's normal density took
        flat = chosen & (self.mean_precision == 0) & ~self.precisions.proper()
        precision = self.precisions.counted(flat.astype(self.mean.dtype))
        return self._of(self.mean, self.mean_precision, precision)

    @final
    def mapped(self, to: Affine) -> Any:
        # an improper mean is nowhere, and stays there: data far away would lose digits to it
        mean = jnp.where(self.mean_precision[:, None] > 0, to.points(self.mean), self.mean)
        return self._of(mean, self.mean_precision, self.precisions.congruent(to.matrix))

    # --- the other views ----------------------------------------------------------------------

    @final
    def mean_trace(self) -> Float[Array, " K"]:
        return self.n_features / self.mean_precision

    @final
    def sample(self, key: Array) -> Potentials:
        """Potentials of one reparameterised draw."""
        precision = self.precisions
        own_key, mean_key = jax.random.split(key) if precision.learnt else (key, key)
        factor, log_det, colour = precision.sample(own_key)
        noise = jax.random.normal(mean_key, self.mean.shape, self.mean.dtype)
        step = colour(noise) / jnp.sqrt(self.mean_precision)[:, None]
        return replace(self, mean=self.mean + step)._at(factor, log_det)

    @final
    def predictive(self) -> Any:
        return self.precisions.predictive(self.mean, self.mean_precision)

    @final
    def mean_variance(self, covariance: Array) -> Array:
        """The covariance of each mean given that of its component, led by K."""
        scale, ndim = 1 / self.mean_precision, covariance.ndim + bool(self.shared)
        return covariance * scale.reshape(-1, *[1] * (ndim - 1))

    # --- penalties ----------------------------------------------------------------------------

    @final
    def kl(self, prior: Any) -> Float[Array, ""]:
        """``KL(self || prior)``, summed over components; exact and normalised."""
        factor, _ = self.precisions.expectation()
        gap = structure(self.structure).project(self.mean - prior.mean, factor)
        kappa = finite(prior.mean_precision)
        ratio = kappa / finite(self.mean_precision)
        normal = self.n_features * (ratio - 1 - jnp.log(ratio))
        normal = normal + kappa * jnp.sum(gap**2, axis=-1)
        normal = jnp.where(jnp.isposinf(prior.mean_precision), 0, normal)
        return jnp.sum(self.precisions.kl(prior.precisions, factor)) + 0.5 * jnp.sum(normal)

    @final
    def log_prior(
        self, point: Potentials, present: Bool[Array, " K"] | None = None
    ) -> Float[Array, ""]:
        """Log density over (mu, Sigma) at a point.

        An improper prior, which has no constant, gives the unnormalised density: the flat one
        gives exactly 0. Only the ``present`` components count.
        """
        precision, kappa = self.precisions, finite(self.mean_precision)
        proper = self.proper()
        gap = structure(self.structure).project(point.mean - self.mean, point.factor)
        constant = 0.5 * self.n_features * (jnp.log(jnp.where(proper, kappa, 1)) - LOG_2PI)
        normal = jnp.where(proper, constant, 0) - 0.5 * kappa * jnp.sum(gap**2, axis=-1)
        normal = jnp.where(self.known_means(), 0, normal)
        each = jnp.all(proper) if precision.shared else proper
        density = precision.log_density(point.factor, point_log_det(point), self._n_means(present))
        constant = precision.log_normaliser() if precision.learnt else 0
        density = density + jnp.where(each, constant, 0)
        # of a known covariance nothing but a constant, which an improper prior has not
        density = jnp.where(precision.known() & ~each, 0, density)
        if not precision.shared:
            return sum_where(present, density + normal)
        return density + sum_where(present, normal)

    @final
    def log_jacobian(
        self, matrix: Array, log_det: Array, present: Bool[Array, " K"] | None = None
    ) -> Float[Array, ""]:
        precision, n_means = self.precisions, self._n_means(present)
        proper = self.proper()
        each = jnp.all(proper) if precision.shared else proper
        means = jnp.where(each, n_means * log_det, 0)
        if not precision.learnt:  # nothing but the means
            return means
        volume = structure(self.structure).log_volume(log_det, self.n_features)
        log_dets = jnp.broadcast_to(log_det, proper.shape)
        improper = precision.log_jacobian(matrix, log_dets, n_means)
        gain = jnp.where(each, volume + n_means * log_det, improper)
        gain = jnp.where(precision.known(), means, gain)
        return gain if precision.shared else sum_where(present, gain)

    @final
    def proper(self) -> Bool[Array, " K"]:
        proper = self.precisions.proper() & (self.mean_precision > 0)
        return jnp.broadcast_to(jnp.all(proper), proper.shape) if self.shared else proper

    @final
    def improper(self) -> Bool[Array, " K"]:
        return ~self.proper() & ~self.known_covariances()

    @final
    def empty(self, row_per_weight: Array | float = 1.0) -> Bool[Array, " K"]:
        return self.mean_precision * row_per_weight < jnp.finfo(self.mean.dtype).eps

    # --- unconstrained space, and usual priors ------------------------------------------------

    @final
    def transforms(self) -> dict[str, Any]:
        from numpyro.distributions import biject_to, constraints

        return {
            "mean": biject_to(constraints.real_matrix),
            "mean_precision": biject_to(constraints.positive),
            **self.precisions.transforms(),
        }

    def weak(self, mean: Array, covariance: Array) -> Any:
        return self.default(mean, covariance, self.n_components)

    @classmethod
    def _of(cls, mean: Array, mean_precision: Array, precision: Precision) -> Any:
        fields = {name: getattr(precision, name) for name in child_names(type(precision))}
        return cls(mean=mean, mean_precision=mean_precision, **fields)  # type: ignore[call-arg]

    @classmethod
    def of_degrees(cls, mean: Array, mean_precision: Array, degrees: Any, scale: Any) -> Any:
        """From degrees of freedom and the scale that they divide, as `Precision.of_degrees`."""
        precision = cls.distribution.of_degrees(degrees, scale, *mean.shape)
        return cls._of(mean, mean_precision, precision)

    @classmethod
    def flat(cls, n_components: int, n_features: int, dtype: Any = None) -> Any:
        """The improper prior whose mode is the maximum-likelihood estimate."""
        k, d = n_components, n_features
        n_means = k if cls.distribution.shared else 1
        precision = cls.distribution.flat(k, d, dtype, n_means)
        return cls._of(full((k, d), 0, dtype), full((k,), 0, dtype), precision)

    @classmethod
    def default(cls, mean: Array, covariance: Array, n_components: int) -> Any:
        """The weak prior of Fraley & Raftery (2007), from the data's moments.

        ``D + 2`` degrees of freedom, and the scale ``var(x) / K^(2/D)`` in the structure's shape.
        Diagonal covariances have each feature's own variance; theirs is the mean of the variances,
        and so changes with the features' units.

        Args:
            mean: ``(D,)``.
            covariance: ``(D, D)``, or the variances ``(D,)`` where no more is kept.
            n_components: K.
        """
        k, d = n_components, mean.shape[0]
        scale = structure(cls.distribution.structure).reduce(covariance) / k ** (2 / d)
        degrees = jnp.asarray(d + 2.0, mean.dtype)
        pooled = cls.distribution.pooled_features(d)
        precision = cls.distribution.of_degrees(degrees / pooled, scale / pooled, k, d)
        few = jnp.full((k,), 0.01, mean.dtype)
        return cls._of(jnp.broadcast_to(mean, (k, d)), few, precision)
