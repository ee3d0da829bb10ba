"""Standard errors of a point estimate by the curvature of its objective."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Bool, Float

from jaxgmm._estep.data import prepare
from jaxgmm._estep.log_evidence import log_evidence_on
from jaxgmm._estep.rows import Rows, Samples, floats_of
from jaxgmm._fit.whitening import Whitening
from jaxgmm._inference.report import table
from jaxgmm._lane.state import Fitted, State, state_of
from jaxgmm._mixture.mixture import Mixture, StudentTMixture, check_fitted_rows, parameters
from jaxgmm._model.coordinates import coordinates_of, known_coordinates, posterior_of
from jaxgmm._model.prior import Prior
from jaxgmm._model.views import View
from jaxgmm._numerics import linalg
from jaxgmm._numerics.affine import Affine
from jaxgmm._numerics.calls import usage
from jaxgmm._numerics.programs import program
from jaxgmm._numerics.pytree import pytree, replace

# Of the information in units in which its diagonal is 1, a smallest eigenvalue below so many eps
# for each parameter, or below the root of float64's eps, is that of a singular matrix.
_ROUNDING = 64
_SINGULAR = 1.5e-8
# Standard errors from the optimum that are worth a sentence.
_FAR = 0.1


@pytree
class Point:
    """A point estimate as a function of unconstrained coordinates, in those of a fit's data.

    Attributes:
        prior: the model.
        view: how an estimate is read.
        total: sum of the rows' weights.
        back: the map to the data's units.
    """

    prior: Prior
    view: View
    total: Array
    back: Affine

    def posterior(self, coordinates: Any) -> Prior:
        """The posterior whose mode has these coordinates."""
        return posterior_of(self.prior, coordinates, self.total, self.view)

    def mixture(self, coordinates: Any) -> Any:
        """The mixture there, in the data's units."""
        m = self.view.estimate(self.posterior(coordinates))
        square = jnp.ndim(self.back.matrix) == 2
        eye = jnp.eye(m.means.shape[1], dtype=m.means.dtype)
        matrix = self.back.matrix if square else eye * self.back.matrix
        covariances = linalg.matmul(linalg.matmul(matrix.T, m.matrices()), matrix)
        return parameters(replace(m, means=self.back.points(m.means)), covariances)


@pytree
class StandardErrors:
    """What `standard_errors` returns.

    Attributes:
        estimate: the fitted mixture, a `Mixture`, or of Student-t components a `StudentTMixture`.
        errors: the standard error of each of its elements; NaN where the information is singular.
        smallest: the smallest eigenvalue of the information, scaled to a diagonal of 1.
        distance: how far the estimate is from the optimum, in standard errors of the direction in
            which the optimum lies: the root of the Newton decrement.
        n_samples: sum of the rows' weights.
        point: the estimate as a function of the coordinates.
        coordinates: unconstrained ones, of the estimate.
        root: ``(P, P)``, which times its transpose is the covariance of the coordinates.
    """

    estimate: Mixture | StudentTMixture
    errors: Mixture | StudentTMixture
    smallest: Float[Array, ""]
    distance: Float[Array, ""]
    n_samples: Float[Array, ""]
    point: Point
    coordinates: Any
    root: Float[Array, "P P"]

    @property
    def singular(self) -> Bool[Array, ""]:
        """Whether the information is singular, or the estimate no maximum: it has no errors."""
        return ~(self.smallest > _threshold(self.root))

    def of(self, function: Callable[[Mixture], Any]) -> Any:
        """Standard errors of a function of the mixture, by the delta method.

        Args:
            function: from a `Mixture` to an array, or to a pytree of arrays; differentiable.

        Returns:
            A standard error for each element of what the function returns.
        """
        return _errors_of(function, self.point, self.coordinates, self.root)

    def summary(self) -> str:
        """The estimates with their standard errors, and what to know about them."""
        k, d = self.estimate.means.shape
        lines = [f"observed information: K={k}, D={d}, {float(self.n_samples):g} samples"]
        if bool(self.singular):
            return "\n".join([*lines, self.doubt()])
        lines += table(self.estimate, self.errors)
        if float(self.distance) > _FAR:
            lines.append(
                f"note: the estimate is {float(self.distance):.2g} standard errors from the "
                "optimum; fit with a smaller tol."
            )
        return "\n".join(lines)

    def doubt(self) -> str:
        """The sentence on an information that is singular."""
        return (
            "There are no standard errors: the information is singular or indefinite (smallest "
            f"eigenvalue {float(self.smallest):.1e}, of a diagonal of 1). A component is redundant "
            "or has collapsed, or the fit stopped before its optimum; fit fewer components, use a "
            "prior (jaxgmm.default_prior), or a smaller tol."
        )


@usage("jaxgmm.standard_errors(result, x)")
def standard_errors(
    state: State | Fitted, x: Samples, *, sample_weight: ArrayLike | None = None
) -> StandardErrors:
    """Standard errors of EM's estimate from the observed information.

    The information is the negative Hessian of the log likelihood, or of the log posterior under a
    prior, at the estimate (Efron & Hinkley 1978; for mixtures Louis 1982 and McLachlan & Peel 2000,
    section 2.15). It is that of unconstrained coordinates, in which no parameter has a bound; its
    inverse is their asymptotic covariance, and the delta method carries it to the weights, means
    and covariances. Of what is known the errors are 0.

    The errors hold as the number of samples grows, for the right model and well-separated
    components; `bootstrap` needs less of either. The memory is that of P^2 numbers for P
    parameters.

    Args:
        state: a fit that has converged, after EM (or SVI with ``view="mode"``): the state of one
            lane, or a `Result`, whose best state counts. Its ``reg_covar`` should be 0, because
            the estimate is no optimum otherwise.
        x: the samples of the fit, ``(N, D)``, or `Rows`.
        sample_weight: of the fit, ``(N,)``; a weight of 2 counts a sample twice.

    Returns:
        `StandardErrors`: ``errors`` for each element of the mixture, ``of(function)`` for any
        function of it, and ``summary()``. Where the information is singular, because a component
        is redundant or has collapsed, the errors are NaN, ``singular`` is true, and there is a
        RuntimeWarning.

    Raises:
        ValueError: for the state of a posterior, which has `credible_intervals` instead; several
            lanes; and samples or weights that do not belong to the state.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> result = jaxgmm.fit(jax.random.key(1), x, jaxgmm.em(jaxgmm.flat_prior(1, 2)))
        >>> errors = jaxgmm.standard_errors(result, x).errors
        >>> bool(jax.numpy.allclose(errors.means[0], x.std(axis=0) / 10, atol=1e-4))
        True
    """
    state = _point_state(state, "standard_errors")
    x = floats_of(x)
    _, rows = check_fitted_rows(state, x, sample_weight, "standard_errors")
    coordinates = Whitening(x, rows, state)
    prior, q = coordinates.into(state.prior), coordinates.into(state.posterior)
    back = narrowed(coordinates.to.inverse(), state.posterior.dtype)
    view = coordinates.into(state.view)
    result = _standard_errors(prior, q, view, coordinates.rows, back)
    if result.singular:
        warnings.warn(result.doubt(), RuntimeWarning, stacklevel=2)
    return result


def _point_state(fit: Any, what: str) -> State:
    """`state_of`, but refuse that of a posterior, where a point estimate is asked for."""
    state = state_of(fit, what)
    if not state.view.point:
        raise ValueError(
            f"{what} needs a point estimate, but this state is a posterior, which has "
            "jaxgmm.credible_intervals; fit with jaxgmm.em."
        )
    return state


def narrowed(to: Affine, dtype: Any) -> Affine:
    """A map in a dtype."""
    return Affine(*(np.asarray(a, dtype) for a in (to.before, to.matrix, to.after)))


@program()
def _standard_errors(prior: Prior, q: Prior, view: View, rows: Rows, back: Affine) -> Any:
    data = prepare(rows)
    point = Point(prior, view, data.total, back)
    coordinates = coordinates_of(q, view)
    flat, restore = ravel_pytree(coordinates)

    def objective(flat: Array) -> Array:
        q = point.posterior(restore(flat))
        return log_evidence_on(data, view.potentials(q)) - view.penalty(q, prior)

    gradient, information = jax.grad(objective)(flat), -jax.hessian(objective)(flat)
    # the estimate does not depend on the coordinates of what is known
    known, _ = ravel_pytree(known_coordinates(q))
    unit_of_known = jnp.diag(known.astype(information.dtype))
    information = jnp.where(known[:, None] | known[None], unit_of_known, information)
    values, vectors, unit = _decomposed(information)
    smallest = jnp.min(values, initial=1)
    singular = ~(smallest > _threshold(information))
    root = unit[:, None] * vectors / jnp.sqrt(jnp.where(singular, jnp.nan, values))[None]
    errors = _errors_of(lambda m: m, point, coordinates, root)
    distance = jnp.linalg.norm(linalg.matmul(gradient, root))
    estimate = point.mixture(coordinates)
    return StandardErrors(
        estimate, errors, smallest, distance, data.total, point, coordinates, root
    )


def _decomposed(information: Float[Array, "P P"]) -> tuple[Array, Array, Array]:
    """Eigenvalues, eigenvectors and units of an information in units of a diagonal of 1."""
    diagonal = jnp.diag(information)
    positive = diagonal > 0
    unit = jnp.where(positive, 1 / jnp.sqrt(jnp.where(positive, diagonal, 1)), 1)
    scaled = linalg.symmetrize(unit[:, None] * information * unit[None])
    finite = jnp.all(jnp.isfinite(scaled))
    values, vectors = jnp.linalg.eigh(jnp.where(finite, scaled, 0))
    return values, vectors, unit


def _threshold(matrix: Float[Array, "P P"]) -> float:
    """What the smallest eigenvalue of an information must exceed."""
    rounding = _ROUNDING * matrix.shape[0] * float(jnp.finfo(matrix.dtype).eps)
    return max(_SINGULAR, rounding)


def _errors_of(
    function: Callable[[Mixture], Any], point: Point, coordinates: Any, root: Array
) -> Any:
    flat, restore = ravel_pytree(coordinates)
    slopes = jax.jacfwd(lambda flat: function(point.mixture(restore(flat))))(flat)
    # of P parameters; none at all if everything is known
    return jax.tree.map(lambda a: jnp.linalg.norm(linalg.matmul(a, root), axis=-1), slopes)
