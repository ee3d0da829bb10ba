"""Coordinate-ascent variational inference: the expectation view, the conjugate update."""

from jaxgmm._algorithms.base import Algorithm
from jaxgmm._algorithms.truncated import Truncated, check_truncation
from jaxgmm._model.checks import check_prior, check_proper
from jaxgmm._model.prior import Prior
from jaxgmm._model.views import Expectation
from jaxgmm._numerics.calls import usage
from jaxgmm._numerics.pytree import pytree, static


@pytree
class CAVI(Algorithm):
    """See `cavi`."""

    prior: Prior
    view: Expectation

    name = "CAVI"
    ascends = True  # type: ignore[assignment]


@pytree
class TruncatedCAVI(Truncated, CAVI):
    """See `cavi`, with a ``truncation``."""

    truncation: int = static(default=1)

    name = "truncated CAVI"


@usage("jaxgmm.cavi(jaxgmm.default_prior(x, n_components=3))")
def cavi(prior: Prior, *, truncation: int | None = None) -> CAVI:
    """Mean-field variational inference ``q(z) q(pi, mu, Lambda)`` by coordinate ascent.

    Bishop 2006, section 10.2. An iteration computes q(z) from the expected log weights (digammas)
    and the Gaussian cross-entropy, and then updates the rest of q by conjugacy. The objective is
    the evidence lower bound at the returned posterior and the responsibilities of that iteration,
    with every constant. It never decreases, and for K = 1 it is the log evidence.

    Args:
        prior: a proper prior.
        truncation: for very large K, the number of components that each row keeps (static), as in
            `em`: q(z) is 0 for all others, and the objective is the exact bound of this q. See
            docs/large_k.md.

    Raises:
        ValueError: for a prior that is improper or whose leaves do not belong together, a
            truncation that is not from 1 to K.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> algorithm = jaxgmm.cavi(jaxgmm.default_prior(x, 3))
        >>> result = jaxgmm.fit(jax.random.key(1), x, algorithm)
        >>> result.best.posterior.components.mean.shape
        (3, 2)
    """
    prior = check_prior(prior, "cavi")
    check_proper(prior, "CAVI")
    if truncation is None:
        return CAVI(prior, Expectation())
    return TruncatedCAVI(prior, Expectation(), check_truncation(truncation, prior))
