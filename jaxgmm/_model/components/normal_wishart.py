"""Normal-Wishart: a mean and a full precision matrix of its own for every component."""

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
from jaxgmm._numerics.pytree import pytree, replace, select
from jaxgmm._numerics.special import LOG_2PI, sum_where


@pytree
class NormalWishart:
    """``mu_k | Lambda_k ~ Normal(mean, (mean_precision Lambda_k)^-1)``, ``Lambda_k ~ Wishart``.

    The Wishart has the given degrees of freedom and inverse scale matrix ``scale``, so that
    ``E[Lambda] = degrees_of_freedom scale^-1`` and ``scale`` adds up with scatter matrices
    (``scale = W^-1`` in Bishop 2006, section 10.2).

    Attributes:
        mean: ``(K, D)``, in the units of the data.
        mean_precision: ``(K,)``, in samples: what the mean's prior counts for.
        degrees_of_freedom: ``(K,)``, in samples, above D - 1 for a proper distribution.
        scale: ``(K, D, D)``, symmetric positive definite, in squared units of the data.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> scale = jnp.broadcast_to(jnp.eye(2), (3, 2, 2))
        >>> ones = jnp.ones(3)
        >>> jaxgmm.NormalWishart(jnp.zeros((3, 2)), ones, 4 * ones, scale).n_parameters
        15
    """

    mean: Float[Array, "*R K D"]
    mean_precision: Float[Array, "*R K"]
    degrees_of_freedom: Float[Array, "*R K"]
    scale: Float[Array, "*R K D D"]

    structure = "full"
    covariance_name = "full"
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
        d = self.n_features
        return self.n_components * (d + d * (d + 1) // 2)

    def expected_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every field, given the mean's."""
        k, d = self.n_components, self.n_features
        return {
            "mean": (k, d),
            "mean_precision": (k,),
            "degrees_of_freedom": (k,),
            "scale": (k, d, d),
        }

    # --- the conjugate update -------------------------------------------------------------

    def update(
        self, stats: Stats, current: "NormalWishart | None" = None, *, mode: bool = False
    ) -> "NormalWishart":
        """Posterior given the statistics (Bishop 2006, eq. 10.60 to 10.63)."""
        count = stats.count
        mean_precision = self.mean_precision + count
        share = linalg.safe_divide(count, mean_precision)
        delta = jnp.where(count[:, None] != 0, stats.mean - self.mean, 0)
        between = (self.mean_precision * share)[:, None, None] * linalg.outer(delta)
        return NormalWishart(
            mean=self.mean + share[:, None] * delta,
            mean_precision=mean_precision,
            degrees_of_freedom=self.degrees_of_freedom + count,
            scale=linalg.symmetrize(self.scale + stats.scatter + between),
        )

    def interpolate(self, other: "NormalWishart", rho: Array) -> "NormalWishart":
        """The natural parameters' mean, ``(1 - rho) self + rho other``.

        Written with a difference of means, as in `merge`, so that the scale stays positive
        definite.
        """
        kept, new = (1 - rho) * self.mean_precision, rho * other.mean_precision
        mean_precision = kept + new
        share = linalg.safe_divide(new, mean_precision)
        delta = other.mean - self.mean
        between = (kept * share)[:, None, None] * linalg.outer(delta)
        return NormalWishart(
            mean=self.mean + share[:, None] * delta,
            mean_precision=mean_precision,
            degrees_of_freedom=(1 - rho) * self.degrees_of_freedom + rho * other.degrees_of_freedom,
            scale=(1 - rho) * self.scale + rho * other.scale + between,
        )

    def with_parameters(
        self, means: Array, covariances: Array, count: Array, *, mode: bool
    ) -> "NormalWishart":
        """The posterior of ``count`` (K,) samples with these estimates.

        Its mode, or else its ``E[mu]`` and ``E[Lambda]^-1``, is the given point.
        """
        degrees = self.degrees_of_freedom + count
        out = NormalWishart(means, self.mean_precision + count, degrees, covariances)
        divisor = out.effective_samples() if mode else degrees
        return replace(out, scale=divisor[:, None, None] * covariances)

    # --- the three views ------------------------------------------------------------------

    def _at(self, factor: Array, mean: Array, extra: Array | float = 0.0) -> Potentials:
        const = linalg.log_det(factor) - 0.5 * self.n_features * LOG_2PI + extra
        return Potentials(const, mean, factor, self.structure)

    def mode(self, reg_covar: Array | float = 0.0) -> Potentials:
        """Potentials at the mode over (mu, Sigma): ``Sigma = scale / (nu + D + 2)``."""
        return self._at(
            linalg.inverse_factor(
                linalg.cholesky(self.covariances(mode=True, reg_covar=reg_covar))
            ),
            self.mean,
        )

    def expectation(self) -> Potentials:
        """Potentials of the expected log density (Bishop 2006, eq. 10.64 and 10.65)."""
        d, nu = self.n_features, self.degrees_of_freedom
        factor = wishart.expected_factor(nu, self.scale)
        jensen = 0.5 * wishart.jensen_gap(nu, d)
        return self._at(factor, self.mean, jensen - 0.5 * d / self.mean_precision)

    def sample(self, key: Array) -> Potentials:
        """Potentials of one reparameterised draw, by Bartlett's decomposition."""
        wishart_key, mean_key = jax.random.split(key)
        triangle = wishart.bartlett(wishart_key, self.degrees_of_freedom, self.n_features)
        lower = linalg.cholesky(self.scale)
        factor = linalg.matmul(linalg.inverse_factor(lower), triangle)
        noise = jax.random.normal(mean_key, self.mean.shape, self.mean.dtype)
        step = wishart.mean_step(lower, triangle, noise)
        mean = self.mean + step / jnp.sqrt(self.mean_precision)[:, None]
        # the factor is a product of an upper and a lower triangle: its determinant is theirs
        const = linalg.log_det(triangle) - linalg.log_det(lower)
        const = const - 0.5 * self.n_features * LOG_2PI
        return Potentials(const, mean, factor, self.structure)

    # --- moments and predictions ----------------------------------------------------------

    def covariances(self, *, mode: bool, reg_covar: Array | float = 0.0) -> Float[Array, "K D D"]:
        """The covariance at the mode, or ``E[Lambda]^-1``."""
        divisor = self.effective_samples() if mode else self.degrees_of_freedom
        eye = jnp.eye(self.n_features, dtype=self.scale.dtype)
        return self.scale / divisor[:, None, None] + reg_covar * eye

    def predictive(self) -> tuple[Array, Array]:
        """Degrees of freedom (K,) and scale matrices (K, D, D) of the Student-t predictive.

        Bishop 2006, eq. 10.81 to 10.82; the locations are ``mean``.
        """
        degrees = self.degrees_of_freedom + 1 - self.n_features
        inflation = (1 + self.mean_precision) / (self.mean_precision * degrees)
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

    def kl(self, prior: "NormalWishart") -> Float[Array, ""]:
        """``KL(self || prior)``, summed over components, exact and normalised."""
        d, nu = self.n_features, self.degrees_of_freedom
        factor = linalg.inverse_factor(linalg.cholesky(self.scale))
        shift = jnp.sum(linalg.einsum("ki,kij->kj", self.mean - prior.mean, factor) ** 2, axis=-1)
        ratio = prior.mean_precision / self.mean_precision
        normal = 0.5 * (d * (ratio - 1 - jnp.log(ratio)) + prior.mean_precision * nu * shift)
        return jnp.sum(wishart.kl(nu, self.scale, prior.degrees_of_freedom, prior.scale) + normal)

    def log_prior(
        self, point: Potentials, present: Bool[Array, " K"] | None = None
    ) -> Float[Array, ""]:
        """log density over (mu, Sigma) at a point, normal-inverse-Wishart.

        An improper prior, which has no constant, gives the unnormalised density: the flat one
        gives exactly 0. Only the ``present`` components count.
        """
        d = self.n_features
        trace = jnp.sum(linalg.matmul(self.scale, point.factor) * point.factor, axis=(-2, -1))
        shift = linalg.einsum("ki,kij->kj", point.mean - self.mean, point.factor)
        density = self.effective_samples() * point_log_det(point)
        density -= 0.5 * (trace + self.mean_precision * jnp.sum(shift**2, axis=-1))
        proper = self._proper()
        nu = jnp.where(proper, self.degrees_of_freedom, d + 1)
        kappa = jnp.where(proper, self.mean_precision, 1)
        scale = jnp.where(proper[:, None, None], self.scale, jnp.eye(d, dtype=nu.dtype))
        constant = wishart.log_normaliser(nu, scale) + 0.5 * d * (jnp.log(kappa) - LOG_2PI)
        return sum_where(present, density + jnp.where(proper, constant, 0))

    def _proper(self) -> Array:
        return (self.degrees_of_freedom > self.n_features - 1) & (self.mean_precision > 0)

    def is_proper(self) -> Array:
        return jnp.all(self._proper())

    @property
    def minimum_samples(self) -> int:
        """With fewer samples a covariance is singular by itself."""
        return self.n_features + 1

    def effective_samples(self) -> Float[Array, " K"]:
        """Samples behind each covariance, the prior's included: the mode's divisor.

        The joint mode over (mu, Sigma) is ``scale / (nu + D + 2)`` (Fraley & Raftery 2007).
        """
        return self.degrees_of_freedom + self.n_features + 2

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

        return {
            "mean": biject_to(constraints.real_matrix),
            "mean_precision": biject_to(constraints.positive),
            "degrees_of_freedom": biject_to(constraints.greater_than(self.n_features - 1)),
            "scale": CovarianceMap(),
        }

    def proper_or_default(self, mean: Array, covariance: Array) -> "NormalWishart":
        """This prior, with `default` for the data's moments in place of improper components."""
        weak = self.default(mean, covariance, self.n_components)
        return select(self._proper(), self, weak)

    @classmethod
    def flat(cls, n_components: int, n_features: int, dtype: Any = None) -> "NormalWishart":
        """The improper prior whose mode is the maximum-likelihood estimate."""
        k, d = n_components, n_features
        return cls(
            mean=jnp.zeros((k, d), dtype),
            mean_precision=jnp.zeros((k,), dtype),
            degrees_of_freedom=jnp.full((k,), -(d + 2.0), dtype),
            scale=jnp.zeros((k, d, d), dtype),
        )

    @classmethod
    def default(cls, mean: Array, covariance: Array, n_components: int) -> "NormalWishart":
        """The weak prior of Fraley & Raftery (2007), from the data's moments."""
        k, d = n_components, mean.shape[0]
        dtype = mean.dtype
        return cls(
            mean=jnp.broadcast_to(mean, (k, d)),
            mean_precision=jnp.full((k,), 0.01, dtype),
            degrees_of_freedom=jnp.full((k,), d + 2.0, dtype),
            scale=jnp.broadcast_to(covariance / k ** (2 / d), (k, d, d)),
        )
