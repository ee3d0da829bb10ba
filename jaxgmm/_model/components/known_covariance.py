"""Known covariance, common to all components: only the means are learnt."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jaxgmm._estep.potentials import Potentials, logits
from jaxgmm._estep.stats import Stats
from jaxgmm._numerics import linalg
from jaxgmm._numerics.pytree import pytree, replace
from jaxgmm._numerics.special import LOG_2PI, sum_where


@pytree
class KnownCovariance:
    """``mu_k ~ Normal(mean, covariance / mean_precision)``, ``x | k ~ Normal(mu_k, covariance)``.

    Attributes:
        mean: ``(K, D)``, in the units of the data.
        mean_precision: ``(K,)``, in samples: what the mean's prior counts for.
        covariance: ``(D, D)``, symmetric positive definite; never updated.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> jaxgmm.KnownCovariance(jnp.zeros((3, 2)), jnp.ones(3), jnp.eye(2)).n_parameters
        6
    """

    mean: Float[Array, "*R K D"]
    mean_precision: Float[Array, "*R K"]
    covariance: Float[Array, "*R D D"]

    structure = "tied"
    covariance_name = "known"
    shared = ("covariance",)
    conjugate = True

    @property
    def n_components(self) -> int:
        return self.mean.shape[-2]

    @property
    def n_features(self) -> int:
        return self.mean.shape[-1]

    @property
    def n_parameters(self) -> int:
        return self.n_components * self.n_features

    def expected_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every field, given the mean's."""
        k, d = self.n_components, self.n_features
        return {"mean": (k, d), "mean_precision": (k,), "covariance": (d, d)}

    # --- the conjugate update -------------------------------------------------------------

    def update(
        self, stats: Stats, current: "KnownCovariance | None" = None, *, mode: bool = False
    ) -> "KnownCovariance":
        """Posterior ``Normal((nu m0 + sum r x) / (nu + n), covariance / (nu + n))``.

        Murphy 2007, section 3 ("the multivariate Gaussian with known covariance").
        """
        mean_precision = self.mean_precision + stats.count
        share = linalg.safe_divide(stats.count, mean_precision)[:, None]
        delta = jnp.where(stats.count[:, None] != 0, stats.mean - self.mean, 0)
        return replace(self, mean=self.mean + share * delta, mean_precision=mean_precision)

    def interpolate(self, other: "KnownCovariance", rho: Array) -> "KnownCovariance":
        """The natural parameters' mean, ``(1 - rho) self + rho other``."""
        kept, new = (1 - rho) * self.mean_precision, rho * other.mean_precision
        share = linalg.safe_divide(new, kept + new)[:, None]
        mean = self.mean + share * (other.mean - self.mean)
        return replace(self, mean=mean, mean_precision=kept + new)

    def with_parameters(
        self, means: Array, covariances: Array, count: Array, *, mode: bool
    ) -> "KnownCovariance":
        """The posterior of ``count`` (K,) samples with these means; covariances are known."""
        return replace(self, mean=means, mean_precision=self.mean_precision + count)

    # --- the three views ------------------------------------------------------------------

    def _at(self, mean: Array, extra: Array | float = 0.0) -> Potentials:
        factor = linalg.inverse_factor(linalg.cholesky(self.covariance))
        const = linalg.log_det(factor) - 0.5 * self.n_features * LOG_2PI + extra
        const = jnp.broadcast_to(const, (self.n_components,))
        return Potentials(const, mean, factor, self.structure)

    def mode(self, reg_covar: Array | float = 0.0) -> Potentials:
        """Potentials at the posterior's mode; ``reg_covar`` has nothing to add to."""
        return self._at(self.mean)

    def expectation(self) -> Potentials:
        """Potentials of the expected log density, the negative Gaussian cross-entropy."""
        return self._at(self.mean, -0.5 * self.n_features / self.mean_precision)

    def sample(self, key: Array) -> Potentials:
        """Potentials of one reparameterised draw of the means."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        step = linalg.matmul(noise, linalg.cholesky(self.covariance).T)
        return self._at(self.mean + step / jnp.sqrt(self.mean_precision)[:, None])

    # --- moments and predictions ----------------------------------------------------------

    def covariances(self, *, mode: bool, reg_covar: Array | float = 0.0) -> Float[Array, "K D D"]:
        """The known covariance, K times."""
        return jnp.broadcast_to(
            self.covariance, (self.n_components, self.n_features, self.n_features)
        )

    def predictive(self) -> tuple[Array, Array]:
        """Means (K, D) and covariances (K, D, D) of the predictive, a normal distribution.

        ``(1 + 1 / mean_precision) covariance`` (Bishop 2006, eq. 2.115).
        """
        inflation = 1 + 1 / self.mean_precision
        return self.mean, inflation[:, None, None] * self.covariance

    def log_predictive(self, x: Float[Array, "N D"]) -> Float[Array, "N K"]:
        """log of each component's posterior predictive density."""
        mean, covariance = self.predictive()
        factor = linalg.inverse_factor(linalg.cholesky(covariance))
        const = linalg.log_det(factor) - 0.5 * self.n_features * LOG_2PI
        return logits(x, Potentials(const, mean, factor, "full"))

    def sample_predictive(self, key: Array, component: Int[Array, " n"]) -> Float[Array, "n D"]:
        """A draw from the predictive density of each given component."""
        mean, covariance = self.predictive()
        noise = jax.random.normal(key, (component.shape[0], mean.shape[1]), mean.dtype)
        lower = linalg.cholesky(covariance)[component]
        return mean[component] + linalg.einsum("nij,nj->ni", lower, noise)

    # --- penalties ------------------------------------------------------------------------

    def kl(self, prior: "KnownCovariance") -> Float[Array, ""]:
        """``KL(self || prior)``, summed over components, exact and normalised."""
        d = self.n_features
        ratio = prior.mean_precision / self.mean_precision
        factor = linalg.inverse_factor(linalg.cholesky(self.covariance))
        shift = jnp.sum(linalg.matmul(self.mean - prior.mean, factor) ** 2, axis=-1)
        return 0.5 * jnp.sum(d * (ratio - 1 - jnp.log(ratio)) + prior.mean_precision * shift)

    def log_prior(
        self, point: Potentials, present: Bool[Array, " K"] | None = None
    ) -> Float[Array, ""]:
        """Log density over the means at a point; unnormalised, so 0, for the flat prior."""
        kappa = self.mean_precision
        shift = jnp.sum(linalg.matmul(point.mean - self.mean, point.factor) ** 2, axis=-1)
        proper = kappa > 0
        constant = 0.5 * self.n_features * (jnp.log(jnp.where(proper, kappa, 1)) - LOG_2PI)
        constant = constant + linalg.log_det(point.factor)
        return sum_where(present, jnp.where(proper, constant, 0) - 0.5 * kappa * shift)

    def is_proper(self) -> Array:
        return jnp.all(self.mean_precision > 0)

    @property
    def minimum_samples(self) -> int:
        """A known covariance needs none."""
        return 0

    def effective_samples(self) -> Float[Array, " K"]:
        """Samples behind each mean, the prior's included."""
        return self.mean_precision

    def improper(self) -> Bool[Array, " K"]:
        """Whether the density of each component's mean is improper."""
        return self.mean_precision == 0

    def empty(self) -> Bool[Array, " K"]:
        """Whether each component has no samples and no prior, so that its mean is undefined."""
        return self.mean_precision < jnp.finfo(self.mean.dtype).eps

    # --- unconstrained space, and usual priors --------------------------------------------

    def transforms(self) -> dict[str, Any]:
        """NumPyro bijections from unconstrained space, for each field that is learnt."""
        from numpyro.distributions import biject_to, constraints

        return {
            "mean": biject_to(constraints.real_matrix),
            "mean_precision": biject_to(constraints.positive),
        }

    def proper_or_default(self, mean: Array, covariance: Array) -> "KnownCovariance":
        """This prior, with `default` in place of improper components."""
        weak = self.default(mean, self.covariance, self.n_components)
        proper = self.mean_precision > 0
        return replace(
            self,
            mean=jnp.where(proper[:, None], self.mean, weak.mean),
            mean_precision=jnp.where(proper, self.mean_precision, weak.mean_precision),
        )

    @classmethod
    def flat(cls, n_components: int, covariance: Array) -> "KnownCovariance":
        """The improper prior whose mode is the maximum-likelihood estimate."""
        k, d, dtype = n_components, covariance.shape[0], covariance.dtype
        return cls(jnp.zeros((k, d), dtype), jnp.zeros((k,), dtype), covariance)

    @classmethod
    def default(cls, mean: Array, covariance: Array, n_components: int) -> "KnownCovariance":
        """A weak prior about the data's mean, counting for 0.01 samples."""
        mean = jnp.broadcast_to(mean, (n_components, mean.shape[0]))
        return cls(mean, jnp.full((n_components,), 0.01, mean.dtype), covariance)
