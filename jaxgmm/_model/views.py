"""The three views of a posterior: each turns it into potentials and says what it is penalised by.

The view and the update are all that distinguishes one algorithm from another.
"""

from typing import NamedTuple

import jax
from jax import Array
from jaxtyping import Float

from jaxgmm._estep.potentials import Potentials, add_log_weights, expected_log_joint, logits
from jaxgmm._estep.stats import Stats
from jaxgmm._model.prior import Prior


def mode_potentials(q: Prior, reg_covar: Array | float = 0.0) -> Potentials:
    """Potentials at the posterior's mode: a point estimate's own log densities.

    ``reg_covar`` is added to the diagonal of each covariance, as scikit-learn does.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (20, 2))
        >>> jaxgmm.mode_potentials(jaxgmm.default_prior(x, 2)).factor.shape
        (2, 2, 2)
    """
    return add_log_weights(q.components.mode(reg_covar), q.weights.mode())


def expected_potentials(q: Prior) -> Potentials:
    """Potentials of ``E[log pi_k + log Normal(x | mu_k, Lambda_k)]`` (Bishop 2006, eq. 10.46).

    The expected log weights are digammas, and the expected log densities the negative Gaussian
    cross-entropy of `gaussian_cross_entropy`.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> q = jaxgmm.default_prior(jnp.array([[0.0], [1.0], [3.0]]), 2, "spherical")
        >>> jaxgmm.expected_potentials(q).const.shape
        (2,)
    """
    return add_log_weights(q.components.expectation(), q.weights.expectation())


class Draw(NamedTuple):
    """One draw of all the parameters: the components' potentials, without weights, and theirs."""

    components: Potentials
    log_weights: Float[Array, " K"]

    def potentials(self) -> Potentials:
        return add_log_weights(self.components, self.log_weights)


def draw(key: Array, q: Prior) -> Draw:
    """A reparameterised draw of the parameters, differentiable in ``q``."""
    weights_key, components_key = jax.random.split(key)
    return Draw(q.components.sample(components_key), q.weights.sample(weights_key))


def log_density(q: Prior, point: Draw) -> Float[Array, ""]:
    """log q(pi, mu, Sigma) at a draw, up to a constant that is the same for all of one family.

    The base measure is that of `log_prior`, so that differences are log density ratios.
    """
    return q.weights.log_prior(point.log_weights) + q.components.log_prior(point.components)


def sampled_potentials(key: Array, q: Prior) -> Potentials:
    """Potentials at one reparameterised draw of the parameters, differentiable in ``q``.

    Example:
        >>> import jax, jax.numpy as jnp, jaxgmm
        >>> q = jaxgmm.default_prior(jnp.array([[0.0], [1.0], [3.0]]), 2, "spherical")
        >>> jaxgmm.sampled_potentials(jax.random.key(0), q).mean.shape
        (2, 1)
    """
    return draw(key, q).potentials()


def gaussian_cross_entropy(x: Float[Array, "N D"], q: Prior) -> Float[Array, "N K"]:
    """``-E_q[log Normal(x[n] | mu_k, Lambda_k)]`` for every sample and component, in nats.

    Bishop 2006, eq. 10.64 and 10.65; for a known covariance
    ``D/2 log 2 pi + 0.5 log|Sigma| + 0.5 ||x - m_k||^2_Sigma + D / (2 kappa_k)``.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> x = jnp.array([[0.0], [1.0], [3.0]])
        >>> jaxgmm.gaussian_cross_entropy(x, jaxgmm.default_prior(x, 2, "spherical")).shape
        (3, 2)
    """
    return -logits(x, q.components.expectation())


def kl_divergence(q: Prior, prior: Prior) -> Float[Array, ""]:
    """``KL(q || prior)`` over weights and components, in nats; exact and normalised.

    Example:
        >>> import jax, jaxgmm
        >>> prior = jaxgmm.default_prior(jax.random.normal(jax.random.key(0), (20, 2)), 2)
        >>> print(abs(round(float(jaxgmm.kl_divergence(prior, prior)), 4)))
        0.0
    """
    return q.weights.kl(prior.weights) + q.components.kl(prior.components)


def log_prior(prior: Prior, q: Prior, reg_covar: Array | float = 0.0) -> Float[Array, ""]:
    """Log prior density at the mode of ``q``: what maximum a posteriori adds to the likelihood.

    The density is over (mu, Sigma) and over the weights relative to the uniform distribution;
    the flat prior gives exactly 0.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> flat = jaxgmm.flat_prior(2, 1, "spherical")
        >>> q = jaxgmm.default_prior(jnp.array([[0.0], [1.0], [3.0]]), 2, "spherical")
        >>> print(jaxgmm.log_prior(flat, q))
        0.0
    """
    return prior.weights.log_prior(q.weights.mode()) + prior.components.log_prior(
        q.components.mode(reg_covar), prior.weights.present()
    )


def bound(stats: Stats, potentials: Potentials, penalty: Array | float = 0.0) -> Float[Array, ""]:
    """``<stats, potentials> + entropy - penalty``: every algorithm's objective, in nats.

    With expected potentials and ``penalty = kl_divergence(q, prior)`` it is the evidence lower
    bound (Bishop 2006, eq. 10.70); with the mode's and ``penalty = -log_prior`` the EM bound (eq.
    9.71). The responsibilities are those behind the statistics; at potentials they are optimal
    for, the first two terms are ``stats.log_evidence``.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (20, 2))
        >>> prior = jaxgmm.default_prior(x, 2)
        >>> stats = jaxgmm.estep(x, jaxgmm.expected_potentials(prior))
        >>> q = jaxgmm.update(prior, stats)
        >>> penalty = jaxgmm.kl_divergence(q, prior)
        >>> elbo = jaxgmm.bound(stats, jaxgmm.expected_potentials(q), penalty)
        >>> bool(elbo >= stats.log_evidence)
        True
    """
    return expected_log_joint(stats, potentials) + stats.entropy - penalty


def view_potentials(view: str, q: Prior, reg_covar: Array | float = 0.0) -> Potentials:
    """The potentials of the ``"mode"`` or the ``"expectation"`` view."""
    return mode_potentials(q, reg_covar) if view == "mode" else expected_potentials(q)


def view_penalty(
    view: str, q: Prior, prior: Prior, reg_covar: Array | float = 0.0
) -> Float[Array, ""]:
    """What the view's bound subtracts: ``-log_prior`` at the mode, else ``KL(q || prior)``."""
    return -log_prior(prior, q, reg_covar) if view == "mode" else kl_divergence(q, prior)
