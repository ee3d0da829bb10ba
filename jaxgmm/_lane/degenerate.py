"""The rule that refuses optima which are artefacts of an unbounded likelihood."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool

from jaxgmm._lane.state import State
from jaxgmm._model.prior import Prior
from jaxgmm._numerics.arrays import safe_divide

# What counts as a handful of samples, in units of the number that leaves a covariance singular; and
# the smallest variance of a handful, in any direction, beside the pooled one.
HANDFUL = 5
THIN = 1e-2
# The smallest standard deviation of any number of samples beside the pooled one, in units of eps.
RESOLVED = 16
# The smallest eigenvalue of correlations, in units of eps, with which a covariance that was found
# in other coordinates keeps the objective right to 1e-3 nats a sample.
HELD = 16


def is_degenerate(state: State, row_per_weight: Array | float = 1.0) -> Bool[Array, ""]:
    """Whether a point estimate has a component that is an artefact rather than a cluster.

    The likelihood of a mixture is unbounded: a component that shrinks onto a few samples, or onto
    samples that share a value, raises it without limit. Near such points there are spurious local
    maxima of finite height (McLachlan & Peel 2000, sections 3.8 and 3.10). So under a prior that
    does not bound the likelihood, a component is refused in two cases:

    - It has fewer samples than its covariance needs in order not to be singular: D + 1 samples for
      a full covariance, 2 samples for a diagonal or spherical covariance.
    - It has fewer than five times as many, and in some direction its variance is below 1e-2 of the
      pooled within-component variance. A component of more samples is a cluster, however narrow it
      is, as long as the dtype resolves it: 16 eps of the pooled standard deviation.

    The second case is Hathaway's (1985) constraint ``lambda_min(Sigma_i Sigma_j^-1) >= c`` with the
    pooled covariance for Sigma_j, so that it is invariant under affine maps of the data. Under any
    prior, a covariance that is singular to the precision of the dtype is refused. If the covariance
    is known or common to all components, a component is refused when it is empty. One whose mean is
    known never is empty, and known covariances do not count for the pooled one. The posterior of
    CAVI or SVI is never refused: its bound is finite and right.

    Args:
        state: of one lane.
        row_per_weight: samples that a weight of 1 stands for. `fit` and `run` take the effective
            number of samples, ``(sum w)^2 / sum w^2`` (Kish 1965), over the sum of the weights, so
            that the scale of the weights does not matter.

    Returns:
        A boolean scalar for one state.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> state = jaxgmm.fit(jax.random.key(1), x, jaxgmm.em(jaxgmm.flat_prior(2, 2))).best
        >>> bool(jaxgmm.is_degenerate(state))
        False
    """
    if not state.view.point:
        return jnp.asarray(False)
    components = state.posterior.components
    empty = components.empty(row_per_weight)
    minimum = components.minimum_samples
    if minimum == 0:
        return jnp.any(empty)
    samples = components.effective_samples() * row_per_weight
    m = state.view.estimate(state.posterior)
    few = (samples < minimum) & ~(state.view.reg_covar > 0)
    behind = jnp.where(state.prior.weights.present() & jnp.isfinite(samples), samples, 0)
    eps = jnp.finfo(m.means.dtype).eps
    ratio = jnp.where(samples < HANDFUL * minimum, THIN, (RESOLVED * float(eps)) ** 2)
    share = safe_divide(behind, jnp.sum(behind))
    thin = ~m.kind.exceeds(m.covariance, ratio.astype(eps.dtype), share)
    unbounded = (few | thin) & state.prior.components.improper()
    # a covariance that is singular, or a variance that is 0, to the precision of the dtype
    sd = jnp.sqrt(m.variances())
    unresolved = ~m.kind.resolved(m.covariance) | jnp.any(sd <= 4 * eps * jnp.abs(m.means), axis=-1)
    return jnp.any(empty | unbounded | unresolved)


def is_held(algorithm: Any, q: Prior) -> Bool[Array, ""]:
    """Whether the dtype holds the covariances of a posterior in the units that it came to."""
    if not q.components.precisions.learnt:
        return jnp.asarray(True)
    m = algorithm.view.estimate(q)
    absent = ~algorithm.prior.weights.present()
    return jnp.all(m.kind.resolved(m.covariance, HELD) | absent)
