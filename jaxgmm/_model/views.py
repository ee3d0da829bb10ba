"""The three views of a posterior: each turns it into potentials and says what it is penalised by.

The view and the update are all that distinguishes one algorithm from another. A view of your own
is a subclass of `View`: see docs/new_algorithm.md.
"""

from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from jaxgmm._estep.data import Data
from jaxgmm._estep.log_evidence import log_evidence_on
from jaxgmm._estep.potentials import Potentials, add_log_weights, with_degrees
from jaxgmm._estep.stats import Stats
from jaxgmm._estep.structures import structure
from jaxgmm._model.bounds import kl_divergence
from jaxgmm._model.estimate import Estimate
from jaxgmm._model.prior import Prior, update
from jaxgmm._numerics.affine import Affine
from jaxgmm._numerics.pytree import pytree, replace, static

Divergence = Literal["closed_form", "sampled", "sticking_the_landing"]
DIVERGENCES: tuple[Divergence, ...] = ("closed_form", "sampled", "sticking_the_landing")


class View:
    """Base of `Mode`, `Expectation` and `Sample`: how a posterior is read.

    A view is a pytree, whose numbers are traced. If ``point``, the posterior stands for one point
    estimate, its mode; otherwise it stands for a distribution.
    """

    name: ClassVar[str]
    point: ClassVar[bool] = False

    @property
    def of_state(self) -> "View":
        """The view in which a fitted state is read: this one, unless it draws at random."""
        return self

    @property
    def reg_covar(self) -> Any:
        """What is added to the estimate's variances."""
        return 0.0

    def mapped(self, to: Affine) -> Any:
        """The same view in other coordinates of the data."""
        return self

    def potentials(self, q: Prior) -> Potentials:
        """What the E-step needs to know of the posterior."""
        raise NotImplementedError

    def penalty(self, q: Prior, prior: Prior) -> Float[Array, ""]:
        """What the bound subtracts."""
        raise NotImplementedError

    def estimate(self, q: Prior) -> Estimate:
        """The mixture that the posterior stands for."""
        raise NotImplementedError

    def posterior_at(self, prior: Prior, estimate: Estimate, total: Array) -> Prior:
        """The posterior of ``total`` samples with the given `estimate`."""
        eps = jnp.finfo(estimate.means.dtype).eps
        count = total * jnp.maximum(estimate.weights, eps)
        n_means = prior.components.means_in_mode(prior.weights.present()) if self.point else None
        weights = prior.weights.with_weights(estimate.weights, total, point=self.point)
        components = prior.components.with_parameters(
            estimate.means, estimate.covariance, count, n_means
        )
        tails = prior.tails
        if tails is not None and estimate.degrees is not None:
            tails = tails.at(estimate.degrees)
        return replace(prior, weights=weights, components=components, tails=tails)

    def update(self, prior: Prior, stats: Stats, current: Prior | None = None) -> Prior:
        """The conjugate update, Bishop 2006, eq. 10.58 to 10.63; see `jaxgmm.update`."""
        return update(prior, stats, current, point=self.point)

    def objective(self, key: Array, q: Prior, prior: Prior, data: Data) -> Float[Array, ""]:
        """The bound that a gradient step raises, with the assignments summed out."""
        evidence = log_evidence_on(data, self.potentials(q))
        return data.scale * evidence - self.penalty(q, prior)


@pytree
class Mode(View):
    """The view of a posterior as its mode, a point estimate.

    The potentials are the log densities at the mode (Bishop 2006, eq. 9.23). The penalty is the
    negative log prior density at the mode. Under the flat prior it is 0, which gives maximum
    likelihood.

    Attributes:
        reg_covar: added to the diagonal of each covariance, as scikit-learn does, in squared units
            of the data.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (20, 2))
        >>> jaxgmm.views.Mode().potentials(jaxgmm.default_prior(x, 2)).factor.shape
        (2, 2, 2)
    """

    reg_covar: Any = 0.0  # type: ignore[assignment]

    name = "mode"
    point = True

    def mapped(self, to: Affine) -> "Mode":
        # a variance added in every direction is no such thing unless all scale alike
        factor = to.matrix[0, 0] if to.matrix.ndim == 2 else jnp.max(to.matrix)
        return Mode(self.reg_covar * factor**2)

    def potentials(self, q: Prior) -> Potentials:
        components = q.components.mode(self.reg_covar, q.weights.present())
        joint = add_log_weights(components, q.weights.mode(), q.box)
        return with_degrees(joint, q.degrees)

    def penalty(self, q: Prior, prior: Prior) -> Float[Array, ""]:
        present = prior.weights.present()
        components = q.components.mode(self.reg_covar, present)
        log_prior = prior.weights.log_prior(q.weights.mode())
        return -(log_prior + prior.components.log_prior(components, present))

    def estimate(self, q: Prior) -> Estimate:
        c = q.components
        covariance = c.mode_covariance(q.weights.present())
        if c.precisions.learnt:
            covariance = structure(c.structure).regularise(covariance, self.reg_covar)
        weights = jnp.exp(q.weights.mode())
        return Estimate(weights, c.mean, covariance, c.structure, q.background, q.degrees)


@pytree
class Expectation(View):
    """The view of a posterior as a whole: log densities are averaged over it.

    The potentials give ``E[log pi_k + log Normal(x | mu_k, Lambda_k)]`` (Bishop 2006, eq. 10.46).
    The expected log weights are digammas. The expected log densities are the negative of
    `gaussian_cross_entropy`. The penalty is the KL divergence of the posterior from the prior.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> q = jaxgmm.default_prior(jnp.array([[0.0], [1.0], [3.0]]), 2, "spherical")
        >>> jaxgmm.views.Expectation().potentials(q).const.shape
        (2,)
    """

    name = "expectation"

    def potentials(self, q: Prior) -> Potentials:
        components, trace = q.components.expectation(), q.components.mean_trace()
        if q.tails is not None:  # a part of the squared distances, which the scales multiply
            components = replace(components, const=components.const + 0.5 * trace)
        joint = add_log_weights(components, q.weights.expectation(), q.box)
        return with_degrees(joint, q.degrees, trace)

    def penalty(self, q: Prior, prior: Prior) -> Float[Array, ""]:
        return kl_divergence(q, prior)

    def estimate(self, q: Prior) -> Estimate:
        """``E[pi]``, ``E[mu]`` and ``E[Lambda]^-1``."""
        c = q.components
        weights, covariance = q.weights.mean(), c.mean_covariance()
        return Estimate(weights, c.mean, covariance, c.structure, q.background, q.degrees)


@pytree
class Sample(Expectation):
    """The view of a posterior through reparameterised draws of the parameters.

    The objective averages over the draws, so it needs a key; see `sampled_potentials` for one draw.
    The penalty is the KL divergence of the posterior from the prior, or the mean of
    ``log q - log prior`` at the draws.

    Attributes:
        n_draws: number of draws in one iteration (static).
        divergence: ``"closed_form"``, ``"sampled"`` or ``"sticking_the_landing"`` (static); see
            `svi`.
    """

    n_draws: int = static(default=1)
    divergence: Divergence = static(default="closed_form")

    name = "sample"

    @property
    def of_state(self) -> View:
        return Expectation()

    def objective(self, key: Array, q: Prior, prior: Prior, data: Data) -> Float[Array, ""]:
        draws = jax.vmap(draw, (0, None))(jax.random.split(key, self.n_draws), q)
        potentials = jax.vmap(Draw.potentials)(draws)
        evidence = jnp.mean(jax.vmap(log_evidence_on, (None, 0))(data, potentials))
        return data.scale * evidence - self._divergence_of(q, prior, draws)

    def _divergence_of(self, q: Prior, prior: Prior, draws: "Draw") -> Array:
        if self.divergence == "closed_form":
            return kl_divergence(q, prior)
        if self.divergence == "sticking_the_landing":
            q = lax.stop_gradient(q)
        ratio = jax.vmap(log_density, (None, 0))
        return jnp.mean(ratio(q, draws) - ratio(prior, draws))


class Draw(NamedTuple):
    """One draw of all the parameters: the components' potentials, without weights, and theirs."""

    components: Potentials
    log_weights: Float[Array, " K"]
    box: Array | None = None
    degrees: Array | None = None

    def potentials(self) -> Potentials:
        joint = add_log_weights(self.components, self.log_weights, self.box)
        return with_degrees(joint, self.degrees)


def draw(key: Array, q: Prior) -> Draw:
    """A reparameterised draw of the parameters, differentiable in ``q``."""
    weights_key, components_key = jax.random.split(key)
    components, weights = q.components.sample(components_key), q.weights.sample(weights_key)
    return Draw(components, weights, q.box, q.degrees)


def log_density(q: Prior, point: Draw) -> Float[Array, ""]:
    """Log q(pi, mu, Sigma) at a draw, up to a constant that is the same for all of one family.

    The base measure is that of the prior density of `Mode`, so that differences are log density
    ratios.
    """
    return q.weights.log_prior(point.log_weights) + q.components.log_prior(point.components)


def sampled_potentials(key: Array, q: Prior) -> Potentials:
    """Potentials at one reparameterised draw of the parameters, differentiable in ``q``.

    Example:
        >>> import jax, jax.numpy as jnp, jaxgmm
        >>> q = jaxgmm.default_prior(jnp.array([[0.0], [1.0], [3.0]]), 2, "spherical")
        >>> jaxgmm.views.sampled_potentials(jax.random.key(0), q).mean.shape
        (2, 1)
    """
    return draw(key, q).potentials()
