"""Independent Normal and Gamma: semi-conjugate, for diagonal and spherical covariances."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jaxgmm._estep.potentials import Potentials
from jaxgmm._estep.stats import Stats
from jaxgmm._model.components import _gamma as gamma
from jaxgmm._numerics import linalg
from jaxgmm._numerics.pytree import pytree, replace, select
from jaxgmm._numerics.special import LOG_2PI, sum_where


@pytree
class IndependentNormalGamma:
    """``mu_kd ~ Normal(mean, 1 / precision)`` and ``tau ~ Gamma(shape, rate)``, independent.

    A gamma for each feature ``(K, D)`` makes covariances diagonal, one for each component ``(K,)``
    spherical. The family is conjugate given either factor: an update improves q(mu) and then
    q(tau), from the q that is there, and the bound still never decreases.

    Attributes:
        mean: ``(K, D)``, in the units of the data.
        precision: ``(K, D)``, of the mean, in inverse squared units of the data.
        shape: ``(K, D)`` or ``(K,)``.
        rate: of the same shape, in squared units of the data; ``E[tau] = shape / rate``.

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

    shared = ()
    conjugate = False

    @property
    def structure(self) -> str:
        return "diag" if self.rate.ndim == self.mean.ndim else "spherical"

    @property
    def covariance_name(self) -> str:
        return f"{self.structure} (independent)"

    @property
    def n_components(self) -> int:
        return self.mean.shape[-2]

    @property
    def n_features(self) -> int:
        return self.mean.shape[-1]

    @property
    def n_parameters(self) -> int:
        k, d = self.n_components, self.n_features
        return 2 * k * d if self.structure == "diag" else k * (d + 1)

    def _by_feature(self, a: Array) -> Array:
        """A quantity of each gamma as one of each feature: (..., K, D) or (..., K, 1)."""
        return a if self.structure == "diag" else a[..., None]

    def _by_gamma(self, a: Float[Array, "K D"]) -> Array:
        """A sum over features where they share a gamma."""
        return a if self.structure == "diag" else jnp.sum(a, axis=-1)

    def expected_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every field, given the mean's and whether there is a gamma a feature."""
        k, d = self.n_components, self.n_features
        gammas = (k, d) if self.structure == "diag" else (k,)
        return {"mean": (k, d), "precision": (k, d), "shape": gammas, "rate": gammas}

    # --- the update, one factor after the other -------------------------------------------

    def update(
        self, stats: Stats, current: "IndependentNormalGamma | None" = None, *, mode: bool = False
    ) -> "IndependentNormalGamma":
        """q(mu) given the current q(tau), then q(tau) given that.

        Bishop 2006, eq. 10.25 to 10.30.

        In the mode view the same for the point estimate: a conditional maximisation (Meng & Rubin
        1993), in which the means have no variance.
        """
        count = stats.count[:, None]
        halves = 0.5 * (count if self.structure == "diag" else self.n_features * stats.count)
        shape = self.shape + halves
        if current is None:
            tau = shape / (self.rate + 0.5 * stats.scatter)
        elif mode:
            tau = (current.shape + 1) / current.rate
        else:
            tau = current.shape / current.rate
        information = count * self._by_feature(tau)
        precision = self.precision + information
        share = linalg.safe_divide(information, precision)
        mean = self.mean + share * jnp.where(count != 0, stats.mean - self.mean, 0)
        gap = jnp.where(count != 0, stats.mean - mean, 0)
        squares = count * gap**2
        if not mode:
            squares = squares + count / precision
        rate = self.rate + 0.5 * (stats.scatter + self._by_gamma(squares))
        return IndependentNormalGamma(mean, precision, shape, rate)

    def interpolate(self, other: "IndependentNormalGamma", rho: Array) -> "IndependentNormalGamma":
        """The natural parameters' mean, ``(1 - rho) self + rho other``."""
        kept, new = (1 - rho) * self.precision, rho * other.precision
        share = linalg.safe_divide(new, kept + new)
        return IndependentNormalGamma(
            mean=self.mean + share * (other.mean - self.mean),
            precision=kept + new,
            shape=(1 - rho) * self.shape + rho * other.shape,
            rate=(1 - rho) * self.rate + rho * other.rate,
        )

    def with_parameters(
        self, means: Array, covariances: Array, count: Array, *, mode: bool
    ) -> "IndependentNormalGamma":
        """The posterior of ``count`` (K,) samples with these means and variances."""
        variance = linalg.diagonal(covariances)
        if self.structure == "diag":
            shape = self.shape + 0.5 * count[:, None]
        else:
            shape, variance = self.shape + 0.5 * self.n_features * count, jnp.mean(variance, -1)
        rate = (shape + 1 if mode else shape) * variance
        precision = self.precision + count[:, None] / self._by_feature(variance)
        return IndependentNormalGamma(means, precision, shape, rate)

    # --- the three views ------------------------------------------------------------------

    def _at(self, log_precision: Array, factor: Array, mean: Array) -> Potentials:
        features = jnp.broadcast_to(self._by_feature(log_precision), mean.shape)
        const = 0.5 * jnp.sum(features, axis=-1) - 0.5 * self.n_features * LOG_2PI
        return Potentials(const, mean, factor, self.structure)

    def _variance(self, *, mode: bool, reg_covar: Array | float = 0.0) -> Array:
        return self.rate / (self.shape + 1 if mode else self.shape) + reg_covar

    def mode(self, reg_covar: Array | float = 0.0) -> Potentials:
        """Potentials at the mode over (mu, sigma^2): ``sigma^2 = rate / (shape + 1)``."""
        variance = self._variance(mode=True, reg_covar=reg_covar)
        return self._at(-jnp.log(variance), 1 / jnp.sqrt(variance), self.mean)

    def expectation(self) -> Potentials:
        """Potentials of the expected log density; the trace part is ``E[tau] / precision``."""
        tau = self.shape / self.rate
        out = self._at(gamma.expected_log(self.shape, self.rate), jnp.sqrt(tau), self.mean)
        trace = jnp.sum(self._by_feature(tau) / self.precision, axis=-1)
        return replace(out, const=out.const - 0.5 * trace)

    def sample(self, key: Array) -> Potentials:
        """Potentials of one reparameterised draw."""
        gamma_key, mean_key = jax.random.split(key)
        log_precision = gamma.sample(gamma_key, self.shape, self.rate)
        noise = jax.random.normal(mean_key, self.mean.shape, self.mean.dtype)
        mean = self.mean + noise / jnp.sqrt(self.precision)
        return self._at(log_precision, jnp.exp(0.5 * log_precision), mean)

    # --- moments and predictions ----------------------------------------------------------

    def covariances(self, *, mode: bool, reg_covar: Array | float = 0.0) -> Float[Array, "K D D"]:
        """The covariances at the mode, or ``E[tau]^-1``."""
        variance = self._by_feature(self._variance(mode=mode, reg_covar=reg_covar))
        variance = jnp.broadcast_to(variance, self.mean.shape)
        return variance[:, :, None] * jnp.eye(self.n_features, dtype=variance.dtype)

    def log_predictive(self, x: Float[Array, "N D"]) -> Float[Array, "N K"]:
        """log of each component's posterior predictive, by quadrature over the precision.

        Given tau the mean integrates out, ``Normal(x | mean, 1 / tau + 1 / precision)``; the gamma
        has no closed form left and is integrated by the trapezoidal rule in log tau.
        """
        spherical = self.structure == "spherical"
        squares = (x[:, None, :] - self.mean) ** 2
        distance = jnp.sum(squares, axis=-1) if spherical else squares
        shape, rate, far = jax.lax.stop_gradient((self.shape, self.rate, distance))
        more = 0.5 * self.n_features if spherical else 0.5
        low, high = gamma.node_range(shape, jnp.log1p(far / (2 * rate)), more)
        unit = self._by_feature(self.rate / self.shape)

        def add(totals: tuple[Array, Array], node: Array) -> tuple[tuple[Array, Array], None]:
            v = low + node * (high - low)
            log_weight = self.shape * (v - jnp.expm1(v))
            variance = unit * self._by_feature(jnp.exp(-v)) + 1 / self.precision
            density = -0.5 * (jnp.log(variance) + LOG_2PI + squares / variance)
            if spherical:
                density = jnp.sum(density, axis=-1)
            mass, total = totals
            return (
                jnp.logaddexp(mass, log_weight),
                jnp.logaddexp(total, density + log_weight),
            ), None

        empty = jnp.full(distance.shape, -jnp.inf, x.dtype)
        nodes = jnp.linspace(0, 1, gamma.NODES, dtype=x.dtype)
        mass, total = jax.lax.scan(add, (empty, empty), nodes)[0]
        return total - mass if spherical else jnp.sum(total - mass, axis=-1)

    def sample_predictive(self, key: Array, component: Int[Array, " n"]) -> Float[Array, "n D"]:
        """A draw from the predictive density of each given component."""
        gamma_key, mean_key = jax.random.split(key)
        tau = jnp.exp(gamma.sample(gamma_key, self.shape[component], self.rate[component]))
        variance = 1 / self._by_feature(tau) + 1 / self.precision[component]
        noise = jax.random.normal(mean_key, variance.shape, self.mean.dtype)
        return self.mean[component] + jnp.sqrt(variance) * noise

    # --- penalties ------------------------------------------------------------------------

    def kl(self, prior: "IndependentNormalGamma") -> Float[Array, ""]:
        """``KL(self || prior)``: normals and gammas; exact and normalised."""
        ratio = prior.precision / self.precision
        shift = prior.precision * (self.mean - prior.mean) ** 2
        normal = 0.5 * jnp.sum(ratio - 1 - jnp.log(ratio) + shift)
        return normal + jnp.sum(gamma.kl(self.shape, self.rate, prior.shape, prior.rate))

    def log_prior(
        self, point: Potentials, present: Bool[Array, " K"] | None = None
    ) -> Float[Array, ""]:
        """log density over (mu, sigma^2) at a point; unnormalised, so 0, for the flat prior."""
        tau = point.factor**2
        proper_mean, proper_tau = self.precision > 0, (self.shape > 0) & (self.rate > 0)
        precision = jnp.where(proper_mean, self.precision, 1)
        normal = jnp.where(proper_mean, 0.5 * (jnp.log(precision) - LOG_2PI), 0)
        normal = normal - 0.5 * self.precision * (point.mean - self.mean) ** 2
        shape = jnp.where(proper_tau, self.shape, 1)
        rate = jnp.where(proper_tau, self.rate, 1)
        constant = jnp.where(proper_tau, gamma.log_normaliser(shape, rate), 0)
        density = (self.shape + 1) * jnp.log(tau) - self.rate * tau + constant
        if self.structure == "diag":
            density = jnp.sum(density, axis=-1)
        return sum_where(present, jnp.sum(normal, axis=-1) + density)

    def _proper(self) -> Bool[Array, " K"]:
        gammas = self._by_feature((self.shape > 0) & (self.rate > 0))
        return jnp.all(gammas & (self.precision > 0), axis=-1)

    def is_proper(self) -> Array:
        return jnp.all(self._proper())

    @property
    def minimum_samples(self) -> int:
        """With a single sample the variances are 0."""
        return 2

    def effective_samples(self) -> Float[Array, " K"]:
        """Samples behind the variances, the prior's included."""
        if self.structure == "diag":
            return 2 * (jnp.max(self.shape, axis=-1) + 1)
        return 2 * (self.shape + 1) / self.n_features

    def improper(self) -> Bool[Array, " K"]:
        """Whether nothing bounds the density of each component's variances."""
        gammas = self._by_feature((self.shape > 0) & (self.rate > 0))
        return ~jnp.all(gammas, axis=-1)

    def empty(self) -> Bool[Array, " K"]:
        """Whether each component has no samples and no prior, so that its mean is undefined."""
        tiny = jnp.finfo(self.mean.dtype).eps
        tau = self._by_feature((self.shape + 1) / self.rate)
        return jnp.any(self.precision < tiny * tau, axis=-1)

    # --- unconstrained space, and usual priors --------------------------------------------

    def transforms(self) -> dict[str, Any]:
        """NumPyro bijections from unconstrained space, for each field."""
        from numpyro.distributions import biject_to, constraints

        positive = biject_to(constraints.positive)
        maps = dict.fromkeys(("precision", "shape", "rate"), positive)
        return {"mean": biject_to(constraints.real_matrix), **maps}

    def proper_or_default(self, mean: Array, covariance: Array) -> "IndependentNormalGamma":
        """This prior, with `default` for the data's moments in place of improper components."""
        weak = self.default(mean, covariance, self.n_components, spherical=self.rate.ndim == 1)
        return select(self._proper(), self, weak)

    @classmethod
    def flat(
        cls, n_components: int, n_features: int, dtype: Any = None, *, spherical: bool = False
    ) -> "IndependentNormalGamma":
        """The improper prior whose mode is the maximum-likelihood estimate."""
        wide = (n_components, n_features)
        gammas = (n_components,) if spherical else wide
        zeros = jnp.zeros(wide, dtype)
        return cls(zeros, zeros, jnp.full(gammas, -1.0, dtype), jnp.zeros(gammas, dtype))

    @classmethod
    def default(
        cls, mean: Array, covariance: Array, n_components: int, *, spherical: bool = False
    ) -> "IndependentNormalGamma":
        """A weak prior from the data's moments; the means' variance is 100 times the data's."""
        k, d = n_components, mean.shape[0]
        variance = linalg.diagonal(covariance)
        rate = 0.5 * variance / k ** (2 / d)
        rate = jnp.broadcast_to(
            jnp.mean(rate) if spherical else rate, (k,) if spherical else (k, d)
        )
        return cls(
            mean=jnp.broadcast_to(mean, (k, d)),
            precision=jnp.broadcast_to(0.01 / variance, (k, d)),
            shape=jnp.full(rate.shape, 0.5 * (d + 2), mean.dtype),
            rate=rate,
        )
