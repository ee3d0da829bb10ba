"""A mixture itself, apart from how it was found."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxgmm._estep.potentials import Potentials
from jaxgmm._numerics import linalg
from jaxgmm._numerics.special import LOG_2PI


class Mixture(NamedTuple):
    """A Gaussian mixture: ``weights (K,)``, ``means (K, D)``, ``covariances (K, D, D)``."""

    weights: Float[Array, " K"]
    means: Float[Array, "K D"]
    covariances: Float[Array, "K D D"]


def potentials(m: Mixture) -> Potentials:
    """The potentials whose logits are the log joint densities of samples and components."""
    return potentials_at(m, linalg.cholesky(m.covariances))


def potentials_at(m: Mixture, lower: Float[Array, "K D D"]) -> Potentials:
    """`potentials` from the Cholesky factors of the covariances."""
    factor = linalg.inverse_factor(lower)
    used = m.weights > 0
    # masked so that an empty component has no NaN in its gradient
    log_weights = jnp.where(used, jnp.log(jnp.where(used, m.weights, 1)), -jnp.inf)
    const = log_weights + linalg.log_det(factor) - 0.5 * m.means.shape[1] * LOG_2PI
    return Potentials(const, m.means, factor, "full")


def draw(key: Array, m: Mixture, component: Int[Array, " n"]) -> Float[Array, "n D"]:
    """One draw from each given component, differentiable in the mixture."""
    noise = jax.random.normal(key, (component.shape[0], m.means.shape[1]), m.means.dtype)
    lower = linalg.cholesky(m.covariances)
    return m.means[component] + linalg.einsum("nij,nj->ni", lower[component], noise)


class Moments(NamedTuple):
    """Mean ``(D,)`` and covariance ``(D, D)`` of a distribution; or of M, in the lead."""

    mean: Float[Array, "*M D"]
    covariance: Float[Array, "*M D D"]


def moments(mixture: Mixture) -> Moments:
    """Mean and covariance of the whole mixture.

    The covariance is that within components plus that between their means.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> means = jnp.array([[-1.0], [1.0]])
        >>> m = jaxgmm.Mixture(jnp.array([0.5, 0.5]), means, jnp.ones((2, 1, 1)))
        >>> print(jaxgmm.moments(m).covariance)
        [[2.]]
    """
    return moments_of(*check_mixture(mixture))


@jax.jit
def moments_of(weights: Array, means: Array, covariances: Array) -> Moments:
    """Of one mixture, or of M that have the covariances ``(K, D, D)`` in common."""
    mean = linalg.einsum("...k,...kd->...d", weights, means)
    gaps = means - mean[..., None, :]
    within = linalg.einsum("...k,kde->...de", weights, covariances)
    between = linalg.einsum("...kd,...ke->...de", weights[..., None] * gaps, gaps)
    return Moments(mean, within + between)


def check_mixture(mixture: Any) -> Mixture:
    """A `Mixture` whose shapes and dtypes belong together; its values may be traced."""
    if not isinstance(mixture, tuple) or len(mixture) != 3:
        raise ValueError(
            f"expected a jaxgmm.Mixture, but got a {type(mixture).__name__}; of a fitted state "
            "take jaxgmm.mixture(state)."
        )
    m = Mixture(*(jnp.asarray(a) for a in mixture))
    shapes = tuple(a.shape for a in m)
    known = len(shapes[1]) == 2 and shapes[1][0] > 0 and shapes[1][1] > 0
    k, d = shapes[1] if known else ("K", "D")
    if not known or shapes != ((k,), (k, d), (k, d, d)):
        raise ValueError(
            f"weights, means and covariances must have shapes ({k},), ({k}, {d}) and "
            f"({k}, {d}, {d}), but theirs are {shapes[0]}, {shapes[1]} and {shapes[2]}; for many "
            "mixtures at once use jax.vmap."
        )
    if len({a.dtype for a in m}) > 1 or not jnp.issubdtype(m.means.dtype, jnp.floating):
        names = ", ".join(str(a.dtype) for a in m)
        raise ValueError(
            "weights, means and covariances must have one floating-point dtype, but theirs are "
            f"{names}; convert them with astype."
        )
    return m
