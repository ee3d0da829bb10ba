"""Wishart precisions: of each component, or one for all of them.

``Lambda ~ Wishart(degrees_of_freedom, scale^-1)``, so that ``E[Lambda] = degrees scale^-1`` and
``scale`` adds up with scatter matrices (``scale = W^-1`` in Bishop 2006, section 10.2). Where the
degrees of freedom are infinite, ``scale`` is a covariance that is known.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from jaxgmm._model.components.precision import Draw, Means, Precision
from jaxgmm._model.components.predictive import StudentT
from jaxgmm._model.known import finite
from jaxgmm._numerics import linalg
from jaxgmm._numerics.arrays import full, led
from jaxgmm._numerics.bijections import CovarianceMap
from jaxgmm._numerics.checks import check_covariance
from jaxgmm._numerics.pytree import pytree, replace
from jaxgmm._numerics.special import (
    LOG_2,
    less_each,
    multivariate_digamma,
    multivariate_gammaln,
)


@pytree
class Wishart(Precision):
    """A precision matrix of its own for every component.

    Attributes:
        degrees_of_freedom: ``(K,)``, in samples, above D - 1 for a proper distribution.
        scale: ``(K, D, D)``, symmetric positive definite, in squared units of the data.
    """

    degrees_of_freedom: Float[Array, "*R K"]
    scale: Float[Array, "*R K D D"]

    structure = "full"
    strengths = {"degrees_of_freedom": "scale"}

    @property
    def dimension(self) -> int:
        return self.scale.shape[-1]

    @staticmethod
    def shapes(k: int, d: int) -> dict[str, tuple[int, ...]]:
        return {"degrees_of_freedom": (k,), "scale": (k, d, d)}

    @staticmethod
    def n_parameters(k: int, d: int) -> int:
        return k * (d * (d + 1) // 2)

    @staticmethod
    def minimum_samples(d: int) -> int:
        return d + 1

    @classmethod
    def flat(cls, k: int, d: int, dtype: Any, n_means: int) -> Any:
        shapes = cls.shapes(k, d)
        degrees = full(shapes["degrees_of_freedom"], -(d + 1.0 + n_means), dtype)
        return cls(degrees, full(shapes["scale"], 0, dtype))

    @classmethod
    def of_degrees(cls, degrees: Any, scale: Any, k: int, d: int) -> Any:
        shapes = cls.shapes(k, d)
        return cls(
            jnp.broadcast_to(jnp.asarray(degrees), shapes["degrees_of_freedom"]),
            jnp.broadcast_to(jnp.asarray(scale), shapes["scale"]),
        )

    def check(self) -> None:
        scale, known = np.asarray(self.scale), np.isposinf(np.asarray(self.degrees_of_freedom))
        for part in (scale[known], scale[~known]) if known.any() else (scale,):
            if np.any(part):  # zeros are the flat prior's
                check_covariance("the prior's scale", part, self.dimension)

    def degrees(self) -> Array:
        return self.degrees_of_freedom

    def known(self) -> Array:
        return jnp.isposinf(self.degrees_of_freedom)

    def _learnt(self, learnt: Array, known: Array | int) -> Array:
        """What belongs to a covariance (...) that is learnt, or to one that is known."""
        mask = self.known()
        return jnp.where(mask.reshape(mask.shape + (1,) * (learnt.ndim - mask.ndim)), known, learnt)

    def summands(self, factor: Array) -> Array:
        each = jnp.sum(linalg.diagonal(self.scale)[..., None] * factor**2, axis=(-2, -1))
        # a component without samples or prior has no factor
        return jnp.sum(jnp.where(jnp.isfinite(each), each, 0))

    def counted(self, count: Array) -> Any:
        return replace(self, degrees_of_freedom=self.degrees_of_freedom + count)

    def scattered(self, scatter: Array) -> Any:
        scale = linalg.symmetrize(self.scale + scatter)
        return replace(self, scale=self._learnt(scale, self.scale))

    def _divisor(self, n_means: Means) -> Array:
        # in Sigma the Wishart's density has D + 1 more than nu, and each mean's normal 1
        nu = self.degrees_of_freedom
        return self._learnt(nu if n_means is None else nu + (self.dimension + 1 + n_means), 1)

    def covariance_at(self, n_means: Means) -> Array:
        return self.scale / self._divisor(n_means)[..., None, None]

    def at(self, covariance: Array, n_means: Means, share: Array) -> Any:
        return replace(self, scale=self._divisor(n_means)[..., None, None] * covariance)

    def expectation(self) -> tuple[Array, Array]:
        # E log|Lambda| - log|E Lambda| (Bishop 2006, eq. 10.65), which is negative
        d, nu = self.dimension, finite(self.degrees_of_freedom, self.dimension)
        gap = multivariate_digamma(nu / 2, d) + d * LOG_2 - d * jnp.log(nu)
        root = linalg.inverse_factor(linalg.cholesky(self.scale))
        factor = jnp.sqrt(self._learnt(nu, 1))[..., None, None] * root
        return factor, linalg.log_det(factor) + 0.5 * self._learnt(gap, 0)

    def sample(self, key: Array) -> Draw:
        triangle = bartlett(key, finite(self.degrees_of_freedom, self.dimension), self.dimension)
        triangle = self._learnt(triangle, linalg.eye_like(triangle))
        lower = linalg.cholesky(self.scale)

        def colour(noise: Array) -> Array:
            # Lambda = L^-T A A^T L^-1
            solved = linalg.solve_lower(triangle, noise, transpose=True)
            return linalg.einsum("...ij,...j->...i", lower, solved)

        factor = linalg.matmul(linalg.inverse_factor(lower), triangle)
        # the factor is a product of an upper and a lower triangle: its determinant is theirs
        return Draw(factor, linalg.log_det(triangle) - linalg.log_det(lower), colour)

    def kl(self, prior: Any, factor: Array) -> Array:
        d = self.dimension
        nu, nu0 = (finite(a.degrees_of_freedom, d) for a in (self, prior))
        half_log_det = 0.5 * d * jnp.log(nu) - linalg.log_det(factor)
        half_log_det0 = linalg.log_det(linalg.cholesky(prior.scale))
        trace = jnp.sum(linalg.matmul(prior.scale, factor) * factor, axis=(-2, -1))
        divergence = (
            0.5 * (nu - nu0) * multivariate_digamma(nu / 2, d)
            - multivariate_gammaln(nu / 2, d)
            + multivariate_gammaln(nu0 / 2, d)
            + nu0 * (half_log_det - half_log_det0)
            + 0.5 * (trace - nu * d)
        )
        return self._learnt(divergence, 0)

    def log_density(self, factor: Array, log_det: Array, n_means: Means) -> Array:
        trace = jnp.sum(linalg.matmul(self.scale, factor) * factor, axis=(-2, -1))
        density = self._divisor(n_means) * log_det - 0.5 * trace
        return self._learnt(density, jnp.asarray(n_means, density.dtype) * log_det)

    def log_normaliser(self) -> Array:
        # Bishop 2006, eq. B.79
        d, proper = self.dimension, self.proper()
        nu = jnp.where(proper, finite(self.degrees_of_freedom, d + 1), d + 1)
        eye = jnp.eye(d, dtype=self.scale.dtype)
        scale = jnp.where(proper[..., None, None], self.scale, eye)
        log_det = 2 * linalg.log_det(linalg.cholesky(scale))
        normaliser = 0.5 * nu * (log_det - d * LOG_2) - multivariate_gammaln(nu / 2, d)
        return self._learnt(normaliser, 0)

    def proper(self) -> Array:
        return self.degrees_of_freedom > self.dimension - 1

    def samples(self) -> Array:
        # the divisor of the joint mode, Sigma = scale / (nu + D + 2) (Fraley & Raftery 2007)
        return self.degrees_of_freedom + self.dimension + 2

    def predictive(self, mean: Array, mean_precision: Array) -> StudentT:
        # Bishop 2006, eq. 10.81 and 10.82
        degrees = self.degrees_of_freedom + 1 - self.dimension
        inflation = (1 + 1 / mean_precision) / self._learnt(degrees, 1)
        degrees = jnp.broadcast_to(degrees, mean_precision.shape)
        inflation = inflation[:, None, None]
        return StudentT(mean, inflation * led(self.scale, inflation), degrees, "full")

    def transforms(self) -> dict[str, Any]:
        from numpyro.distributions import biject_to, constraints

        above = constraints.greater_than(self.dimension - 1)
        return {"degrees_of_freedom": biject_to(above), "scale": CovarianceMap()}

    def site(self) -> tuple[str, Any] | None:
        from numpyro.distributions import WishartCholesky

        wishart = WishartCholesky(self.degrees_of_freedom, rate_matrix=self.scale)
        return "precision_cholesky", wishart.to_event(len(wishart.batch_shape))

    def at_site(self, value: Array) -> Array:
        factor = linalg.inverse_factor(value)
        return linalg.matmul(factor, jnp.swapaxes(factor, -1, -2))

    def site_value(self, covariance: Array) -> Array:
        return linalg.cholesky(self.at_site(linalg.cholesky(covariance)))


@pytree
class SharedWishart(Wishart):
    """One precision matrix for all components.

    Attributes:
        degrees_of_freedom: scalar, in samples, above D - 1 for a proper distribution.
        scale: ``(D, D)``, symmetric positive definite, in squared units of the data.
    """

    degrees_of_freedom: Float[Array, "*R"]
    scale: Float[Array, "*R D D"]

    structure = "tied"
    shared = True

    @staticmethod
    def shapes(k: int, d: int) -> dict[str, tuple[int, ...]]:
        return {"degrees_of_freedom": (), "scale": (d, d)}

    @staticmethod
    def n_parameters(k: int, d: int) -> int:
        return d * (d + 1) // 2

    def counted(self, count: Array) -> Any:
        return super().counted(jnp.sum(count))

    def at(self, covariance: Array, n_means: Means, share: Array) -> Any:
        if covariance.ndim == 3:
            covariance = linalg.einsum("k,kij->ij", share, covariance)
        return super().at(covariance, n_means, share)

    def log_density(self, factor: Array, log_det: Array, n_means: Means) -> Array:
        return super().log_density(factor, log_det[0], n_means)

    def samples(self) -> Array:
        return self.degrees_of_freedom + self.dimension + 1


def bartlett(key: Array, degrees: Float[Array, "*K"], dimension: int) -> Float[Array, "*K D D"]:
    """Lower triangular A with ``A A^T ~ Wishart(degrees, I)``, reparameterised.

    Chi variates on the diagonal, whose gamma variates have implicit gradients (Figurnov et al.
    2018), and standard normals below it.
    """
    normal_key, gamma_key = jax.random.split(key)
    dtype = degrees.dtype
    half = less_each(degrees, jnp.arange(dimension, dtype=dtype)) / 2
    chi = jnp.sqrt(2 * jax.random.gamma(gamma_key, half, dtype=dtype))
    shape = (*degrees.shape, dimension, dimension)
    below = jnp.tril(jax.random.normal(normal_key, shape, dtype), -1)
    return below + linalg.diagonal_matrix(chi)
