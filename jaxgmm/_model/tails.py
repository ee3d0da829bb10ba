"""Degrees of freedom of Student-t components: how heavy their tails are."""

import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from jaxgmm._numerics.arrays import safe_divide
from jaxgmm._numerics.pytree import pytree, replace, static
from jaxgmm._numerics.special import gamma_shape, log_less_digamma

if TYPE_CHECKING:
    from jaxgmm._estep.stats import Stats

# Degrees of freedom nu that are fitted stay between these. Below, a component is next to a spike.
# Above, it is next to a normal one, which is D (D + 2) / (4 nu^2) nats a sample away; and EM would
# take thousands of iterations to find out how near.
LEAST, MOST = 0.5, 200.0


class DegreesMap:
    """Bijection onto degrees of freedom: their logarithm, by the logistic function.

    Of an interval a little wider than they may have, so that its ends are at finite coordinates.
    """

    low, high = math.log(LEAST) - 0.01, math.log(MOST) + 0.01

    def __call__(self, coordinates: Array) -> Array:
        return jnp.exp(self.low + (self.high - self.low) * jax.nn.sigmoid(coordinates))

    def inv(self, degrees: Array) -> Array:
        share = (jnp.log(degrees) - self.low) / (self.high - self.low)
        return jnp.log(share) - jnp.log1p(-share)


@pytree
class Tails:
    """Degrees of freedom of the components, known or fitted; see `with_student_t`.

    They have no prior: where they are fitted, those of a posterior are the estimate that maximises
    the bound.

    Attributes:
        degrees: ``(K,)``; of a prior the known ones, or those at the start.
        fitted: whether they are fitted (static).
        shared: whether all components have the same, if they are fitted (static).
    """

    degrees: Float[Array, "*R K"]
    fitted: bool = static(default=True)
    shared: bool = static(default=False)

    def n_parameters(self, n_components: int) -> int:
        """Free parameters of so many components."""
        if not self.fitted:
            return 0
        return min(n_components, 1) if self.shared else n_components

    def update(self, stats: "Stats", current: "Tails", own: Bool[Array, " K"]) -> "Tails":
        """The degrees of freedom of the highest bound, given the statistics of the scales.

        The root of ``log(nu / 2) - digamma(nu / 2) + 1 + mean(E[log u] - u) = 0`` (Peel & McLachlan
        2000, eq. 29), at which a concave function is largest: so it may be clipped. Where there are
        no samples, or no statistics of scales, they are the ``current`` ones.

        Args:
            stats: of one lane.
            current: the degrees of freedom so far.
            own: components that are present, and are no background.
        """
        if not self.fitted or stats.excess is None:
            return replace(self, degrees=current.degrees)
        count, excess = jnp.where(own, stats.count, 0), jnp.where(own, stats.excess, 0)
        if self.shared:
            count, excess = (jnp.broadcast_to(jnp.sum(a), a.shape) for a in (count, excess))
        ends = jnp.asarray([LEAST, MOST], count.dtype)
        high, low = log_less_digamma(0.5 * ends)
        found = 2 * gamma_shape(jnp.clip(safe_divide(-excess, count), low, high))
        degrees = jnp.where(count > 0, jnp.clip(found, *ends), current.degrees)
        return replace(self, degrees=degrees)

    def at(self, degrees: Array) -> "Tails":
        """With these degrees of freedom, if they are fitted."""
        return replace(self, degrees=degrees) if self.fitted else self

    def reorder(self, order: Int[Array, " k"]) -> "Tails":
        """Of renamed components, or some of them: the new k is the old ``order[k]``."""
        return replace(self, degrees=self.degrees[order])

    def interpolate(self, other: "Tails", rho: Array) -> "Tails":
        """A step of length rho from these towards other ones, of their logarithms."""
        step = rho * (jnp.log(other.degrees) - jnp.log(self.degrees))
        return self.at(self.degrees * jnp.exp(step))

    def transforms(self) -> dict[str, Any]:
        """NumPyro bijections from unconstrained space, for each field that is learnt."""
        if not self.fitted:
            return {}
        return {"degrees": DegreesMap()}

    def check(self) -> None:
        """Refuse values that are no degrees of freedom."""
        degrees = np.asarray(self.degrees)
        if not (degrees > 0).all():
            raise ValueError(f"degrees of freedom must be positive, but they are {degrees}.")
