"""What a family of components is: means and precisions, and what follows from any of them."""

from typing import Any, ClassVar, final

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jaxgmm._estep.potentials import Potentials
from jaxgmm._estep.structures import structure
from jaxgmm._model.components.precision import Means
from jaxgmm._model.known import n_free, put_known
from jaxgmm._numerics.affine import Affine
from jaxgmm._numerics.pytree import child_names, replace, select
from jaxgmm._numerics.special import LOG_2PI


class Components:
    """Base of the families: a distribution of the means and covariances of K components.

    A subclass is a pytree whose first field is ``mean (K, D)``, and has `precisions`. Its own are
    `update`, `interpolate`, `with_parameters`, the draw and the penalties; see `ConjugateNormal`.
    """

    conjugate: ClassVar[bool] = True
    mean: Any

    @property
    def precisions(self) -> Any:
        """The distribution of the precisions."""
        raise NotImplementedError

    @property
    def structure(self) -> str:
        """Name of the covariance structure."""
        return self.precisions.structure

    @property
    def covariance_name(self) -> str:
        """What people call the covariances."""
        return self.structure

    @property
    def n_components(self) -> int:
        return self.mean.shape[-2]

    @property
    def n_features(self) -> int:
        return self.mean.shape[-1]

    @property
    def strengths(self) -> dict[str, str]:
        """Fields that are infinite where another is known, see `jaxgmm._model.known`."""
        return {}

    @final
    def strength_of(self, what: str) -> str | None:
        """The strength of what is known of the ``"mean"``, or of the ``"covariance"``."""
        found = [s for s, v in self.strengths.items() if (v == "mean") == (what == "mean")]
        return found[0] if found else None

    @final
    @property
    def n_parameters(self) -> int | Array:
        """Free parameters of the means and covariances: those that are known are none."""
        k, d = self.n_components, self.n_features
        numbers = {"mean": k * d, "covariance": self.precisions.n_parameters(k, d)}
        strengths = {what: self.strength_of(what) for what in numbers}
        return sum(
            n if (name := strengths[what]) is None else n_free(n, getattr(self, name))
            for what, n in numbers.items()
        )

    @final
    def known_means(self) -> Bool[Array, "*R K"]:
        """Whether the mean of each component is known."""
        name = self.strength_of("mean")
        if name is None:
            return jnp.zeros(self.mean.shape[:-1], bool)
        known = jnp.isposinf(getattr(self, name))
        return known if known.ndim < self.mean.ndim else jnp.all(known, axis=-1)

    @final
    def points_known(self) -> Float[Array, "*R K D"]:
        """The means that are known, and NaN for the others."""
        return jnp.where(self.known_means()[..., None], self.mean, jnp.nan)

    @final
    def known_covariances(self) -> Bool[Array, "*R K"]:
        """Whether the covariance of each component is known."""
        return jnp.broadcast_to(self.precisions.known(), self.mean.shape[:-1])

    @final
    @property
    def minimum_samples(self) -> int:
        """With fewer samples a covariance is singular by itself; 0 where it is known."""
        return self.precisions.minimum_samples(self.n_features)

    @final
    @property
    def shared(self) -> tuple[str, ...]:
        """The fields that all components have in common."""
        return child_names(type(self.precisions)) if self.precisions.shared else ()

    @final
    def own_fields(self) -> dict[str, Array]:
        """The fields of which each component has its own."""
        names = [name for name in child_names(type(self)) if name not in self.shared]
        return {name: getattr(self, name) for name in names}

    @final
    def learnt_fields(self) -> tuple[str, ...]:
        """The fields that an update changes."""
        known = () if self.precisions.learnt else child_names(type(self.precisions))
        return tuple(name for name in child_names(type(self)) if name not in known)

    @final
    def reorder(self, order: Int[Array, " k"]) -> Any:
        """With renamed components, or some of them: the new k is the old ``order[k]``."""
        return replace(self, **{name: a[order] for name, a in self.own_fields().items()})

    @final
    def _n_means(self, present: Array | None) -> Array | int:
        """Means on each precision, of which the joint mode depends: known ones do not count."""
        learnt = ~self.known_means()
        if not self.precisions.shared:
            return learnt.astype(self.mean.dtype)
        learnt = learnt if present is None else learnt & present
        return jnp.sum(learnt, axis=-1, dtype=self.mean.dtype)

    def without_means(self, chosen: Bool[Array, " K"]) -> Any:
        """What an improper prior of the chosen means and of their precisions leaves of these."""
        return self

    def mapped(self, to: Affine) -> Any:
        """The same distribution in other coordinates of the data."""
        raise NotImplementedError

    def log_jacobian(self, matrix: Array, log_det: Array, present: Array | None = None) -> Array:
        """What `log_prior` gains, at one and the same mixture, if the samples are divided by it.

        By ``matrix``, as `mapped` multiplies them, and ``log_det`` is what volumes gain. The
        densities of the means and of the covariances are densities in other units then; that of an
        improper component is not normalised, and gains what its formula says.
        """
        raise NotImplementedError

    # --- the three views ----------------------------------------------------------------------

    @final
    def mode_covariance(self, present: Bool[Array, " K"] | None = None) -> Array:
        """The covariances at the mode over (mu, Sigma), in the structure's shape."""
        return self.precisions.covariance_at(self.means_in_mode(present))

    def means_in_mode(self, present: Bool[Array, " K"] | None) -> Means:
        """What `Precision.covariance_at` needs for the mode."""
        return self._n_means(present)

    @final
    def mean_covariance(self) -> Array:
        """``E[Lambda]^-1``, in the structure's shape."""
        return self.precisions.covariance_at(None)

    @final
    def _at(self, factor: Array, log_det: Array, extra: Array | float = 0.0) -> Potentials:
        const = log_det - 0.5 * self.n_features * LOG_2PI + extra
        const = jnp.broadcast_to(const, (self.n_components,))
        return Potentials(const, self.mean, factor, self.structure)

    @final
    def mode(
        self, reg_covar: Array | float = 0.0, present: Bool[Array, " K"] | None = None
    ) -> Potentials:
        """Potentials at the mode over (mu, Sigma); ``reg_covar`` is added to the variances."""
        kind, covariance = structure(self.structure), self.mode_covariance(present)
        if self.precisions.learnt:
            covariance = kind.regularise(covariance, reg_covar)
        return self._at(*kind.invert(covariance, self.n_features))

    @final
    def expectation(self) -> Potentials:
        """Potentials of the expected log density (Bishop 2006, eq. 10.64 and 10.65)."""
        factor, log_det = self.precisions.expectation()
        return self._at(factor, log_det, -0.5 * self.mean_trace())

    def mean_trace(self) -> Float[Array, " K"]:
        """``E[(mu - mean)^T Lambda (mu - mean)]`` of each component."""
        raise NotImplementedError

    # --- predictions --------------------------------------------------------------------------

    def predictive(self) -> Any:
        """What a new sample of each component is distributed as."""
        raise NotImplementedError

    @final
    def log_predictive(
        self, x: Float[Array, "N D"], missing: Bool[Array, "N D"] | None = None
    ) -> Float[Array, "N K"]:
        """Log of each component's posterior predictive density, of the values that are known."""
        return self.predictive().log_density(x, missing)

    @final
    def sample_predictive(self, key: Array, component: Int[Array, " n"]) -> Float[Array, "n D"]:
        """A draw from the predictive density of each given component."""
        return self.predictive().draw(key, component)

    # --- how sound an estimate is -------------------------------------------------------------

    def proper(self) -> Bool[Array, " K"]:
        """Whether the distribution of each component integrates to one."""
        raise NotImplementedError

    @final
    def is_proper(self) -> Bool[Array, ""]:
        return jnp.all(self.proper())

    def improper(self) -> Bool[Array, " K"]:
        """Whether nothing bounds the density of each component's covariance."""
        return ~self.proper()

    def empty(self, row_per_weight: Array | float = 1.0) -> Bool[Array, " K"]:
        """Whether each component has no samples and no prior, so that its mean is undefined.

        Args:
            row_per_weight: samples that a weight of 1 stands for.
        """
        raise NotImplementedError

    @final
    def effective_samples(self) -> Float[Array, " K"]:
        """Samples behind each covariance, the prior's included; infinite where it is known."""
        samples = jnp.broadcast_to(self.precisions.samples(), (self.n_components,))
        # the joint mode of a known mean is that of the covariance alone
        known = jnp.asarray(not self.precisions.shared) & self.known_means()
        return samples - known.astype(samples.dtype)

    @final
    def proper_or_default(self, mean: Array, covariance: Array) -> Any:
        """This prior, with `default` for the data's moments in place of improper components.

        What is known stays.

        Args:
            mean: of the data, ``(D,)``.
            covariance: of the data, ``(D, D)``, or the variances ``(D,)``.
        """
        weak, proper = self.weak(mean, covariance), self.proper()
        every = jnp.all(proper)

        def chosen(name: str) -> Array:
            condition = every if name in self.shared else proper
            return select(condition, getattr(self, name), getattr(weak, name))

        fields = {name: chosen(name) for name in self.learnt_fields()}
        return put_known(replace(self, **fields), self)

    def weak(self, mean: Array, covariance: Array) -> Any:
        """The usual weak prior of this kind for data of these moments."""
        raise NotImplementedError

    def transforms(self) -> dict[str, Any]:
        """NumPyro bijections from unconstrained space, for each field that is learnt."""
        raise NotImplementedError
