"""What a new sample of each component is distributed as, the parameters integrated out.

Where the precision is known, a Student-t has infinite degrees of freedom: it is a normal.
Each has the `log_density` of samples under every component, draws of given components, the
`marginal` of a feature as a scale mixture of normals, and itself as a NumPyro distribution.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import gammaln
from jaxtyping import Bool, Float, Int

from jaxgmm._estep.latent import latent, spread_of
from jaxgmm._estep.potentials import Potentials, whiten
from jaxgmm._estep.row_logits import row_logits
from jaxgmm._estep.rows import Rows
from jaxgmm._estep.structures import structure
from jaxgmm._model.known import finite
from jaxgmm._numerics.pytree import pytree, static
from jaxgmm._numerics.special import LOG_2PI, log1p_squares

# Of the marginal of a feature: variance, what is added to it, and the shape of the gamma variate of
# mean 1 that divides it, or None. See `ScaleMixture`.
Marginal = tuple[Array, Array, Array | None]


def observed_values(x: Array, missing: Array | None) -> Array:
    """Which values were observed, ``(N or 1, 1, D)``."""
    return jnp.ones((1, 1, x.shape[1]), bool) if missing is None else ~missing[:, None, :]


def _many(degrees: Array) -> Array:
    """Degrees of freedom, so many for infinite ones that the power is an exponential."""
    return jnp.where(jnp.isposinf(degrees), float(jnp.finfo(degrees.dtype).eps) ** -2, degrees)


@pytree
class StudentT:
    """Multivariate Student-t distributions (Bishop 2006, eq. B.68).

    Attributes:
        mean: ``(K, D)``.
        scale: in the structure's shape.
        degrees: of freedom, ``(K,)``.
        structure: name of the covariance structure (static).
    """

    mean: Float[Array, "K D"]
    scale: Float[Array, "..."]
    degrees: Float[Array, " K"]
    structure: str = static()

    def log_density(
        self, x: Float[Array, "N D"], missing: Bool[Array, "N D"] | None = None
    ) -> Float[Array, "N K"]:
        if missing is not None:
            return self._of_observed(x, missing)
        d, degrees = x.shape[1], _many(self.degrees)
        factor, log_det = structure(self.structure).invert(self.scale, d)
        whitened = whiten(x, Potentials(degrees, self.mean, factor, self.structure))
        stretch = log1p_squares(whitened, degrees[:, None], axis=1).T
        constant = gammaln((degrees + d) / 2) - gammaln(degrees / 2) + log_det
        constant = constant - 0.5 * d * jnp.log(degrees * math.pi)
        constant = jnp.where(jnp.isposinf(self.degrees), log_det - 0.5 * d * LOG_2PI, constant)
        return constant[None] - 0.5 * (degrees + d)[None] * stretch

    def _of_observed(self, x: Array, missing: Array) -> Array:
        """Of the values that were observed: a Student-t with the same degrees of freedom."""
        rows, degrees = Rows(x, missing=missing), _many(self.degrees)[:, None]
        factor, log_det = structure(self.structure).invert(self.scale, x.shape[1])
        const = jnp.broadcast_to(log_det - 0.5 * x.shape[1] * LOG_2PI, self.mean.shape[:1])
        potentials = Potentials(const, self.mean, factor, self.structure)
        found = latent(rows, potentials, spread_of(potentials, rows))
        d = jnp.sum(~missing, axis=1, dtype=x.dtype)[None]
        constant = gammaln((degrees + d) / 2) - gammaln(degrees / 2)
        constant = constant - 0.5 * d * jnp.log(degrees * math.pi)
        # infinitely many degrees of freedom are those of a normal
        constant = jnp.where(jnp.isposinf(self.degrees)[:, None], -0.5 * d * LOG_2PI, constant)
        constant = constant - 0.5 * found.log_det
        stretch = jnp.log1p(found.squares / degrees)
        return (constant - 0.5 * (degrees + d) * stretch).T

    def draw(self, key: Array, component: Int[Array, " n"]) -> Float[Array, "n D"]:
        normal_key, gamma_key = jax.random.split(key)
        dtype, kind = self.mean.dtype, structure(self.structure)
        noise = jax.random.normal(normal_key, (component.shape[0], self.mean.shape[1]), dtype)
        half = finite(self.degrees, 2)[component] / 2
        mixing = jax.random.gamma(gamma_key, half, dtype=dtype) / half
        mixing = jnp.where(jnp.isposinf(self.degrees)[component], 1, mixing)
        root = kind.root(self.scale)[component]
        return self.mean[component] + kind.colour(root, noise / jnp.sqrt(mixing)[:, None])

    def marginal(self, feature: int) -> Marginal:
        variance = structure(self.structure).variances(self.scale, *self.mean.shape)[:, feature]
        return variance, jnp.zeros_like(variance), self.degrees / 2

    def numpyro(self) -> Any:
        from numpyro.distributions import MultivariateStudentT

        kind = structure(self.structure)
        root = kind.matrices(kind.root(self.scale), *self.mean.shape)
        return MultivariateStudentT(self.degrees, self.mean, root)


@pytree
class StudentTByFeature:
    """Products of univariate Student-t distributions (Murphy 2007, eq. 110).

    Attributes:
        mean, scale, degrees: ``(K, D)``; the scale is squared.
    """

    mean: Float[Array, "K D"]
    scale: Float[Array, "K D"]
    degrees: Float[Array, "K D"]

    def log_density(
        self, x: Float[Array, "N D"], missing: Bool[Array, "N D"] | None = None
    ) -> Float[Array, "N K"]:
        degrees = _many(self.degrees)
        half = (degrees + 1) / 2
        constant = gammaln(half) - gammaln(degrees / 2)
        constant = constant - 0.5 * jnp.log(degrees * math.pi * self.scale)
        residual = (x[:, None, :] - self.mean[None]) / jnp.sqrt(self.scale)[None]
        stretch = log1p_squares(residual[..., None], degrees[None])
        normal = -0.5 * (LOG_2PI + jnp.log(self.scale))
        constant = jnp.where(jnp.isposinf(self.degrees), normal, constant)
        density = constant[None] - half[None] * stretch
        return jnp.sum(jnp.where(observed_values(x, missing), density, 0), axis=-1)

    def draw(self, key: Array, component: Int[Array, " n"]) -> Float[Array, "n D"]:
        degrees = self.degrees[component]
        noise = jax.random.t(key, finite(degrees), dtype=self.mean.dtype)
        normal = jax.random.normal(key, noise.shape, noise.dtype)
        noise = jnp.where(jnp.isposinf(degrees), normal, noise)
        return self.mean[component] + jnp.sqrt(self.scale[component]) * noise

    def marginal(self, feature: int) -> Marginal:
        variance = self.scale[:, feature]
        return variance, jnp.zeros_like(variance), self.degrees[:, feature] / 2

    def numpyro(self) -> Any:
        from numpyro.distributions import StudentT as NumPyroStudentT

        return NumPyroStudentT(self.degrees, self.mean, jnp.sqrt(self.scale)).to_event(1)


@pytree
class Normal:
    """Normal distributions.

    Attributes:
        mean: ``(K, D)``.
        covariance: in the structure's shape.
        structure: name of the covariance structure (static).
    """

    mean: Float[Array, "K D"]
    covariance: Float[Array, "..."]
    structure: str = static()

    def log_density(
        self, x: Float[Array, "N D"], missing: Bool[Array, "N D"] | None = None
    ) -> Float[Array, "N K"]:
        factor, log_det = structure(self.structure).invert(self.covariance, x.shape[1])
        const = jnp.broadcast_to(log_det - 0.5 * x.shape[1] * LOG_2PI, self.mean.shape[:1])
        potentials = Potentials(const, self.mean, factor, self.structure)
        return row_logits(Rows(x, missing=missing), potentials)

    def draw(self, key: Array, component: Int[Array, " n"]) -> Float[Array, "n D"]:
        kind = structure(self.structure)
        shape = (component.shape[0], self.mean.shape[1])
        noise = jax.random.normal(key, shape, self.mean.dtype)
        return self.mean[component] + kind.colour(kind.root(self.covariance)[component], noise)

    def marginal(self, feature: int) -> Marginal:
        variances = structure(self.structure).variances(self.covariance, *self.mean.shape)
        return variances[:, feature], jnp.zeros_like(variances[:, feature]), None

    def numpyro(self) -> Any:
        from numpyro.distributions import MultivariateNormal

        kind = structure(self.structure)
        root = kind.matrices(kind.root(self.covariance), *self.mean.shape)
        return MultivariateNormal(self.mean, scale_tril=root)
