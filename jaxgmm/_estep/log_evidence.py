"""The log-evidence of potentials, with a gradient that is nearly free."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from jaxgmm._estep.data import Data, Rows, as_rows, prepare
from jaxgmm._estep.estep import pass_sums
from jaxgmm._estep.passes.common import Sums
from jaxgmm._estep.potentials import Potentials, expected_log_joint, logits
from jaxgmm._estep.stats import Stats
from jaxgmm._numerics.blocks import map_blocks
from jaxgmm._numerics.devices import varying_as


def row_log_evidence(
    x: Float[Array, "N D"], potentials: Potentials, *, block_size: int | None = None
) -> Float[Array, " N"]:
    """``logsumexp_k logit[n, k]`` of each sample, by residuals: ``(N,)``."""

    def rows(block: Array) -> Array:
        return jax.nn.logsumexp(logits(block, potentials), axis=-1)

    return map_blocks(rows, x, 3 * potentials.mean.size, block_size)


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
    args = (data.x, data.weight, lax.stop_gradient(data.centre), potentials)
    return _log_evidence(data.axis, *varying_as(args, args))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _log_evidence(
    axis: str | None, x: Array, weight: Array | None, centre: Array, potentials: Potentials
) -> Array:
    sums: Sums = pass_sums("auto", None, axis, x, weight, centre, jnp.asarray(True), potentials)
    return sums.log_evidence


def _log_evidence_jvp(
    axis: str | None, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Array, Array]:
    x, weight, centre, potentials = primals
    sums: Sums = pass_sums("auto", None, axis, x, weight, centre, jnp.asarray(True), potentials)
    gradient = potentials_gradient(sums, potentials)
    pairs = zip(_leaves(gradient), _leaves(tangents[3]), strict=True)
    terms = [jnp.sum(a * b) for a, b in pairs if not _is_zero(b)]

    def weighted(x: Array, weight: Array | None) -> Array:
        rows = row_log_evidence(x, potentials)
        return jnp.sum(rows if weight is None else weight * rows)

    if not all(_is_zero(a) for a in _leaves(tangents[:2])):
        # each device's rows add to the sum that all devices have
        of_rows = jax.tree.map(_instantiate, tangents[:2], is_leaf=_is_zero)
        of_rows = varying_as(x, of_rows)
        own = jax.jvp(weighted, (x, weight), of_rows)[1]
        terms.append(own if axis is None else lax.psum(own, axis))
    return sums.log_evidence, sum(terms, jnp.zeros_like(sums.log_evidence))


def _leaves(tangents: Any) -> list[Any]:
    return jax.tree.leaves(tangents, is_leaf=_is_zero)


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


def _instantiate(tangent: Any) -> Array:
    return jnp.zeros(tangent.shape, tangent.dtype) if _is_zero(tangent) else tangent


_log_evidence.defjvp(_log_evidence_jvp, symbolic_zeros=True)


def potentials_gradient(sums: Sums, potentials: Potentials) -> Potentials:
    """Gradient of ``<stats, potentials>`` in the potentials, the stats held fixed.

    By the envelope theorem it is the gradient of the log-evidence, too.
    """
    stats = Stats(
        sums.count,
        sums.mean,
        sums.scatter,
        jnp.zeros_like(sums.log_evidence),
        sums.log_evidence,
        potentials.structure,
    )
    return jax.grad(expected_log_joint, argnums=1)(stats, potentials)
