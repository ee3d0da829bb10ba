"""Label switching: names for the components that mean the same from fit to fit and draw to draw.

Any permutation of the components is the same mixture. So either put them in a canonical order
(`order_components`), or give them the names of a reference (`align`).
"""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxgmm._lane.state import Fitted, State
from jaxgmm._mixture.mixture import Mixture, Model, StudentTMixture, check_fitted, estimate
from jaxgmm._model.estimate import Estimate
from jaxgmm._model.prior import Prior, reordered
from jaxgmm._numerics.calls import usage
from jaxgmm._numerics.checks import check_choice
from jaxgmm._numerics.pytree import replace

Named = TypeVar("Named", State, Mixture, StudentTMixture)

KEYS = ("weight", "mean", "scale")


@usage('jaxgmm.order_components(result, by="mean")')
def order_components(named: Named | Fitted, by: str = "mean", feature: int = 0) -> Named:
    """The same mixture with its components in a canonical order.

    The prior of a state is reordered with its posterior, so that its bound stays the same.

    Args:
        named: a `State` of one lane, a `Result`, whose best state counts, or a `Mixture`, such as
            one draw of `sample_posterior`; use `jax.vmap` for many.
        by: ``"mean"``, of one feature, ascending; ``"weight"``, descending; ``"scale"``, by the
            determinant of the covariance, ascending.
        feature: the feature that ``by="mean"`` looks at.

    Raises:
        ValueError: for an unknown ``by``, or for a state with stick-breaking weights, in which the
            order has a meaning (order its `mixture` instead).

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> state = jaxgmm.fit(jax.random.key(1), x, jaxgmm.em(jaxgmm.default_prior(x, 2))).best
        >>> means = jaxgmm.mixture(jaxgmm.order_components(state)).means
        >>> bool(means[0, 0] <= means[1, 0])
        True
    """
    model: Any = check_fitted(named, "order_components")
    check_choice("by", by, KEYS)
    m = estimate(model)
    if by == "weight":
        key = -m.weights
    elif by == "mean":
        key = m.means[:, feature]
    else:
        key = jnp.broadcast_to(m.kind.half_log_det(m.covariance, m.means.shape[1]), m.weights.shape)
    if m.background:  # it stays component 0
        key = key.at[0].set(-jnp.inf)
    return rename(model, jnp.argsort(key, stable=True))


@usage("jaxgmm.align(result, reference)")
def align(named: Named | Fitted, reference: Model) -> Named:
    """The same mixture with its components named as those of a reference.

    The names minimise the sum of squared Mahalanobis distances between the means of equal names, in
    the metric of the reference's pooled covariance. The Hungarian algorithm finds them (Kuhn 1955;
    for the draws of a posterior see Stephens 2000). Affine maps of the data do not change them.

    Args:
        named: a `State` of one lane, or a `Mixture`; use `jax.vmap` for many.
        reference: a state or mixture with the same numbers of components and features.

    Raises:
        ValueError: as `order_components`; and for a reference with other numbers of components
            or features.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> state = jaxgmm.fit(jax.random.key(1), x, jaxgmm.cavi(jaxgmm.default_prior(x, 3))).best
        >>> draws = jaxgmm.sample_posterior(jax.random.key(2), state, 10)
        >>> jax.vmap(jaxgmm.align, (0, None))(draws, jaxgmm.mixture(state)).means.shape
        (10, 3, 2)
    """
    model: Any = check_fitted(named, "align")
    m, target = estimate(model), estimate(check_fitted(reference, "align"))
    if m.means.shape != target.means.shape:
        raise ValueError(
            f"the reference's means have shape {target.means.shape}, but those to align have "
            f"shape {m.means.shape}; they must have as many components and features."
        )
    if not m.background:
        return rename(model, assignment(m.means, target))
    clusters = target.separate().without_first()
    return rename(model, jnp.append(0, 1 + assignment(m.means[1:], clusters)))


def assignment(means: Float[Array, "K D"], target: Estimate) -> Int[Array, " K"]:
    """For every component of the target the number of the one that is assigned to it."""
    from optax.assignment import hungarian_algorithm

    k, d = means.shape
    target = target.separate()
    pooled = jnp.tensordot(target.weights, target.covariance, 1, precision="highest")
    factor, _ = target.kind.invert(pooled[None], d)
    gaps = (target.means[:, None] - means[None]).reshape(-1, 1, d)
    whitened = jax.vmap(target.kind.project, (0, None))(gaps, factor).reshape(k, k, d)
    with jax.numpy_dtype_promotion("standard"):
        rows, columns = hungarian_algorithm(jnp.sum(whitened**2, axis=-1))
    return jnp.zeros_like(columns).at[rows].set(columns)


def rename(named: Named, order: Int[Array, " K"]) -> Named:
    """Component ``order[k]`` becomes component k."""
    if isinstance(named, Mixture | StudentTMixture):
        return type(named)(*(a[order] for a in named))
    # an optimiser's coordinates have the old names: such a state is one to start from
    memory = () if hasattr(named.memory, "coordinates") else named.memory
    prior, posterior = (_renamed(a, order) for a in (named.prior, named.posterior))
    return replace(named, prior=prior, posterior=posterior, memory=memory)


def _renamed(distribution: Prior, order: Array) -> Prior:
    if distribution.weights.ordered:
        raise ValueError(
            "stick-breaking weights have an order of their own, in which the sticks are broken; "
            "order or align the state's jaxgmm.mixture instead."
        )

    weights = distribution.weights
    moved = {name: getattr(weights, name)[order] for name in weights.expected_shapes()}
    return replace(reordered(distribution, order), weights=replace(weights, **moved))
