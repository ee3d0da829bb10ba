"""The E-step's passes over the data: all lanes at once, block by block.

Two passes compute the same sums. The *feature* pass makes every logit linear in features of the
sample, so that a block is two matrix products for all lanes and components together; it loses
``(spread / sd)^2`` units of relative precision. The *whitened* pass works with residuals from each
mean and loses only ``spread / sd``, at a few times the cost.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_batching import custom_vmap
from jax.flatten_util import ravel_pytree

from jaxgmm._estep.potentials import Potentials
from jaxgmm._estep.structures import structure
from jaxgmm._numerics import linalg
from jaxgmm._numerics.blocks import choose_block_size, choose_feature_block, scan_blocks
from jaxgmm._numerics.pytree import replace, take

Path = Literal["auto", "feature", "whitened"]
PATHS: tuple[Path, ...] = ("auto", "feature", "whitened")

# The feature pass is taken where (spread / sd)^2 * eps, its relative rounding error, stays below
# this. Measured at D = 8 in float32, the mean log-density is then within 4e-4 nat.
FEATURE_PATH_ERROR = 1e-4

# Above this many logits a sample, products with the logits' axis last run faster than with the
# samples' axis last (CPU, XLA); below it they run slower.
_WIDE_LOGITS = 256


class Sums(NamedTuple):
    """What a pass returns for each lane: `Stats` without the entropy."""

    count: Array
    mean: Array
    scatter: Array
    log_evidence: Array


def add_compensated(total: Array, error: Array, term: Array) -> tuple[Array, Array]:
    """Add ``term``, keeping what rounding loses (Neumaier 1974)."""
    new = total + term
    big = jnp.abs(total) >= jnp.abs(term)
    lost = jnp.where(big, (total - new) + term, (term - new) + total)
    return new, error + lost


def softmax(values: Array, axis: int) -> tuple[Array, Array, Array]:
    """Unnormalised exponentials, their sum and the log-sum-exp along ``axis``."""
    top = jnp.max(values, axis=axis, keepdims=True)
    exponentials = jnp.exp(values - top)
    total = jnp.sum(exponentials, axis=axis, keepdims=True)
    return exponentials, total, jnp.squeeze(top + jnp.log(total), axis)


def finite_const(potentials: Potentials) -> Array:
    """The constants, with -inf (a weight of exactly 0) made a very negative number."""
    lowest = jnp.finfo(potentials.const.dtype).min / 8
    return jnp.maximum(potentials.const, lowest)


def relative_spread(potentials: Potentials, centre: Array) -> Array:
    """``max_k ||(mean_k - centre) factor_k||^2``: the squared spread in standard deviations."""
    kind = structure(potentials.structure)
    return jnp.max(jnp.sum(kind.project(potentials.mean - centre, potentials.factor) ** 2, -1))


def feature_path_is_safe(potentials: Potentials, centre: Array) -> Array:
    """Whether the feature pass keeps its accuracy for these potentials, with that centre."""
    eps = jnp.finfo(potentials.mean.dtype).eps
    return relative_spread(potentials, centre) * eps <= FEATURE_PATH_ERROR


def over_devices(axis: str | None, sums: Any) -> Any:
    """Sums over all the rows, from those of the rows that each device holds.

    As one array: of several reductions a CPU's devices may each wait in another one, for ever.
    """
    if axis is None:
        return sums
    flat, restore = ravel_pytree(sums)
    return restore(lax.psum(flat, axis))


def feature_pass(
    x: Array,
    weight: Array | None,
    centre: Array,
    potentials: Potentials,
    block_size: int | None,
    axis: str | None = None,
) -> Sums:
    """All lanes by matrix products: every leaf of the potentials leads with R."""
    kind = structure(potentials.structure)
    mean = potentials.mean - centre
    weights = jax.vmap(kind.coefficients)(finite_const(potentials), mean, potentials.factor)
    lanes, components, width = weights.shape
    wide = lanes * components >= _WIDE_LOGITS
    layout = "wide" if wide else "one lane" if lanes == 1 else "lanes"
    size = block_size or choose_feature_block(
        x.shape[0], width, lanes * components, layout, x.dtype
    )
    if wide:
        # (F, K R): the lanes are the fastest axis, and reductions run over the middle one
        matrix = weights.transpose(2, 1, 0).reshape(width, components * lanes)
    else:
        matrix = weights.transpose(1, 0, 2).reshape(components * lanes, width)

    def body(carry: Any, rows: Array, w: Array) -> Any:
        raw, total, log_evidence, error = carry
        centred = (rows - centre).T
        features = kind.features(centred)
        if wide:
            values = linalg.matmul(features.T, matrix).reshape(-1, components, lanes)
            exponentials, normaliser, lse = softmax(values, 1)
            r = exponentials * (w.T[:, None, :] / normaliser)
            raw = raw + linalg.matmul(features, r.reshape(-1, components * lanes))
            term = jnp.sum(lse * w.T, axis=0)
        else:
            values = linalg.matmul(matrix, features).reshape(components, lanes, -1)
            exponentials, normaliser, lse = softmax(values, 0)
            r = exponentials * (w / normaliser)
            raw = raw + linalg.matmul(r.reshape(components * lanes, -1), features.T)
            term = jnp.sum(lse * w, axis=-1)
        total = total + jax.vmap(kind.total, (None, 0))(centred, w)
        return raw, total, *add_compensated(log_evidence, error, term)

    zeros = jnp.zeros((lanes,), x.dtype)
    total = jax.vmap(kind.total, (None, 0))(
        jnp.zeros((x.shape[1], 1), x.dtype),
        jnp.zeros((1 if weight is None else weight.shape[0], 1), x.dtype),
    )
    carry = (jnp.zeros_like(matrix), total, zeros, zeros)
    raw, total, log_evidence, error = scan_blocks(body, carry, x, weight, size)
    raw, total, log_evidence = over_devices(axis, (raw, total, log_evidence + error))
    if wide:
        raw = raw.reshape(width, components, lanes).transpose(2, 1, 0)
    else:
        raw = raw.reshape(components, lanes, width).transpose(1, 0, 2)
    total = jnp.broadcast_to(total, (lanes, *total.shape[1:]))
    count, mean, scatter = jax.vmap(kind.moments)(raw, total)
    shared = jax.vmap(kind.shared_log_density)(potentials.factor, total)
    return Sums(count, mean + centre, scatter, log_evidence + shared)


def whitened_pass(
    x: Array,
    weight: Array | None,
    potentials: Potentials,
    block_size: int | None,
    axis: str | None = None,
) -> Sums:
    """One lane by residuals from its means; differentiable in reverse mode, block by block."""
    kind = structure(potentials.structure)
    components, dimension = potentials.mean.shape
    size = block_size or choose_block_size(x.shape[0], 3 * components * dimension, x.dtype)
    const = finite_const(potentials)[:, None]

    @jax.checkpoint
    def body(carry: Any, rows: Array, w: Array) -> Any:
        count, first, scatter, log_evidence, error = carry
        residual = rows.T[None] - potentials.mean[:, :, None]
        whitened = kind.whiten(residual, potentials.factor)
        values = const - 0.5 * jnp.sum(whitened**2, axis=1)
        exponentials, normaliser, lse = softmax(values, 0)
        r = exponentials * (w / normaliser)
        return (
            count + jnp.sum(r, axis=-1),
            first + linalg.einsum("kdb,kb->kd", residual, r),
            scatter + kind.scatter(residual, r),
            *add_compensated(log_evidence, error, jnp.sum(lse * w[0])),
        )

    zero = jnp.zeros((), x.dtype)
    count = jnp.zeros((components,), x.dtype)
    first = jnp.zeros_like(potentials.mean)
    carry = (count, first, kind.outer(count, first), zero, zero)
    *sums, log_evidence, error = scan_blocks(body, carry, x, weight, size)
    sums = over_devices(axis, (*sums, log_evidence + error))
    count, first, scatter, log_evidence = sums
    shift = linalg.safe_divide(first, count[:, None])
    scatter = scatter - kind.outer(count, shift)
    return Sums(count, potentials.mean + shift, scatter, log_evidence)


def _weight_of(weight: Array | None, lane: Array) -> Array | None:
    if weight is None or weight.shape[0] == 1:
        return weight
    return lax.dynamic_slice_in_dim(weight, lane, 1)


def automatic_pass(
    x: Array,
    weight: Array | None,
    centre: Array,
    active: Array,
    potentials: Potentials,
    block_size: int | None,
    axis: str | None,
) -> Sums:
    """The feature pass for all lanes, then the whitened one for each lane that needs it.

    Each lane's result depends on that lane alone: a lane that needs the careful pass changes not
    one bit of another. Lanes that are not ``active`` (R,) never need it.
    """
    lanes = potentials.mean.shape[0]
    safe = jax.vmap(feature_path_is_safe, (0, None))(potentials, centre)
    careful = active & ~safe
    n_careful = jnp.sum(careful)
    order = jnp.argsort(~careful, stable=True)

    def fast() -> Sums:
        return feature_pass(x, weight, centre, potentials, block_size, axis)

    def redo(i: Array, sums: Sums) -> Sums:
        lane = order[i]
        mine = _weight_of(weight, lane)
        one = whitened_pass(x, mine, take(potentials, lane), block_size, axis)
        return jax.tree.map(lambda all_lanes, new: all_lanes.at[lane].set(new), sums, one)

    shapes = jax.eval_shape(fast)
    blank = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    sums = lax.cond(n_careful == lanes, lambda: blank, fast)
    # the branch keeps XLA from moving a single lane's whitened pass out of a loop of no turns
    return lax.cond(n_careful > 0, lambda: lax.fori_loop(0, n_careful, redo, sums), lambda: sums)


@functools.cache
def lane_pass(path: Path, block_size: int | None, axis: str | None) -> Callable[..., Sums]:
    """The pass ``(x, weight, centre, active, potentials) -> Sums`` over explicit lanes.

    With an ``axis`` of a mesh, ``x`` and ``weight`` are the rows that this device holds, and the
    sums those of all devices.

    Under `jax.vmap` over potentials the new axis is folded into the lanes, so that nested and
    batched fits still run as one matrix product over a shared ``x``.
    """

    def run(
        x: Array, weight: Array | None, centre: Array, active: Array, potentials: Potentials
    ) -> Sums:
        if path == "feature":
            return feature_pass(x, weight, centre, potentials, block_size, axis)
        if path == "whitened":
            shared = weight is None or weight.shape[0] == 1
            return jax.vmap(
                lambda w, p: whitened_pass(x, weight if shared else w[None], p, block_size, axis),
                (None if shared else 0, 0),
            )(weight, potentials)
        return automatic_pass(x, weight, centre, active, potentials, block_size, axis)

    folded = custom_vmap(run)

    @folded.def_vmap
    def fold(axis_size: int, batched: Any, *args: Any) -> tuple[Sums, Any]:
        x_batched, weight_batched, centre_batched, *_ = batched
        if x_batched or centre_batched:
            in_axes = jax.tree.map(lambda b: 0 if b else None, tuple(batched))
            # a folded pass inside: R lanes of each data set are still one product
            out = jax.vmap(run, in_axes)(*args)
        else:
            x, weight, centre, active, potentials = args
            lanes = active.shape[-1]

            def merge_axes(a: Array, is_batched: bool) -> Array:
                if not is_batched:
                    a = jnp.broadcast_to(a, (axis_size, *a.shape))
                return a.reshape(axis_size * a.shape[1], *a.shape[2:])

            if weight is not None and (weight_batched or weight.shape[0] > 1):
                width = (lanes, x.shape[0])
                full = (axis_size, *width) if weight_batched else width
                weight = merge_axes(jnp.broadcast_to(weight, full), weight_batched)
            active, potentials = jax.tree.map(
                merge_axes, (active, potentials), (batched[3], batched[4])
            )
            out = folded(x, weight, centre, active, potentials)
            out = jax.tree.map(lambda a: a.reshape(axis_size, lanes, *a.shape[1:]), out)
        return out, jax.tree.map(lambda _: True, out)

    return folded


def single(potentials: Potentials) -> Potentials:
    """One lane's potentials as a batch of one."""
    return replace(
        potentials,
        const=potentials.const[None],
        mean=potentials.mean[None],
        factor=potentials.factor[None],
    )
