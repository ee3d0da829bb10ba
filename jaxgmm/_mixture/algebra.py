"""The algebra of Gaussian mixtures: marginals, conditionals, affine images, products, merging.

Pure functions of a `Mixture`; take that of a fit by ``jaxgmm.mixture(state)``. All of them work
under `jax.jit`, `jax.vmap` and `jax.grad`.
"""

import functools
import operator
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxgmm._estep.potentials import logits
from jaxgmm._mixture.merging import compact, merged, pairs_by_cost, put
from jaxgmm._mixture.mixture import Mixture, check_mixture, potentials_at
from jaxgmm._model.estimate import Estimate
from jaxgmm._numerics import linalg
from jaxgmm._numerics.checks import check_covariance, check_positive_int

Features = int | Sequence[int]


class Moments(NamedTuple):
    """Mean ``(D,)`` and covariance ``(D, D)`` of a distribution; a first axis M counts several."""

    mean: Float[Array, "*M D"]
    covariance: Float[Array, "*M D D"]


def marginal(mixture: Mixture, features: Features) -> Mixture:
    """The mixture of some of the features, in the order given (static).

    Raises:
        ValueError: for indices that are not distinct and in ``0 .. D - 1``.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> m = jaxgmm.Mixture(jnp.ones(1), jnp.array([[1.0, 2.0, 3.0]]), jnp.eye(3)[None])
        >>> print(jaxgmm.algebra.marginal(m, [2, 0]).means)
        [[3. 1.]]
    """
    m = check_mixture(mixture)
    return marginal_of(m, _check_features(features, m.means.shape[1]))


def marginal_of(m: Mixture, features: Sequence[int]) -> Mixture:
    """`marginal` of a checked mixture, or of what is left of a failed one."""
    index = np.asarray(features)
    return Mixture(m.weights, m.means[:, index], m.covariances[:, index[:, None], index])


def condition(mixture: Mixture, features: Features, values: ArrayLike) -> Mixture:
    """The mixture of the remaining features given the values of some.

    Each component becomes the conditional normal distribution (Bishop 2006, eq. 2.81 and 2.82). The
    weights are proportional to ``pi_k Normal(values | mu_k, Sigma_k)`` of the given features.

    Args:
        mixture: of D features.
        features: indices of the d given ones (static).
        values: their values, in the same order, ``(d,)``; or ``(M, d)``, one condition in each row.

    Returns:
        `Mixture` of the other D - d features, in their order. For ``(M, d)`` values the first axis
        of every leaf is M; use `jax.vmap` to pass it to functions of one mixture.

    Raises:
        ValueError: for bad indices, no feature that remains, values of another width.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> covariances = jnp.array([[[1.0, 0.5], [0.5, 1.0]]])
        >>> m = jaxgmm.Mixture(jnp.ones(1), jnp.zeros((1, 2)), covariances)
        >>> print(jaxgmm.algebra.condition(m, [0], jnp.array([2.0])).means)
        [[1.]]
    """
    m, given, rows, single = _check_condition(mixture, features, values)
    weights, means, covariances = _condition(m, rows, given)
    batch = Mixture(weights, means, jnp.broadcast_to(covariances, (*means.shape, means.shape[-1])))
    return Mixture(*(a[0] for a in batch)) if single else batch


def regress(mixture: Mixture, features: Features, values: ArrayLike) -> Moments:
    """Gaussian mixture regression: mean and covariance of the remaining features given some.

    It returns the `moments` of `condition` (Ghahramani & Jordan 1994, section 4.2). The regression
    is smooth, its uncertainty depends on the values, and one fit serves any choice of inputs. If
    the conditional density has several modes, the mean may lie between them; then use `condition`.

    Args:
        mixture: of D features.
        features: indices of the d given ones (static).
        values: their values, in the same order, ``(d,)`` or ``(M, d)``.

    Returns:
        `Moments`: mean ``(D - d,)`` and covariance ``(D - d, D - d)``, with a first axis M for
        ``(M, d)`` values.

    Raises:
        ValueError: as `condition`.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> covariances = jnp.array([[[1.0, 0.5], [0.5, 1.0]]])
        >>> m = jaxgmm.Mixture(jnp.ones(1), jnp.zeros((1, 2)), covariances)
        >>> mean, covariance = jaxgmm.algebra.regress(m, [0], jnp.array([[2.0], [-4.0]]))
        >>> print(mean[:, 0], covariance[:, 0, 0])
        [ 1. -2.] [0.75 0.75]
    """
    m, given, rows, single = _check_condition(mixture, features, values)
    out = moments_of(*_condition(m, rows, given))
    return Moments(*(a[0] for a in out)) if single else out


@functools.partial(jax.jit, static_argnames="given")
def _condition(m: Mixture, rows: Array, given: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Weights (M, K) and means (M, K, A) for every row, and the covariances (K, A, A) for all."""
    rest = tuple(i for i in range(m.means.shape[1]) if i not in given)
    joint, d = marginal(m, given + rest), len(given)
    # the factor of the joint with the given features first has all: those of their marginal and
    # of the Schur complement, which so is positive definite, are its diagonal blocks
    lower = linalg.cholesky(joint.covariances)
    known = potentials_at(
        Mixture(m.weights, joint.means[:, :d], joint.covariances[:, :d, :d]), lower[:, :d, :d]
    )
    gain = linalg.einsum("kab,kcb->kac", lower[:, d:, :d], known.factor)
    gaps = rows[:, None] - known.mean[None]
    means = joint.means[None, :, d:] + linalg.einsum("kab,mkb->mka", gain, gaps)
    covariances = linalg.einsum("kab,kcb->kac", lower[:, d:, d:], lower[:, d:, d:])
    return jax.nn.softmax(logits(rows, known), axis=-1), means, covariances


def moments(mixture: Mixture) -> Moments:
    """Mean and covariance of the whole mixture.

    The covariance is the mean covariance within components plus the covariance of their means.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> means = jnp.array([[-1.0], [1.0]])
        >>> m = jaxgmm.Mixture(jnp.array([0.5, 0.5]), means, jnp.ones((2, 1, 1)))
        >>> print(jaxgmm.algebra.moments(m).covariance)
        [[2.]]
    """
    return moments_of(*check_mixture(mixture))


@jax.jit
def moments_of(weights: Array, means: Array, covariances: Array) -> Moments:
    """Of one mixture, or of M that have the covariances ``(K, D, D)`` in common."""
    mean = linalg.einsum("...k,...kd->...d", weights, means)
    gaps = means - mean[..., None, :]
    within = linalg.einsum("...k,kde->...de", weights, covariances)
    between = linalg.einsum("...kd,...ke->...de", weights[..., None] * gaps, gaps)
    return Moments(mean, within + between)


def affine(mixture: Mixture, matrix: ArrayLike, offset: ArrayLike | None = None) -> Mixture:
    """The mixture of ``matrix x + offset``.

    Args:
        mixture: of x, with D features.
        matrix: ``(E, D)``, of rank E; otherwise the image has no density.
        offset: ``(E,)``, by default 0.

    Raises:
        ValueError: for other shapes, E > D.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> m = jaxgmm.Mixture(jnp.ones(1), jnp.array([[1.0, 2.0]]), jnp.eye(2)[None])
        >>> total = jaxgmm.algebra.affine(m, jnp.ones((1, 2)))
        >>> print(total.means, total.covariances)
        [[3.]] [[[2.]]]
    """
    m = check_mixture(mixture)
    d, dtype = m.means.shape[1], m.means.dtype
    matrix = jnp.asarray(matrix, dtype)
    if matrix.ndim != 2 or matrix.shape[1] != d or not 1 <= matrix.shape[0] <= d:
        raise ValueError(
            f"matrix must have shape (E, {d}) with E from 1 to {d}, but its shape is "
            f"{matrix.shape}; an image of more features than that has no density."
        )
    shift = jnp.zeros(matrix.shape[:1], dtype) if offset is None else jnp.asarray(offset, dtype)
    if shift.shape != matrix.shape[:1]:
        raise ValueError(f"offset must have shape ({matrix.shape[0]},), but it is {shift.shape}.")
    means = linalg.matmul(m.means, matrix.T) + shift[None]
    covariances = linalg.einsum("ed,kdf,gf->keg", matrix, m.covariances, matrix)
    return Mixture(m.weights, means, linalg.symmetrize(covariances))


def product(
    mixture: Mixture, mean: ArrayLike, covariance: ArrayLike
) -> tuple[Mixture, Float[Array, ""]]:
    """The mixture times a normal density, normalised, and the log of the normalising integral.

    It is Bayes' rule: the mixture is the prior of x, and ``mean`` is an observation of x with
    normal noise. The second value is the log evidence of this observation,
    ``log sum_k pi_k Normal(mean | mu_k, Sigma_k + covariance)``. The components are those of the
    information filter (Bishop 2006, eq. 2.116 and 2.117).

    Args:
        mixture: of D features.
        mean: of the normal density, ``(D,)``.
        covariance: of the normal density, ``(D, D)``, symmetric positive definite.

    Raises:
        ValueError: for other shapes, or a matrix that is no covariance.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> m = jaxgmm.Mixture(jnp.ones(1), jnp.zeros((1, 1)), jnp.ones((1, 1, 1)))
        >>> posterior, log_evidence = jaxgmm.algebra.product(m, jnp.ones(1), jnp.eye(1))
        >>> print(posterior.means.round(4), posterior.covariances.round(4))
        [[0.5]] [[[0.5]]]
    """
    m = check_mixture(mixture)
    d, dtype = m.means.shape[1], m.means.dtype
    centre, spread = jnp.asarray(mean, dtype), jnp.asarray(covariance, dtype)
    if (centre.shape, spread.shape) != ((d,), (d, d)):
        raise ValueError(
            f"mean and covariance must have shapes ({d},) and ({d}, {d}), but theirs are "
            f"{centre.shape} and {spread.shape}."
        )
    return _product(m, centre, check_covariance("covariance", spread, d))


@jax.jit
def _product(m: Mixture, mean: Array, covariance: Array) -> tuple[Mixture, Array]:
    total = potentials_at(m, linalg.cholesky(m.covariances + covariance[None]))
    log_joint = logits(mean[None], total)[0]

    def share(part: Array) -> Array:
        projected = linalg.matmul(part, total.factor)
        return linalg.einsum("kab,kcb->kac", projected, total.factor)

    gain, kept = share(m.covariances), share(covariance)
    means = m.means + linalg.einsum("kab,kb->ka", gain, mean[None] - m.means)
    # of Joseph's form: a sum of positive matrices, where their difference would cancel
    covariances = linalg.einsum("kab,kbc,kdc->kad", kept, m.covariances, kept)
    covariances = covariances + linalg.einsum("kab,bc,kdc->kad", gain, covariance, gain)
    log_evidence = jax.nn.logsumexp(log_joint)
    weights = jnp.exp(log_joint - log_evidence)
    return Mixture(weights, means, linalg.symmetrize(covariances)), log_evidence


def merge_components(mixture: Mixture, n_components: int) -> Mixture:
    """A mixture of fewer components: the closest two are merged until ``n_components`` are left.

    Every merge keeps the moments of the two components, and so `moments` of the whole mixture. Of
    all pairs it takes the one with the least upper bound on the KL divergence that the merge causes
    (Runnalls 2007, eq. 16). Gradients treat the choice of the pairs as constant.

    Args:
        mixture: of K components.
        n_components: number of components that are left, 1 to K (static); their order is arbitrary.

    Raises:
        ValueError: for a number that is not from 1 to K.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> means = jnp.array([[0.0], [9.0], [0.2]])
        >>> m = jaxgmm.Mixture(jnp.array([0.3, 0.4, 0.3]), means, jnp.ones((3, 1, 1)))
        >>> print(jaxgmm.algebra.merge_components(m, 2).means[:, 0])
        [0.1 9. ]
    """
    m = check_mixture(mixture)
    k = m.weights.shape[0]
    if check_positive_int("n_components", n_components) > k:
        raise ValueError(f"n_components is {n_components}, but the mixture has only {k}.")
    return _merge_components(m, n_components)


@functools.partial(jax.jit, static_argnames="n_components")
def _merge_components(m: Mixture, n_components: int) -> Mixture:
    k = m.weights.shape[0]

    def step(m: Estimate, last: Array) -> tuple[Estimate, None]:
        i, j = pairs_by_cost(lax.stop_gradient(m), jnp.arange(k) <= last)[:, 0]
        return compact(put(m, i, merged(m, i, j)), j, last), None

    numbers = jnp.arange(k - 1, n_components - 1, -1)
    left = lax.scan(step, Estimate(*m, "full"), numbers)[0]
    return Mixture(*(a[:n_components] for a in (left.weights, left.means, left.covariance)))


def _check_features(features: Features, n_features: int) -> tuple[int, ...]:
    """Distinct feature indices as a tuple."""
    try:
        chosen = tuple(operator.index(i) for i in np.atleast_1d(np.asarray(features)))
    except TypeError:
        chosen = ()
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(n_features)):
        raise ValueError(
            f"features must be distinct integers from 0 to {n_features - 1}, at least one, but "
            f"they are {features!r}."
        )
    return chosen


def _check_condition(
    mixture: Mixture, features: Features, values: ArrayLike
) -> tuple[Mixture, tuple[int, ...], Array, bool]:
    """The mixture, the given features, rows of their values, and whether it is only one."""
    m = check_mixture(mixture)
    given = _check_features(features, m.means.shape[1])
    if len(given) == m.means.shape[1]:
        raise ValueError(f"all {len(given)} features are given; at least one must remain.")
    rows = jnp.asarray(values, m.means.dtype)
    if rows.ndim not in (1, 2) or rows.shape[-1] != len(given):
        raise ValueError(
            f"values must have shape ({len(given)},) or (M, {len(given)}), a value for each given "
            f"feature, but their shape is {rows.shape}."
        )
    return m, given, jnp.atleast_2d(rows), rows.ndim == 1
