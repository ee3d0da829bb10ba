"""The pass over rows in groups, in each of which the same values are missing.

Of the values that a group has, the logits are those of a normal density as well; so a plain pass
goes over its rows, and what it finds of them is made the statistics of the whole vectors, by the
regression of what is missing on what is known (Ghahramani & Jordan 1994). The work of a pattern is
that of a few rows.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxgmm._estep.passes.automatic import automatic_pass
from jaxgmm._estep.passes.common import Sums, add_compensated, finite_const
from jaxgmm._estep.potentials import Potentials, covariances_of
from jaxgmm._estep.rows import Rows
from jaxgmm._estep.stats import Stats, merge
from jaxgmm._estep.structures import structure
from jaxgmm._numerics import linalg
from jaxgmm._numerics.arrays import led
from jaxgmm._numerics.devices import varying_as
from jaxgmm._numerics.pytree import replace
from jaxgmm._numerics.special import LOG_2PI, LOG_12


class Regression(NamedTuple):
    """Of all values on those that are known, under each component of one lane.

    Attributes:
        potentials: of the known values; the factor is 0 in the others.
        gain: ``(K, D, D)``, ``(1, D, D)`` if it is common; None where features are independent.
        within: covariance of what is missing, as the gain, or variances ``(K, D)``.
        seen: which values are known, ``(D,)``.
    """

    potentials: Potentials
    gain: Array | None
    within: Array
    seen: Array


def regression(potentials: Potentials, missing: Array) -> Regression:
    """The regression for one pattern ``(D,)``, of one lane."""
    kind, (k, d) = structure(potentials.structure), potentials.mean.shape
    seen, dtype = ~missing, potentials.mean.dtype
    n_missing = jnp.sum(missing, dtype=dtype)
    covariance = covariances_of(potentials)
    unit: Array | float = LOG_2PI
    if potentials.box is not None:
        unit = jnp.full((k,), LOG_2PI, dtype).at[0].set(LOG_12)
    if kind.separate != "full":
        variances = kind.variances(covariance, k, d)
        # with a factor for each feature, whatever the structure has
        factor = jnp.broadcast_to(jnp.where(seen[None], 1 / jnp.sqrt(variances), 0), (k, d))
        lost = jnp.sum(jnp.where(missing[None], jnp.log(variances), 0), axis=1)
        const = potentials.const + 0.5 * (n_missing * unit + lost)
        known = Potentials(const, potentials.mean, _flat(factor, potentials), "diag")
        return Regression(known, None, jnp.where(missing[None], variances, 0), seen)
    both = (seen[:, None] & seen[None]).astype(dtype)
    eye = jnp.diag(missing.astype(dtype))
    total = covariance * led(both, covariance) + led(eye, covariance)
    root = linalg.cholesky(total)
    factor = linalg.inverse_factor(root) * led(both, covariance)
    gain = linalg.matmul(covariance, linalg.matmul(factor, jnp.swapaxes(factor, -1, -2)))
    within = linalg.symmetrize(covariance - linalg.matmul(gain, covariance))
    lost = kind.half_log_det(covariance, d) - linalg.log_det(root)
    const = potentials.const + 0.5 * n_missing * unit + lost
    factor = _flat(factor, potentials)
    known = Potentials(const, potentials.mean, factor, potentials.structure)
    gain, within = (a if a.ndim == 3 else a[None] for a in (gain, within))
    return Regression(known, gain, within, seen)


def _flat(factor: Array, potentials: Potentials) -> Array:
    return factor if potentials.box is None else factor.at[0].set(0)


def completed_sums(sums: Sums, found: Regression, kind: Any) -> Sums:
    """The sums of whole vectors, from those of a plain pass over their known values."""
    mean, count = found.potentials.mean, sums.count
    delta = sums.mean - mean
    if found.gain is None:
        shift = jnp.where(found.seen[None], delta, 0)
        squares = jnp.where(found.seen[None], sums.scatter, 0) + count[:, None] * found.within
        return Sums(count, mean + shift, kind.gathered(squares), sums.log_evidence)
    each = jnp.broadcast_to(found.gain, (*mean.shape, mean.shape[1]))
    shift = linalg.einsum("kij,kj->ki", each, delta)
    shared = sums.scatter.ndim == 2
    gain = found.gain[0] if shared else found.gain
    scatter = linalg.matmul(linalg.matmul(gain, sums.scatter), jnp.swapaxes(gain, -1, -2))
    behind = jnp.sum(count, keepdims=True) if found.within.shape[0] < count.shape[0] else count
    more = kind.gathered(behind[:, None, None] * found.within)
    return Sums(count, mean + shift, scatter + more, sums.log_evidence)


def grouped_pass(
    rows: Rows,
    weight: Array | None,
    centre: Array,
    active: Array,
    potentials: Potentials,
    block_size: int | None,
    axis: str | None,
) -> Sums:
    """A `Pass` over rows with groups, all of one device."""
    name, (lanes, k, d) = potentials.structure, potentials.mean.shape
    kind = structure(name)
    potentials = replace(potentials, const=finite_const(potentials))
    groups = rows.groups

    def add(carry: tuple[Stats, Array], block: Any) -> tuple[tuple[Stats, Array], None]:
        total, error = carry
        own = Rows(rows.x[block.index], labels=_at(rows.labels, block.index))
        w = block.used[None] if weight is None else weight[:, block.index] * block.used[None]
        found = jax.vmap(regression, (0, None))(potentials, block.missing)
        sums = automatic_pass(own, w, centre, active, found.potentials, block_size, None)
        one = jax.vmap(lambda s, f: completed_sums(s, f, kind))(sums, found)
        zero = jnp.zeros_like(one.log_evidence)
        new = jax.vmap(merge)(total, Stats(*one[:3], zero, zero, name))
        height, error = add_compensated(total.log_evidence, error, one.log_evidence)
        return (replace(new, log_evidence=height), error), None

    zeros = jnp.zeros((lanes,), rows.x.dtype)
    count = jnp.zeros((lanes, k), rows.x.dtype)
    mean = jnp.zeros((lanes, k, d), rows.x.dtype)
    empty = Stats(count, mean, jax.vmap(kind.outer)(count, mean), zeros, zeros, name)
    carry = varying_as((rows, weight, potentials), (empty, zeros))
    (total, error), _ = lax.scan(add, carry, groups)
    return Sums(total.count, total.mean, total.scatter, total.log_evidence + error)


def _at(labels: Array | None, index: Array) -> Array | None:
    return None if labels is None else labels[index]
