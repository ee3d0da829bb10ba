"""Weights that are given, and not learnt."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from jaxgmm._numerics.arrays import first, longer
from jaxgmm._numerics.checks import check_simplex
from jaxgmm._numerics.pytree import pytree


@pytree
class FixedWeights:
    """Known weights of the mixture.

    Attributes:
        weights: ``(K,)``, non-negative, with sum 1.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> jaxgmm.FixedWeights(jnp.array([0.5, 0.5])).n_parameters
        0
    """

    weights: Float[Array, "*R K"]

    ordered = False

    @property
    def n_components(self) -> int:
        return self.weights.shape[-1]

    @property
    def n_parameters(self) -> int:
        return 0

    def expected_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of the only field."""
        return {"weights": self.weights.shape}

    def update(self, count: Float[Array, " K"]) -> "FixedWeights":
        """The same weights, because they are known."""
        return self

    def interpolate(self, other: "FixedWeights", rho: Array) -> "FixedWeights":
        """The same weights, because they are known."""
        return self

    def with_weights(
        self, weights: Float[Array, " K"], total: Array, *, point: bool
    ) -> "FixedWeights":
        """The same weights: those of a start are ignored."""
        return self

    def mode(self) -> Float[Array, " K"]:
        """Log of the weights."""
        used = self.weights > 0
        return jnp.where(used, jnp.log(jnp.where(used, self.weights, 1)), -jnp.inf)

    def expectation(self) -> Float[Array, " K"]:
        """Log of the weights."""
        return self.mode()

    def mean(self) -> Float[Array, " K"]:
        """The weights."""
        return self.weights

    def sample(self, key: Array) -> Float[Array, " K"]:
        """Log of the weights."""
        return self.mode()

    def kl(self, prior: "FixedWeights") -> Float[Array, ""]:
        """Zero."""
        return jnp.zeros((), self.weights.dtype)

    def log_prior(self, log_weights: Float[Array, " K"]) -> Float[Array, ""]:
        """Zero."""
        return jnp.zeros((), self.weights.dtype)

    def present(self) -> Bool[Array, " K"]:
        """Which components are present: those with a positive weight."""
        return self.weights > 0

    def padded(self, n_absent: int) -> "FixedWeights":
        """The same weights with ``n_absent`` absent components added."""
        return FixedWeights(longer(self.weights, n_absent))

    def truncated(self, n_components: int) -> "FixedWeights":
        """The weights of the first ``n_components`` components."""
        return FixedWeights(first(self.weights, n_components))

    def check(self) -> None:
        """Refuse values that are none of a prior's."""
        check_simplex("the prior's weights", self.weights)

    def is_proper(self) -> Array:
        return jnp.asarray(True)

    def has_mode(self) -> Array:
        """Whether the posterior's mode exists: it is the known weights."""
        return jnp.asarray(True)

    def site(self) -> None:
        """None, because the weights are known."""

    def transforms(self) -> dict[str, Any]:
        """Nothing is learnt."""
        return {}

    @classmethod
    def flat(cls, n_components: int, dtype: Any = None) -> "FixedWeights":
        """Equal weights."""
        return cls(jnp.full((n_components,), 1 / n_components, dtype))
