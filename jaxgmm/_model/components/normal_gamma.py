"""Normal-Gamma: a mean and a diagonal precision of its own for every component."""

from jax import Array
from jaxtyping import Float

from jaxgmm._model.components.conjugate import ConjugateNormal
from jaxgmm._model.components.gamma import GammaPerFeature
from jaxgmm._numerics.pytree import pytree


@pytree
class NormalGamma(ConjugateNormal):
    """``mu_kd | tau_kd ~ Normal(mean, 1 / (mean_precision_k tau_kd))``, ``tau_kd ~ Gamma``.

    The mode over (mu, sigma^2) is ``sigma^2 = rate / (shape + 3/2)``.

    Attributes:
        mean: ``(K, D)``, in the units of the data.
        mean_precision: ``(K,)``, in samples; infinite where the mean is known, see `freeze`.
        shape: ``(K, D)``, of the gamma distribution of each precision; each sample adds 1/2;
            infinite where the variance is known, which ``rate`` then is.
        rate: ``(K, D)``, in squared units of the data; ``E[tau] = shape / rate``.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> ones = jnp.ones((3, 2))
        >>> jaxgmm.NormalGamma(0 * ones, ones[:, 0], 2 * ones, ones).n_parameters
        12
    """

    mean: Float[Array, "*R K D"]
    mean_precision: Float[Array, "*R K"]
    shape: Float[Array, "*R K D"]
    rate: Float[Array, "*R K D"]

    distribution = GammaPerFeature
