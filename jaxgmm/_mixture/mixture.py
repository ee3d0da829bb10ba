"""A mixture itself, apart from how it was found."""

from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxgmm._estep.potentials import Potentials
from jaxgmm._estep.row_checks import check_labels, check_rows
from jaxgmm._estep.rows import Rows, Samples, floats_of
from jaxgmm._lane.state import Fitted, State, state_of
from jaxgmm._model.checks import check_noise_free, check_width
from jaxgmm._model.estimate import Estimate
from jaxgmm._numerics import linalg
from jaxgmm._numerics.calls import described
from jaxgmm._numerics.checks import (
    check_covariance,
    check_leaves_finite,
    check_simplex,
    is_float,
)
from jaxgmm._numerics.devices import on_automatic_axes
from jaxgmm._numerics.pytree import same_bits
from jaxgmm._numerics.special import LOG_2PI


class Mixture(NamedTuple):
    """A Gaussian mixture: ``weights (K,)``, ``means (K, D)``, ``covariances (K, D, D)``.

    What takes one checks that its values are those of a mixture. Two are equal if they have the
    same bits.
    """

    weights: Float[Array, " K"]
    means: Float[Array, "K D"]
    covariances: Float[Array, "K D D"]

    def __eq__(self, other: object) -> bool:
        return same_bits(self, other) if isinstance(other, Mixture) else NotImplemented

    def __ne__(self, other: object) -> bool:
        return not self == other


class StudentTMixture(NamedTuple):
    """A mixture of multivariate Student-t distributions, each leaf led by K.

    Component k has the mean ``means[k]`` for more than one degree of freedom, and the covariance
    ``degrees[k] / (degrees[k] - 2) scales[k]`` for more than two. Two are equal if they have the
    same bits. `student_t_mixture` gives that of a fit.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> m = jaxgmm.StudentTMixture(
        ...     jnp.ones(1), jnp.zeros((1, 2)), jnp.eye(2)[None], jnp.full(1, 4.0)
        ... )
        >>> covariances = (m.degrees / (m.degrees - 2))[:, None, None] * m.scales
        >>> print(covariances[0, 0, 0])
        2.0
    """

    weights: Float[Array, " K"]
    means: Float[Array, "K D"]
    scales: Float[Array, "K D D"]
    degrees: Float[Array, " K"]

    def __eq__(self, other: object) -> bool:
        return same_bits(self, other) if isinstance(other, StudentTMixture) else NotImplemented

    def __ne__(self, other: object) -> bool:
        return not self == other


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
            f"expected a jaxgmm.Mixture, but got {described(mixture)}; of a fit take "
            "jaxgmm.mixture(result)."
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


# What has a density: a fit, of which the best state counts, or a mixture itself.
Model = State | Mixture | Fitted


def check_fitted(model: Any, what: str, *, values: bool = True) -> State | Mixture:
    """What can be asked about: the state of a fit, or a mixture that is one."""
    if isinstance(model, State | Fitted):
        return state_of(model, what)
    if not isinstance(model, tuple):
        raise ValueError(
            f"{what} takes a fit, the result of jaxgmm.fit(key, x, algorithm) or its state "
            f"result.best, or a jaxgmm.Mixture, but it was given {described(model)}."
        )
    return check_mixture(model, values)


def estimate(state: State | Mixture) -> Estimate:
    """`mixture` in the shape of the covariance structure, as all functions here see it."""
    if isinstance(state, State):
        return state.view.estimate(state.posterior)
    return Estimate(*check_mixture(state), "full")


def has_background(model: State | Mixture) -> bool:
    """Whether component 0 has the density of a box, see `with_background`."""
    return isinstance(model, State) and model.prior.background


def mixture(state: Model) -> Mixture:
    """The fitted mixture: the estimate of EM, or ``E[pi]``, ``E[mu]`` and ``E[Lambda]^-1``.

    Like all functions of a fit it takes the `State` of one lane, or a `Result` or `Selection`,
    whose best state counts. A `Mixture` is returned as it is. All components are normal: a
    background is the normal distribution with the mean and the covariance of its box. Of Student-t
    components see `student_t_mixture`.

    Raises:
        ValueError: for a fit with Student-t components.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> state = jaxgmm.fit(jax.random.key(1), x, jaxgmm.em(jaxgmm.flat_prior(1, 2))).best
        >>> weights, means, covariances = jaxgmm.mixture(state)
        >>> bool(jax.numpy.allclose(means[0], x.mean(0), atol=1e-5))
        True
    """
    m = estimate(check_normal_fit(check_fitted(state, "mixture"), "mixture"))
    return Mixture(m.weights, m.means, m.matrices())


def student_t_mixture(state: State | Fitted) -> Any:
    """The fitted mixture of Student-t components, see `with_student_t`.

    The estimate of EM, or the posterior means of weights, means and precisions, and the degrees of
    freedom. A background is the component 0 with the mean and the covariance of its box, and
    infinite degrees of freedom.

    Raises:
        ValueError: for a fit with normal components.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.t(jax.random.key(0), 3.0, (500, 2))
        >>> prior = jaxgmm.with_student_t(jaxgmm.flat_prior(1, 2), degrees=3)
        >>> result = jaxgmm.fit(jax.random.key(1), x, jaxgmm.em(prior))
        >>> jaxgmm.student_t_mixture(result).scales.shape
        (1, 2, 2)
    """
    model = check_fitted(state, "student_t_mixture")
    if not has_student_t(model):
        raise ValueError(
            "student_t_mixture takes a fit with Student-t components (jaxgmm.with_student_t), but "
            "those of this one are normal; call jaxgmm.mixture(result)."
        )
    m = estimate(model)
    return parameters(m, m.matrices())


def parameters(m: Estimate, covariances: Float[Array, "K D D"]) -> Mixture | StudentTMixture:
    """What an estimate says of its components, with their covariances or scales as matrices."""
    if m.degrees is None:
        return Mixture(m.weights, m.means, covariances)
    degrees = m.degrees.at[0].set(jnp.inf) if m.background else m.degrees
    return StudentTMixture(m.weights, m.means, covariances, degrees)


def has_student_t(model: State | Mixture) -> TypeGuard[State]:
    """Whether the components are Student-t distributions, see `with_student_t`."""
    return isinstance(model, State) and model.posterior.tails is not None


def check_normal_fit(model: State | Mixture, what: str) -> State | Mixture:
    """Refuse a fit with Student-t components."""
    if has_student_t(model):
        raise ValueError(
            f"{what} describes normal components, but those of this fit are Student-t; "
            "jaxgmm.student_t_mixture(result) has their weights, means, scales and degrees."
        )
    return model


def is_predictive(state: State | Mixture) -> TypeGuard[State]:
    """Whether its density is a posterior predictive, and not that of a mixture.

    That of Student-t components has no closed form: theirs is that of the mean parameters.
    """
    return isinstance(state, State) and not state.view.point and state.posterior.tails is None


def plug_in(state: State | Mixture) -> Potentials:
    """The potentials of the density of the estimate, whatever the state's view."""
    if isinstance(state, State) and state.view.point:
        return state.potentials
    return estimate(state).potentials()


def view(state: State | Mixture) -> Potentials:
    """The potentials of the state's own view, or of a mixture."""
    return state.potentials if isinstance(state, State) else estimate(state).potentials()


def n_components_of(model: State | Mixture) -> int:
    """K."""
    return model.posterior.n_components if isinstance(model, State) else model.means.shape[0]


def check_fitted_samples(
    model: Any, x: Samples, what: str, *, values: bool = True
) -> tuple[State | Mixture, Array]:
    """The model, and samples of its width and dtype."""
    model, rows = check_fitted_rows(model, x, None, what, values=values, far=True)
    if not rows.is_complete:
        raise ValueError(
            f"{what} takes complete samples, but these rows have missing values or noise; pass "
            "jaxgmm.impute(result, rows), or an array."
        )
    return model, rows.x


def check_fitted_rows(
    model: Any,
    x: Samples,
    sample_weight: ArrayLike | None,
    what: str,
    *,
    values: bool = True,
    far: bool = False,
) -> tuple[State | Mixture, Rows]:
    """The model, and rows of its width and dtype, with the weights in them or beside them."""
    model = check_fitted(model, what, values=values)
    given = jax.tree.map(on_automatic_axes, (floats_of(x), sample_weight))
    rows = check_rows(*given, far=far)
    means = model.posterior.components.mean if isinstance(model, State) else model.means
    check_width(means, rows.x, "the fit" if isinstance(model, State) else "the mixture")
    check_labels(rows, means.shape[0], ordered=False)
    if isinstance(model, State):
        check_noise_free(model.prior, rows)
    return model, rows
