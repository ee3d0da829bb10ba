"""Student-t components: normal ones of which every sample has a precision scale of its own.

A sample x of component k is ``Normal(mu_k, Sigma_k / u)``, and its scale ``u ~ Gamma(nu_k / 2,
nu_k / 2)`` (Peel & McLachlan 2000). Where u is integrated out the density is a Student-t. Given the
sample, u is a gamma variate with the shape ``(nu + d) / 2`` and the rate ``(nu + delta) / 2``, of
which d is the number of features that were observed and delta their squared distance. Of a
posterior of the means and precisions delta is the expected distance, so that u stays dependent on
the component (Archambeau & Verleysen 2007).
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxgmm._numerics.pytree import pytree
from jaxgmm._numerics.special import log1p_squares, log_less_digamma, stirling


class Scales(NamedTuple):
    """What B samples say of their precision scales, under each component.

    Attributes:
        height: log of the integral over u of its density and of the normal one, less what the
            logit of a normal component has at the mean: ``(K, B)``.
        mean: ``E[u]``, ``(K, B)``.
        excess: ``E[log u] + 1 - u``, ``(K, B)``.
    """

    height: Float[Array, "K B"]
    mean: Float[Array, "K B"]
    excess: Float[Array, "K B"]


@pytree
class Tail:
    """What the potentials of Student-t components have more than those of normal ones.

    Attributes:
        degrees: of freedom, ``(K,)``; infinite for a component that is normal.
        offset: what the squared distances have more on average over the means of a posterior,
            ``(K,)``.
    """

    degrees: Float[Array, "*R K"]
    offset: Float[Array, "*R K"]

    def _parts(self) -> tuple[Array, Array, Array]:
        """Which components are heavy-tailed, their degrees of freedom and offsets: (K, 1)."""
        heavy = ~jnp.isposinf(self.degrees)[:, None]
        return heavy, jnp.where(heavy, self.degrees[:, None], 1), self.offset[:, None]

    def scales(
        self, squares: Float[Array, "K B"], dimension: int, observed: Array | None = None
    ) -> Scales:
        """The precision scales, given the squared distances of B samples.

        Args:
            squares: of the features that were observed.
            dimension: D.
            observed: number of features that each sample has, ``(B,)``; all by default.
        """
        heavy, degrees, offset = self._parts()
        half = 0.5 * degrees
        if observed is None:
            number = jnp.full((1, 1), dimension, squares.dtype)
            gain, shape = _gain(half, dimension), log_less_digamma(half + 0.5 * dimension)
        else:
            number = observed.astype(squares.dtype)[None]
            # a table by the number of features, of which each row takes its own
            each = jnp.arange(dimension + 1, dtype=squares.dtype)[None]
            index = observed.astype(jnp.int32)
            gain = _gain(half, each)[:, index]
            shape = log_less_digamma(half + 0.5 * each)[:, index]
        total = degrees + offset + squares
        stretch = jnp.log1p((offset + squares) / degrees)
        gap = (number - offset - squares) / total
        height = jnp.where(heavy, gain - 0.5 * (degrees + number) * stretch, -0.5 * squares)
        mean = jnp.where(heavy, (degrees + number) / total, 1)
        # E[log u] = digamma(a) - log b, and log(1 + t) - t with u = 1 + t
        excess = jnp.log1p(number / degrees) - stretch - gap - shape
        excess = jnp.where(heavy, excess, 0)
        return Scales(height, mean, excess)

    def heights(self, whitened: Float[Array, "K D B"]) -> Float[Array, "K B"]:
        """`Scales.height` of whitened residuals, finite however far a sample is."""
        heavy, degrees, offset = self._parts()
        dimension = whitened.shape[1]
        wide = jnp.broadcast_to(degrees + offset, (whitened.shape[0], whitened.shape[2]))
        stretch = jnp.log1p(offset / degrees) + log1p_squares(whitened, wide, axis=1)
        tail = _gain(0.5 * degrees, dimension) - 0.5 * (degrees + dimension) * stretch
        return jnp.where(heavy, tail, -0.5 * jnp.sum(whitened**2, axis=1))

    def expected(self, count: Array, excess: Array | None) -> Float[Array, " K"]:
        """The expected log density of the scales, less what depends on no parameter.

        Of ``u ~ Gamma(a, a)`` with ``a = degrees / 2`` it is ``n (a log a - gammaln(a)) +
        a sum r (E[log u] - u)``.
        """
        heavy = ~jnp.isposinf(self.degrees)
        half = 0.5 * jnp.where(heavy, self.degrees, 1)
        more = 0 if excess is None else half * excess
        return jnp.where(heavy, count * stirling(half) + more, 0)


def _gain(half: Array, observed: Any) -> Array:
    """``gammaln(a + d/2) - gammaln(a) - d/2 log a``, without its cancellation."""
    h = 0.5 * observed
    return (half + h) * jnp.log1p(h / half) - h - stirling(half + h) + stirling(half)
