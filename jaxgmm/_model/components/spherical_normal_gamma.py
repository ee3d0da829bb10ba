"""Spherical Normal-Gamma: a mean and one precision for every component."""

from jax import Array
from jaxtyping import Float

from jaxgmm._model.components.conjugate import ConjugateNormal
from jaxgmm._model.components.gamma import GammaPerComponent
from jaxgmm._numerics.pytree import pytree


@pytree
class SphericalNormalGamma(ConjugateNormal):
    """``mu_k | tau_k ~ Normal(mean, I / (mean_precision_k tau_k))``, ``tau_k ~ Gamma``.

    The mode over (mu, sigma^2) is ``sigma^2 = rate / (shape + 1 + D/2)``.

    Attributes:
        mean: ``(K, D)``, in the units of the data.
        mean_precision: ``(K,)``, in samples; infinite where the mean is known, see `freeze`.
        shape: ``(K,)``, of the gamma distribution of the precision; each sample adds D/2;
            infinite where the variance is known, which ``rate`` then is.
        rate: ``(K,)``, in squared units of the data; ``E[tau] = shape / rate``.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> ones = jnp.ones(3)
        >>> jaxgmm.SphericalNormalGamma(jnp.zeros((3, 2)), ones, 2 * ones, ones).n_parameters
        9
    """

    mean: Float[Array, "*R K D"]
    mean_precision: Float[Array, "*R K"]
    shape: Float[Array, "*R K"]
    rate: Float[Array, "*R K"]

    distribution = GammaPerComponent
