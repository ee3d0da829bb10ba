"""What is estimated by draws, each with its standard error: scores of outliers, entropies."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from jaxgmm._estep.log_evidence import row_log_evidence
from jaxgmm._estep.rows import Rows, Samples
from jaxgmm._lane.state import Fitted, State, posterior_state
from jaxgmm._mixture.density import log_density
from jaxgmm._mixture.draws import draw_samples
from jaxgmm._mixture.mixture import (
    Mixture,
    Model,
    check_fitted,
    check_fitted_samples,
    estimate,
)
from jaxgmm._model.views import sampled_potentials
from jaxgmm._numerics.calls import usage
from jaxgmm._numerics.checks import check_positive_int
from jaxgmm._numerics.devices import on_automatic_axes

Value = tuple[Float[Array, "*N"], Float[Array, "*N"]]


@usage("jaxgmm.sampled_log_prob(key, result, x)")
def sampled_log_prob(key: Array, state: State | Fitted, x: Samples, n_draws: int = 1000) -> Value:
    """`log_prob` estimated by draws of the parameters, and its standard error, in nats.

    The estimate is ``log 1/S sum_s p(x | pi_s, mu_s, Sigma_s)``; its error is that of the delta
    method. It uses draws only, and so can check `log_prob`, which is exact.

    Args:
        key: PRNG key.
        state: of one lane, after CAVI or SVI.
        x: samples, ``(N, D)``.
        n_draws: S, at least 2; the error decreases with its square root.

    Returns:
        Two ``(N,)``: the estimates and their standard errors.

    Raises:
        ValueError: for the state of a point estimate, bad samples.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> prior = jaxgmm.default_prior(x, 1, jax.numpy.eye(2), "fixed")
        >>> state = jaxgmm.cavi(prior).init(jax.random.key(1), x, {"means": x[:1]})
        >>> value, error = jaxgmm.sampled_log_prob(jax.random.key(2), state, x[:5])
        >>> bool((abs(value - jaxgmm.log_prob(state, x[:5])) < 5 * error).all())
        True
    """
    _check_draws(n_draws)
    state = posterior_state(state, "sampled_log_prob")
    x = check_fitted_samples(state, x, "sampled_log_prob")[1]
    return _sampled_log_prob(key, state, x, n_draws)


@functools.partial(jax.jit, static_argnames="n_draws")
def _sampled_log_prob(key: Array, state: State, x: Array, n_draws: int) -> Value:
    # ratios to about their mean neither over- nor underflow, whatever that mean is
    reference = lax.stop_gradient(log_density(state, Rows(x)))

    def add(moments: Any, step: tuple[Array, Array]) -> tuple[Any, None]:
        key, number = step
        mean, squares = moments
        density = row_log_evidence(Rows(x), sampled_potentials(key, state.posterior))
        gap = jnp.exp(density - reference) - mean
        mean = mean + gap / number
        return (mean, squares + gap * (gap * (number - 1) / number)), None

    numbers = jnp.arange(1, n_draws + 1).astype(x.dtype)
    zeros = jnp.zeros_like(reference)
    steps = (jax.random.split(key, n_draws), numbers)
    mean, squares = lax.scan(add, (zeros, zeros), steps)[0]
    return reference + jnp.log(mean), jnp.sqrt(squares / ((n_draws - 1) * n_draws)) / mean


@usage("jaxgmm.outlier_scores(key, result, x)")
def outlier_scores(
    key: Array, state: Model, x: Samples, n_draws: int = 10_000
) -> Float[Array, " N"]:
    """How far out each sample lies: the probability of a density higher than its own.

    The score of x is ``P(p(X) > p(x))`` for the density p of `log_prob` and X drawn from it. It is
    the mass of the highest-density region with x on its edge (Hyndman 1996). It is 0 at the
    highest mode and near 1 for an outlier. Samples that follow p have uniform scores, whatever the
    shape, units and dimension of p. So ``score > 0.99`` picks one regular sample in a hundred, and
    ``1 - score`` is a p-value. The score is estimated by draws: its standard error is
    ``sqrt(score (1 - score) / n_draws)``, and ``1 - score`` is at least 1 / (n_draws + 1).

    Args:
        key: PRNG key.
        state: of one lane, or a `Mixture`.
        x: samples, ``(N, D)``.
        n_draws: number of draws from the density, at least 2.

    Example:
        >>> import jax, jax.numpy as jnp, jaxgmm
        >>> m = jaxgmm.Mixture(jnp.ones(1), jnp.zeros((1, 1)), jnp.ones((1, 1, 1)))
        >>> x = jnp.array([[0.0], [1.96], [9.0]])
        >>> print(jaxgmm.outlier_scores(jax.random.key(0), m, x) > 0.9)
        [False  True  True]
    """
    _check_draws(n_draws)
    model, x = check_fitted_samples(state, x, "outlier_scores")
    return _outlier_scores(key, model, on_automatic_axes(x), n_draws)


@functools.partial(jax.jit, static_argnames="n_draws")
def _outlier_scores(key: Array, state: State | Mixture, x: Array, n_draws: int) -> Array:
    drawn = jnp.sort(log_density(state, Rows(draw_samples(key, state, n_draws)[0])))
    less = jnp.searchsorted(drawn, log_density(state, Rows(x)), side="right").astype(x.dtype)
    return (n_draws - less) / (n_draws + 1)


@usage("jaxgmm.sampled_entropy(key, result)")
def sampled_entropy(key: Array, state: Model, n_draws: int = 10_000) -> Value:
    """Differential entropy ``-E[log p(X)]`` of the density of `log_prob`, and its standard error.

    Both are in nats. They come from ``n_draws >= 2`` draws from the density of a state of one lane,
    or of a `Mixture`. The estimate is unbiased, and so is its gradient.

    Example:
        >>> import jax, jax.numpy as jnp, jaxgmm
        >>> m = jaxgmm.Mixture(jnp.ones(1), jnp.zeros((1, 1)), jnp.ones((1, 1, 1)))
        >>> value, error = jaxgmm.sampled_entropy(jax.random.key(0), m)
        >>> bool(abs(value - 1.4189) < 4 * error)
        True
    """
    _check_draws(n_draws)
    return _sampled_mean(key, check_fitted(state, "sampled_entropy"), None, n_draws)


@usage("jaxgmm.sampled_kl(key, p, q)")
def sampled_kl(key: Array, p: Model, q: Model, n_draws: int = 10_000) -> Value:
    """``KL(p || q) = E_p[log p(X) - log q(X)]`` of two densities, and its standard error.

    Both are in nats. The densities are those of `log_prob` for two states or mixtures. (The
    divergence of two posteriors is `jaxgmm.views.kl_divergence`.) The estimate comes from
    ``n_draws >= 2`` draws from p. It is unbiased, and so is its gradient.

    Raises:
        ValueError: for densities of different widths or dtypes.

    Example:
        >>> import jax, jax.numpy as jnp, jaxgmm
        >>> p = jaxgmm.Mixture(jnp.ones(1), jnp.zeros((1, 1)), jnp.ones((1, 1, 1)))
        >>> q = jaxgmm.algebra.affine(p, jnp.eye(1), jnp.array([2.0]))
        >>> value, error = jaxgmm.sampled_kl(jax.random.key(0), p, q)
        >>> bool(abs(value - 2) < 4 * error)
        True
    """
    _check_draws(n_draws)
    p, q = (check_fitted(a, "sampled_kl") for a in (p, q))
    first, second = (jax.eval_shape(estimate, a).means for a in (p, q))
    if (first.shape[1], first.dtype) != (second.shape[1], second.dtype):
        raise ValueError(
            f"p is of {first.shape[1]} features of {first.dtype}, but q of {second.shape[1]} of "
            f"{second.dtype}; both must be of the same."
        )
    return _sampled_mean(key, p, q, n_draws)


@functools.partial(jax.jit, static_argnames="n_draws")
def _sampled_mean(key: Array, p: State | Mixture, q: State | Mixture | None, n_draws: int) -> Value:
    """Mean of ``log p - log q`` under p, or of ``-log p`` without q."""
    x, component = draw_samples(key, p, n_draws)
    own = log_density(p, Rows(x))
    values = -own if q is None else own - log_density(q, Rows(x))
    # the choice of a component has no derivative; its probability over itself has that of the mean
    chosen = estimate(p).weights[component]
    values = values * (chosen / lax.stop_gradient(chosen))
    return jnp.mean(values), jnp.std(values, ddof=1) / math.sqrt(n_draws)


def _check_draws(n_draws: Any) -> None:
    if check_positive_int("n_draws", n_draws) < 2:
        raise ValueError("n_draws must be at least 2, for a standard error.")
