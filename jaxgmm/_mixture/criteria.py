"""Criteria by which fits are compared: BIC, AIC and ICL."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxgmm._estep.log_evidence import log_evidence
from jaxgmm._estep.padded import padded
from jaxgmm._estep.potentials import Potentials
from jaxgmm._estep.row_logits import relative_row_logits, row_width
from jaxgmm._estep.rows import Rows, Samples
from jaxgmm._lane.state import State
from jaxgmm._mixture.mixture import (
    Mixture,
    Model,
    check_fitted_rows,
    plug_in,
)
from jaxgmm._numerics.blocks import map_blocks
from jaxgmm._numerics.calls import usage
from jaxgmm._numerics.checks import check_positive_int
from jaxgmm._numerics.programs import program


@usage("jaxgmm.bic(result, x)")
def bic(
    state: Model,
    x: Samples,
    *,
    sample_weight: ArrayLike | None = None,
    n_parameters: int | None = None,
) -> Float[Array, ""]:
    """Bayesian information criterion ``-2 loglik + df log N`` (Schwarz 1978); smaller is better.

    The likelihood is that of `mixture`, so the criterion is most meaningful after EM.

    With weights N is their sum: a sample of weight 2 counts as two samples (*frequency weights*).
    The scale of other weights, such as those of importance sampling, means nothing, but N and the
    likelihood depend on it. Give them the scale at which their sum is the effective number of
    samples, ``(sum w)^2 / sum w^2`` (Kish 1965): ``w * w.sum() / (w**2).sum()``.

    Args:
        state: a fit: the state of one lane, or a `Result`, whose best state counts. Or a `Mixture`,
            with ``n_parameters``.
        x: samples, ``(N, D)``, or `Rows`.
        sample_weight: non-negative, ``(N,)``.
        n_parameters: df, the number of free parameters. By default it is that of the state's model.
            A `Mixture` does not say what it was fitted with: full covariances have ``K - 1 + K D +
            K D (D + 1) / 2`` parameters.

    Raises:
        ValueError: for bad samples or weights, a `Mixture` without ``n_parameters``.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> state = jaxgmm.fit(jax.random.key(1), x, jaxgmm.em(jaxgmm.flat_prior(1, 2))).best
        >>> bool(jaxgmm.bic(state, x) > jaxgmm.aic(state, x))
        True
    """
    model, rows = check_fitted_rows(state, x, sample_weight, "bic")
    return _bic(model, padded(rows), _df(model, n_parameters, "bic"))


@usage("jaxgmm.aic(result, x)")
def aic(
    state: Model,
    x: Samples,
    *,
    sample_weight: ArrayLike | None = None,
    n_parameters: int | None = None,
) -> Float[Array, ""]:
    """Akaike's information criterion ``-2 loglik + 2 df`` (Akaike 1974); smaller is better.

    All arguments are as in `bic`. The likelihood, too, depends on the scale of the weights.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> state = jaxgmm.fit(jax.random.key(1), x, jaxgmm.em(jaxgmm.flat_prior(1, 2))).best
        >>> bool(jaxgmm.aic(state, x) < jaxgmm.bic(state, x))
        True
    """
    model, rows = check_fitted_rows(state, x, sample_weight, "aic")
    return _aic(model, padded(rows), _df(model, n_parameters, "aic"))


@usage("jaxgmm.icl(result, x)")
def icl(
    state: Model,
    x: Samples,
    *,
    sample_weight: ArrayLike | None = None,
    n_parameters: int | None = None,
) -> Float[Array, ""]:
    """Integrated completed likelihood ``bic - 2 sum_n w_n log max_k r[n, k]``; smaller is better.

    Biernacki, Celeux & Govaert 2000, with the most probable assignment, as in mclust. All arguments
    are as in `bic`.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> state = jaxgmm.fit(jax.random.key(1), x, jaxgmm.em(jaxgmm.flat_prior(1, 2))).best
        >>> bool(jaxgmm.icl(state, x) == jaxgmm.bic(state, x))  # one component: no doubt
        True
    """
    model, rows = check_fitted_rows(state, x, sample_weight, "icl")
    return _icl(model, padded(rows), _df(model, n_parameters, "icl"))


def _df(model: State | Mixture, n_parameters: int | None, what: str) -> int | Array:
    """The number of free parameters."""
    if n_parameters is not None:
        return check_positive_int("n_parameters", n_parameters)
    if isinstance(model, State):
        return model.posterior.n_parameters
    k, d = model.means.shape
    full = k - 1 + k * d + k * d * (d + 1) // 2
    raise ValueError(
        f"{what} of a Mixture needs the number of its parameters, jaxgmm.{what}(mixture, x, "
        f"n_parameters={full}) if they are those of full covariances; a fit knows it, "
        f"jaxgmm.{what}(result, x)."
    )


@program()
def _bic(model: State | Mixture, rows: Rows, df: ArrayLike) -> Array:
    return df * jnp.log(rows.total) - 2 * log_evidence(rows, plug_in(model))


@program()
def _aic(model: State | Mixture, rows: Rows, df: ArrayLike) -> Array:
    return 2 * df - 2 * log_evidence(rows, plug_in(model))


@program()
def _icl(model: State | Mixture, rows: Rows, df: ArrayLike) -> Array:
    potentials = plug_in(model)
    likelihood = log_evidence(rows, potentials)
    sure = log_assignment(potentials, rows)
    return df * jnp.log(rows.total) - 2 * likelihood - 2 * sure


def log_assignment(potentials: Potentials, rows: Rows) -> Array:
    """``sum_n w_n log max_k r[n, k]``: how sure the assignments are."""

    def of_block(block: Rows) -> Array:
        values = relative_row_logits(block, potentials)
        return jnp.max(jax.nn.log_softmax(values, axis=-1), axis=-1)

    values = map_blocks(of_block, rows.by_themselves, row_width(rows, potentials))
    return jnp.sum(values if rows.weight is None else rows.weight * values)
