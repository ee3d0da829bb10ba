"""A prior under which some of the parameters are known."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxgmm._estep.structures import structure
from jaxgmm._model.checks import check_prior
from jaxgmm._model.components.base import Components
from jaxgmm._model.families import KNOWN_WEIGHTS, PARTLY_KNOWN_WEIGHTS
from jaxgmm._model.prior import Prior
from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.calls import described, usage
from jaxgmm._numerics.checks import check_covariance, check_simplex
from jaxgmm._numerics.programs import check_untraced, program
from jaxgmm._numerics.pytree import replace

Values = ArrayLike | Sequence[Any]

_CALL = "jaxgmm.freeze(prior, means=means, components=[0, 1])"


@usage(_CALL)
def freeze(
    prior: Prior,
    *,
    weights: Values | None = None,
    means: Values | None = None,
    covariances: Values | None = None,
    components: int | Values | None = None,
) -> Prior:
    """The prior under which the given parameters of the given components are known.

    A known parameter is one whose prior is infinitely strong: no algorithm changes it, it adds
    nothing to the bound, and it does not count in ``n_parameters``, and so not in BIC. The rest of
    the prior stays what it was: the precisions keep their distribution, now about a known mean, and
    weights that are not known share what is left under their Dirichlet distribution. Under a flat
    prior the mode is still the maximum-likelihood estimate, of the parameters that are left.
    Updates remain in closed form: about a known mean n samples with the mean m and the scatter S
    have the scatter ``S + n (m - mu)(m - mu)^T``, and n more degrees of freedom (Murphy 2007,
    sections 4 and 5); of a known covariance only the mean is learnt (section 3).

    Component k keeps its name: starts assign it the samples nearest to its known mean, and moves
    change what is not known only. A posterior has the known values to the bit. A prior may be
    frozen again, which adds to what it knows.

    Args:
        prior: the model, not traced.
        weights: ``(n,)``, of the n given components, positive. Of all components their sum is 1, of
            some it is below 1.
        means: ``(n, D)``.
        covariances: in the shape that the covariances have: ``(n, D, D)`` full; ``(n, D)`` diag,
            the variances; ``(n,)`` spherical, the variances; ``(D, D)`` tied, which is that of all
            components.
        components: their numbers, from 0 to K - 1; by default all components.

    Returns:
        A prior of the same family. Its ``mean_precision`` is infinite where a mean is known, and
        its degrees of freedom (of gamma distributions the shape) where a covariance is known, which
        the ``scale`` (the rate) then holds itself. If some weights are known the weights are
        ``PartlyFixedWeights(weights, concentration)``, and if all are, `FixedWeights`.

    Raises:
        ValueError: for a prior that is none, nothing to freeze, numbers of components that are
            repeated or that there are not, arrays of another shape, values that are not finite,
            matrices that are no covariances, weights that are not positive or whose sum is not 1,
            or 1 and more if some are free; for some weights of broken sticks or of fixed weights;
            for a covariance of `KnownCovariance`; and while tracing.

    Example:
        >>> import jax, jax.numpy as jnp, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> background = jnp.zeros((1, 2))
        >>> prior = jaxgmm.freeze(jaxgmm.flat_prior(2, 2), means=background, components=[0])
        >>> result = jaxgmm.fit(jax.random.key(1), x, jaxgmm.em(prior))
        >>> print(jaxgmm.mixture(result).means[0], prior.n_parameters)
        [0. 0.] 9
    """
    check_untraced("freeze", "freeze the prior outside of it", prior, weights, means, covariances)
    prior = check_prior(prior, "freeze")
    chosen = _numbers(components, prior.n_components)
    if weights is None and means is None and covariances is None:
        raise ValueError(f"freeze needs weights, means or covariances to freeze; call {_CALL}.")
    if means is not None:
        prior = replace(prior, components=_with_means(prior.components, means, chosen))
    if covariances is not None:
        prior = replace(prior, components=_with_covariances(prior.components, covariances, chosen))
    if weights is not None:
        prior = replace(prior, weights=_with_weights(prior, weights, chosen))
    return prior


def _numbers(components: Any, k: int) -> np.ndarray:
    """The numbers of the components."""
    numbers = np.arange(k) if components is None else np.atleast_1d(np.asarray(components))
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or numbers.size == 0:
        raise ValueError(
            "components must be the numbers of one component or more, such as [0, 1], but they "
            f"are {described(components)}; call {_CALL}."
        )
    if not ((numbers >= 0) & (numbers < k)).all() or np.unique(numbers).size < numbers.size:
        raise ValueError(
            f"components must be different numbers from 0 to {k - 1}, but they are "
            f"{numbers.tolist()}."
        )
    return numbers


def _values(name: str, given: Any, shape: tuple[int, ...], meaning: str) -> np.ndarray:
    values = np.asarray(given)
    if values.dtype.kind not in "iuf" or values.shape != shape:
        came = f"their shape is {values.shape}" if values.dtype.kind in "iuf" else described(given)
        raise ValueError(f"{name} must have shape {shape}, {meaning}, but {came}.")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, but they have NaN or infinity.")
    return values.astype(np.float64)


def _put(field: Array, chosen: Any, values: Any) -> Array:
    out = np.array(field)
    out[chosen] = values
    return as_array(out)


def _with_means(c: Components, means: Any, chosen: np.ndarray) -> Any:
    shape = (len(chosen), c.n_features)
    values = _values("means", means, shape, "a row for each of the components")
    name = c.strength_of("mean")
    if name is None:
        raise ValueError(f"{type(c).__name__} has no strength of its means to make infinite.")
    c = _without_means(c, np.isin(np.arange(c.n_components), chosen))
    strength = _put(getattr(c, name), chosen, np.inf)
    return replace(c, mean=_put(c.mean, chosen, values), **{name: strength})


@program()
def _without_means(c: Any, chosen: Array) -> Any:
    return c.without_means(chosen)


def _with_covariances(c: Components, covariances: Any, chosen: np.ndarray) -> Any:
    kind, shared, k = structure(c.structure), c.precisions.shared, c.n_components
    if not c.precisions.learnt:
        raise ValueError(
            f"the covariance of {type(c).__name__} is known already; make the prior of the one "
            "that you know, jaxgmm.flat_prior(n_components, n_features, covariance)."
        )
    name = c.strength_of("covariance")
    if name is None:
        raise ValueError(f"{type(c).__name__} has no degrees of freedom to make infinite.")
    if shared and len(chosen) < k:
        raise ValueError(
            f"the components share their covariance, which is known of all {k} of them or of none, "
            f"but components are {chosen.tolist()}; leave components out, or freeze a prior with "
            'covariance="full".'
        )
    field = c.strengths[name]
    own = getattr(c, field)
    shape = own.shape if shared else (len(chosen), *own.shape[1:])
    meaning = "the one that all components share" if shared else "one for each of the components"
    values = _values("covariances", covariances, shape, meaning)
    if kind.separate == "full":
        check_covariance("covariances", values)
    elif not (values > 0).all():
        raise ValueError(f"covariances must be positive variances, but they are {values}.")
    where = () if shared else chosen
    strength = _put(getattr(c, name), where, np.inf)
    return replace(c, **{name: strength, field: _put(own, where, values)})


def _with_weights(prior: Prior, weights: Any, chosen: np.ndarray) -> Any:
    own, k = prior.weights, prior.n_components
    given = _values("weights", weights, (len(chosen),), "one for each of the components")
    values = np.zeros(k)
    if len(chosen) < k:
        if not hasattr(own, "concentration"):
            why = "are all known already"
            if own.ordered:
                why = "are products of broken sticks, of which none is known when some weights are"
            raise ValueError(
                f"the weights of this prior {why}: give all {k} weights, or freeze a prior with "
                'weights="dirichlet".'
            )
        values = np.array(getattr(own, "weights", values), np.float64)
    values[chosen] = given
    free = np.setdiff1d(np.flatnonzero(values == 0), chosen)
    if free.size == 0:
        check_simplex("weights", values)
        return KNOWN_WEIGHTS(as_array(values, prior.dtype))
    if not ((given > 0).all() and values.sum() < 1):
        raise ValueError(
            "weights must be positive, and the sum of those that are known below 1, which leaves "
            f"something for the {free.size} others, but they are {given} and the sum is "
            f"{values.sum():g}."
        )
    return PARTLY_KNOWN_WEIGHTS.of(own, values)
