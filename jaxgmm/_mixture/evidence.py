"""What the data say about a fit: its bounds, and how they change with the prior."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxgmm._estep.data import prepare
from jaxgmm._estep.log_evidence import log_evidence, log_evidence_on
from jaxgmm._estep.rows import Rows, Samples
from jaxgmm._lane.state import Fitted, State, posterior_state, state_of
from jaxgmm._mixture.mixture import check_fitted_rows
from jaxgmm._model.bounds import kl_divergence
from jaxgmm._model.checks import check_proper
from jaxgmm._model.known import put_known
from jaxgmm._model.prior import Prior
from jaxgmm._model.views import draw
from jaxgmm._numerics.calls import usage
from jaxgmm._numerics.checks import check_positive_int
from jaxgmm._numerics.pytree import replace

# Draws whose E-steps run side by side.
_BATCH = 32


@usage("jaxgmm.elbo(result, x)")
def elbo(
    state: State | Fitted, x: Samples, *, sample_weight: ArrayLike | None = None
) -> Float[Array, ""]:
    """The bound at the state's posterior with the best responsibilities for it, in nats.

    ``log_evidence - KL(posterior || prior)`` after CAVI and SVI (Bishop 2006, eq. 10.70),
    ``log-likelihood + log prior`` after EM. It takes one pass. It is at least
    ``state.objective``, and equal to it at convergence.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> state = jaxgmm.fit(jax.random.key(1), x, jaxgmm.cavi(jaxgmm.default_prior(x, 2))).best
        >>> bool(jaxgmm.elbo(state, x) >= state.objective - 1e-3)
        True
    """
    state = state_of(state, "elbo")
    rows = check_fitted_rows(state, x, sample_weight, "elbo")[1]
    if not state.view.point:
        check_proper(state.prior, "elbo")
    return _elbo(state, rows)


@jax.jit
def _elbo(state: State, rows: Rows) -> Array:
    return log_evidence(rows, state.potentials) - state.penalty


@usage("jaxgmm.sampled_elbo(key, result, x)")
def sampled_elbo(
    key: Array,
    state: State | Fitted,
    x: Samples,
    n_draws: int = 1000,
    *,
    sample_weight: ArrayLike | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """An estimate of the bound with the assignments summed out, and its standard error, in nats.

    It is ``E_q[log p(x | pi, mu, Sigma)] - KL(q || prior)``, which the sample view of SVI
    maximises. It is at least `elbo`, in which Jensen's inequality splits the logarithm of the sum
    over components.

    Args:
        key: PRNG key.
        state: of one lane, after CAVI or SVI.
        x: samples, ``(N, D)``.
        n_draws: draws of the parameters; the error decreases with their square root.
        sample_weight: non-negative, ``(N,)``.

    Raises:
        ValueError: for the state of a point estimate, an improper prior, bad samples.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> state = jaxgmm.fit(jax.random.key(1), x, jaxgmm.cavi(jaxgmm.default_prior(x, 2))).best
        >>> bound, error = jaxgmm.sampled_elbo(jax.random.key(2), state, x)
        >>> bool(bound + 4 * error > jaxgmm.elbo(state, x))
        True
    """
    check_positive_int("n_draws", n_draws)
    state = posterior_state(state, "sampled_elbo")
    rows = check_fitted_rows(state, x, sample_weight, "sampled_elbo")[1]
    check_proper(state.prior, "sampled_elbo")
    return _sampled_elbo(key, state, rows, n_draws)


@functools.partial(jax.jit, static_argnames="n_draws")
def _sampled_elbo(key: Array, state: State, rows: Rows, n_draws: int) -> tuple[Array, Array]:
    data, q = prepare(rows), state.posterior

    def evidence(key: Array) -> Array:
        return log_evidence_on(data, draw(key, q).potentials())

    keys = jax.random.split(key, n_draws)
    values = lax.map(evidence, keys, batch_size=min(_BATCH, n_draws))
    error = jnp.std(values, ddof=1) / jnp.sqrt(jnp.asarray(n_draws, values.dtype))
    return jnp.mean(values) - kl_divergence(q, state.prior), error


@usage("jaxgmm.prior_gradient(result, x)")
def prior_gradient(
    state: State | Fitted, x: Samples, *, sample_weight: ArrayLike | None = None
) -> Prior:
    """Gradient of the best bound in the prior's hyperparameters: for empirical Bayes.

    By the envelope theorem, at an optimum of the bound over q the total derivative of
    ``max_q ELBO(q, prior)`` equals the partial derivative, so the fit itself need not be
    differentiated. Run `cavi` until it has converged: the error is of the order of the distance to
    convergence. Known weights, means and covariances are hyperparameters, too. After EM it is the
    gradient of the log-likelihood plus log prior density.

    Args:
        state: of one lane, converged.
        x: samples, ``(N, D)``.
        sample_weight: non-negative, ``(N,)``.

    Returns:
        A `Prior` whose leaves are the derivatives with respect to the prior's leaves, in nats.
        They treat the leaves as free. Follow them in coordinates that keep the leaves valid, such
        as the logarithm of a concentration, and sum over leaves that must stay equal.

    Raises:
        ValueError: for an improper prior (except for a point estimate), bad samples.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> state = jaxgmm.fit(jax.random.key(1), x, jaxgmm.cavi(jaxgmm.default_prior(x, 3))).best
        >>> jaxgmm.prior_gradient(state, x).weights.concentration.shape
        (3,)
    """
    state = state_of(state, "prior_gradient")
    rows = check_fitted_rows(state, x, sample_weight, "prior_gradient")[1]
    if not state.view.point:
        check_proper(state.prior, "prior_gradient")
    return _prior_gradient(state, rows)


@jax.jit
def _prior_gradient(state: State, rows: Rows) -> Prior:
    def objective(prior: Prior) -> Array:
        # what is not learnt is the prior's own
        q = replace(
            prior,
            weights=_learnt(state.posterior.weights, prior.weights),
            components=_learnt(state.posterior.components, prior.components),
        )
        return _elbo(replace(state, prior=prior, posterior=q), rows)

    return jax.grad(objective)(state.prior)


def _learnt(q: Any, prior: Any) -> Any:
    """``q`` with those fields of the prior that no algorithm updates."""
    fields = {name: getattr(q, name) for name in q.transforms()}
    return put_known(replace(prior, **fields), prior)
