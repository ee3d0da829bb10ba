"""Derivatives of a converged fit: those of its fixed point, whatever way led there."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxgmm._algorithms.base import Algorithm, check_algorithm
from jaxgmm._estep.passes import careful_lane
from jaxgmm._estep.row_checks import check_rows
from jaxgmm._estep.rows import Rows, Samples
from jaxgmm._estep.stats import Stats
from jaxgmm._estep.structures import structure
from jaxgmm._lane.state import Fitted, State, state_of
from jaxgmm._lane.status import Status
from jaxgmm._model.checks import check_model
from jaxgmm._model.prior import Prior
from jaxgmm._model.views import View
from jaxgmm._numerics.calls import described, usage
from jaxgmm._numerics.checks import is_traced
from jaxgmm._numerics.linalg import diagonal, matmul
from jaxgmm._numerics.pytree import replace

# Directions of the linear solver that are kept, and its steps at most.
_DIRECTIONS = 64
_MAX_STEPS = 1000


_CALL = "jaxgmm.fixed_point(algorithm, result, x)"


@usage(_CALL)
def fixed_point(
    algorithm: Algorithm,
    state: State | Fitted,
    x: Samples,
    *,
    sample_weight: ArrayLike | None = None,
) -> State:
    """The converged state, with derivatives in the data, the weights, the prior and ``reg_covar``.

    At convergence the posterior is the fixed point ``q = T(q, args)`` of one iteration of EM or
    CAVI. The implicit function theorem then gives ``dq = (I - dT/dq)^-1 dT/dargs`` (Christianson
    1994). So the iterations that led to the state are not differentiated and need no memory; they
    can even be those of another algorithm. Forward and reverse mode solve a linear system. Each
    step of the solver costs a few passes over the data. More overlap of the components needs more
    steps, but far fewer than the iterations of EM.

    `jax.grad` and `jax.jvp` work, also under `jax.jit` and `jax.vmap`, and also for higher
    derivatives. The given state counts as a constant, so that a `run` before it is not
    differentiated.

    Args:
        algorithm: from `em` or `cavi`, also inside `squarem` or `annealed`. Its prior and
            ``reg_covar`` may depend on the variables of the derivative.
        state: of one lane, converged. The error of the derivatives is of the order of the distance
            to convergence, so run with a small ``tol``.
        x: samples, ``(N, D)``, or `Rows`.
        sample_weight: non-negative, ``(N,)``.

    Returns:
        The same state with the same values. Its posterior, prior, ``reg_covar`` and objective
        have derivatives. Under a flat prior, a component without samples has no derivatives.

    Raises:
        ValueError: for another algorithm, a state of another view, several lanes or a failed lane,
            bad samples.

    Example:
        >>> import jax, jax.numpy as jnp, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (50, 1))
        >>> algorithm = jaxgmm.em(jaxgmm.flat_prior(2, 1, jnp.eye(1)))
        >>> states = jax.vmap(algorithm.init, (0, None))(jax.random.split(jax.random.key(1), 1), x)
        >>> def gap(x):
        ...     found, _ = jaxgmm.run(algorithm, states, x, tol=1e-7)
        ...     state = jax.tree.map(lambda a: a[0], found)
        ...     state = jaxgmm.fixed_point(algorithm, state, x)
        ...     return state.posterior.components.mean[1, 0] - state.posterior.components.mean[0, 0]
        >>> jax.jit(jax.grad(gap))(x).shape
        (50, 1)
    """
    check_algorithm(algorithm, _CALL)
    algorithm, state = algorithm.core, state_of(state, "fixed_point")
    if not algorithm.ascends:
        raise ValueError(
            "fixed_point differentiates what jaxgmm.em and jaxgmm.cavi converge to, but it was "
            f"given {described(algorithm)}; pass cavi(prior) for a posterior that another "
            "algorithm found."
        )
    rows = check_rows(x, sample_weight)
    check_model(algorithm.prior, rows)
    _check_state(state, algorithm)
    return _fixed_point(algorithm, state, rows)


def _check_state(state: State, algorithm: Algorithm) -> None:
    if state.view.name != algorithm.view.name:
        raise ValueError(
            f"{algorithm.name} has the {algorithm.view.name} view, but the state is of the "
            f"{state.view.name} view; pass the algorithm that it was fitted with."
        )
    if not is_traced(state.status):
        status = Status(int(state.status))
        if status.failed:
            raise ValueError(
                f"the state failed, {status.name}: {status.message} It is no fixed point; pass one "
                "that converged."
            )


@jax.jit
def _fixed_point(algorithm: Algorithm, state: State, rows: Rows) -> State:
    state = lax.stop_gradient(state)
    prior, view = algorithm.prior, algorithm.view
    # what is known has no part in the equation, and its strength is infinite
    flat, restore = ravel_pytree(state.posterior.tamed())
    unit = _units(state.posterior, state.view)
    weight = None if rows.weight is None else rows.weight[None]
    values = replace(rows, weight=None)

    def stats_of(q: Prior) -> Stats:
        potentials = view.potentials(q)
        sums = careful_lane(values, weight, potentials, None)
        zero = jnp.zeros_like(sums.log_evidence)
        parts = (*sums[:3], zero, sums.log_evidence, potentials.structure)
        return Stats(*parts, sums.mass, sums.excess)

    def posterior_at(shift: Array) -> Prior:
        return restore(flat + unit * shift).put_known(prior)

    def residual(shift: Array) -> Array:
        # the names of the components are settled: no `put_in_order`
        q = posterior_at(shift)
        new, _ = ravel_pytree(view.update(prior, stats_of(q), q).tamed())
        return (new - flat) / unit - shift

    # a shift from the state, and so of exactly 0
    start = _zeros((algorithm, state.posterior, rows), flat)
    shift = lax.custom_root(residual, start, lambda _, guess: guess, _solve)
    q = posterior_at(shift)
    bound = stats_of(q).log_evidence - view.penalty(q, prior)
    objective = state.objective + (bound - lax.stop_gradient(bound))
    return replace(state, prior=prior, posterior=q, objective=objective, view=view)


def _zeros(arguments: Any, like: Array) -> Array:
    """Zeros that are batched where any of the arguments is.

    Under nested `jax.vmap` a root that is batched less than its tangent is an error (JAX 0.10).
    """
    never = [jnp.any((a.ravel()[:1] == 0) & False) for a in jax.tree.leaves(arguments)]
    return jnp.zeros_like(like) + jnp.any(jnp.stack(never)).astype(like.dtype)


def _units(q: Prior, view: View) -> Array:
    """What a change of 1 means for each leaf, raveled: the solver's norm must not know units."""
    sd = jnp.sqrt(view.estimate(q).variances())
    matrices = structure(q.components.structure).separate == "full"

    def unit(path: Any, leaf: Array) -> Array:
        if path[-1].name == "mean":
            return sd
        if matrices and leaf.ndim > 1:
            root = jnp.sqrt(diagonal(leaf))
            return root[..., :, None] * root[..., None, :]
        return jnp.where(leaf == 0, 1, jnp.abs(leaf))

    return ravel_pytree(jax.tree_util.tree_map_with_path(unit, q.tamed()))[0]


def _solve(matvec: Callable[[Array], Array], b: Array) -> Array:
    """``A^-1 b`` by products with A, and ``A^-T b`` in reverse mode."""

    def solve(matvec: Callable[[Array], Array], b: Array) -> Array:
        return conjugate_residuals(matvec, b, 8 * float(jnp.finfo(b.dtype).eps))[0]

    return lax.custom_linear_solve(matvec, b, solve, transpose_solve=solve)


def conjugate_residuals(
    matvec: Callable[[Array], Array], b: Float[Array, " P"], tol: Array | float
) -> tuple[Float[Array, " P"], Array]:
    """Solve ``A u = b`` by generalised conjugate residuals; returns u and the steps taken.

    Eisenstat, Elman & Schultz 1983: the residual is the least over the Krylov space, as GMRES's is,
    with one product a step and no restarts; of many directions the oldest are forgotten. The
    eigenvalues of ``I - dT/dq`` are real and in (0, 1] where T is EM's iteration (Dempster, Laird &
    Rubin 1977), with as many away from 1 as there are directions in which components overlap.
    """
    kept = min(_DIRECTIONS, b.shape[0])
    enough = tol * jnp.linalg.norm(b)

    def unfinished(carry: Any) -> Array:
        step, _, residual, *_ = carry
        return (step < _MAX_STEPS) & (jnp.linalg.norm(residual) > enough)

    def iterate(carry: Any) -> Any:
        step, solution, residual, directions, images = carry
        direction, image = residual, matvec(residual)
        for _ in range(2):  # once more, for what rounding leaves of the overlap
            overlap = matmul(images, image)
            direction = direction - matmul(overlap, directions)
            image = image - matmul(overlap, images)
        size = jnp.linalg.norm(image)
        direction, image = direction / size, image / size
        length = matmul(image, residual)
        slot = step % kept
        directions, images = directions.at[slot].set(direction), images.at[slot].set(image)
        residual = residual - length * image
        return step + 1, solution + length * direction, residual, directions, images

    blank = jnp.zeros((kept, b.shape[0]), b.dtype)
    start = (jnp.zeros((), jnp.int32), jnp.zeros_like(b), b, blank, blank)
    step, solution, *_ = lax.while_loop(unfinished, iterate, start)
    return solution, step
