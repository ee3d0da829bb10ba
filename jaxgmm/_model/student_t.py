"""Robust components: multivariate Student-t distributions in the place of normal ones."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from jaxgmm._model.checks import check_prior
from jaxgmm._model.prior import Prior
from jaxgmm._model.tails import Tails
from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.calls import described, usage
from jaxgmm._numerics.programs import check_untraced
from jaxgmm._numerics.pytree import replace

_CALL = "jaxgmm.with_student_t(prior)"
# Where fitted degrees of freedom start.
_START = 10.0


@usage(_CALL)
def with_student_t(
    prior: Prior, degrees: ArrayLike | Sequence[Any] | None = None, *, shared: bool = False
) -> Prior:
    """The prior with multivariate Student-t components in the place of normal ones.

    A Student-t component has heavy tails, in which outliers neither move its mean nor widen its
    scale much: samples far away have a small weight in both (Peel & McLachlan 2000). It may have
    any family's covariances, which are then its scales, any weights, and known parameters. With
    many degrees of freedom it is a normal component.

    EM and `cavi` treat the precision scale u of each sample as one more unobserved variable. The
    likelihood and the bound have it integrated out: a posterior of the means and precisions keeps
    u dependent on the component (Archambeau & Verleysen 2007), a higher bound than the one of
    Svensen & Bishop (2005), where the two are independent. Degrees of freedom have no prior; the
    fitted ones maximise the likelihood or the bound, in closed form but for one root.

    EM takes hundreds of iterations to find the degrees of freedom of components that are nearly
    normal, on which little depends; `squarem` takes tens.

    `mixture`, whose components are normal, does not describe such a fit: `student_t_mixture` does.
    After CAVI and SVI the predictive density has no closed form, so that `log_prob`, `sample` and
    the criteria use the posterior means of the parameters. Values may be missing. Rows with noise,
    a `truncation`, `annealed` and the NumPyro bridge refuse Student-t components.

    Args:
        prior: the model, not traced.
        degrees: degrees of freedom that are known, one number or ``(K,)``, positive. By default
            they are fitted, and stay between 0.5 and 200.
        shared: whether the fitted ones are the same for all components.

    Returns:
        A prior of the same family, whose ``tails`` have the degrees of freedom. Fitted ones count
        in ``n_parameters``, and so in BIC.

    Raises:
        ValueError: for a prior that is none, or has Student-t components already; degrees of
            freedom of another shape, or not positive and finite; shared ones that are known; and
            while tracing.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.t(jax.random.key(0), 3.0, (500, 2))
        >>> prior = jaxgmm.with_student_t(jaxgmm.flat_prior(1, 2))
        >>> result = jaxgmm.fit(jax.random.key(1), x, jaxgmm.em(prior))
        >>> bool(2 < jaxgmm.student_t_mixture(result).degrees[0] < 6)
        True
    """
    check_untraced("with_student_t", "make the prior outside of it", prior, degrees)
    prior = check_prior(prior, "with_student_t")
    if prior.tails is not None:
        raise ValueError(
            "the prior has Student-t components already, with the degrees of freedom prior.tails; "
            f"call {_CALL} with a prior of normal components."
        )
    k = prior.n_components
    if degrees is None:
        return replace(prior, tails=Tails(as_array(np.full(k, _START), prior.dtype), True, shared))
    values = np.asarray(degrees)
    if values.dtype.kind not in "iuf" or values.shape not in ((), (k,)):
        came = (
            f"their shape is {values.shape}" if values.dtype.kind in "iuf" else described(degrees)
        )
        raise ValueError(
            f"degrees must be one number, or one for each of the {k} components, but {came}."
        )
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError(f"degrees of freedom must be positive and finite, but they are {values}.")
    if shared:
        raise ValueError(
            "shared says how degrees of freedom are fitted, but these are given; leave one of the "
            "two out."
        )
    known = as_array(np.broadcast_to(values, (k,)), prior.dtype)
    return replace(prior, tails=Tails(known, fitted=False))
