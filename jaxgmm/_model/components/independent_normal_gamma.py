"""Independent Normal and Gamma: semi-conjugate, for diagonal and spherical covariances."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jaxgmm._estep.potentials import Potentials
from jaxgmm._estep.stats import Stats
from jaxgmm._estep.structures import structure
from jaxgmm._model.components.base import Components
from jaxgmm._model.components.gamma import (
    NODES,
    Gamma,
    GammaPerComponent,
    GammaPerFeature,
    node_range,
)
from jaxgmm._model.components.precision import Means
from jaxgmm._model.components.predictive import Marginal, observed_values
from jaxgmm._model.known import finite, put_known
from jaxgmm._numerics.affine import Affine
from jaxgmm._numerics.arrays import led, safe_divide, sum_where
from jaxgmm._numerics.checks import check_non_negative
from jaxgmm._numerics.pytree import pytree, replace
from jaxgmm._numerics.special import LOG_2PI, log1p_squares


@pytree
class IndependentNormalGamma(Components):
    """``mu_kd ~ Normal(mean, 1 / precision)`` and ``tau ~ Gamma(shape, rate)``, independent.

    If ``shape`` and ``rate`` are ``(K, D)``, there is a gamma for each feature, and covariances are
    diagonal. If they are ``(K,)``, there is a gamma for each component, and covariances are
    spherical. Each factor is conjugate when the other one is given. So an update starts from the
    current q and improves first q(mu) and then q(tau); the bound still never decreases. The mode
    over sigma^2 is ``sigma^2 = rate / (shape + 1)``.

    Attributes:
        mean: ``(K, D)``, in the units of the data.
        precision: ``(K, D)``, of the mean, in inverse squared units; infinite where it is known.
        shape: ``(K, D)`` or ``(K,)``; infinite where ``rate`` is a variance that is known.
        rate: as ``shape``, in squared units of the data; ``E[tau] = shape / rate``.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> ones = jnp.ones((3, 2))
        >>> components = jaxgmm.IndependentNormalGamma(0 * ones, ones, 5 * ones, 5 * ones)
        >>> components.n_components, components.covariance_name
        (3, 'diag (independent)')
    """

    mean: Float[Array, "*R K D"]
    precision: Float[Array, "*R K D"]
    shape: Float[Array, "..."]
    rate: Float[Array, "..."]

    conjugate = False

    @property
    def precisions(self) -> Gamma:
        if self.rate.ndim == self.mean.ndim:
            return GammaPerFeature(self.shape, self.rate)
        return GammaPerComponent(self.shape, self.rate, self.n_features)

    @property
    def strengths(self) -> dict[str, str]:
        return {"precision": "mean", **Gamma.strengths}

    @property
    def covariance_name(self) -> str:
        return f"{self.structure} (independent)"

    def _by_feature(self, a: Array) -> Array:
        """A quantity of each gamma as one of each feature: (..., K, D) or (..., K, 1)."""
        return a if a.ndim == self.mean.ndim else a[..., None]

    def _of(self, mean: Array, precision: Array, gammas: Gamma) -> Any:
        return replace(self, mean=mean, precision=precision, shape=gammas.shape, rate=gammas.rate)

    def expected_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every field, given that of the mean and whether each feature has a gamma."""
        wide = (self.n_components, self.n_features)
        return {"mean": wide, "precision": wide, **self.precisions.shapes(*wide)}

    def check(self) -> None:
        check_non_negative("the prior's precision", self.precision)
        self.precisions.check()

    # --- the update, one factor after the other -----------------------------------------------

    def update(self, stats: Stats, current: Any = None, *, point: bool = False) -> Any:
        """q(mu) given the current q(tau), then q(tau) given that.

        Bishop 2006, eq. 10.25 to 10.30. For a ``point`` estimate it is a conditional
        maximisation (Meng & Rubin 1993), in which the means have no variance.
        """
        count = stats.weight[:, None]
        gammas = self.precisions.counted(stats.count)
        if current is None:
            tau = 1 / gammas.scattered(stats.scatter).covariance_at(None)
        else:
            tau = 1 / current.precisions.covariance_at(0 if point else None)
        information = count * self._by_feature(tau)
        precision = self.precision + information
        share = safe_divide(information, precision)
        mean = self.mean + share * jnp.where(count != 0, stats.mean - self.mean, 0)
        gap = jnp.where(count != 0, stats.mean - mean, 0)
        squares = count * gap**2
        if not point:
            squares = squares + count / precision
        if gammas.structure == "spherical":
            squares = jnp.sum(squares, axis=-1)
        return self._of(mean, precision, gammas.scattered(stats.scatter + squares))

    def interpolate(self, other: Any, rho: Array) -> Any:
        """The weighted mean of the natural parameters, ``(1 - rho) self + rho other``."""
        kept, new = (1 - rho) * finite(self.precision), rho * finite(other.precision)
        mean = self.mean + safe_divide(new, kept + new) * (other.mean - self.mean)
        gammas = self.precisions.blend(other.precisions, rho)
        return put_known(self._of(mean, kept + new, gammas), self)

    def with_parameters(self, means: Array, covariance: Array, count: Array, n_means: Means) -> Any:
        """The posterior of ``count`` (K,) samples with these means and variances."""
        gammas = self.precisions.counted(count).at(covariance, n_means, count)
        precision = self.precision + count[:, None] / self._by_feature(covariance)
        return put_known(self._of(means, precision, gammas), self)

    def mapped(self, to: Affine) -> Any:
        mean = jnp.where(self.precision > 0, to.points(self.mean), self.mean)
        return self._of(mean, self.precision / to.matrix**2, self.precisions.congruent(to.matrix))

    def means_in_mode(self, present: Bool[Array, " K"] | None) -> Means:
        return 0

    # --- the other views ----------------------------------------------------------------------

    def mean_trace(self) -> Float[Array, " K"]:
        tau = self._by_feature(1 / self.precisions.covariance_at(None))
        return jnp.sum(tau / self.precision, axis=-1)

    def sample(self, key: Array) -> Potentials:
        """Potentials of one reparameterised draw."""
        gamma_key, mean_key = jax.random.split(key)
        factor, log_det, _ = self.precisions.sample(gamma_key)
        noise = jax.random.normal(mean_key, self.mean.shape, self.mean.dtype)
        return replace(self, mean=self.mean + noise / jnp.sqrt(self.precision))._at(factor, log_det)

    def predictive(self) -> "Integrated":
        return Integrated(self)

    def mean_variance(self, covariance: Array) -> Array:
        """The variances of each mean, ``(K, D)``, whatever its component's covariance."""
        return 1 / self.precision

    # --- penalties ----------------------------------------------------------------------------

    def kl(self, prior: Any) -> Float[Array, ""]:
        """``KL(self || prior)``: normals and gammas; exact and normalised."""
        precision = finite(prior.precision)
        ratio = precision / finite(self.precision)
        normal = ratio - 1 - jnp.log(ratio) + precision * (self.mean - prior.mean) ** 2
        normal = 0.5 * jnp.sum(jnp.where(jnp.isposinf(prior.precision), 0, normal))
        return normal + jnp.sum(self.precisions.kl(prior.precisions))

    def log_prior(
        self, point: Potentials, present: Bool[Array, " K"] | None = None
    ) -> Float[Array, ""]:
        """Log density over (mu, sigma^2) at a point; 0 for the flat prior."""
        precision, proper = finite(self.precision), self.precision > 0
        constant = 0.5 * (jnp.log(jnp.where(proper, precision, 1)) - LOG_2PI)
        normal = jnp.where(proper, constant, 0)
        normal = normal - 0.5 * precision * (point.mean - self.mean) ** 2
        normal = jnp.where(jnp.isposinf(self.precision), 0, normal)
        gammas = self.precisions
        density = gammas.log_density(point.factor, point.const, 0) + gammas.log_normaliser()
        return sum_where(present, jnp.sum(normal, axis=-1) + density)

    def log_jacobian(
        self, matrix: Array, log_det: Array, present: Bool[Array, " K"] | None = None
    ) -> Float[Array, ""]:
        gammas = self.precisions
        learnt = (self.precision > 0) & ~jnp.isposinf(self.precision)
        means = jnp.sum(jnp.where(learnt, jnp.log(matrix), 0), axis=-1)
        # every gamma is normalised, or not, by itself: a bound of one that is improper has no unit
        volume = structure(self.structure).log_volume(log_det, self.n_features)
        log_dets = jnp.broadcast_to(log_det, (self.n_components,))
        improper = gammas.log_jacobian(matrix, log_dets, 0)
        gain = jnp.where(gammas.proper(), volume, improper)
        return sum_where(present, means + jnp.where(gammas.known(), 0, gain))

    def proper(self) -> Bool[Array, " K"]:
        return self.precisions.proper() & jnp.all(self.precision > 0, axis=-1)

    def improper(self) -> Bool[Array, " K"]:
        return ~self.precisions.proper()

    def empty(self, row_per_weight: Array | float = 1.0) -> Bool[Array, " K"]:
        tiny = jnp.finfo(self.mean.dtype).eps
        tau = self._by_feature(1 / self.mode_covariance())
        return jnp.any(self.precision * row_per_weight < tiny * tau, axis=-1)

    # --- unconstrained space, and usual priors ------------------------------------------------

    def transforms(self) -> dict[str, Any]:
        from numpyro.distributions import biject_to, constraints

        return {
            "mean": biject_to(constraints.real_matrix),
            "precision": biject_to(constraints.positive),
            **self.precisions.transforms(),
        }

    def weak(self, mean: Array, covariance: Array) -> Any:
        spherical = self.precisions.structure == "spherical"
        return self.default(mean, covariance, self.n_components, spherical=spherical)

    @classmethod
    def flat(
        cls, n_components: int, n_features: int, dtype: Any = None, *, spherical: bool = False
    ) -> Any:
        """The improper prior whose mode is the maximum-likelihood estimate."""
        kind = GammaPerComponent if spherical else GammaPerFeature
        gammas = kind.flat(n_components, n_features, dtype, 0)
        zeros = jnp.zeros((n_components, n_features), dtype)
        return cls(zeros, zeros, gammas.shape, gammas.rate)

    @classmethod
    def default(
        cls, mean: Array, covariance: Array, n_components: int, *, spherical: bool = False
    ) -> Any:
        """A weak prior from the data's moments; the means' variance is 100 times the data's."""
        k, d = n_components, mean.shape[0]
        variance = structure("diag").reduce(covariance)
        rate = 0.5 * variance / k ** (2 / d)
        rate = jnp.mean(rate) if spherical else rate
        rate = jnp.broadcast_to(rate, (k,) if spherical else (k, d))
        return cls(
            mean=jnp.broadcast_to(mean, (k, d)),
            precision=jnp.broadcast_to(0.01 / variance, (k, d)),
            shape=jnp.full(rate.shape, 0.5 * (d + 2), mean.dtype),
            rate=rate,
        )


@pytree
class Integrated:
    """Normals with independent gamma precisions, which are integrated out by quadrature."""

    components: IndependentNormalGamma

    @property
    def mean(self) -> Float[Array, "K D"]:
        return self.components.mean

    @property
    def variance(self) -> Float[Array, "K D"]:
        """Infinite where the gamma's tail is too heavy."""
        c = self.components
        usual = (c.shape > 1) & ~jnp.isposinf(c.shape)
        within = jnp.where(usual, c.rate / jnp.where(usual, c.shape - 1, 1), jnp.inf)
        within = jnp.where(jnp.isposinf(c.shape), c.rate, within)
        return c._by_feature(within) + 1 / c.precision

    def log_density(
        self, x: Float[Array, "N D"], missing: Bool[Array, "N D"] | None = None
    ) -> Float[Array, "N K"]:
        """Log density of each component, by quadrature over the precision.

        Given tau the mean integrates out, ``Normal(x | mean, 1 / tau + 1 / precision)``; the gamma
        has no closed form left and is integrated by the trapezoidal rule in log tau.
        """
        c = self.components
        spherical = c.structure == "spherical"
        seen = observed_values(x, missing)
        residual = jnp.where(seen, x[:, None, :] - c.mean[None], 0)
        shape, rate, far = jax.lax.stop_gradient((c.shape, c.rate, residual))
        more = 0.5 * c.n_features if spherical else 0.5
        tilt = log1p_squares(far if spherical else far[..., None], 2 * rate)
        low, high = node_range(shape, tilt, more)
        unit = jnp.sqrt(c._by_feature(c.precisions.covariance_at(None)))
        spread = 1 / jnp.sqrt(c.precision)
        # each with an axis for the samples
        weighing = jnp.where(jnp.isposinf(c.shape), 0, c.shape)
        own, low, high = (led(a, tilt) for a in (weighing, low, high))
        unit, spread = led(unit, residual), led(spread, residual)

        def add(totals: tuple[Array, Array], node: Array) -> tuple[tuple[Array, Array], None]:
            v = low + node * (high - low)
            log_weight = own * (v - jnp.expm1(v))
            part = jnp.exp(-0.5 * v)
            sd = jnp.hypot(unit * (part[..., None] if spherical else part), spread)
            density = -jnp.log(sd) - 0.5 * (LOG_2PI + (residual / sd) ** 2)
            density = jnp.where(seen, density, 0)
            if spherical:
                density = jnp.sum(density, axis=-1)
            mass, total = totals
            return (
                jnp.logaddexp(mass, log_weight),
                jnp.logaddexp(total, density + log_weight),
            ), None

        empty = jnp.full(tilt.shape, -jnp.inf, x.dtype)
        nodes = jnp.linspace(0, 1, NODES, dtype=x.dtype)
        mass, total = jax.lax.scan(add, (empty, empty), nodes)[0]
        return total - mass if spherical else jnp.sum(total - mass, axis=-1)

    def draw(self, key: Array, component: Int[Array, " n"]) -> Float[Array, "n D"]:
        c = self.components
        gamma_key, mean_key = jax.random.split(key)
        shape, rate = c.shape[component], c.rate[component]
        log_gamma = jax.random.loggamma(gamma_key, finite(shape), dtype=shape.dtype)
        log_tau = jnp.where(jnp.isposinf(shape), 0, log_gamma) - jnp.log(rate)
        variance = c._by_feature(jnp.exp(-log_tau)) + 1 / c.precision[component]
        noise = jax.random.normal(mean_key, variance.shape, c.mean.dtype)
        return c.mean[component] + jnp.sqrt(variance) * noise

    def marginal(self, feature: int) -> Marginal:
        c = self.components
        variance = structure(c.structure).variances(c.mean_covariance(), *c.mean.shape)
        shape = c.shape if c.shape.ndim == 1 else c.shape[:, feature]
        return variance[:, feature], 1 / c.precision[:, feature], shape

    def numpyro(self) -> Any:
        """None: NumPyro has no such distribution."""
        return None
