"""Normal-Wishart: a mean and a full precision matrix of its own for every component."""

from jax import Array
from jaxtyping import Float

from jaxgmm._model.components.conjugate import ConjugateNormal
from jaxgmm._model.components.wishart import Wishart
from jaxgmm._numerics.pytree import pytree


@pytree
class NormalWishart(ConjugateNormal):
    """``mu_k | Lambda_k ~ Normal(mean, (mean_precision Lambda_k)^-1)``, ``Lambda_k ~ Wishart``.

    The Wishart has the given degrees of freedom and inverse scale matrix ``scale``, so that
    ``E[Lambda] = degrees_of_freedom scale^-1`` and ``scale`` adds up with scatter matrices
    (``scale = W^-1`` in Bishop 2006, section 10.2). The mode over (mu, Sigma) is
    ``Sigma = scale / (nu + D + 2)``.

    Attributes:
        mean: ``(K, D)``, in the units of the data.
        mean_precision: ``(K,)``, in samples: the mean's prior counts as much as these; infinite
            where the mean is known, see `freeze`.
        degrees_of_freedom: ``(K,)``, in samples, above D - 1 for a proper distribution; infinite
            where the covariance is known, which ``scale`` then is.
        scale: ``(K, D, D)``, symmetric positive definite, in squared units of the data.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> scale = jnp.broadcast_to(jnp.eye(2), (3, 2, 2))
        >>> ones = jnp.ones(3)
        >>> jaxgmm.NormalWishart(jnp.zeros((3, 2)), ones, 4 * ones, scale).n_parameters
        15
    """

    mean: Float[Array, "*R K D"]
    mean_precision: Float[Array, "*R K"]
    degrees_of_freedom: Float[Array, "*R K"]
    scale: Float[Array, "*R K D D"]

    distribution = Wishart
