"""The log-evidence of potentials, with a gradient that is nearly free."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

from jaxgmm._estep.data import Data, prepare
from jaxgmm._estep.estep import pass_sums
from jaxgmm._estep.passes.common import Sums
from jaxgmm._estep.potentials import Potentials, expected_log_joint
from jaxgmm._estep.row_logits import row_logits, row_width
from jaxgmm._estep.rows import Rows, as_rows
from jaxgmm._estep.stats import Stats
from jaxgmm._numerics.blocks import map_blocks
from jaxgmm._numerics.devices import varying_as


def row_log_evidence(
    rows: Rows, potentials: Potentials, *, block_size: int | None = None
) -> Float[Array, " N"]:
    """``logsumexp_k logit[n, k]`` of each sample, by residuals: ``(N,)``."""

    def of_block(block: Rows) -> Array:
        return jax.nn.logsumexp(row_logits(block, potentials), axis=-1)

    return map_blocks(of_block, rows.by_themselves, row_width(rows, potentials), block_size)


@jax.jit
def log_evidence(
    x: Float[Array, "N D"] | Rows,
    potentials: Potentials,
    sample_weight: Float[Array, " N"] | None = None,
) -> Float[Array, ""]:
    """``sum_n w_n logsumexp_k logit[n, k]``, in nats, with a gradient that costs almost nothing.

    For each sample it is the logarithm of a sum over the components. The gradient with respect to
    the potentials comes from the statistics of the same pass, with no second pass and no N x K
    array. Gradients with respect to ``x`` and the weights cost one more pass, if they are needed;
    so do second derivatives, as `jax.hessian` takes them.

    Args:
        x: samples, ``(N, D)``.
        potentials: of a mixture.
        sample_weight: non-negative, ``(N,)``.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (50, 2))
        >>> potentials = jaxgmm.views.Expectation().potentials(jaxgmm.default_prior(x, 2))
        >>> jax.grad(jaxgmm.stats.log_evidence, argnums=1)(x, potentials).const.shape
        (2,)
    """
    return log_evidence_on(prepare(as_rows(x, sample_weight)), potentials)


def log_evidence_on(data: Data, potentials: Potentials) -> Float[Array, ""]:
    """`log_evidence` of prepared data."""
    args = (data.values, data.weight, lax.stop_gradient(data.centre), potentials)
    return _log_evidence(data.axis, *varying_as(args, args))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _log_evidence(
    axis: str | None, rows: Rows, weight: Array | None, centre: Array, potentials: Potentials
) -> Array:
    sums: Sums = pass_sums("auto", None, axis, rows, weight, centre, jnp.asarray(True), potentials)
    return sums.log_evidence


def _log_evidence_jvp(
    axis: str | None, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Array, Array]:
    rows, weight, centre, potentials = primals
    sums: Sums = pass_sums("auto", None, axis, rows, weight, centre, jnp.asarray(True), potentials)
    gradient = potentials_gradient(sums, potentials)
    pairs = zip(_leaves(gradient), _leaves(tangents[3]), strict=True)
    terms = [jnp.sum(a * b) for a, b in pairs if not _is_zero(b)]

    def weighted(rows: Rows, weight: Array | None) -> Array:
        values = row_log_evidence(rows, potentials)
        return jnp.sum(values if weight is None else weight * values)

    if not all(_is_zero(a) for a in _leaves(tangents[:2])):
        # each device's rows add to the sum that all devices have
        of_rows = jax.tree.map(_instantiate, tangents[:2], is_leaf=_is_zero)
        of_rows = varying_as(rows, of_rows)
        own = jax.jvp(weighted, (rows, weight), of_rows)[1]
        terms.append(own if axis is None else lax.psum(own, axis))
    return sums.log_evidence, sum(terms, jnp.zeros_like(sums.log_evidence))


def _leaves(tangents: Any) -> list[Any]:
    return jax.tree.leaves(tangents, is_leaf=_is_zero)


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


def _instantiate(tangent: Any) -> Any:
    if not _is_zero(tangent):
        return tangent
    if tangent.dtype == jax.dtypes.float0:  # of a mask or a label
        return np.zeros(tangent.shape, tangent.dtype)
    return jnp.zeros(tangent.shape, tangent.dtype)


_log_evidence.defjvp(_log_evidence_jvp, symbolic_zeros=True)


def potentials_gradient(sums: Sums, potentials: Potentials) -> Potentials:
    """Gradient of ``<stats, potentials>`` in the potentials, the stats held fixed.

    By the envelope theorem it is the gradient of the log-evidence, too.
    """
    zero = jnp.zeros_like(sums.log_evidence)
    stats = Stats(
        *(sums.count, sums.mean, sums.scatter, zero, sums.log_evidence, potentials.structure),
        *(sums.mass, sums.excess),
    )
    return jax.grad(expected_log_joint, argnums=1)(stats, potentials)
