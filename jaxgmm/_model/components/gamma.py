"""Gamma precisions: one for each feature of a component, or one for each component.

``tau ~ Gamma(shape, rate)``: half a sample counts one in the shape for each feature that shares it,
and half a scatter in the rate. Where the shape is infinite, the rate is a variance that is known.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import digamma, gammaln
from jaxtyping import Float

from jaxgmm._model.components.precision import Draw, Means, Precision
from jaxgmm._model.components.predictive import StudentT, StudentTByFeature
from jaxgmm._model.known import finite
from jaxgmm._numerics.arrays import full, led
from jaxgmm._numerics.checks import check_non_negative
from jaxgmm._numerics.pytree import pytree, replace, static


class Gamma(Precision):
    """What both have in common; a gamma is shared by ``features`` features."""

    shape: Array
    rate: Array

    strengths = {"shape": "rate"}

    @property
    def features(self) -> int:
        return 1

    def _sum(self, a: Array) -> Array:
        """A sum over the gammas of each component."""
        return a

    def _each(self, a: Array) -> Array:
        """A quantity of each component as one of each gamma."""
        return a

    @staticmethod
    def minimum_samples(d: int) -> int:
        return 2

    def check(self) -> None:
        check_non_negative("the prior's rate", self.rate)

    def known(self) -> Array:
        return jnp.isposinf(self.shape)

    def counted(self, count: Array) -> Any:
        return replace(self, shape=self.shape + 0.5 * self.features * self._each(count))

    def scattered(self, scatter: Array) -> Any:
        return replace(self, rate=self._learnt(self.rate + 0.5 * scatter, self.rate))

    def _learnt(self, learnt: Array, known: Array | int) -> Array:
        """What belongs to a variance that is learnt, or to one that is known."""
        return jnp.where(jnp.isposinf(self.shape), known, learnt)

    def _divisor(self, n_means: Means) -> Array:
        # in sigma^2 the gamma's density has 1 more than the shape, and a mean's normal a half of
        # each feature
        shape = self.shape
        if n_means is not None:
            shape = shape + (1 + self._half_features(n_means))
        return self._learnt(shape, 1)

    def _half_features(self, n_means: Any) -> Any:
        """Half of the features that share a gamma, times the means, of which each has a number."""
        return 0.5 * self.features * (self._each(n_means) if np.ndim(n_means) else n_means)

    def covariance_at(self, n_means: Means) -> Array:
        return self.rate / self._divisor(n_means)

    def at(self, covariance: Array, n_means: Means, share: Array) -> Any:
        return replace(self, rate=self._divisor(n_means) * covariance)

    def expectation(self) -> tuple[Array, Array]:
        # E log tau = digamma(shape) - log rate (Bishop 2006, eq. B.30)
        log_tau = self._learnt(digamma(finite(self.shape)), 0) - jnp.log(self.rate)
        factor = jnp.sqrt(self._divisor(None) / self.rate)
        return factor, 0.5 * self.features * self._sum(log_tau)

    def sample(self, key: Array) -> Draw:
        # with implicit gradients (Figurnov et al. 2018)
        log_gamma = jax.random.loggamma(key, finite(self.shape), dtype=self.shape.dtype)
        log_tau = self._learnt(log_gamma, 0) - jnp.log(self.rate)
        factor = jnp.exp(0.5 * log_tau)
        log_det = 0.5 * self.features * self._sum(log_tau)
        return Draw(factor, log_det, lambda noise: noise / self._by_feature(factor))

    def _by_feature(self, a: Array) -> Array:
        """A quantity of each gamma beside the features, ``(..., D)`` or ``(..., 1)``."""
        return a

    def kl(self, prior: Any, factor: Array | None = None) -> Array:
        a, b, a0, b0 = finite(self.shape), self.rate, finite(prior.shape), prior.rate
        terms = (
            (a - a0) * digamma(a)
            - gammaln(a)
            + gammaln(a0)
            + a0 * (jnp.log(b) - jnp.log(b0))
            + a * (b0 / b - 1)
        )
        return self._sum(self._learnt(terms, 0))

    def log_density(self, factor: Array, log_det: Array, n_means: Means) -> Array:
        tau = factor**2
        density = self._divisor(n_means) * jnp.log(tau) - self.rate * tau
        return self._sum(self._learnt(density, self._half_features(n_means) * jnp.log(tau)))

    def log_normaliser(self) -> Array:
        # Bishop 2006, eq. B.26
        proper = (self.shape > 0) & (self.rate > 0)
        shape, rate = jnp.where(proper, finite(self.shape), 1), jnp.where(proper, self.rate, 1)
        # exactly 0 where it is flat, whatever gammaln rounds to
        constant = jnp.where(proper, shape * jnp.log(rate) - gammaln(shape), 0)
        return self._sum(self._learnt(constant, 0))

    def proper(self) -> Array:
        return (self.shape > 0) & (self.rate > 0)

    def transforms(self) -> dict[str, Any]:
        from numpyro.distributions import biject_to, constraints

        return dict.fromkeys(("shape", "rate"), biject_to(constraints.positive))

    def site(self) -> tuple[str, Any] | None:
        from numpyro.distributions import Gamma as NumPyroGamma

        gamma = NumPyroGamma(self.shape, self.rate)
        return "precisions", gamma.to_event(len(gamma.batch_shape))

    def at_site(self, value: Array) -> Array:
        return 1 / value

    def site_value(self, covariance: Array) -> Array:
        return 1 / covariance


@pytree
class GammaPerFeature(Gamma):
    """A gamma distribution of each feature's precision, for diagonal covariances.

    Attributes:
        shape: ``(K, D)``, positive.
        rate: ``(K, D)``, in squared units of the data.
    """

    shape: Float[Array, "*R K D"]
    rate: Float[Array, "*R K D"]

    structure = "diag"

    def check(self) -> None:
        super().check()
        known = np.isposinf(np.asarray(self.shape))
        if (known.any(axis=-1) & ~known.all(axis=-1)).any():
            raise ValueError(
                "the prior's shape must be infinite for all features of a component, whose "
                f"variances are then known, or for none, but it is {self.shape}."
            )

    def _sum(self, a: Array) -> Array:
        return jnp.sum(a, axis=-1)

    def _each(self, a: Array) -> Array:
        return a[..., None]

    @staticmethod
    def shapes(k: int, d: int) -> dict[str, tuple[int, ...]]:
        return {"shape": (k, d), "rate": (k, d)}

    @staticmethod
    def n_parameters(k: int, d: int) -> int:
        return k * d

    @classmethod
    def flat(cls, k: int, d: int, dtype: Any, n_means: int) -> Any:
        return cls(full((k, d), -(1 + 0.5 * n_means), dtype), full((k, d), 0, dtype))

    @classmethod
    def of_degrees(cls, degrees: Any, scale: Any, k: int, d: int) -> Any:
        half = 0.5 * jnp.atleast_1d(jnp.asarray(degrees))[:, None]
        rate = 0.5 * jnp.asarray(scale)
        return cls(jnp.broadcast_to(half, (k, d)), jnp.broadcast_to(rate, (k, d)))

    def degrees(self) -> Array:
        return 2 * self.shape[..., 0]

    def known(self) -> Array:
        return jnp.all(super().known(), axis=-1)

    def proper(self) -> Array:
        return jnp.all(super().proper(), axis=-1)

    def samples(self) -> Array:
        # twice the mode's divisor
        return 2 * jnp.max(self.shape, axis=-1) + 3

    def predictive(self, mean: Array, mean_precision: Array) -> StudentTByFeature:
        inflation = (1 + 1 / mean_precision)[:, None]
        return StudentTByFeature(mean, inflation * self.covariance_at(None), 2 * self.shape)


@pytree
class GammaPerComponent(Gamma):
    """A gamma distribution of each component's only precision, for spherical covariances.

    Attributes:
        shape: ``(K,)``, positive.
        rate: ``(K,)``, in squared units of the data.
        dimension: D, features that share it (static).
    """

    shape: Float[Array, "*R K"]
    rate: Float[Array, "*R K"]
    dimension: int = static()

    structure = "spherical"

    @property
    def features(self) -> int:
        return self.dimension

    def _by_feature(self, a: Array) -> Array:
        return a[..., None]

    @classmethod
    def of(cls, components: Any) -> Any:
        return cls(components.shape, components.rate, components.n_features)

    @staticmethod
    def shapes(k: int, d: int) -> dict[str, tuple[int, ...]]:
        return {"shape": (k,), "rate": (k,)}

    @staticmethod
    def n_parameters(k: int, d: int) -> int:
        return k

    @staticmethod
    def pooled_features(d: int) -> int:
        return d

    @classmethod
    def flat(cls, k: int, d: int, dtype: Any, n_means: int) -> Any:
        return cls(full((k,), -(1 + 0.5 * d * n_means), dtype), full((k,), 0, dtype), d)

    @classmethod
    def of_degrees(cls, degrees: Any, scale: Any, k: int, d: int) -> Any:
        shape, rate = (jnp.broadcast_to(0.5 * d * jnp.asarray(a), (k,)) for a in (degrees, scale))
        return cls(shape, rate, d)

    def degrees(self) -> Array:
        return 2 * self.shape / self.dimension

    def samples(self) -> Array:
        # the mode's divisor over D / 2
        return 2 * (self.shape + 1 + 0.5 * self.dimension) / self.dimension

    def predictive(self, mean: Array, mean_precision: Array) -> StudentT:
        variance = (1 + 1 / mean_precision) * self.covariance_at(None)
        return StudentT(mean, variance, 2 * self.shape, "spherical")


# Of a trapezoidal rule over a gamma variate: its integrand is analytic in the variate's logarithm
# and decays at both ends, so that the error falls exponentially.
NODES = 256


def node_range(
    shape: Float[Array, "..."], log_tilt: Float[Array, "..."], more: float = 0.0
) -> tuple[Array, Array]:
    """Where the nodes begin and end in ``v = log(tau / E tau)``, by Chernoff's bounds of the tails.

    A density or a tail far out is that of a gamma whose rate is larger by the factor
    ``exp(log_tilt)`` and whose shape is larger by ``more``. Differentiate no argument: the range
    has no derivative of its own. An infinite shape is that of a number: all its nodes lie at 0.
    """
    shape = led(shape, log_tilt)
    reach = -math.log(jnp.finfo(shape.dtype).eps) / shape
    root = jnp.sqrt(2 * reach)
    low = -log_tilt - reach - jnp.minimum(root, 1)
    number = jnp.isposinf(shape)
    return jnp.where(number, 0, low), jnp.log1p(reach + root + more / shape)
