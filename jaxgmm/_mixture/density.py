"""After the fit: the mixture, densities, labels, samples and criteria."""

import functools
import math
from typing import TypeGuard

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from jaxgmm._estep.estep import log_evidence, row_log_evidence
from jaxgmm._estep.potentials import Potentials, logits
from jaxgmm._estep.structures import structure
from jaxgmm._lane.state import State, state_potentials
from jaxgmm._mixture import mixture as mixtures
from jaxgmm._mixture.mixture import Mixture, check_mixture
from jaxgmm._mixture.scale_mixture import ScaleMixture
from jaxgmm._model.families import (
    IndependentNormalGamma,
    KnownCovariance,
    NormalGamma,
    SphericalNormalGamma,
)
from jaxgmm._model.prior import Prior
from jaxgmm._model.views import draw
from jaxgmm._numerics.blocks import map_blocks
from jaxgmm._numerics.checks import check_model, check_positive_int, check_posterior, check_samples


def mixture(state: State | Mixture) -> Mixture:
    """The fitted mixture: EM's estimate, else ``E[pi]``, ``E[mu]`` and ``E[Lambda]^-1``.

    Of a `Mixture` itself.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> state = jaxgmm.fit(jax.random.key(1), x, jaxgmm.em(jaxgmm.flat_prior(1, 2))).best
        >>> weights, means, covariances = jaxgmm.mixture(state)
        >>> bool(jax.numpy.allclose(means[0], x.mean(0), atol=1e-5))
        True
    """
    if not isinstance(state, State):
        return check_mixture(state)
    q, mode = state.posterior, state.view == "mode"
    weights = jnp.exp(q.weights.mode()) if mode else q.weights.mean()
    covariances = q.components.covariances(mode=mode, reg_covar=state.reg_covar)
    return Mixture(weights, q.components.mean, covariances)


def check_fitted_samples(state: State | Mixture, x: ArrayLike) -> Array:
    """The samples, of the width and dtype of what is to be asked about them."""
    x = check_samples(x)
    if not isinstance(state, State):
        means = check_mixture(state).means
        if (x.shape[1], x.dtype) != (means.shape[1], means.dtype):
            raise ValueError(
                f"x has {x.shape[1]} features of {x.dtype}, but the mixture has {means.shape[1]} "
                f"of {means.dtype}; give both the same."
            )
    elif x.shape[1] != state.posterior.n_features or x.dtype != state.posterior.dtype:
        check_model(state.posterior, x)
    return x


def log_prob(state: State | Mixture, x: ArrayLike) -> Float[Array, " N"]:
    """Log density of each sample, in nats: ``(N,)``.

    After EM the density of `mixture`. After CAVI and SVI the posterior predictive, in which the
    parameters are integrated out: a mixture of Student-t densities for full covariances (Bishop
    2006, eq. 10.81), of wider normal ones for a known covariance. It is exact for q, in closed
    form, save that `IndependentNormalGamma`, which is not conjugate, needs quadrature over the
    precision. A `Mixture` has its own density: ``log_prob(mixture(state), x)`` is the plug-in.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> state = jaxgmm.fit(jax.random.key(1), x, jaxgmm.cavi(jaxgmm.default_prior(x, 2))).best
        >>> jaxgmm.log_prob(state, x[:5]).shape
        (5,)
    """
    return _log_prob(state, check_fitted_samples(state, x))


def log_density(state: State | Mixture, x: Array) -> Array:
    """`log_prob` of checked samples."""
    if not is_predictive(state):
        return row_log_evidence(x, view(state))
    log_weights = jnp.log(state.posterior.weights.mean())

    def rows(block: Array) -> Array:
        return jax.nn.logsumexp(
            state.posterior.components.log_predictive(block) + log_weights, axis=-1
        )

    return map_blocks(rows, x, 3 * state.posterior.components.mean.size)


_log_prob = jax.jit(log_density)


def is_predictive(state: State | Mixture) -> TypeGuard[State]:
    """Whether its density is a posterior predictive, and not that of a mixture."""
    return isinstance(state, State) and state.view != "mode"


def feature_density(state: State | Mixture, feature: int) -> ScaleMixture:
    """The density of `log_prob` of one feature alone."""
    m = mixture(state)
    weights, mean, none = m.weights, m.means[:, feature], jnp.zeros_like(m.weights)
    if not is_predictive(state):
        return ScaleMixture(weights, mean, m.covariances[:, feature, feature], none, None)
    c = state.posterior.components
    match c:
        case KnownCovariance():
            return ScaleMixture(weights, mean, c.predictive()[1][:, feature, feature], none, None)
        case IndependentNormalGamma():
            variance = m.covariances[:, feature, feature]
            shape = c.shape if c.structure == "spherical" else c.shape[:, feature]
            return ScaleMixture(weights, mean, variance, 1 / c.precision[:, feature], shape)
        case NormalGamma() | SphericalNormalGamma():
            variance = (1 + 1 / c.mean_precision) * m.covariances[:, feature, feature]
            shape = c.shape if c.structure == "spherical" else c.shape[:, feature]
            return ScaleMixture(weights, mean, variance, none, shape)
        case _:
            degrees, scale = c.predictive()
            return ScaleMixture(weights, mean, scale[:, feature, feature], none, degrees / 2)


def view(state: State | Mixture) -> Potentials:
    """The potentials of the state's own view, or of a mixture."""
    return state_potentials(state) if isinstance(state, State) else mixtures.potentials(state)


def responsibilities(state: State | Mixture, x: ArrayLike) -> Float[Array, "N K"]:
    """Probability of each component for each sample, ``(N, K)``; rows sum to 1.

    Under the state's own view: Bayes' rule at EM's estimate, q(z) after CAVI and SVI.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> halves, means = jnp.array([0.5, 0.5]), jnp.array([[0.0], [4.0]])
        >>> pair = jaxgmm.Mixture(halves, means, jnp.ones((2, 1, 1)))
        >>> print(jaxgmm.responsibilities(pair, jnp.array([[2.0]])))
        [[0.5 0.5]]
    """
    return _responsibilities(state, check_fitted_samples(state, x))


@jax.jit
def _responsibilities(state: State | Mixture, x: Array) -> Array:
    return responsibilities_at(view(state), x)


def responsibilities_at(potentials: Potentials, x: Array) -> Array:
    """`responsibilities` under potentials, of checked samples."""

    def rows(block: Array) -> Array:
        return jax.nn.softmax(logits(block, potentials), axis=-1)

    return map_blocks(rows, x, 3 * potentials.mean.size)


def predict(state: State | Mixture, x: ArrayLike) -> Int[Array, " N"]:
    """The most probable component of each sample: ``(N,)``, from 0 to K - 1.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> halves, means = jnp.array([0.5, 0.5]), jnp.array([[0.0], [4.0]])
        >>> pair = jaxgmm.Mixture(halves, means, jnp.ones((2, 1, 1)))
        >>> print(jaxgmm.predict(pair, jnp.array([[-1.0], [5.0]])))
        [0 1]
    """
    return _predict(state, check_fitted_samples(state, x))


@jax.jit
def _predict(state: State | Mixture, x: Array) -> Array:
    return labels_at(view(state), x)


def labels_at(potentials: Potentials, x: Array) -> Array:
    """`predict` under potentials, of checked samples."""

    def rows(block: Array) -> Array:
        return jnp.argmax(logits(block, potentials), axis=-1)

    return map_blocks(rows, x, 3 * potentials.mean.size)


def sample(
    key: Array, state: State | Mixture, n: int
) -> tuple[Float[Array, "n D"], Int[Array, " n"]]:
    """Draw ``n`` samples and their components from the density that `log_prob` gives.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> state = jaxgmm.fit(jax.random.key(1), x, jaxgmm.em(jaxgmm.flat_prior(2, 2))).best
        >>> draws, components = jaxgmm.sample(jax.random.key(2), state, 10)
        >>> draws.shape, components.shape
        ((10, 2), (10,))
    """
    check_positive_int("n", n)
    return _sample(key, state, n)


def draw_samples(key: Array, state: State | Mixture, n: int) -> tuple[Array, Array]:
    """`sample`; given the components, differentiable in the state."""
    component_key, x_key = jax.random.split(key)
    m = mixture(state)
    component = jax.random.categorical(component_key, jnp.log(m.weights), shape=(n,))
    if is_predictive(state):
        return state.posterior.components.sample_predictive(x_key, component), component
    return mixtures.draw(x_key, m, component), component


_sample = jax.jit(draw_samples, static_argnames="n")


def sample_posterior(key: Array, state: State, n: int) -> Mixture:
    """Draw ``n`` mixtures from the posterior: weights ``(n, K)``, means and covariances.

    After CAVI and SVI. The components keep their numbers from draw to draw: q has one mode.

    Args:
        key: PRNG key.
        state: of one lane.
        n: number of draws.

    Returns:
        `Mixture` with a leading axis of n: ``(n, K)``, ``(n, K, D)``, ``(n, K, D, D)``.

    Raises:
        ValueError: for the state of a point estimate, which has no posterior.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> state = jaxgmm.fit(jax.random.key(1), x, jaxgmm.cavi(jaxgmm.default_prior(x, 3))).best
        >>> jaxgmm.sample_posterior(jax.random.key(2), state, 10).covariances.shape
        (10, 3, 2, 2)
    """
    check_positive_int("n", n)
    check_posterior(state, "sample_posterior")
    return _sample_posterior(key, state.posterior, n)


@functools.partial(jax.jit, static_argnames="n")
def _sample_posterior(key: Array, q: Prior, n: int) -> Mixture:
    def one(key: Array) -> Mixture:
        point = draw(key, q)
        components = point.components
        covariances = structure(components.structure).covariances(components.factor, q.n_features)
        covariances = jnp.broadcast_to(covariances, (*components.mean.shape, q.n_features))
        return Mixture(jnp.exp(point.log_weights), components.mean, covariances)

    return jax.vmap(one)(jax.random.split(key, n))


def plug_in(state: State) -> Potentials:
    """The potentials of the density of `mixture`, whatever the state's view."""
    return view(mixture(state) if is_predictive(state) else state)


def bic(state: State, x: ArrayLike) -> Float[Array, ""]:
    """Bayesian information criterion ``-2 loglik + df log N`` (Schwarz 1978); smaller is better.

    The likelihood is that of `mixture`, so the criterion means most after EM.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> state = jaxgmm.fit(jax.random.key(1), x, jaxgmm.em(jaxgmm.flat_prior(1, 2))).best
        >>> bool(jaxgmm.bic(state, x) > jaxgmm.aic(state, x))
        True
    """
    x = check_fitted_samples(state, x)
    return -2 * _log_likelihood(state, x) + state.posterior.n_parameters * math.log(x.shape[0])


def aic(state: State, x: ArrayLike) -> Float[Array, ""]:
    """Akaike's information criterion ``-2 loglik + 2 df`` (Akaike 1974); smaller is better.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> state = jaxgmm.fit(jax.random.key(1), x, jaxgmm.em(jaxgmm.flat_prior(1, 2))).best
        >>> bool(jaxgmm.aic(state, x) < jaxgmm.bic(state, x))
        True
    """
    x = check_fitted_samples(state, x)
    return -2 * _log_likelihood(state, x) + 2 * state.posterior.n_parameters


def icl(state: State, x: ArrayLike) -> Float[Array, ""]:
    """Integrated completed likelihood ``bic - 2 sum_n log max_k r[n, k]``; smaller is better.

    Biernacki, Celeux & Govaert 2000, with the most probable assignment, as mclust has it.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> state = jaxgmm.fit(jax.random.key(1), x, jaxgmm.em(jaxgmm.flat_prior(1, 2))).best
        >>> bool(jaxgmm.icl(state, x) == jaxgmm.bic(state, x))  # one component: no doubt
        True
    """
    x = check_fitted_samples(state, x)
    return bic(state, x) - 2 * _log_assignment(state, x)


@jax.jit
def _log_likelihood(state: State, x: Array) -> Array:
    return log_evidence(x, plug_in(state))


@jax.jit
def _log_assignment(state: State, x: Array) -> Array:
    return log_assignment(plug_in(state), x, None)


def log_assignment(potentials: Potentials, x: Array, weight: Array | None) -> Array:
    """``sum_n w_n log max_k r[n, k]``: how sure the assignments are."""

    def rows(block: Array) -> Array:
        return jnp.max(jax.nn.log_softmax(logits(block, potentials), axis=-1), axis=-1)

    values = map_blocks(rows, x, 3 * potentials.mean.size)
    return jnp.sum(values if weight is None else weight * values)
