"""A mixture itself, apart from how it was found."""

from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxgmm._estep.data import Rows, check_rows
from jaxgmm._estep.potentials import Potentials
from jaxgmm._lane.state import State
from jaxgmm._model.checks import check_model
from jaxgmm._model.estimate import Estimate
from jaxgmm._numerics import linalg
from jaxgmm._numerics.checks import (
    check_covariance,
    check_leaves_finite,
    check_samples,
    check_simplex,
    is_float,
)
from jaxgmm._numerics.devices import on_automatic_axes
from jaxgmm._numerics.special import LOG_2PI


class Mixture(NamedTuple):
    """A Gaussian mixture: ``weights (K,)``, ``means (K, D)``, ``covariances (K, D, D)``.

    What takes one checks that its values are those of a mixture.
    """

    weights: Float[Array, " K"]
    means: Float[Array, "K D"]
    covariances: Float[Array, "K D D"]


def potentials_at(m: Mixture, lower: Float[Array, "K D D"]) -> Potentials:
    """The potentials of a mixture from the Cholesky factors of its covariances."""
    factor = linalg.inverse_factor(lower)
    used = m.weights > 0
    log_weights = jnp.where(used, jnp.log(jnp.where(used, m.weights, 1)), -jnp.inf)
    const = log_weights + linalg.log_det(factor) - 0.5 * m.means.shape[1] * LOG_2PI
    return Potentials(const, m.means, factor, "full")


def check_mixture(mixture: Any, values: bool = True) -> Mixture:
    """A `Mixture` whose shapes, dtypes and values belong together; traced values pass."""
    if not isinstance(mixture, tuple) or len(mixture) != 3:
        raise ValueError(
            f"expected a jaxgmm.Mixture, but got a {type(mixture).__name__}; of a fitted state "
            "take jaxgmm.mixture(state)."
        )
    m = Mixture(*(jnp.asarray(a) for a in mixture))
    shapes = tuple(a.shape for a in m)
    known = len(shapes[1]) == 2 and shapes[1][0] > 0 and shapes[1][1] > 0
    k, d = shapes[1] if known else ("K", "D")
    if not known or shapes != ((k,), (k, d), (k, d, d)):
        raise ValueError(
            f"weights, means and covariances must have shapes ({k},), ({k}, {d}) and "
            f"({k}, {d}, {d}), but theirs are {shapes[0]}, {shapes[1]} and {shapes[2]}; for many "
            "mixtures at once use jax.vmap."
        )
    if len({a.dtype for a in m}) > 1 or not is_float(m.means.dtype):
        names = ", ".join(str(a.dtype) for a in m)
        raise ValueError(
            "weights, means and covariances must have one floating-point dtype, float32 or "
            f"float64, but theirs are {names}; convert them with astype."
        )
    if values:
        check_leaves_finite("the mixture", m)
        check_simplex("the mixture's weights", m.weights)
        check_covariance("the mixture's covariances", m.covariances)
    return m


def check_fitted(state: State | Mixture) -> State | Mixture:
    """What can be asked about: a state as it is, or a mixture that is one."""
    return state if isinstance(state, State) else check_mixture(state)


def estimate(state: State | Mixture) -> Estimate:
    """`mixture` in the shape of the covariance structure, as all functions here see it."""
    if isinstance(state, State):
        return state.view.estimate(state.posterior)
    return Estimate(*check_mixture(state), "full")


def mixture(state: State | Mixture) -> Mixture:
    """The fitted mixture: the estimate of EM, or ``E[pi]``, ``E[mu]`` and ``E[Lambda]^-1``.

    A `Mixture` is returned as it is.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> state = jaxgmm.fit(jax.random.key(1), x, jaxgmm.em(jaxgmm.flat_prior(1, 2))).best
        >>> weights, means, covariances = jaxgmm.mixture(state)
        >>> bool(jax.numpy.allclose(means[0], x.mean(0), atol=1e-5))
        True
    """
    m = estimate(state)
    return Mixture(m.weights, m.means, m.matrices())


def is_predictive(state: State | Mixture) -> TypeGuard[State]:
    """Whether its density is a posterior predictive, and not that of a mixture."""
    return isinstance(state, State) and not state.view.point


def view(state: State | Mixture) -> Potentials:
    """The potentials of the state's own view, or of a mixture."""
    return state.potentials if isinstance(state, State) else estimate(state).potentials()


def check_fitted_samples(state: State | Mixture, x: ArrayLike | Rows, values: bool = True) -> Array:
    """The samples, of the width and dtype of what is to be asked about them."""
    x = check_samples(x.x if isinstance(x, Rows) else x, far=True)
    if not isinstance(state, State):
        means = check_mixture(state, values).means
        if (x.shape[1], x.dtype) != (means.shape[1], means.dtype):
            raise ValueError(
                f"x has {x.shape[1]} features of {x.dtype}, but the mixture has {means.shape[1]} "
                f"of {means.dtype}; give both the same."
            )
    elif x.shape[1] != state.posterior.n_features or x.dtype != state.posterior.dtype:
        check_model(state.posterior, x)
    return x


def check_fitted_rows(state: State, x: ArrayLike | Rows, sample_weight: ArrayLike | None) -> Rows:
    """`check_fitted_samples` with the weights that are given in the rows or beside them."""
    x, sample_weight = jax.tree.map(on_automatic_axes, (x, sample_weight))
    rows = check_rows(x, sample_weight)
    return Rows(check_fitted_samples(state, rows.x), rows.weight)
