"""Normal-Gamma: a mean and a diagonal precision of its own for every component."""

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
from jaxgmm._numerics.pytree import pytree, select
from jaxgmm._numerics.special import LOG_2PI, sum_where


@pytree
class NormalGamma:
    """``mu_kd | tau_kd ~ Normal(mean, 1 / (mean_precision_k tau_kd))``, ``tau_kd ~ Gamma``.

    Attributes:
        mean: ``(K, D)``, in the units of the data.
        mean_precision: ``(K,)``, in samples.
        shape: ``(K, D)``, of the gamma distribution of each precision; half a sample each.
        rate: ``(K, D)``, in squared units of the data; ``E[tau] = shape / rate``.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> ones = jnp.ones((3, 2))
        >>> jaxgmm.NormalGamma(0 * ones, ones[:, 0], 2 * ones, ones).n_parameters
        12
    """

    mean: Float[Array, "*R K D"]
    mean_precision: Float[Array, "*R K"]
    shape: Float[Array, "*R K D"]
    rate: Float[Array, "*R K D"]

    structure = "diag"
    covariance_name = "diag"
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
        return 2 * self.n_components * self.n_features

    def expected_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every field, given the mean's."""
        k, d = self.n_components, self.n_features
        return {"mean": (k, d), "mean_precision": (k,), "shape": (k, d), "rate": (k, d)}

    # --- the conjugate update -------------------------------------------------------------

    def update(
        self, stats: Stats, current: "NormalGamma | None" = None, *, mode: bool = False
    ) -> "NormalGamma":
        """Posterior given the statistics (Murphy 2007, eq. 86 to 89, feature by feature)."""
        mean_precision = self.mean_precision + stats.count
        share = linalg.safe_divide(stats.count, mean_precision)[:, None]
        delta = jnp.where(stats.count[:, None] != 0, stats.mean - self.mean, 0)
        between = self.mean_precision[:, None] * share * delta**2
        return NormalGamma(
            mean=self.mean + share * delta,
            mean_precision=mean_precision,
            shape=self.shape + 0.5 * stats.count[:, None],
            rate=self.rate + 0.5 * (stats.scatter + between),
        )

    def interpolate(self, other: "NormalGamma", rho: Array) -> "NormalGamma":
        """The natural parameters' mean, ``(1 - rho) self + rho other``."""
        kept, new = (1 - rho) * self.mean_precision, rho * other.mean_precision
        share = linalg.safe_divide(new, kept + new)
        delta = other.mean - self.mean
        between = (kept * share)[:, None] * delta**2
        return NormalGamma(
            mean=self.mean + share[:, None] * delta,
            mean_precision=kept + new,
            shape=(1 - rho) * self.shape + rho * other.shape,
            rate=(1 - rho) * self.rate + rho * other.rate + 0.5 * between,
        )

    def with_parameters(
        self, means: Array, covariances: Array, count: Array, *, mode: bool
    ) -> "NormalGamma":
        """The posterior of ``count`` (K,) samples with these means and variances."""
        shape = self.shape + 0.5 * count[:, None]
        rate = (shape + 1.5 if mode else shape) * linalg.diagonal(covariances)
        return NormalGamma(means, self.mean_precision + count, shape, rate)

    # --- the three views ------------------------------------------------------------------

    def _at(self, log_precision: Array, factor: Array, mean: Array, extra: Array | float = 0.0):
        const = 0.5 * jnp.sum(log_precision, axis=-1) - 0.5 * self.n_features * LOG_2PI + extra
        return Potentials(const, mean, factor, self.structure)

    def _variance(self, *, mode: bool, reg_covar: Array | float = 0.0) -> Float[Array, "K D"]:
        # the joint mode over (mu, sigma^2) has shape + 1 + 1/2 below the rate
        return self.rate / (self.shape + 1.5 if mode else self.shape) + reg_covar

    def mode(self, reg_covar: Array | float = 0.0) -> Potentials:
        """Potentials at the mode over (mu, sigma^2): ``sigma^2 = rate / (shape + 3/2)``."""
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
        mean = self.mean + noise / (factor * jnp.sqrt(self.mean_precision)[:, None])
        return self._at(log_precision, factor, mean)

    # --- moments and predictions ----------------------------------------------------------

    def covariances(self, *, mode: bool, reg_covar: Array | float = 0.0) -> Float[Array, "K D D"]:
        """The diagonal covariances at the mode, or ``E[tau]^-1``."""
        variance = self._variance(mode=mode, reg_covar=reg_covar)
        return variance[:, :, None] * jnp.eye(self.n_features, dtype=variance.dtype)

    def _predictive(self) -> tuple[Array, Array]:
        inflation = (1 + 1 / self.mean_precision)[:, None]
        return inflation * self.rate / self.shape, 2 * self.shape

    def log_predictive(self, x: Float[Array, "N D"]) -> Float[Array, "N K"]:
        """log of each component's posterior predictive: a product of Student-t densities.

        Murphy 2007, eq. 110, feature by feature.
        """
        return student.log_density_by_feature(x, self.mean, *self._predictive())

    def sample_predictive(self, key: Array, component: Int[Array, " n"]) -> Float[Array, "n D"]:
        """A draw from the predictive density of each given component."""
        return student.draw_by_feature(key, component, self.mean, *self._predictive())

    # --- penalties ------------------------------------------------------------------------

    def kl(self, prior: "NormalGamma") -> Float[Array, ""]:
        """``KL(self || prior)``, summed over components and features; exact and normalised."""
        ratio = prior.mean_precision / self.mean_precision
        shift = jnp.sum(self.shape / self.rate * (self.mean - prior.mean) ** 2, axis=-1)
        normal = self.n_features * (ratio - 1 - jnp.log(ratio)) + prior.mean_precision * shift
        gammas = gamma.kl(self.shape, self.rate, prior.shape, prior.rate)
        return 0.5 * jnp.sum(normal) + jnp.sum(gammas)

    def log_prior(
        self, point: Potentials, present: Bool[Array, " K"] | None = None
    ) -> Float[Array, ""]:
        """log density over (mu, sigma^2) at a point; unnormalised, so 0, for the flat prior."""
        precision, kappa = point.factor**2, self.mean_precision[:, None]
        density = (self.shape + 1.5) * jnp.log(precision) - self.rate * precision
        density = density - 0.5 * kappa * precision * (point.mean - self.mean) ** 2
        proper = self._proper()[:, None]
        shape, rate = jnp.where(proper, self.shape, 1), jnp.where(proper, self.rate, 1)
        normal = 0.5 * (jnp.log(jnp.where(proper, kappa, 1)) - LOG_2PI)
        constant = gamma.log_normaliser(shape, rate) + normal
        return sum_where(present, jnp.sum(density + jnp.where(proper, constant, 0), axis=-1))

    def _proper(self) -> Bool[Array, " K"]:
        return jnp.all((self.shape > 0) & (self.rate > 0), axis=-1) & (self.mean_precision > 0)

    def is_proper(self) -> Array:
        return jnp.all(self._proper())

    @property
    def minimum_samples(self) -> int:
        """With a single sample the variances are 0."""
        return 2

    def effective_samples(self) -> Float[Array, " K"]:
        """Samples behind the variances, the prior's included: twice the mode's divisor."""
        return 2 * jnp.max(self.shape, axis=-1) + 3

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

    def proper_or_default(self, mean: Array, covariance: Array) -> "NormalGamma":
        """This prior, with `default` for the data's moments in place of improper components."""
        weak = self.default(mean, covariance, self.n_components)
        return select(self._proper(), self, weak)

    @classmethod
    def flat(cls, n_components: int, n_features: int, dtype: Any = None) -> "NormalGamma":
        """The improper prior whose mode is the maximum-likelihood estimate."""
        k, d = n_components, n_features
        zeros = jnp.zeros((k, d), dtype)
        return cls(zeros, jnp.zeros((k,), dtype), jnp.full((k, d), -1.5, dtype), zeros)

    @classmethod
    def default(cls, mean: Array, covariance: Array, n_components: int) -> "NormalGamma":
        """A weak prior after Fraley & Raftery (2007), with each feature's own variance.

        ``shape = (D + 2) / 2`` and ``rate = var(x_d) / (2 K^(2/D))``; theirs has the mean of the
        variances, and so changes with the features' units.
        """
        k, d = n_components, mean.shape[0]
        dtype = mean.dtype
        rate = 0.5 * linalg.diagonal(covariance) / k ** (2 / d)
        return cls(
            mean=jnp.broadcast_to(mean, (k, d)),
            mean_precision=jnp.full((k,), 0.01, dtype),
            shape=jnp.full((k, d), 0.5 * (d + 2), dtype),
            rate=jnp.broadcast_to(rate, (k, d)),
        )
