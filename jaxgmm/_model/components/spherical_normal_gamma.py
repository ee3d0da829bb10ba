"""Spherical Normal-Gamma: a mean and one precision for every component."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jaxgmm._estep.potentials import Potentials
from jaxgmm._estep.stats import Stats
from jaxgmm._model.components import _gamma as gamma
from jaxgmm._model.components import _student as student
from jaxgmm._numerics import linalg
from jaxgmm._numerics.pytree import pytree, replace, select
from jaxgmm._numerics.special import LOG_2PI, sum_where


@pytree
class SphericalNormalGamma:
    """``mu_k | tau_k ~ Normal(mean, I / (mean_precision_k tau_k))``, ``tau_k ~ Gamma``.

    Attributes:
        mean: ``(K, D)``, in the units of the data.
        mean_precision: ``(K,)``, in samples.
        shape: ``(K,)``, of the gamma distribution of the precision; D halves a sample.
        rate: ``(K,)``, in squared units of the data; ``E[tau] = shape / rate``.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> ones = jnp.ones(3)
        >>> jaxgmm.SphericalNormalGamma(jnp.zeros((3, 2)), ones, 2 * ones, ones).n_parameters
        9
    """

    mean: Float[Array, "*R K D"]
    mean_precision: Float[Array, "*R K"]
    shape: Float[Array, "*R K"]
    rate: Float[Array, "*R K"]

    structure = "spherical"
    covariance_name = "spherical"
    shared = ()
    conjugate = True

    @property
    def n_components(self) -> int:
        return self.mean.shape[-2]

    @property
    def n_features(self) -> int:
        return self.mean.shape[-1]

    @property
    def n_parameters(self) -> int:
        return self.n_components * (self.n_features + 1)

    def _divisor(self) -> Float[Array, " K"]:
        # the joint mode over (mu, sigma^2) has 1 from the gamma in sigma^2 and 1/2 a feature
        return self.shape + 1 + 0.5 * self.n_features

    def expected_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every field, given the mean's."""
        k, d = self.n_components, self.n_features
        return {"mean": (k, d), "mean_precision": (k,), "shape": (k,), "rate": (k,)}

    # --- the conjugate update -------------------------------------------------------------

    def update(
        self, stats: Stats, current: "SphericalNormalGamma | None" = None, *, mode: bool = False
    ) -> "SphericalNormalGamma":
        """Posterior given the statistics (Murphy 2007, eq. 86 to 89, the features pooled)."""
        mean_precision = self.mean_precision + stats.count
        share = linalg.safe_divide(stats.count, mean_precision)
        delta = jnp.where(stats.count[:, None] != 0, stats.mean - self.mean, 0)
        between = self.mean_precision * share * jnp.sum(delta**2, axis=-1)
        return SphericalNormalGamma(
            mean=self.mean + share[:, None] * delta,
            mean_precision=mean_precision,
            shape=self.shape + 0.5 * self.n_features * stats.count,
            rate=self.rate + 0.5 * (stats.scatter + between),
        )

    def interpolate(self, other: "SphericalNormalGamma", rho: Array) -> "SphericalNormalGamma":
        """The natural parameters' mean, ``(1 - rho) self + rho other``."""
        kept, new = (1 - rho) * self.mean_precision, rho * other.mean_precision
        share = linalg.safe_divide(new, kept + new)
        delta = other.mean - self.mean
        between = kept * share * jnp.sum(delta**2, axis=-1)
        return SphericalNormalGamma(
            mean=self.mean + share[:, None] * delta,
            mean_precision=kept + new,
            shape=(1 - rho) * self.shape + rho * other.shape,
            rate=(1 - rho) * self.rate + rho * other.rate + 0.5 * between,
        )

    def with_parameters(
        self, means: Array, covariances: Array, count: Array, *, mode: bool
    ) -> "SphericalNormalGamma":
        """The posterior of ``count`` (K,) samples with these means and mean variances."""
        shape = self.shape + 0.5 * self.n_features * count
        variance = jnp.mean(linalg.diagonal(covariances), axis=-1)
        out = SphericalNormalGamma(means, self.mean_precision + count, shape, shape)
        return replace(out, rate=(out._divisor() if mode else shape) * variance)

    # --- the three views ------------------------------------------------------------------

    def _at(
        self, log_precision: Array, factor: Array, mean: Array, extra: Array | float = 0.0
    ) -> Potentials:
        const = 0.5 * self.n_features * (log_precision - LOG_2PI) + extra
        return Potentials(const, mean, factor, self.structure)

    def _variance(self, *, mode: bool, reg_covar: Array | float = 0.0) -> Float[Array, " K"]:
        return self.rate / (self._divisor() if mode else self.shape) + reg_covar

    def mode(self, reg_covar: Array | float = 0.0) -> Potentials:
        """Potentials at the mode over (mu, sigma^2): ``sigma^2 = rate / (shape + 1 + D/2)``."""
        variance = self._variance(mode=True, reg_covar=reg_covar)
        return self._at(-jnp.log(variance), 1 / jnp.sqrt(variance), self.mean)

    def expectation(self) -> Potentials:
        """Potentials of the expected log density, by the gamma's own digamma."""
        factor = jnp.sqrt(self.shape / self.rate)
        extra = -0.5 * self.n_features / self.mean_precision
        return self._at(gamma.expected_log(self.shape, self.rate), factor, self.mean, extra)

    def sample(self, key: Array) -> Potentials:
        """Potentials of one reparameterised draw."""
        gamma_key, mean_key = jax.random.split(key)
        log_precision = gamma.sample(gamma_key, self.shape, self.rate)
        factor = jnp.exp(0.5 * log_precision)
        noise = jax.random.normal(mean_key, self.mean.shape, self.mean.dtype)
        mean = self.mean + noise / (factor * jnp.sqrt(self.mean_precision))[:, None]
        return self._at(log_precision, factor, mean)

    # --- moments and predictions ----------------------------------------------------------

    def covariances(self, *, mode: bool, reg_covar: Array | float = 0.0) -> Float[Array, "K D D"]:
        """The spherical covariances at the mode, or ``E[tau]^-1``."""
        variance = self._variance(mode=mode, reg_covar=reg_covar)
        return variance[:, None, None] * jnp.eye(self.n_features, dtype=variance.dtype)

    def _predictive(self) -> tuple[Array, Array]:
        variance = (1 + 1 / self.mean_precision) * self.rate / self.shape
        eye = jnp.eye(self.n_features, dtype=variance.dtype)
        return variance[:, None, None] * eye, 2 * self.shape

    def log_predictive(self, x: Float[Array, "N D"]) -> Float[Array, "N K"]:
        """log of each component's posterior predictive: a multivariate Student-t density."""
        return student.log_density(x, self.mean, *self._predictive())

    def sample_predictive(self, key: Array, component: Int[Array, " n"]) -> Float[Array, "n D"]:
        """A draw from the predictive density of each given component."""
        return student.draw(key, component, self.mean, *self._predictive())

    # --- penalties ------------------------------------------------------------------------

    def kl(self, prior: "SphericalNormalGamma") -> Float[Array, ""]:
        """``KL(self || prior)``, summed over components; exact and normalised."""
        ratio = prior.mean_precision / self.mean_precision
        shift = self.shape / self.rate * jnp.sum((self.mean - prior.mean) ** 2, axis=-1)
        normal = self.n_features * (ratio - 1 - jnp.log(ratio)) + prior.mean_precision * shift
        gammas = gamma.kl(self.shape, self.rate, prior.shape, prior.rate)
        return jnp.sum(0.5 * normal + gammas)

    def log_prior(
        self, point: Potentials, present: Bool[Array, " K"] | None = None
    ) -> Float[Array, ""]:
        """log density over (mu, sigma^2) at a point; unnormalised, so 0, for the flat prior."""
        precision, kappa = point.factor**2, self.mean_precision
        density = self._divisor() * jnp.log(precision) - self.rate * precision
        shift = jnp.sum((point.mean - self.mean) ** 2, axis=-1)
        density = density - 0.5 * kappa * precision * shift
        proper = self._proper()
        shape, rate = jnp.where(proper, self.shape, 1), jnp.where(proper, self.rate, 1)
        normal = 0.5 * self.n_features * (jnp.log(jnp.where(proper, kappa, 1)) - LOG_2PI)
        constant = gamma.log_normaliser(shape, rate) + normal
        return sum_where(present, density + jnp.where(proper, constant, 0))

    def _proper(self) -> Bool[Array, " K"]:
        return (self.shape > 0) & (self.rate > 0) & (self.mean_precision > 0)

    def is_proper(self) -> Array:
        return jnp.all(self._proper())

    @property
    def minimum_samples(self) -> int:
        """With a single sample the variance is 0."""
        return 2

    def effective_samples(self) -> Float[Array, " K"]:
        """Samples behind the variance, the prior's included: the mode's divisor over D / 2."""
        return 2 * self._divisor() / self.n_features

    def improper(self) -> Bool[Array, " K"]:
        """Whether nothing bounds the density of each component's parameters."""
        return ~self._proper()

    def empty(self) -> Bool[Array, " K"]:
        """Whether each component has no samples and no prior, so that its mean is undefined."""
        return self.mean_precision < jnp.finfo(self.mean.dtype).eps

    # --- unconstrained space, and usual priors --------------------------------------------

    def transforms(self) -> dict[str, Any]:
        """NumPyro bijections from unconstrained space, for each field."""
        from numpyro.distributions import biject_to, constraints

        positive = biject_to(constraints.positive)
        maps = dict.fromkeys(("mean_precision", "shape", "rate"), positive)
        return {"mean": biject_to(constraints.real_matrix), **maps}

    def proper_or_default(self, mean: Array, covariance: Array) -> "SphericalNormalGamma":
        """This prior, with `default` for the data's moments in place of improper components."""
        weak = self.default(mean, covariance, self.n_components)
        return select(self._proper(), self, weak)

    @classmethod
    def flat(cls, n_components: int, n_features: int, dtype: Any = None) -> "SphericalNormalGamma":
        """The improper prior whose mode is the maximum-likelihood estimate."""
        zeros = jnp.zeros((n_components,), dtype)
        mean = jnp.zeros((n_components, n_features), dtype)
        shape = jnp.full((n_components,), -(1 + 0.5 * n_features), dtype)
        return cls(mean, zeros, shape, zeros)

    @classmethod
    def default(cls, mean: Array, covariance: Array, n_components: int) -> "SphericalNormalGamma":
        """The weak prior of Fraley & Raftery (2007) for spherical covariances.

        ``shape = (D + 2) / 2`` and ``rate = s^2 / (2 K^(2/D))`` with the features' mean variance.
        """
        k, d = n_components, mean.shape[0]
        dtype = mean.dtype
        rate = 0.5 * jnp.mean(linalg.diagonal(covariance)) / k ** (2 / d)
        return cls(
            mean=jnp.broadcast_to(mean, (k, d)),
            mean_precision=jnp.full((k,), 0.01, dtype),
            shape=jnp.full((k,), 0.5 * (d + 2), dtype),
            rate=jnp.broadcast_to(rate, (k,)),
        )
