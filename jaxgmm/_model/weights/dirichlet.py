"""Dirichlet weights."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import digamma, gammaln
from jaxtyping import Bool, Float

from jaxgmm._numerics.arrays import first, full, longer, masked_product
from jaxgmm._numerics.checks import check_positive
from jaxgmm._numerics.pytree import pytree


def expected_log_weights(concentration: Float[Array, "*R K"]) -> Float[Array, "*R K"]:
    """``E[log pi_k] = digamma(a_k) - digamma(sum a)`` under a Dirichlet (Bishop 2006, eq. 10.66).

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> print(jaxgmm.views.expected_log_weights(jnp.array([1.0, 1.0])))
        [-1. -1.]
    """
    return digamma(concentration) - digamma(jnp.sum(concentration, axis=-1, keepdims=True))


@pytree
class Dirichlet:
    """Dirichlet distribution of the mixture's weights.

    Attributes:
        concentration: ``(K,)``, positive; 1 everywhere is uniform on the simplex. In
            `select` a concentration of exactly 0 marks an absent component.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> print(jaxgmm.Dirichlet(jnp.array([1.0, 3.0])).mean())
        [0.25 0.75]
    """

    concentration: Float[Array, "*R K"]

    ordered = False

    @property
    def n_components(self) -> int:
        return self.concentration.shape[-1]

    @property
    def n_parameters(self) -> int:
        return self.n_components - 1

    def expected_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of the only field."""
        return {"concentration": self.concentration.shape}

    def update(self, count: Float[Array, " K"]) -> "Dirichlet":
        """Posterior ``Dirichlet(concentration + count)`` (Bishop 2006, eq. 10.58)."""
        return Dirichlet(self.concentration + count)

    def interpolate(self, other: "Dirichlet", rho: Array) -> "Dirichlet":
        """The weighted mean of the natural parameters, ``(1 - rho) self + rho other``."""
        return Dirichlet((1 - rho) * self.concentration + rho * other.concentration)

    def with_weights(
        self, weights: Float[Array, " K"], total: Array, *, point: bool
    ) -> "Dirichlet":
        """The distribution of ``total`` observations with this mode (if ``point``) or mean."""
        if point:
            return Dirichlet(1 + total * weights)
        return Dirichlet((total + jnp.sum(self.concentration)) * weights)

    def mode(self) -> Float[Array, " K"]:
        """Log of the mode ``(a_k - 1) / sum(a - 1)``; -inf for an empty component.

        Where every concentration is 1 or less, the uniform weights of all that are present.
        """
        excess = jnp.maximum(self.concentration - 1, 0)
        total = jnp.sum(excess)
        known = total > 0
        present = self.present().astype(excess.dtype)
        share = jnp.where(known, excess / jnp.where(known, total, 1), present / jnp.sum(present))
        return jnp.where(share > 0, jnp.log(jnp.where(share > 0, share, 1)), -jnp.inf)

    def expectation(self) -> Float[Array, " K"]:
        """`expected_log_weights` of this distribution."""
        a, present = self.concentration, self.present()
        total = digamma(jnp.sum(a))
        return jnp.where(present, digamma(jnp.where(present, a, 1)) - total, -jnp.inf)

    def mean(self) -> Float[Array, " K"]:
        """``E[pi]``."""
        return self.concentration / jnp.sum(self.concentration)

    def sample(self, key: Array) -> Float[Array, " K"]:
        """Log of one reparameterised draw (Figurnov et al. 2018), computed in the log domain."""
        gammas = jax.random.loggamma(key, self.concentration, dtype=self.concentration.dtype)
        return jax.nn.log_softmax(jnp.where(self.present(), gammas, -jnp.inf))

    def kl(self, prior: "Dirichlet") -> Float[Array, ""]:
        """``KL(self || prior)``."""
        a, b = self.concentration, prior.concentration
        return (
            gammaln(jnp.sum(a))
            - gammaln(jnp.sum(b))
            + prior._sum(gammaln(b) - gammaln(a))
            # masked by what is present and not by a = b, where the gradient in b is not 0
            + prior._sum((a - b) * jnp.where(prior.present(), self.expectation(), 0))
        )

    def log_prior(self, log_weights: Float[Array, " K"]) -> Float[Array, ""]:
        """Log density at the given weights, relative to the uniform distribution.

        With this reference measure a concentration of 1 adds exactly 0, as the flat prior of
        maximum likelihood must.
        """
        a = self.concentration
        number = jnp.sum(self.present(), dtype=a.dtype)
        constant = gammaln(jnp.sum(a)) - self._sum(gammaln(a)) - gammaln(number)
        # exactly, whatever gammaln rounds to
        constant = jnp.where(jnp.all((a == 1) | ~self.present()), 0, constant)
        return constant + self._sum(masked_product(a - 1, log_weights))

    def present(self) -> Bool[Array, " K"]:
        """Which components are present: all components, except in `select`."""
        return self.concentration > 0

    def _sum(self, values: Array) -> Array:
        return jnp.sum(jnp.where(self.present(), values, 0))

    def padded(self, n_absent: int) -> "Dirichlet":
        """The same distribution with ``n_absent`` absent components added."""
        return Dirichlet(longer(self.concentration, n_absent))

    def truncated(self, n_components: int) -> "Dirichlet":
        """The distribution of the first ``n_components`` components."""
        return Dirichlet(first(self.concentration, n_components))

    def counts(self, prior: "Dirichlet") -> Float[Array, " K"]:
        """The counts that led from a prior to these weights: the inverse of `update`."""
        return self.concentration - prior.concentration

    def kept(self, index: Any) -> "Dirichlet":
        """The distribution of some of the components."""
        return Dirichlet(self.concentration[index])

    def check(self) -> None:
        """Refuse values that are none of a prior's."""
        check_positive("the prior's concentration", self.concentration)

    def is_proper(self) -> Array:
        return jnp.all(self.concentration > 0)

    def has_mode(self) -> Array:
        """Whether the posterior's mode exists for any data."""
        return jnp.all(self.concentration >= 1)

    def site(self) -> tuple[str, Any]:
        """A name and a NumPyro distribution of the weights."""
        from numpyro.distributions import Dirichlet as NumPyroDirichlet

        return "weights", NumPyroDirichlet(self.concentration)

    def at_site(self, value: Array) -> Array:
        """The weights at a value of the site."""
        return value

    def site_value(self, weights: Array) -> Array:
        """The value of the site at some weights."""
        return weights

    def transforms(self) -> dict[str, Any]:
        """NumPyro bijections from unconstrained space, for each field."""
        from numpyro.distributions import biject_to, constraints

        return {"concentration": biject_to(constraints.positive)}

    @classmethod
    def flat(cls, n_components: int, dtype: Any = None) -> "Dirichlet":
        """Uniform on the simplex."""
        return cls(full((n_components,), 1, dtype))


def of_some(concentration: Float[Array, "*R K"], chosen: Bool[Array, "*R K"]) -> Dirichlet:
    """The distribution of the shares of some of the components: the others are absent."""
    return Dirichlet(jnp.where(chosen, concentration, 0))
