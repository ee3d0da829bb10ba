"""A mixture in the shape of its covariance structure, as a view reads it off a posterior."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxgmm._estep.potentials import Potentials, add_log_weights, with_degrees
from jaxgmm._estep.structures import structure
from jaxgmm._numerics import linalg
from jaxgmm._numerics.pytree import pytree, replace, static
from jaxgmm._numerics.special import LOG_2PI

if TYPE_CHECKING:
    from jaxgmm._estep.structures.base import Structure


@pytree
class Estimate:
    """Weights, means and covariances, with the covariances in the shape of their structure.

    Attributes:
        weights: ``(K,)``.
        means: ``(K, D)``.
        covariance: ``(K, D, D)`` full, ``(D, D)`` tied, ``(K, D)`` diag, ``(K,)`` spherical.
        structure: name of the covariance structure (static).
        background: whether component 0 has the density of a box (static), see `with_background`.
        degrees: None, or degrees of freedom of Student-t components ``(K,)``, whose scales the
            covariances then are.
    """

    weights: Float[Array, "*R K"]
    means: Float[Array, "*R K D"]
    covariance: Float[Array, "..."]
    structure: str = static()
    background: bool = static(default=False)
    degrees: Float[Array, "*R K"] | None = None

    @property
    def kind(self) -> "Structure":
        return structure(self.structure)

    def matrices(self) -> Float[Array, "K D D"]:
        """The covariances as matrices ``(K, D, D)``: for users, never inside a fit."""
        return self.kind.matrices(self.covariance, *self.means.shape)

    def variances(self) -> Float[Array, "K D"]:
        """The variance of each feature under each component."""
        return self.kind.variances(self.covariance, *self.means.shape)

    def potentials(self) -> Potentials:
        """The potentials whose logits are the log joint densities of samples and components."""
        k, d = self.means.shape
        factor, log_det = self.kind.invert(self.covariance, d)
        used = self.weights > 0
        # masked so that an empty component has no NaN in its gradient
        log_weights = jnp.where(used, jnp.log(jnp.where(used, self.weights, 1)), -jnp.inf)
        const = jnp.broadcast_to(log_det - 0.5 * d * LOG_2PI, (k,))
        box = self.covariance[0] if self.background else None
        components = Potentials(const, self.means, factor, self.structure)
        return with_degrees(add_log_weights(components, log_weights, box), self.degrees)

    def draw(self, key: Array, component: Int[Array, " n"]) -> Float[Array, "n D"]:
        """One draw from each given component, differentiable in the estimate."""
        noise = jax.random.normal(key, (component.shape[0], self.means.shape[1]), self.means.dtype)
        if self.degrees is not None:
            half = 0.5 * self.degrees[component]
            noise = noise / jnp.sqrt(jax.random.gamma(key, half, dtype=half.dtype) / half)[:, None]
        m = self.separate()
        root = m.kind.root(m.covariance)[component]
        draws = self.means[component] + m.kind.colour(root, noise)
        if not self.background:
            return draws
        return jnp.where((component == 0)[:, None], self.in_box(key, component.shape[0]), draws)

    def without_first(self) -> "Estimate":
        """The components but number 0, of separate covariances; the weights' sum is below 1."""
        parts = (self.weights[1:], self.means[1:], self.covariance[1:])
        return Estimate(*parts, self.structure)

    def in_box(self, key: Array, n: int) -> Float[Array, "n D"]:
        """Draws from the box of component 0, whose sides are along the covariance's axes."""
        side = jnp.sqrt(12 * self.covariance[0])
        if self.covariance.ndim == 3:
            variances, axes = jnp.linalg.eigh(self.covariance[0])
            side = jnp.sqrt(12 * variances)
        shape = (n, self.means.shape[1])
        side = jnp.broadcast_to(side, shape[1:])[None]
        place = jax.random.uniform(key, shape, self.means.dtype, -0.5, 0.5) * side
        if self.covariance.ndim == 3:
            place = linalg.matmul(place, axes.T)
        return self.means[:1] + place

    def separate(self) -> "Estimate":
        """The same estimate, with a separate covariance for every component."""
        if self.structure == self.kind.separate:
            return self
        return replace(self, covariance=self.matrices(), structure=self.kind.separate)


def given_estimate(
    kind: str, weights: Array, means: Array, covariances: Float[Array, "K D D"]
) -> Estimate:
    """The estimate of covariance matrices, of which the structure keeps what it has."""
    covariance = structure(kind).of_matrices(covariances)
    return Estimate(weights, means, covariance, structure(kind).separate)
