"""Known covariance, common to all components: only the means are learnt."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxgmm._estep.structures import structure
from jaxgmm._model.components.conjugate import ConjugateNormal
from jaxgmm._model.components.precision import Draw, Means, Precision
from jaxgmm._model.components.predictive import Normal
from jaxgmm._numerics import linalg
from jaxgmm._numerics.checks import check_covariance
from jaxgmm._numerics.pytree import pytree


@pytree
class Known(Precision):
    """One known covariance matrix for all components.

    Attributes:
        covariance: ``(D, D)``.
    """

    covariance: Float[Array, "*R D D"]

    structure = "tied"
    shared = True
    learnt = False

    @staticmethod
    def shapes(k: int, d: int) -> dict[str, tuple[int, ...]]:
        return {"covariance": (d, d)}

    @staticmethod
    def n_parameters(k: int, d: int) -> int:
        return 0

    @staticmethod
    def minimum_samples(d: int) -> int:
        return 0

    def check(self) -> None:
        check_covariance("the prior's covariance", self.covariance)

    def counted(self, count: Array) -> Any:
        return self

    def scattered(self, scatter: Array) -> Any:
        return self

    def congruent(self, matrix: Array) -> Any:
        return Known(structure(self.structure).congruent(self.covariance, matrix))

    def covariance_at(self, n_means: Means) -> Array:
        return self.covariance

    def at(self, covariance: Array, n_means: Means, share: Array) -> Any:
        return self

    def expectation(self) -> tuple[Array, Array]:
        factor = linalg.inverse_factor(linalg.cholesky(self.covariance))
        return factor, linalg.log_det(factor)

    def sample(self, key: Array) -> Draw:
        lower = linalg.cholesky(self.covariance)
        return Draw(*self.expectation(), lambda noise: linalg.matmul(noise, lower.T))

    def kl(self, prior: Any, factor: Array) -> Array:
        return jnp.zeros((), self.covariance.dtype)

    def log_density(self, factor: Array, log_det: Array, n_means: Means) -> Array:
        return jnp.asarray(n_means) * log_det[0]

    def proper(self) -> Array:
        return jnp.asarray(True)

    def predictive(self, mean: Array, mean_precision: Array) -> Normal:
        # Bishop 2006, eq. 2.115
        inflation = 1 + 1 / mean_precision
        return Normal(mean, inflation[:, None, None] * self.covariance[None], "full")

    def transforms(self) -> dict[str, Any]:
        return {}

    def site(self) -> tuple[str, Any] | None:
        return None


@pytree
class KnownCovariance(ConjugateNormal):
    """``mu_k ~ Normal(mean, covariance / mean_precision)``, ``x | k ~ Normal(mu_k, covariance)``.

    Murphy 2007, section 3 ("the multivariate Gaussian with known covariance").

    Attributes:
        mean: ``(K, D)``, in the units of the data.
        mean_precision: ``(K,)``, in samples: the mean's prior counts as much as these; infinite
            where the mean is known, see `freeze`.
        covariance: ``(D, D)``, symmetric positive definite; never updated.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> jaxgmm.KnownCovariance(jnp.zeros((3, 2)), jnp.ones(3), jnp.eye(2)).n_parameters
        6
    """

    mean: Float[Array, "*R K D"]
    mean_precision: Float[Array, "*R K"]
    covariance: Float[Array, "*R D D"]

    distribution = Known

    @property
    def covariance_name(self) -> str:
        return "known"

    def weak(self, mean: Array, covariance: Array) -> Any:
        return self.default(mean, self.covariance, self.n_components)

    @classmethod
    def flat(cls, n_components: int, covariance: Array) -> Any:  # type: ignore[override]
        """The improper prior whose mode is the maximum-likelihood estimate."""
        k, d, dtype = n_components, covariance.shape[0], covariance.dtype
        return cls(jnp.zeros((k, d), dtype), jnp.zeros((k,), dtype), covariance)

    @classmethod
    def default(cls, mean: Array, covariance: Array, n_components: int) -> Any:
        """A weak prior around the data's mean, which counts as 0.01 samples."""
        mean = jnp.broadcast_to(mean, (n_components, mean.shape[0]))
        return cls(mean, jnp.full((n_components,), 0.01, mean.dtype), covariance)
