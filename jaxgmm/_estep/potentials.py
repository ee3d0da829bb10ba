"""Potentials: what a view of the posterior tells the E-step, and nothing more."""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from jaxgmm._estep.stats import Stats
from jaxgmm._estep.structures import Structure, structure
from jaxgmm._estep.student_t import Tail
from jaxgmm._numerics import linalg
from jaxgmm._numerics.arrays import masked_product
from jaxgmm._numerics.pytree import pytree, replace, static
from jaxgmm._numerics.special import LOG_2PI, LOG_12


@pytree
class Potentials:
    """Coefficients of the logits ``const[k] - 0.5 ||(x - mean[k]) @ factor[k]||^2``.

    With a tail those of Student-t components, see `jaxgmm._estep.student_t`.

    Attributes:
        const: ``(K,)``, in nats.
        mean: ``(K, D)``, in the units of the data.
        factor: a factor F of the precision ``F F^T``, of shape ``(K, D, D)`` for the full
            structure, ``(D, D)`` for tied, ``(K, D)`` for diag and ``(K,)`` for spherical.
        structure: name of the covariance structure (static).
        box: None, or the covariance of component 0 if its density is that of a box, the same
            everywhere: its factor is then 0.
        tail: None, or what Student-t components have more.
    """

    const: Float[Array, "*R K"]
    mean: Float[Array, "*R K D"]
    factor: Float[Array, "..."]
    structure: str = static()
    box: Float[Array, "..."] | None = None
    tail: Tail | None = None


def add_log_weights(
    components: Potentials, log_weights: Float[Array, "*R K"], box: Array | None = None
) -> Potentials:
    """The potentials of a mixture from those of its components and the log weights.

    With the covariance of a ``box`` component 0 has the density of that box in place of its own.
    """
    joint = replace(components, const=components.const + log_weights)
    if box is None:
        return joint
    level = log_weights[0] + box_log_density(box, structure(joint.structure), joint.mean.shape[1])
    const, factor = joint.const.at[0].set(level), joint.factor.at[0].set(0)
    return replace(joint, const=const, factor=factor, box=box)


def with_degrees(joint: Potentials, degrees: Array | None, offset: Array | float = 0) -> Potentials:
    """The potentials of Student-t components, from those of normal ones, without their offset."""
    if degrees is None:
        return joint
    offset = jnp.broadcast_to(jnp.asarray(offset, degrees.dtype), degrees.shape)
    if joint.box is not None:
        degrees, offset = degrees.at[0].set(jnp.inf), offset.at[0].set(0)
    return replace(joint, tail=Tail(degrees, offset))


def box_log_density(covariance: Array, kind: Structure, dimension: int) -> Float[Array, ""]:
    """Log density inside of a box whose points have this covariance, of one component.

    A side of length l has the variance ``l^2 / 12``, so that the volume is ``sqrt(12^D |Sigma|)``,
    wherever the axes of the box point.
    """
    return -0.5 * dimension * LOG_12 - kind.half_log_det(covariance[None], dimension)[0]


def covariances_of(potentials: Potentials) -> Array:
    """The covariances behind the factors, in the structure's shape."""
    kind, factor = structure(potentials.structure), potentials.factor
    if potentials.box is None:
        return kind.covariance(factor)
    unit = jnp.eye(factor.shape[-1], dtype=factor.dtype) if factor.ndim == 3 else 1
    return kind.covariance(factor.at[0].set(unit)).at[0].set(potentials.box)


def expected_log_joint(stats: Stats, potentials: Potentials) -> Float[Array, ""]:
    """``sum_nk r[n, k] logit[n, k]``, from the statistics of r: ``<stats, potentials>``.

    A component without samples adds 0, whatever its potentials are. So does one of weight 0 (a
    constant of -inf) whose count is the rounding of the others': the limit of ``n log n``.

    Of Student-t components the precision scales u are unobserved, too. It is then the expected log
    joint density of samples, components and u, less what depends on no parameter.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> q = jaxgmm.default_prior(jnp.array([[0.0], [1.0], [3.0]]), 2, "spherical")
        >>> nothing = jaxgmm.stats.empty(2, 1, "spherical")
        >>> potentials = jaxgmm.views.Expectation().potentials(q)
        >>> print(jaxgmm.stats.expected_log_joint(nothing, potentials))
        0.0
    """
    kind = structure(potentials.structure)
    shift = kind.project(stats.mean - potentials.mean, potentials.factor)
    shift = jnp.where(stats.count[:, None] != 0, shift, 0)
    rounding = jnp.finfo(stats.count.dtype).eps * jnp.maximum(jnp.sum(stats.count), 1)
    unused = (potentials.const == -jnp.inf) & (stats.count <= rounding)
    linear = masked_product(jnp.where(unused, 0, stats.count), potentials.const)
    squares = jnp.sum(shift**2, axis=-1)
    if potentials.tail is not None:
        linear = linear + potentials.tail.expected(stats.count, stats.excess)
        squares = squares + potentials.tail.offset
    between = masked_product(stats.weight, squares)
    within = kind.contract(stats.scatter, potentials.factor)
    return jnp.sum(linear - 0.5 * between) - 0.5 * within


def point_log_det(point: Potentials) -> Float[Array, "*R K"]:
    """``log|factor|`` of components at one point of their parameters, from the constants.

    The factor of a draw is not triangular; and at a point, without the weights, the constant is
    ``log|factor| - D/2 log 2 pi``.
    """
    return point.const + 0.5 * point.mean.shape[-1] * LOG_2PI


def logits(x: Float[Array, "N D"], potentials: Potentials) -> Float[Array, "N K"]:
    """The logits of every sample and component, ``(N, K)``, by residuals.

    For a few samples, or a block of them: nothing in a fit stores this matrix.
    """
    whitened = whiten(x, potentials)
    if potentials.tail is not None:
        return (potentials.const[:, None] + potentials.tail.heights(whitened)).T
    return (potentials.const[:, None] - 0.5 * jnp.sum(whitened**2, axis=1)).T


def whiten(x: Float[Array, "N D"], potentials: Potentials) -> Float[Array, "K D N"]:
    """``(x - mean[k]) @ factor[k]``, finite however far a sample is: only its square overflows."""
    residual = x.T[None] - potentials.mean[:, :, None]
    # a component without finite parameters leaves the others as they are
    size = jnp.maximum(jnp.nanmax(jnp.abs(potentials.factor)), 1)
    limit = jnp.finfo(x.dtype).max / (4 * x.shape[1] ** 2 * size)
    kind = structure(potentials.structure)
    return kind.whiten(jnp.clip(residual, -limit, limit), potentials.factor)


def relative_logits(x: Float[Array, "N D"], potentials: Potentials) -> Float[Array, "N K"]:
    """`logits` up to a number for each sample, such that the best is finite at any distance."""
    if potentials.tail is not None:
        return logits(x, potentials)
    squares = jnp.sum(whiten(x, potentials) ** 2, axis=1)
    plain = (potentials.const[:, None] - 0.5 * squares).T
    # farther out a rounding error of the squares is more than 1
    far = jnp.min(squares, axis=0) * jnp.finfo(x.dtype).eps > 1

    def careful() -> Array:
        return jnp.where(far[:, None], _far_logits(x, potentials), plain)

    return lax.cond(jnp.any(far), careful, lambda: plain)


def _far_logits(x: Float[Array, "N D"], potentials: Potentials) -> Float[Array, "N K"]:
    """`relative_logits` of samples far from all means.

    A difference of squares is ``(u - v) . (u + v)``, and ``u - v`` is exact from the means and the
    factors: beside the sample itself it would be lost. All in units in which nothing overflows.
    """
    kind, largest = structure(potentials.structure), jnp.finfo(x.dtype).max
    mean, used = potentials.mean, potentials.const[:, None] > -jnp.inf
    unit = jnp.maximum(jnp.max(jnp.abs(potentials.factor)), jnp.finfo(x.dtype).tiny)
    factor = potentials.factor / unit
    residual = jnp.clip(x.T[None] - mean[:, :, None], -largest, largest)
    length = jnp.max(jnp.abs(residual), axis=(0, 1))
    length = jnp.where(length > 0, length, 1)
    squares = jnp.sum(kind.whiten(residual / length[None, None], factor) ** 2, axis=1)
    number = jnp.arange(mean.shape[0])[:, None]
    best = number == jnp.argmin(jnp.where(used, squares, jnp.inf), axis=0)[None]

    def at_best(a: Array) -> Array:
        return jnp.broadcast_to(jnp.sum(jnp.where(best[:, None], a, 0), axis=0), a.shape)

    # measured from the best mean, under the factor of each component and under the best one's
    whitened = kind.whiten(at_best(residual) / length[None, None], factor)
    own = at_best(whitened)
    between = jax.vmap(lambda m: kind.project(mean - m[None], factor))(mean)
    shift = linalg.einsum("jn,jkd->kdn", best.astype(x.dtype), between)
    # by powers of the length, over the length
    gap = -0.5 * jnp.sum((whitened - own) * (whitened + own), axis=1) * length[None]
    gap = gap + jnp.sum(shift * whitened, axis=1) - 0.5 * jnp.sum(shift**2, axis=1) / length[None]
    gap = gap - jnp.max(jnp.where(used, gap, -jnp.inf), axis=0)[None]
    scale = jnp.minimum(length * unit, largest)
    return (potentials.const[:, None] + jnp.where(used, gap, 0) * scale[None] * unit).T
