"""What a fitted density says: quantiles, outliers, entropy, and how sure its parameters are."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxgmm._estep.estep import row_log_evidence
from jaxgmm._lane.state import State
from jaxgmm._mixture.density import (
    check_fitted_samples,
    draw_samples,
    feature_density,
    log_density,
    mixture,
    sample_posterior,
)
from jaxgmm._mixture.mixture import Mixture
from jaxgmm._mixture.scale_mixture import cdf_of, quantile_of
from jaxgmm._model.views import sampled_potentials
from jaxgmm._numerics.checks import check_positive_int, check_posterior, is_traced

Estimate = tuple[Float[Array, "*N"], Float[Array, "*N"]]


def sampled_log_prob(key: Array, state: State, x: ArrayLike, n_draws: int = 1000) -> Estimate:
    """`log_prob` after CAVI or SVI by draws of the parameters, and its standard error, in nats.

    ``log 1/S sum_s p(x | pi_s, mu_s, Sigma_s)``, with the error of the delta method: by nothing but
    draws, where `log_prob` is exact.

    Args:
        key: PRNG key.
        state: of one lane, after CAVI or SVI.
        x: samples, ``(N, D)``.
        n_draws: S, at least 2; the error falls with its square root.

    Returns:
        Two ``(N,)``: the estimates and their standard errors.

    Raises:
        ValueError: for the state of a point estimate, bad samples.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> prior = jaxgmm.default_prior(x, 1, jax.numpy.eye(2), "fixed")
        >>> state = jaxgmm.cavi(prior).init(jax.random.key(1), x, means=x[:1])
        >>> value, error = jaxgmm.sampled_log_prob(jax.random.key(2), state, x[:5])
        >>> bool((abs(value - jaxgmm.log_prob(state, x[:5])) < 5 * error).all())
        True
    """
    _check_draws(n_draws)
    x = check_fitted_samples(state, x)
    check_posterior(state, "sampled_log_prob")
    return _sampled_log_prob(key, state, x, n_draws)


@functools.partial(jax.jit, static_argnames="n_draws")
def _sampled_log_prob(key: Array, state: State, x: Array, n_draws: int) -> Estimate:
    # ratios to about their mean neither over- nor underflow, whatever that mean is
    reference = lax.stop_gradient(log_density(state, x))

    def add(moments: Any, step: tuple[Array, Array]) -> tuple[Any, None]:
        key, number = step
        mean, squares = moments
        density = row_log_evidence(x, sampled_potentials(key, state.posterior))
        gap = jnp.exp(density - reference) - mean
        mean = mean + gap / number
        return (mean, squares + gap * (gap * (number - 1) / number)), None

    numbers = jnp.arange(1, n_draws + 1).astype(x.dtype)
    zeros = jnp.zeros_like(reference)
    steps = (jax.random.split(key, n_draws), numbers)
    mean, squares = lax.scan(add, (zeros, zeros), steps)[0]
    return reference + jnp.log(mean), jnp.sqrt(squares / ((n_draws - 1) * n_draws)) / mean


class Interval(NamedTuple):
    """Lower and upper limits of every parameter, each laid out as a `Mixture`."""

    lower: Mixture
    upper: Mixture


def credible_intervals(
    key: Array, state: State, mass: float = 0.95, n_draws: int = 10_000
) -> Interval:
    """Equal-tailed credible intervals of weights, means and covariances, by posterior draws.

    Each element on its own: a limit's weights need not sum to 1 nor its covariances be positive
    definite. They are those of q, too narrow where components overlap.

    Args:
        key: PRNG key.
        state: of one lane, after CAVI or SVI.
        mass: of each interval, between 0 and 1.
        n_draws: of `sample_posterior`.

    Raises:
        ValueError: for the state of a point estimate, a mass that is not between 0 and 1.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> prior = jaxgmm.default_prior(x, 1, jax.numpy.eye(2), "fixed")
        >>> state = jaxgmm.cavi(prior).init(jax.random.key(1), x, means=x[:1])
        >>> lower, upper = jaxgmm.credible_intervals(jax.random.key(2), state)
        >>> bool(((lower.means < x.mean(0)) & (x.mean(0) < upper.means)).all())
        True
    """
    if not is_traced(mass) and not 0 < mass < 1:
        raise ValueError(f"mass must be between 0 and 1, but it is {mass}.")
    draws = sample_posterior(key, state, n_draws)
    return _intervals(draws, jnp.asarray(mass, draws.means.dtype))


@jax.jit
def _intervals(draws: Mixture, mass: Array) -> Interval:
    limits = jnp.stack([0.5 - 0.5 * mass, 0.5 + 0.5 * mass])
    both = [jnp.quantile(a, limits, axis=0) for a in draws]
    return Interval(Mixture(*(a[0] for a in both)), Mixture(*(a[1] for a in both)))


def cdf(state: State | Mixture, x: ArrayLike, feature: int | None = None) -> Float[Array, "..."]:
    """Distribution function of one feature, under the density of `log_prob`.

    A mixture of normal ones for a `Mixture` and after EM; after CAVI and SVI of what the family's
    predictive is, mostly Student-t. Small values have a small relative error, too.

    Args:
        state: of one lane, or a `Mixture`.
        x: values of the feature, of any shape.
        feature: which one (static); needed where there are several.

    Raises:
        ValueError: for a feature that is missing or not there.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> m = jaxgmm.Mixture(jnp.ones(1), jnp.zeros((1, 1)), jnp.ones((1, 1, 1)))
        >>> print(jaxgmm.cdf(m, jnp.array([-jnp.inf, 0.0, 1.96])).round(3))
        [0.    0.5   0.975]
    """
    feature, dtype = _check_feature(state, feature)
    return _cdf(state, jnp.asarray(x, dtype), feature)


@functools.partial(jax.jit, static_argnames="feature")
def _cdf(state: State | Mixture, x: Array, feature: int) -> Array:
    return cdf_of(feature_density(state, feature), x.ravel()).reshape(x.shape)


def quantile(
    state: State | Mixture, p: ArrayLike, feature: int | None = None
) -> Float[Array, "..."]:
    """Quantiles of one feature: the inverse of `cdf`, to rounding (of the whole mixture's spread).

    By bisection in a fixed number of steps, with the implicit function theorem's derivatives.

    Args:
        state: of one lane, or a `Mixture`.
        p: probabilities, of any shape; 0 and 1 give the infinities.
        feature: which one (static); needed where there are several.

    Raises:
        ValueError: for a feature that is missing or not there, p beyond 0 and 1.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> m = jaxgmm.Mixture(jnp.ones(1), jnp.zeros((1, 1)), jnp.ones((1, 1, 1)))
        >>> print(jaxgmm.quantile(m, jnp.array([0.025, 0.975])).round(3))
        [-1.96  1.96]
    """
    feature, dtype = _check_feature(state, feature)
    probability = jnp.asarray(p, dtype)
    if not is_traced(probability) and not bool(jnp.all((probability >= 0) & (probability <= 1))):
        raise ValueError(f"p must be probabilities, from 0 to 1, but they are {p}.")
    return _quantile(state, probability, feature)


@functools.partial(jax.jit, static_argnames="feature")
def _quantile(state: State | Mixture, p: Array, feature: int) -> Array:
    return quantile_of(feature_density(state, feature), p.ravel()).reshape(p.shape)


def _check_feature(state: State | Mixture, feature: int | None) -> tuple[int, Any]:
    """The feature's index and the dtype of the density."""
    means = jax.eval_shape(mixture, state).means
    d = means.shape[1]
    if feature is None and d > 1:
        raise ValueError(f"there are {d} features: say which one by feature=0 to {d - 1}.")
    if feature is not None and feature not in range(d):
        raise ValueError(f"feature must be an integer from 0 to {d - 1}, but it is {feature!r}.")
    return int(feature or 0), means.dtype


def outlier_scores(
    key: Array, state: State | Mixture, x: ArrayLike, n_draws: int = 10_000
) -> Float[Array, " N"]:
    """How far out each sample lies: the mass of the densest region that leaves it out.

    ``P(p(X) > p(x))`` for X of the density p of `log_prob`, the mass of the highest-density region
    with x on its edge (Hyndman 1996): 0 at the highest mode, near 1 for an outlier, and uniform
    between for samples that follow p, whatever its shape, units and dimension. So ``score > 0.99``
    picks one regular sample in a hundred, and ``1 - score`` is a p-value. By draws: the standard
    error is ``sqrt(score (1 - score) / n_draws)``, and ``1 - score`` at least 1 / (n_draws + 1).

    Args:
        key: PRNG key.
        state: of one lane, or a `Mixture`.
        x: samples, ``(N, D)``.
        n_draws: from the density, at least 2.

    Example:
        >>> import jax, jax.numpy as jnp, jaxgmm
        >>> m = jaxgmm.Mixture(jnp.ones(1), jnp.zeros((1, 1)), jnp.ones((1, 1, 1)))
        >>> x = jnp.array([[0.0], [1.96], [9.0]])
        >>> print(jaxgmm.outlier_scores(jax.random.key(0), m, x) > 0.9)
        [False  True  True]
    """
    _check_draws(n_draws)
    return _outlier_scores(key, state, check_fitted_samples(state, x), n_draws)


@functools.partial(jax.jit, static_argnames="n_draws")
def _outlier_scores(key: Array, state: State | Mixture, x: Array, n_draws: int) -> Array:
    drawn = jnp.sort(log_density(state, draw_samples(key, state, n_draws)[0]))
    less = jnp.searchsorted(drawn, log_density(state, x), side="right").astype(x.dtype)
    return (n_draws - less) / (n_draws + 1)


def sampled_entropy(key: Array, state: State | Mixture, n_draws: int = 10_000) -> Estimate:
    """Differential entropy ``-E[log p(X)]`` of the density of `log_prob`, and its standard error.

    In nats, by ``n_draws >= 2`` draws from the density of a state of one lane, or of a `Mixture`.
    The estimate is unbiased, and so is its gradient.

    Example:
        >>> import jax, jax.numpy as jnp, jaxgmm
        >>> m = jaxgmm.Mixture(jnp.ones(1), jnp.zeros((1, 1)), jnp.ones((1, 1, 1)))
        >>> value, error = jaxgmm.sampled_entropy(jax.random.key(0), m)
        >>> bool(abs(value - 1.4189) < 4 * error)
        True
    """
    _check_draws(n_draws)
    return _sampled_mean(key, state, None, n_draws)


def sampled_kl(
    key: Array, p: State | Mixture, q: State | Mixture, n_draws: int = 10_000
) -> Estimate:
    """``KL(p || q) = E_p[log p(X) - log q(X)]`` of two densities, and its standard error.

    In nats, of the densities that `log_prob` gives of two states or mixtures (`kl_divergence` is
    that of two posteriors), by ``n_draws >= 2`` draws from p. The estimate is unbiased, and so is
    its gradient.

    Raises:
        ValueError: for densities of different widths or dtypes.

    Example:
        >>> import jax, jax.numpy as jnp, jaxgmm
        >>> p = jaxgmm.Mixture(jnp.ones(1), jnp.zeros((1, 1)), jnp.ones((1, 1, 1)))
        >>> q = jaxgmm.affine(p, jnp.eye(1), jnp.array([2.0]))
        >>> value, error = jaxgmm.sampled_kl(jax.random.key(0), p, q)
        >>> bool(abs(value - 2) < 4 * error)
        True
    """
    _check_draws(n_draws)
    first, second = (jax.eval_shape(mixture, a).means for a in (p, q))
    if (first.shape[1], first.dtype) != (second.shape[1], second.dtype):
        raise ValueError(
            f"p is of {first.shape[1]} features of {first.dtype}, but q of {second.shape[1]} of "
            f"{second.dtype}; both must be of the same."
        )
    return _sampled_mean(key, p, q, n_draws)


@functools.partial(jax.jit, static_argnames="n_draws")
def _sampled_mean(
    key: Array, p: State | Mixture, q: State | Mixture | None, n_draws: int
) -> Estimate:
    """Mean of ``log p - log q`` under p, or of ``-log p`` without q."""
    x, component = draw_samples(key, p, n_draws)
    own = log_density(p, x)
    values = -own if q is None else own - log_density(q, x)
    # the choice of a component has no derivative; its probability over itself has that of the mean
    chosen = mixture(p).weights[component]
    values = values * (chosen / lax.stop_gradient(chosen))
    return jnp.mean(values), jnp.std(values, ddof=1) / math.sqrt(n_draws)


def _check_draws(n_draws: Any) -> None:
    if check_positive_int("n_draws", n_draws) < 2:
        raise ValueError("n_draws must be at least 2, for a standard error.")
