"""The rule that refuses optima which are artefacts of an unbounded likelihood."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from jaxgmm._lane.state import State
from jaxgmm._numerics import linalg

# What counts as a handful of samples, in units of the number that leaves a covariance singular;
# the smallest variance in any direction beside the pooled one, for a handful and for any number.
HANDFUL = 5
THIN = 1e-2
VANISHING = 1e-6


def is_degenerate(state: State) -> Bool[Array, ""]:
    """Whether a point estimate has a component that is an artefact rather than a cluster.

    The likelihood of a mixture is unbounded: a component that shrinks onto a few samples, or onto
    samples that share a value, raises it without limit, and near such points there are spurious
    local maxima of finite height (McLachlan & Peel 2000, sections 3.8 and 3.10). So under a prior
    that does not bound the likelihood a component is refused when

    - fewer samples stand behind its covariance than keep it from being singular by itself: D + 1
      for a full covariance, 2 for a diagonal or spherical one; or
    - in some direction its variance is below 1e-6 of the pooled within-component variance; or
      below 1e-2 of it for a component of a handful of samples, fewer than five times as many.

    The second is Hathaway's (1985) constraint ``lambda_min(Sigma_i Sigma_j^-1) >= c``, with the
    pooled covariance for Sigma_j, so that it is invariant under affine maps of the data. Under any
    prior a covariance that is singular to the dtype's precision is refused; a component with a
    covariance that is known or common to all is refused when it is empty. The posterior of CAVI or
    SVI is never refused: its bound is finite and right.

    Returns:
        A boolean scalar for one state.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> state = jaxgmm.fit(jax.random.key(1), x, jaxgmm.em(jaxgmm.flat_prior(2, 2))).best
        >>> bool(jaxgmm.is_degenerate(state))
        False
    """
    if state.view != "mode":
        return jnp.asarray(False)
    components = state.posterior.components
    empty = components.empty()
    if components.minimum_samples == 0:
        return jnp.any(empty)
    samples = components.effective_samples()
    covariance = components.covariances(mode=True, reg_covar=state.reg_covar)
    regularised = state.reg_covar > 0
    few = (samples < components.minimum_samples) & ~regularised
    handful = samples < HANDFUL * components.minimum_samples
    behind = jnp.where(state.prior.weights.present(), samples, 0)
    thin = _thin(behind, covariance, handful)
    unbounded = (few | thin) & state.prior.components.improper()
    return jnp.any(empty | unbounded | _unresolved(components.mean, covariance))


def _thin(samples: Array, covariance: Float[Array, "K D D"], handful: Array) -> Array:
    eps = jnp.finfo(covariance.dtype).eps
    pooled = linalg.einsum("k,kij->ij", samples / jnp.sum(samples), covariance)
    ratio = jnp.where(handful, THIN, max(VANISHING, 10 * float(eps)))
    return _indefinite(covariance - ratio[:, None, None] * pooled)


def _unresolved(mean: Float[Array, "K D"], covariance: Float[Array, "K D D"]) -> Array:
    """Whether a covariance is singular, or a variance 0, to the precision of the dtype."""
    eps = jnp.finfo(mean.dtype).eps
    sd = jnp.sqrt(linalg.diagonal(covariance))
    correlation = covariance / (sd[:, :, None] * sd[:, None, :])
    singular = _indefinite(correlation - 64 * eps * jnp.eye(mean.shape[1], dtype=sd.dtype))
    return singular | jnp.any(sd <= 4 * eps * jnp.abs(mean), axis=-1)


def _indefinite(matrix: Float[Array, "K D D"]) -> Bool[Array, " K"]:
    # cheaper than eigenvalues: lambda_min(a) > c exactly where a - c I has a Cholesky factor
    return ~jnp.all(jnp.isfinite(linalg.diagonal(linalg.cholesky(matrix))), axis=-1)
