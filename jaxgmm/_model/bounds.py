"""The pieces of a bound, as pure functions of distributions and statistics."""

from jax import Array
from jaxtyping import Float

from jaxgmm._estep.potentials import Potentials, expected_log_joint, logits
from jaxgmm._estep.stats import Stats
from jaxgmm._model.prior import Prior


def gaussian_cross_entropy(x: Float[Array, "N D"], q: Prior) -> Float[Array, "N K"]:
    """``-E_q[log Normal(x[n] | mu_k, Lambda_k)]`` for every sample and component, in nats.

    Bishop 2006, eq. 10.64 and 10.65; for a known covariance
    ``D/2 log 2 pi + 0.5 log|Sigma| + 0.5 ||x - m_k||^2_Sigma + D / (2 kappa_k)``.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> x = jnp.array([[0.0], [1.0], [3.0]])
        >>> jaxgmm.views.gaussian_cross_entropy(x, jaxgmm.default_prior(x, 2, "spherical")).shape
        (3, 2)
    """
    return -logits(x, q.components.expectation())


def kl_divergence(q: Prior, prior: Prior) -> Float[Array, ""]:
    """``KL(q || prior)`` over weights and components, in nats; exact and normalised.

    Example:
        >>> import jax, jaxgmm
        >>> prior = jaxgmm.default_prior(jax.random.normal(jax.random.key(0), (20, 2)), 2)
        >>> print(abs(round(float(jaxgmm.views.kl_divergence(prior, prior)), 4)))
        0.0
    """
    return q.weights.kl(prior.weights) + q.components.kl(prior.components)


def bound(stats: Stats, potentials: Potentials, penalty: Array | float = 0.0) -> Float[Array, ""]:
    """``<stats, potentials> + entropy - penalty``: every algorithm's objective, in nats.

    With the potentials and the penalty of `Expectation` it is the evidence lower bound (Bishop
    2006, eq. 10.70), with those of `Mode` the EM bound (eq. 9.71). The
    responsibilities are those from which the statistics were made. If they are the optimal ones for
    the potentials, the first two terms equal ``stats.log_evidence``.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (20, 2))
        >>> prior = jaxgmm.default_prior(x, 2)
        >>> view = jaxgmm.views.Expectation()
        >>> stats = jaxgmm.estep(x, view.potentials(prior))
        >>> q = jaxgmm.update(prior, stats)
        >>> elbo = jaxgmm.bound(stats, view.potentials(q), view.penalty(q, prior))
        >>> bool(elbo >= stats.log_evidence)
        True
    """
    return expected_log_joint(stats, potentials) + stats.entropy - penalty
