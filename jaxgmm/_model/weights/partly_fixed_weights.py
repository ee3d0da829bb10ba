"""Weights of which some are known, and the others are not."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from jaxgmm._model.weights.dirichlet import of_some
from jaxgmm._numerics.arrays import as_array, first, longer
from jaxgmm._numerics.bijections import OfSome, SharesMap
from jaxgmm._numerics.checks import is_traced
from jaxgmm._numerics.pytree import pytree, replace


@pytree
class PartlyFixedWeights:
    """Known weights of some components; the others share the rest under a Dirichlet distribution.

    ``pi_k = weights_k`` of those that are known, and ``pi / (1 - sum(weights)) ~
    Dirichlet(concentration)`` of the others: what a Dirichlet distribution becomes when some of its
    weights are known (its neutrality, Connor & Mosimann 1969). `jaxgmm.freeze` makes them.

    Attributes:
        weights: ``(K,)``, those that are known; 0 for the others. Their sum is below 1.
        concentration: ``(K,)``, positive; 0 for those that are known. In `select` a component is
            absent if both are 0.
    """

    weights: Float[Array, "*R K"]
    concentration: Float[Array, "*R K"]

    ordered = False

    @property
    def n_components(self) -> int:
        return self.weights.shape[-1]

    @property
    def n_parameters(self) -> int | Array:
        """One fewer than there are free weights."""
        if is_traced(self.weights):
            return jnp.sum(~self.known, axis=-1, dtype=self.weights.dtype) - 1
        weights = np.asarray(self.weights).reshape(-1, self.n_components)[0]
        return int((weights == 0).sum()) - 1

    def expected_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of both fields, given that of the weights."""
        return dict.fromkeys(("weights", "concentration"), self.weights.shape)

    @property
    def known(self) -> Bool[Array, "*R K"]:
        """Whether each weight is known."""
        return self.weights > 0

    @property
    def shares(self) -> Any:
        """The distribution of the shares of what is left, in which the known ones are absent."""
        return of_some(self.concentration, ~self.known)

    @property
    def rest(self) -> Float[Array, "*R"]:
        """What is left for the others."""
        return 1 - jnp.sum(self.weights, axis=-1)

    def _with(self, shares: Any) -> "PartlyFixedWeights":
        concentration = jnp.where(self.known, 0, shares.concentration)
        return replace(self, concentration=concentration)

    def _whole(self, log_shares: Array) -> Float[Array, " K"]:
        """Log of all weights, from those of the shares."""
        own = jnp.log(jnp.where(self.known, self.weights, 1))
        return jnp.where(self.known, own, log_shares + jnp.log(self.rest))

    def update(self, count: Float[Array, " K"]) -> "PartlyFixedWeights":
        """Posterior: ``Dirichlet(concentration + count)`` of the shares."""
        return self._with(self.shares.update(count))

    def interpolate(self, other: "PartlyFixedWeights", rho: Array) -> "PartlyFixedWeights":
        """The weighted mean of the natural parameters, ``(1 - rho) self + rho other``."""
        return self._with(self.shares.interpolate(other.shares, rho))

    def with_weights(
        self, weights: Float[Array, " K"], total: Array, *, point: bool
    ) -> "PartlyFixedWeights":
        """The distribution of ``total`` observations with this mode (if ``point``) or mean.

        Known weights are kept, and of the others only the ratios count.
        """
        free = jnp.where(self.known, 0, weights)
        share = free / jnp.maximum(jnp.sum(free), jnp.finfo(free.dtype).tiny)
        return self._with(self.shares.with_weights(share, total * self.rest, point=point))

    def mode(self) -> Float[Array, " K"]:
        """Log of the weights at the mode; -inf for an empty component."""
        return self._whole(self.shares.mode())

    def expectation(self) -> Float[Array, " K"]:
        """``E[log pi_k]``."""
        return self._whole(self.shares.expectation())

    def mean(self) -> Float[Array, " K"]:
        """``E[pi]``."""
        return self.weights + self.rest * self.shares.mean()

    def sample(self, key: Array) -> Float[Array, " K"]:
        """Log of one reparameterised draw."""
        return self._whole(self.shares.sample(key))

    def kl(self, prior: "PartlyFixedWeights") -> Float[Array, ""]:
        """``KL(self || prior)``, of the shares."""
        return self.shares.kl(prior.shares)

    def log_prior(self, log_weights: Float[Array, " K"]) -> Float[Array, ""]:
        """Log density of the shares at the given weights, relative to the uniform distribution."""
        return self.shares.log_prior(log_weights - jnp.log(self.rest))

    def present(self) -> Bool[Array, " K"]:
        """Which components are present: all components, except in `select`."""
        return self.known | (self.concentration > 0)

    def padded(self, n_absent: int) -> "PartlyFixedWeights":
        """The same weights with ``n_absent`` absent components added."""
        both = (longer(a, n_absent) for a in (self.weights, self.concentration))
        return PartlyFixedWeights(*both)

    def truncated(self, n_components: int) -> "PartlyFixedWeights":
        """The weights of the first ``n_components`` components."""
        both = (first(a, n_components) for a in (self.weights, self.concentration))
        return PartlyFixedWeights(*both)

    def check(self) -> None:
        """Refuse values that are none of a prior's."""
        weights, concentration = (np.asarray(a) for a in (self.weights, self.concentration))
        one = ((weights > 0) & (concentration == 0)) | ((weights == 0) & (concentration > 0))
        if not (one.all() and weights.sum() < 1):
            raise ValueError(
                "each component must have either a positive weight that is known or a positive "
                "concentration, and the known weights a sum below 1, but the weights are "
                f"{weights} and the concentration is {concentration}; use jaxgmm.freeze."
            )

    def is_proper(self) -> Array:
        return jnp.all(self.known | (self.concentration > 0))

    def has_mode(self) -> Array:
        """Whether the posterior's mode exists for any data."""
        return jnp.all(self.known | (self.concentration >= 1))

    def site(self) -> None:
        """None, because NumPyro has no such distribution."""

    def transforms(self) -> dict[str, Any]:
        """Bijections from unconstrained space, for each field that is learnt."""
        ((name, transform),) = self.shares.transforms().items()
        return {name: OfSome(transform, ~self.known, 0.0)}

    def point_map(self) -> SharesMap:
        """The bijection onto weights ``(K,)``."""
        return SharesMap(self.weights)

    @classmethod
    def of(cls, prior: Any, weights: np.ndarray) -> "PartlyFixedWeights":
        """A distribution with a concentration, of which the positive ``weights`` are known."""
        concentration = np.where(weights > 0, 0, np.asarray(prior.concentration))
        return cls(*(as_array(a, prior.concentration.dtype) for a in (weights, concentration)))
