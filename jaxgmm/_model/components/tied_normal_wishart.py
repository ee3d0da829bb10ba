"""Tied Normal-Wishart: one precision matrix for all components, and a mean for each."""

from jax import Array
from jaxtyping import Float

from jaxgmm._model.components.conjugate import ConjugateNormal
from jaxgmm._model.components.wishart import SharedWishart
from jaxgmm._numerics.pytree import pytree


@pytree
class TiedNormalWishart(ConjugateNormal):
    """``mu_k | Lambda ~ Normal(mean_k, (mean_precision_k Lambda)^-1)``, ``Lambda ~ Wishart``.

    The mode over (mu_1 .. mu_K, Sigma) is ``Sigma = scale / (nu + D + 1 + K)``.

    Attributes:
        mean: ``(K, D)``, in the units of the data.
        mean_precision: ``(K,)``, in samples; infinite where the mean is known, see `freeze`.
        degrees_of_freedom: scalar, in samples, above D - 1 for a proper distribution; infinite if
            the covariance is known, which ``scale`` then is.
        scale: ``(D, D)``, inverse scale matrix of the Wishart, in squared units of the data.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> components = jaxgmm.TiedNormalWishart(
        ...     jnp.zeros((3, 2)), jnp.ones(3), jnp.asarray(4.0), jnp.eye(2)
        ... )
        >>> components.n_parameters
        9
    """

    mean: Float[Array, "*R K D"]
    mean_precision: Float[Array, "*R K"]
    degrees_of_freedom: Float[Array, "*R"]
    scale: Float[Array, "*R D D"]

    distribution = SharedWishart
