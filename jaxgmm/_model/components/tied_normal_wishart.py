"""Tied Normal-Wishart: one precision matrix for all components, and a mean for each."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jaxgmm._estep.potentials import Potentials, point_log_det
from jaxgmm._estep.stats import Stats
from jaxgmm._model.components import _student as student
from jaxgmm._model.components import _wishart as wishart
from jaxgmm._numerics import linalg
from jaxgmm._numerics.bijections import CovarianceMap
from jaxgmm._numerics.pytree import pytree, replace
from jaxgmm._numerics.special import LOG_2PI, sum_where


@pytree
class TiedNormalWishart:
    """``mu_k | Lambda ~ Normal(mean_k, (mean_precision_k Lambda)^-1)``, ``Lambda ~ Wishart``.

    Attributes:
        mean: ``(K, D)``, in the units of the data.
        mean_precision: ``(K,)``, in samples.
        degrees_of_freedom: scalar, in samples, above D - 1 for a proper distribution.
        scale: ``(D, D)``, inverse scale matrix of the Wishart, in squared units of the data.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> components = jaxgmm.TiedNormalWishart(
        ...     jnp.zeros((3, 2)), jnp.ones(3), jnp.asarray(4.0), jnp.eye(2)
        ... )
        >>> components.n_parameters
        9
    """

    mean: Float[Array, "*R K D"]
    mean_precision: Float[Array, "*R K"]
    degrees_of_freedom: Float[Array, "*R"]
    scale: Float[Array, "*R D D"]

    structure = "tied"
    covariance_name = "tied"
    shared = ("degrees_of_freedom", "scale")
    conjugate = True

    @property
    def n_components(self) -> int:
        return self.mean.shape[-2]

    @property
    def n_features(self) -> int:
        return self.mean.shape[-1]

    @property
    def n_parameters(self) -> int:
        d = self.n_features
        return self.n_components * d + d * (d + 1) // 2

    def _divisor(self) -> Array:
        # the joint mode over (mu_1 .. mu_K, Sigma): D + 1 from the Wishart in Sigma, 1 a mean
        return self.degrees_of_freedom + self.n_features + 1 + self.n_components

    def expected_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every field, given the mean's."""
        k, d = self.n_components, self.n_features
        return {"mean": (k, d), "mean_precision": (k,), "degrees_of_freedom": (), "scale": (d, d)}

    # --- the conjugate update -------------------------------------------------------------

    def update(
        self, stats: Stats, current: "TiedNormalWishart | None" = None, *, mode: bool = False
    ) -> "TiedNormalWishart":
        """Posterior given the statistics: ``degrees_of_freedom + N``, scatters pooled."""
        mean_precision = self.mean_precision + stats.count
        share = linalg.safe_divide(stats.count, mean_precision)
        delta = jnp.where(stats.count[:, None] != 0, stats.mean - self.mean, 0)
        between = linalg.einsum("kd,ke->de", (self.mean_precision * share)[:, None] * delta, delta)
        return TiedNormalWishart(
            mean=self.mean + share[:, None] * delta,
            mean_precision=mean_precision,
            degrees_of_freedom=self.degrees_of_freedom + jnp.sum(stats.count),
            scale=linalg.symmetrize(self.scale + stats.scatter + between),
        )

    def interpolate(self, other: "TiedNormalWishart", rho: Array) -> "TiedNormalWishart":
        """The natural parameters' mean, ``(1 - rho) self + rho other``."""
        kept, new = (1 - rho) * self.mean_precision, rho * other.mean_precision
        share = linalg.safe_divide(new, kept + new)
        delta = other.mean - self.mean
        between = linalg.einsum("kd,ke->de", (kept * share)[:, None] * delta, delta)
        degrees = (1 - rho) * self.degrees_of_freedom + rho * other.degrees_of_freedom
        return TiedNormalWishart(
            mean=self.mean + share[:, None] * delta,
            mean_precision=kept + new,
            degrees_of_freedom=degrees,
            scale=(1 - rho) * self.scale + rho * other.scale + between,
        )

    def with_parameters(
        self, means: Array, covariances: Array, count: Array, *, mode: bool
    ) -> "TiedNormalWishart":
        """The posterior of ``count`` (K,) samples with these means and their mean covariance."""
        total = jnp.sum(count)
        pooled = linalg.einsum("k,kij->ij", count / total, covariances)
        degrees = self.degrees_of_freedom + total
        out = TiedNormalWishart(means, self.mean_precision + count, degrees, pooled)
        return replace(out, scale=(out._divisor() if mode else degrees) * pooled)

    # --- the three views ------------------------------------------------------------------

    def _at(self, factor: Array, mean: Array, extra: Array | float = 0.0) -> Potentials:
        const = linalg.log_det(factor) - 0.5 * self.n_features * LOG_2PI + extra
        const = jnp.broadcast_to(const, (self.n_components,))
        return Potentials(const, mean, factor, self.structure)

    def mode(self, reg_covar: Array | float = 0.0) -> Potentials:
        """Potentials at the mode over (mu, Sigma): ``Sigma = scale / (nu + D + 1 + K)``."""
        covariance = self._covariance(mode=True, reg_covar=reg_covar)
        return self._at(linalg.inverse_factor(linalg.cholesky(covariance)), self.mean)

    def expectation(self) -> Potentials:
        """Potentials of the expected log density (Bishop 2006, eq. 10.64, 10.65)."""
        d = self.n_features
        factor = wishart.expected_factor(self.degrees_of_freedom, self.scale)
        jensen = 0.5 * wishart.jensen_gap(self.degrees_of_freedom, d)
        return self._at(factor, self.mean, jensen - 0.5 * d / self.mean_precision)

    def sample(self, key: Array) -> Potentials:
        """Potentials of one reparameterised draw, by Bartlett's decomposition."""
        wishart_key, mean_key = jax.random.split(key)
        d = self.n_features
        triangle = wishart.bartlett(wishart_key, self.degrees_of_freedom, d)
        lower = linalg.cholesky(self.scale)
        factor = linalg.matmul(linalg.inverse_factor(lower), triangle)
        noise = jax.random.normal(mean_key, self.mean.shape, self.mean.dtype)
        step = jax.vmap(wishart.mean_step, (None, None, 0))(lower, triangle, noise)
        mean = self.mean + step / jnp.sqrt(self.mean_precision)[:, None]
        # the factor is a product of an upper and a lower triangle: its determinant is theirs
        const = linalg.log_det(triangle) - linalg.log_det(lower) - 0.5 * d * LOG_2PI
        return Potentials(
            jnp.broadcast_to(const, (self.n_components,)), mean, factor, self.structure
        )

    # --- moments and predictions ----------------------------------------------------------

    def _covariance(self, *, mode: bool, reg_covar: Array | float = 0.0) -> Float[Array, "D D"]:
        divisor = self._divisor() if mode else self.degrees_of_freedom
        eye = jnp.eye(self.n_features, dtype=self.scale.dtype)
        return self.scale / divisor + reg_covar * eye

    def covariances(self, *, mode: bool, reg_covar: Array | float = 0.0) -> Float[Array, "K D D"]:
        """The covariance at the mode, or ``E[Lambda]^-1``, K times."""
        covariance = self._covariance(mode=mode, reg_covar=reg_covar)
        return jnp.broadcast_to(covariance, (self.n_components, *covariance.shape))

    def predictive(self) -> tuple[Array, Array]:
        """Degrees of freedom (K,) and scale matrices (K, D, D) of the Student-t predictive."""
        degrees = self.degrees_of_freedom + 1 - self.n_features
        inflation = (1 + self.mean_precision) / (self.mean_precision * degrees)
        degrees = jnp.broadcast_to(degrees, (self.n_components,))
        return degrees, inflation[:, None, None] * self.scale

    def log_predictive(self, x: Float[Array, "N D"]) -> Float[Array, "N K"]:
        """log of each component's posterior predictive density."""
        degrees, scale = self.predictive()
        return student.log_density(x, self.mean, scale, degrees)

    def sample_predictive(self, key: Array, component: Int[Array, " n"]) -> Float[Array, "n D"]:
        """A draw from the predictive density of each given component."""
        degrees, scale = self.predictive()
        return student.draw(key, component, self.mean, scale, degrees)

    # --- penalties ------------------------------------------------------------------------

    def kl(self, prior: "TiedNormalWishart") -> Float[Array, ""]:
        """``KL(self || prior)``: one Wishart, K normals; exact and normalised."""
        d, nu = self.n_features, self.degrees_of_freedom
        factor = linalg.inverse_factor(linalg.cholesky(self.scale))
        shift = jnp.sum(linalg.matmul(self.mean - prior.mean, factor) ** 2, axis=-1)
        ratio = prior.mean_precision / self.mean_precision
        normal = 0.5 * (d * (ratio - 1 - jnp.log(ratio)) + prior.mean_precision * nu * shift)
        return wishart.kl(nu, self.scale, prior.degrees_of_freedom, prior.scale) + jnp.sum(normal)

    def log_prior(
        self, point: Potentials, present: Bool[Array, " K"] | None = None
    ) -> Float[Array, ""]:
        """log density over (mu, Sigma) at a point; unnormalised, so 0, for the flat prior.

        Only the ``present`` components count; see `for_mode` for the absent ones.
        """
        absent = jnp.zeros((), self.mean.dtype)
        if present is not None:
            absent = jnp.sum(~present, dtype=absent.dtype)
        d, nu, kappa = self.n_features, self.degrees_of_freedom + absent, self.mean_precision
        trace = jnp.sum(linalg.matmul(self.scale, point.factor) * point.factor)
        shift = jnp.sum(linalg.matmul(point.mean - self.mean, point.factor) ** 2, axis=-1)
        density = self._divisor() * point_log_det(point)[0]
        density = density - 0.5 * (trace + jnp.sum(kappa * shift))
        proper = (nu > d - 1) & jnp.all(kappa > 0)
        nu, kappa = jnp.where(proper, nu, d + 1), jnp.where(proper, kappa, 1)
        scale = jnp.where(proper, self.scale, jnp.eye(d, dtype=kappa.dtype))
        normals = 0.5 * d * sum_where(present, jnp.log(kappa) - LOG_2PI)
        constant = wishart.log_normaliser(nu, scale) + normals
        return density + jnp.where(proper, constant, 0)

    def for_mode(self, n_absent: int) -> "TiedNormalWishart":
        """What a padded prior is in the mode view, with so many of its components absent.

        At the joint mode each absent mean, which sits at its prior's, still adds a half of
        ``log|Lambda|`` to the density; a degree of freedom less for each takes it off again.
        """
        return replace(self, degrees_of_freedom=self.degrees_of_freedom - n_absent)

    def _proper(self) -> Array:
        degrees = self.degrees_of_freedom > self.n_features - 1
        return degrees & jnp.all(self.mean_precision > 0)

    def is_proper(self) -> Array:
        return self._proper()

    @property
    def minimum_samples(self) -> int:
        """With fewer samples in all the covariance is singular by itself."""
        return self.n_features + 1

    def effective_samples(self) -> Float[Array, " K"]:
        """Samples behind the covariance, the prior's included, K times."""
        samples = self._divisor() - self.n_components
        return jnp.broadcast_to(samples, (self.n_components,))

    def improper(self) -> Bool[Array, " K"]:
        """Whether nothing bounds the density of the parameters, K times."""
        return jnp.broadcast_to(~self._proper(), (self.n_components,))

    def empty(self) -> Bool[Array, " K"]:
        """Whether each component has no samples and no prior, so that its mean is undefined."""
        return self.mean_precision < jnp.finfo(self.mean.dtype).eps

    # --- unconstrained space, and usual priors --------------------------------------------

    def transforms(self) -> dict[str, Any]:
        """NumPyro bijections from unconstrained space, for each field."""
        from numpyro.distributions import biject_to, constraints

        return {
            "mean": biject_to(constraints.real_matrix),
            "mean_precision": biject_to(constraints.positive),
            "degrees_of_freedom": biject_to(constraints.greater_than(self.n_features - 1)),
            "scale": CovarianceMap(),
        }

    def proper_or_default(self, mean: Array, covariance: Array) -> "TiedNormalWishart":
        """This prior, with `default` for the data's moments in place of an improper one."""
        weak = self.default(mean, covariance, self.n_components)
        return jax.tree.map(lambda a, b: jnp.where(self._proper(), a, b), self, weak)

    @classmethod
    def flat(cls, n_components: int, n_features: int, dtype: Any = None) -> "TiedNormalWishart":
        """The improper prior whose mode is the maximum-likelihood estimate."""
        k, d = n_components, n_features
        return cls(
            mean=jnp.zeros((k, d), dtype),
            mean_precision=jnp.zeros((k,), dtype),
            degrees_of_freedom=jnp.asarray(-(d + k + 1.0), dtype),
            scale=jnp.zeros((d, d), dtype),
        )

    @classmethod
    def default(cls, mean: Array, covariance: Array, n_components: int) -> "TiedNormalWishart":
        """The weak prior of Fraley & Raftery (2007), from the data's moments."""
        k, d = n_components, mean.shape[0]
        dtype = mean.dtype
        return cls(
            mean=jnp.broadcast_to(mean, (k, d)),
            mean_precision=jnp.full((k,), 0.01, dtype),
            degrees_of_freedom=jnp.asarray(d + 2.0, dtype),
            scale=covariance / k ** (2 / d),
        )
