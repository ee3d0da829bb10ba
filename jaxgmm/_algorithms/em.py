"""Expectation maximisation: the mode view, the conjugate update."""

from jax import Array
from jaxtyping import Float

from jaxgmm._algorithms.base import Algorithm
from jaxgmm._algorithms.truncated import Truncated, check_truncation
from jaxgmm._model.checks import check_has_mode, check_prior
from jaxgmm._model.prior import Prior
from jaxgmm._model.views import Mode
from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.calls import usage
from jaxgmm._numerics.checks import check_non_negative
from jaxgmm._numerics.pytree import pytree, static


@pytree
class EM(Algorithm):
    """See `em`."""

    prior: Prior
    view: Mode

    name = "EM"
    ascends = True  # type: ignore[assignment]

    @property
    def reg_covar(self) -> Float[Array, ""]:
        """What is added to each covariance's diagonal."""
        return self.view.reg_covar

    @property
    def monotone(self) -> Array:
        # adding to the covariances is no part of the maximisation
        return self.reg_covar == 0


@pytree
class TruncatedEM(Truncated, EM):
    """See `em`, with a ``truncation``."""

    truncation: int = static(default=1)

    name = "truncated EM"


@usage("jaxgmm.em(jaxgmm.default_prior(x, n_components=3))")
def em(prior: Prior, reg_covar: float = 0.0, *, truncation: int | None = None) -> EM:
    """EM for the maximum-likelihood estimate under `flat_prior`, MAP under any other prior.

    The E-step is Bishop 2006, eq. 9.23; the M-step is the mode of the conjugate posterior over
    weights, means and covariances, ``Sigma = scale / (nu + D + 2)`` (Fraley & Raftery 2007), which
    under the flat prior is eq. 9.24 to 9.26. The objective is the bound ``log-likelihood +
    log prior`` at the returned estimate (eq. 9.71), and never decreases.

    Args:
        prior: the model.
        reg_covar: added to each covariance's diagonal, in squared units of the data, as
            scikit-learn does; the objective may then decrease.
        truncation: for very large K, the number of components that each row keeps (static): the
            responsibilities of its best ones, found by a local search, are not 0 (Forster & Luecke
            2018). The objective is the exact bound of these responsibilities, at most the one
            without truncation, and never decreases. A pass then costs hardly more for more
            components. See docs/large_k.md.

    Raises:
        ValueError: for a prior whose leaves do not belong together, a matrix that is no
            covariance, a concentration below 1 (the mode does not exist), negative ``reg_covar``,
            a truncation that is not from 1 to K.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> algorithm = jaxgmm.em(jaxgmm.flat_prior(2, 2))
        >>> state = algorithm.init(jax.random.key(1), x)
        >>> state = algorithm.step(state, x)
        >>> int(state.n_iter)
        1
    """
    prior = check_prior(prior, "em")
    check_non_negative("reg_covar", reg_covar)
    check_has_mode(prior, "EM")
    view = Mode(as_array(reg_covar, prior.dtype))
    if truncation is None:
        return EM(prior, view)
    return TruncatedEM(prior, view, check_truncation(truncation, prior))
