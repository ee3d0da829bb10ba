"""Sufficient statistics of the data under soft assignments: a commutative monoid."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxgmm._estep.structures import structure
from jaxgmm._numerics.arrays import safe_divide
from jaxgmm._numerics.pytree import pytree, replace, static


@pytree
class Stats:
    """What one pass keeps of the data: all that an update or a bound needs.

    Attributes:
        count: expected number of samples of each component, ``(K,)``.
        mean: their mean, ``(K, D)``; it means nothing where the count is 0.
        scatter: sum of outer products about that mean, ``(K, D, D)`` for the full structure; also
            summed over the components, ``(D, D)``, for tied; sum of squares about that mean,
            ``(K, D)``, for diag; also summed over the features, ``(K,)``, for spherical.
        entropy: entropy of the responsibilities, ``-sum_nk r log r``, in nats.
        log_evidence: ``sum_n logsumexp_k logit[n, k]`` at the potentials that were used, in nats.
        structure: name of the covariance structure (static).
        mass: of Student-t components the sum of ``r u``, ``(K,)``, where u is the expected
            precision scale of a sample in a component; it weighs the samples in the mean and in the
            scatter. None for normal components, of which u is 1.
        excess: of Student-t components the sum of ``r (E[log u] + 1 - u)``, ``(K,)``: what their
            degrees of freedom depend on. None for normal components.
    """

    count: Float[Array, "*R K"]
    mean: Float[Array, "*R K D"]
    scatter: Float[Array, "..."]
    entropy: Float[Array, "*R"]
    log_evidence: Float[Array, "*R"]
    structure: str = static()
    mass: Float[Array, "*R K"] | None = None
    excess: Float[Array, "*R K"] | None = None

    @property
    def weight(self) -> Float[Array, "*R K"]:
        """The weight of the samples behind the mean and the scatter: the mass, or the count."""
        return self.count if self.mass is None else self.mass


def empty(
    n_components: int, n_features: int, structure_name: str = "full", dtype: Any = None
) -> Stats:
    """The statistics of no data: the identity of `merge`.

    Example:
        >>> import jaxgmm
        >>> print(jaxgmm.stats.empty(2, 1).count)
        [0. 0.]
    """
    count = jnp.zeros((n_components,), dtype)
    mean = jnp.zeros((n_components, n_features), dtype)
    scatter = structure(structure_name).outer(count, mean)
    zero = jnp.zeros((), dtype)
    return Stats(count, mean, scatter, zero, zero, structure_name)


def merge(a: Stats, b: Stats) -> Stats:
    """The statistics of two data sets together (Chan, Golub & LeVeque 1983, eq. 2.1).

    It is associative and commutative up to rounding, and `empty` is its identity. So it combines
    blocks, minibatches, devices and hosts.

    Example:
        >>> import jax, jax.numpy as jnp, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (6, 2))
        >>> r = jnp.full((6, 3), 1 / 3)
        >>> whole = jaxgmm.stats.from_responsibilities(x, r)
        >>> parts = jaxgmm.stats.merge(
        ...     jaxgmm.stats.from_responsibilities(x[:2], r[:2]),
        ...     jaxgmm.stats.from_responsibilities(x[2:], r[2:]),
        ... )
        >>> bool(jnp.allclose(whole.scatter, parts.scatter, atol=1e-5))
        True
    """
    delta = b.mean - a.mean
    share = safe_divide(b.weight, a.weight + b.weight)
    between = structure(a.structure).outer(a.weight * share, delta)
    plain = a.mass is None and b.mass is None
    return Stats(
        count=a.count + b.count,
        mean=a.mean + share[..., None] * delta,
        scatter=a.scatter + b.scatter + between,
        entropy=a.entropy + b.entropy,
        log_evidence=a.log_evidence + b.log_evidence,
        structure=a.structure,
        mass=None if plain else a.weight + b.weight,
        excess=None if plain else _excess(a) + _excess(b),
    )


def _excess(stats: Stats) -> Array:
    return jnp.zeros_like(stats.count) if stats.excess is None else stats.excess


def reorder(stats: Stats, order: Array) -> Stats:
    """The statistics of renamed components: the new k is the old ``order[k]``."""
    scatter = structure(stats.structure).reorder(stats.scatter, order)
    fields = {
        name: None if a is None else a[order]
        for name in ("count", "mean", "mass", "excess")
        for a in (getattr(stats, name),)
    }
    return replace(stats, scatter=scatter, **fields)


def scale(stats: Stats, factor: Array) -> Stats:
    """The statistics of data in which every sample counts ``factor`` times.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> x, labels = jnp.array([[0.0], [1.0], [3.0]]), jnp.array([0, 0, 1])
        >>> stats = jaxgmm.stats.from_labels(x, labels, 2)
        >>> print(jaxgmm.stats.scale(stats, jnp.asarray(10.0)).count)
        [20. 10.]
    """
    extensive = ("count", "scatter", "entropy", "log_evidence", "mass", "excess")
    fields = {name: getattr(stats, name) for name in extensive}
    return replace(stats, **{n: None if a is None else factor * a for n, a in fields.items()})
