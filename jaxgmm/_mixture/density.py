"""Densities of samples, and the components that they belong to."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxgmm._estep.data import Samples
from jaxgmm._estep.log_evidence import row_log_evidence
from jaxgmm._estep.padded import by_row
from jaxgmm._estep.potentials import Potentials, relative_logits
from jaxgmm._lane.state import State
from jaxgmm._mixture.mixture import (
    Mixture,
    Model,
    check_fitted_samples,
    is_predictive,
    n_components_of,
    view,
)
from jaxgmm._numerics.blocks import map_blocks
from jaxgmm._numerics.calls import usage
from jaxgmm._numerics.programs import program


@usage("jaxgmm.log_prob(result, x)")
def log_prob(state: Model, x: Samples) -> Float[Array, " N"]:
    """Log density of each sample, in nats: ``(N,)``.

    After EM it is the density of `mixture`. After CAVI and SVI it is the posterior predictive, in
    which the parameters are integrated out. For full covariances that is a mixture of Student-t
    densities (Bishop 2006, eq. 10.81), for a known covariance a mixture of wider normal densities.
    It is exact for q and in closed form; only `IndependentNormalGamma`, which is not conjugate,
    needs quadrature over the precision. For a `Mixture` it is the density of that mixture, so
    ``log_prob(mixture(state), x)`` is the plug-in density.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> state = jaxgmm.fit(jax.random.key(1), x, jaxgmm.cavi(jaxgmm.default_prior(x, 2))).best
        >>> jaxgmm.log_prob(state, x[:5]).shape
        (5,)
    """
    model, x = check_fitted_samples(state, x, "log_prob")
    return by_row(_log_prob, model, x, n_components_of(model))


def log_density(state: State | Mixture, x: Array) -> Array:
    """`log_prob` of checked samples."""
    if not is_predictive(state):
        return row_log_evidence(x, view(state))
    log_weights = jnp.log(state.posterior.weights.mean())

    def rows(block: Array) -> Array:
        return jax.nn.logsumexp(
            state.posterior.components.log_predictive(block) + log_weights[None], axis=-1
        )

    return map_blocks(rows, x, 3 * state.posterior.components.mean.size)


_log_prob = program()(log_density)


@usage("jaxgmm.responsibilities(result, x)")
def responsibilities(state: Model, x: Samples) -> Float[Array, "N K"]:
    """Probability of each component for each sample, ``(N, K)``; rows sum to 1.

    They are computed in the state's own view: by Bayes' rule at the estimate after EM, and as q(z)
    after CAVI and SVI.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> halves, means = jnp.array([0.5, 0.5]), jnp.array([[0.0], [4.0]])
        >>> pair = jaxgmm.Mixture(halves, means, jnp.ones((2, 1, 1)))
        >>> print(jaxgmm.responsibilities(pair, jnp.array([[2.0]])))
        [[0.5 0.5]]
    """
    model, x = check_fitted_samples(state, x, "responsibilities")
    return by_row(_responsibilities, model, x, n_components_of(model))


@program()
def _responsibilities(state: State | Mixture, x: Array) -> Array:
    return responsibilities_at(view(state), x)


def responsibilities_at(potentials: Potentials, x: Array) -> Array:
    """`responsibilities` under potentials, of checked samples."""

    def rows(block: Array) -> Array:
        return jax.nn.softmax(relative_logits(block, potentials), axis=-1)

    return map_blocks(rows, x, 3 * potentials.mean.size)


@usage("jaxgmm.predict(result, x)")
def predict(state: Model, x: Samples) -> Int[Array, " N"]:
    """The most probable component of each sample: ``(N,)``, from 0 to K - 1.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> halves, means = jnp.array([0.5, 0.5]), jnp.array([[0.0], [4.0]])
        >>> pair = jaxgmm.Mixture(halves, means, jnp.ones((2, 1, 1)))
        >>> print(jaxgmm.predict(pair, jnp.array([[-1.0], [5.0]])))
        [0 1]
    """
    model, x = check_fitted_samples(state, x, "predict")
    return by_row(_predict, model, x, n_components_of(model))


@program()
def _predict(state: State | Mixture, x: Array) -> Array:
    return labels_at(view(state), x)


def labels_at(potentials: Potentials, x: Array) -> Array:
    """`predict` under potentials, of checked samples."""

    def rows(block: Array) -> Array:
        return jnp.argmax(relative_logits(block, potentials), axis=-1)

    return map_blocks(rows, x, 3 * potentials.mean.size)
