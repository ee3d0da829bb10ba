"""Criteria by which fits are compared: BIC, AIC and ICL."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxgmm._estep.data import Rows
from jaxgmm._estep.log_evidence import log_evidence
from jaxgmm._estep.potentials import Potentials, relative_logits
from jaxgmm._lane.state import State
from jaxgmm._mixture.mixture import check_fitted_rows, estimate, is_predictive, view
from jaxgmm._numerics.blocks import map_blocks


def bic(
    state: State, x: ArrayLike | Rows, *, sample_weight: ArrayLike | None = None
) -> Float[Array, ""]:
    """Bayesian information criterion ``-2 loglik + df log N`` (Schwarz 1978); smaller is better.

    The likelihood is that of `mixture`, so the criterion is most meaningful after EM. N is the
    number of samples, or the sum of their weights, non-negative, ``(N,)``.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> state = jaxgmm.fit(jax.random.key(1), x, jaxgmm.em(jaxgmm.flat_prior(1, 2))).best
        >>> bool(jaxgmm.bic(state, x) > jaxgmm.aic(state, x))
        True
    """
    rows = check_fitted_rows(state, x, sample_weight)
    penalty = state.posterior.n_parameters * jnp.log(rows.total)
    return -2 * _log_likelihood(state, rows) + penalty


def aic(
    state: State, x: ArrayLike | Rows, *, sample_weight: ArrayLike | None = None
) -> Float[Array, ""]:
    """Akaike's information criterion ``-2 loglik + 2 df`` (Akaike 1974); smaller is better.

    Samples and weights are as in `bic`.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> state = jaxgmm.fit(jax.random.key(1), x, jaxgmm.em(jaxgmm.flat_prior(1, 2))).best
        >>> bool(jaxgmm.aic(state, x) < jaxgmm.bic(state, x))
        True
    """
    rows = check_fitted_rows(state, x, sample_weight)
    return -2 * _log_likelihood(state, rows) + 2 * state.posterior.n_parameters


def icl(
    state: State, x: ArrayLike | Rows, *, sample_weight: ArrayLike | None = None
) -> Float[Array, ""]:
    """Integrated completed likelihood ``bic - 2 sum_n log max_k r[n, k]``; smaller is better.

    Biernacki, Celeux & Govaert 2000, with the most probable assignment, as in mclust. Samples and
    weights are as in `bic`.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> state = jaxgmm.fit(jax.random.key(1), x, jaxgmm.em(jaxgmm.flat_prior(1, 2))).best
        >>> bool(jaxgmm.icl(state, x) == jaxgmm.bic(state, x))  # one component: no doubt
        True
    """
    rows = check_fitted_rows(state, x, sample_weight)
    return bic(state, rows) - 2 * _log_assignment(state, rows)


@jax.jit
def _log_likelihood(state: State, rows: Rows) -> Array:
    return log_evidence(rows, plug_in(state))


@jax.jit
def _log_assignment(state: State, rows: Rows) -> Array:
    return log_assignment(plug_in(state), rows.x, rows.weight)


def log_assignment(potentials: Potentials, x: Array, weight: Array | None) -> Array:
    """``sum_n w_n log max_k r[n, k]``: how sure the assignments are."""

    def rows(block: Array) -> Array:
        return jnp.max(jax.nn.log_softmax(relative_logits(block, potentials), axis=-1), axis=-1)

    values = map_blocks(rows, x, 3 * potentials.mean.size)
    return jnp.sum(values if weight is None else weight * values)


def plug_in(state: State) -> Potentials:
    """The potentials of the density of `mixture`, whatever the state's view."""
    return estimate(state).potentials() if is_predictive(state) else view(state)
