"""The E-step: one function for every algorithm, and its log-evidence with a cheap gradient."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from jaxgmm._estep import passes as kernel
from jaxgmm._estep.passes import Path, Sums
from jaxgmm._estep.potentials import Potentials, expected_log_joint, logits
from jaxgmm._estep.stats import Stats
from jaxgmm._numerics.blocks import map_blocks
from jaxgmm._numerics.checks import check_choice
from jaxgmm._numerics.pytree import pytree, replace, static, take


@pytree
class Data:
    """Rows as the E-step takes them.

    Attributes:
        x: samples ``(N, D)``.
        weight: of each sample, ``(N,)``, or None for ones.
        centre: point ``(D,)`` near the data from which features are measured.
        total: sum of the weights of the whole data set, of which ``x`` may be a minibatch.
        scale: number of rows of the whole data set per row here; 1 unless it is a minibatch.
        axis: of the mesh over which the rows lie, inside `shard_map`; else None (static).
    """

    x: Float[Array, "N D"]
    weight: Float[Array, " N"] | None
    centre: Float[Array, " D"]
    total: Float[Array, ""]
    scale: Float[Array, ""]
    axis: str | None = static(default=None)


def prepare(x: Float[Array, "N D"], sample_weight: Float[Array, " N"] | None = None) -> Data:
    """The data as an algorithm's iterations want them, computed once before a loop."""
    total = jnp.asarray(x.shape[0], x.dtype) if sample_weight is None else jnp.sum(sample_weight)
    return Data(x, sample_weight, jnp.mean(x, axis=0), total, jnp.ones((), x.dtype))


def _lane_sums(
    path: Path,
    block_size: int | None,
    axis: str | None,
    x: Array,
    weight: Array | None,
    centre: Array,
    active: Array,
    potentials: Potentials,
) -> Sums:
    rows = None if weight is None else weight[None]
    lanes = kernel.lane_pass(path, block_size, axis)
    return take(lanes(x, rows, centre, active[None], kernel.single(potentials)), 0)


_sums: Any = jax.custom_vjp(_lane_sums, nondiff_argnums=(0, 1, 2))


def _sums_forward(
    path: Path, block_size: int | None, axis: str | None, *args: Any
) -> tuple[Sums, Any]:
    return _lane_sums(path, block_size, axis, *args), args


def _sums_backward(
    path: Path, block_size: int | None, axis: str | None, args: Any, cotangent: Sums
) -> Any:
    # One more pass, by residuals and rematerialised block by block: no N x K memory.
    x, weight, _, _, potentials = args

    def recompute(x: Array, weight: Array | None, potentials: Potentials) -> Sums:
        rows = None if weight is None else weight[None]
        return kernel.whitened_pass(x, rows, potentials, block_size)

    dx, dweight, dpotentials = jax.vjp(recompute, x, weight, potentials)[1](cotangent)
    return dx, dweight, None, None, dpotentials


_sums.defvjp(_sums_forward, _sums_backward)


def estep(
    x: Float[Array, "N D"],
    potentials: Potentials,
    *,
    sample_weight: Float[Array, " N"] | None = None,
    path: Path = "auto",
    block_size: int | None = None,
) -> Stats:
    """Expected sufficient statistics under the responsibilities of the given potentials.

    The responsibilities are ``r[n, k] = softmax_k logit[n, k]`` (Bishop 2006, eq. 9.23 for the
    mode, 10.49 for the expectation); they are summed block by block and never stored. Use it
    alone under `jax.jit`, `jax.vmap` (over potentials: one matrix product for all of them) and
    `jax.grad` (one more pass).

    Args:
        x: samples, ``(N, D)``, finite.
        potentials: of a mixture, see `Potentials`.
        sample_weight: non-negative, ``(N,)``; a weight of 2 counts a sample twice.
        path: ``"feature"`` (fast), ``"whitened"`` (loses no precision when clusters are small
            beside their distances) or ``"auto"``, which takes the fast one only where it is safe.
        block_size: rows handled at a time; by default as many as fit in cache.

    Returns:
        `Stats`, additive over the data by `merge`.

    Raises:
        ValueError: for an unknown ``path``.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> prior = jaxgmm.default_prior(x, 3)
        >>> stats = jaxgmm.estep(x, jaxgmm.expected_potentials(prior))
        >>> print(round(float(stats.count.sum()), 3))
        100.0
    """
    check_choice("path", path, kernel.PATHS)
    return _estep(x, potentials, sample_weight, path, block_size)


@functools.partial(jax.jit, static_argnames=("path", "block_size"))
def _estep(
    x: Array,
    potentials: Potentials,
    sample_weight: Array | None,
    path: Path,
    block_size: int | None,
) -> Stats:
    return estep_on(prepare(x, sample_weight), potentials, path=path, block_size=block_size)


def estep_on(
    data: Data,
    potentials: Potentials,
    active: Array | bool = True,
    *,
    path: Path = "auto",
    block_size: int | None = None,
) -> Stats:
    """`estep` on prepared data; a lane that is not ``active`` may be computed carelessly."""
    sums: Sums = _sums(
        path,
        block_size,
        data.axis,
        data.x,
        data.weight,
        data.centre,
        jnp.asarray(active),
        potentials,
    )
    stats = Stats(
        count=sums.count,
        mean=sums.mean,
        scatter=sums.scatter,
        entropy=jnp.zeros_like(sums.log_evidence),
        log_evidence=sums.log_evidence,
        structure=potentials.structure,
    )
    # sum r logit + entropy = log-evidence, so the entropy needs no pass of its own
    return replace(stats, entropy=stats.log_evidence - expected_log_joint(stats, potentials))


def row_log_evidence(
    x: Float[Array, "N D"], potentials: Potentials, *, block_size: int | None = None
) -> Float[Array, " N"]:
    """``logsumexp_k logit[n, k]`` of each sample, by residuals: ``(N,)``."""

    def rows(block: Array) -> Array:
        return jax.nn.logsumexp(logits(block, potentials), axis=-1)

    return map_blocks(rows, x, 3 * potentials.mean.size, block_size)


@jax.jit
def log_evidence(
    x: Float[Array, "N D"],
    potentials: Potentials,
    sample_weight: Float[Array, " N"] | None = None,
) -> Float[Array, ""]:
    """``sum_n w_n logsumexp_k logit[n, k]``, in nats, with a gradient that is nearly free.

    The sum over components is inside the logarithm. The gradient with respect to the potentials
    is read off the sufficient statistics of the same pass, with no second pass and no N x K
    memory; gradients with respect to ``x`` and the weights cost one more pass, only when asked
    for.

    Args:
        x: samples, ``(N, D)``.
        potentials: of a mixture.
        sample_weight: non-negative, ``(N,)``.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (50, 2))
        >>> potentials = jaxgmm.expected_potentials(jaxgmm.default_prior(x, 2))
        >>> jax.grad(jaxgmm.log_evidence, argnums=1)(x, potentials).const.shape
        (2,)
    """
    return log_evidence_on(prepare(x, sample_weight), potentials)


def log_evidence_on(data: Data, potentials: Potentials) -> Float[Array, ""]:
    """`log_evidence` of prepared data."""
    centre = lax.stop_gradient(data.centre)
    return _log_evidence(data.axis, data.x, data.weight, centre, potentials)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _log_evidence(
    axis: str | None, x: Array, weight: Array | None, centre: Array, potentials: Potentials
) -> Array:
    sums: Sums = _sums("auto", None, axis, x, weight, centre, jnp.asarray(True), potentials)
    return sums.log_evidence


def _log_evidence_forward(axis: str | None, *args: Any) -> tuple[Array, Any]:
    x, weight, centre, potentials = jax.tree.map(lambda a: a.value, args, is_leaf=_is_primal)
    rows_needed = any(a.perturbed for a in jax.tree.leaves(args[:2], is_leaf=_is_primal))
    sums: Sums = _sums("auto", None, axis, x, weight, centre, jnp.asarray(True), potentials)
    return sums.log_evidence, (sums, potentials, x if rows_needed else None, weight)


def _is_primal(a: Any) -> bool:
    return isinstance(a, jax.custom_derivatives.CustomVJPPrimal)


def _log_evidence_backward(axis: str | None, residual: Any, g: Array) -> Any:
    sums, potentials, x, weight = residual
    dpotentials = jax.tree.map(lambda a: g * a, potentials_gradient(sums, potentials))
    if x is None:
        return None, None, None, dpotentials

    def weighted(x: Array, weight: Array | None) -> Array:
        rows = row_log_evidence(x, potentials)
        return jnp.sum(rows if weight is None else weight * rows)

    dx, dweight = jax.vjp(weighted, x, weight)[1](g)
    return dx, dweight, None, dpotentials


_log_evidence.defvjp(_log_evidence_forward, _log_evidence_backward, symbolic_zeros=True)


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
