"""Sufficient statistics of the data under soft assignments: a commutative monoid."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxgmm._estep.structures import structure
from jaxgmm._numerics.linalg import safe_divide
from jaxgmm._numerics.pytree import pytree, replace, static


@pytree
class Stats:
    """What one pass over the data leaves behind; everything an update or a bound needs.

    Attributes:
        count: expected number of samples of each component, ``(K,)``.
        mean: their mean, ``(K, D)``; of no meaning where the count is 0.
        scatter: sum of outer products about that mean, ``(K, D, D)`` for a full structure,
            pooled over the components ``(D, D)`` for a tied one.
        entropy: of the responsibilities, ``-sum_nk r log r``, in nats.
        log_evidence: ``sum_n logsumexp_k logit[n, k]`` at the potentials that were used, in nats.
        structure: name of the covariance structure (static).
    """

    count: Float[Array, "*R K"]
    mean: Float[Array, "*R K D"]
    scatter: Float[Array, "..."]
    entropy: Float[Array, "*R"]
    log_evidence: Float[Array, "*R"]
    structure: str = static()


def empty_stats(
    n_components: int, n_features: int, structure_name: str = "full", dtype: Any = None
) -> Stats:
    """The statistics of no data: the identity of `merge`.

    Example:
        >>> import jaxgmm
        >>> print(jaxgmm.empty_stats(2, 1).count)
        [0. 0.]
    """
    count = jnp.zeros((n_components,), dtype)
    mean = jnp.zeros((n_components, n_features), dtype)
    scatter = structure(structure_name).outer(count, mean)
    zero = jnp.zeros((), dtype)
    return Stats(count, mean, scatter, zero, zero, structure_name)


def merge(a: Stats, b: Stats) -> Stats:
    """The statistics of two data sets together (Chan, Golub & LeVeque 1983, eq. 2.1).

    Associative and commutative up to rounding, with `empty_stats` as identity, so blocks,
    minibatches, devices and hosts all combine by it.

    Example:
        >>> import jax, jax.numpy as jnp, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (6, 2))
        >>> r = jnp.full((6, 3), 1 / 3)
        >>> whole = jaxgmm.responsibility_stats(x, r)
        >>> parts = jaxgmm.merge(
        ...     jaxgmm.responsibility_stats(x[:2], r[:2]),
        ...     jaxgmm.responsibility_stats(x[2:], r[2:]),
        ... )
        >>> bool(jnp.allclose(whole.scatter, parts.scatter, atol=1e-5))
        True
    """
    count = a.count + b.count
    delta = b.mean - a.mean
    share = safe_divide(b.count, count)
    between = structure(a.structure).outer(a.count * share, delta)
    return Stats(
        count=count,
        mean=a.mean + share[..., None] * delta,
        scatter=a.scatter + b.scatter + between,
        entropy=a.entropy + b.entropy,
        log_evidence=a.log_evidence + b.log_evidence,
        structure=a.structure,
    )


def reorder(stats: Stats, order: Array) -> Stats:
    """The statistics of renamed components: the new k is the old ``order[k]``."""
    shared = stats.structure == "tied"
    scatter = stats.scatter if shared else stats.scatter[order]
    return replace(stats, count=stats.count[order], mean=stats.mean[order], scatter=scatter)


def scale_stats(stats: Stats, factor: Array) -> Stats:
    """The statistics of every sample counted ``factor`` times: a minibatch seen as the whole.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> stats = jaxgmm.label_stats(jnp.array([[0.0], [1.0], [3.0]]), jnp.array([0, 0, 1]), 2)
        >>> print(jaxgmm.scale_stats(stats, jnp.asarray(10.0)).count)
        [20. 10.]
    """
    return replace(
        stats,
        count=factor * stats.count,
        scatter=factor * stats.scatter,
        entropy=factor * stats.entropy,
        log_evidence=factor * stats.log_evidence,
    )
