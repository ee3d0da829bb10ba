"""The bootstrap: the fit of many replicates, each from the fitted state."""

from typing import Any

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxgmm._algorithms.base import Algorithm
from jaxgmm._algorithms.wrapper import check_ascends
from jaxgmm._estep.rows import Rows, Samples, floats_of
from jaxgmm._fit.driver import Limits
from jaxgmm._fit.whitening import Whitening
from jaxgmm._inference.replicates import advance, given_lanes
from jaxgmm._inference.report import table
from jaxgmm._inference.resampling import KINDS, Source
from jaxgmm._lane.given import check_start
from jaxgmm._lane.state import Fitted, State, state_of
from jaxgmm._lane.status import FAILED, Status
from jaxgmm._mixture.draws import Interval
from jaxgmm._mixture.labels import assignment, rename
from jaxgmm._mixture.mixture import (
    Mixture,
    StudentTMixture,
    check_fitted_rows,
    has_student_t,
    mixture,
    parameters,
    student_t_mixture,
)
from jaxgmm._model.estimate import Estimate
from jaxgmm._model.prior import Prior
from jaxgmm._model.views import View
from jaxgmm._numerics.affine import Affine
from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.calls import usage
from jaxgmm._numerics.checks import check_choice, check_non_negative, check_positive_int
from jaxgmm._numerics.programs import program


class Bootstrap:
    """What `bootstrap` returns.

    Attributes:
        estimate: the fitted mixture.
        replicates: the mixtures of the replicates, each leaf led by their number, with the
            components named as the estimate's; without those whose fit failed.
        kind: of bootstrap.
        n_failed: replicates whose fit failed.
        n_unfinished: replicates that ended with ``max_iter``.
    """

    def __init__(self, estimate: Any, replicates: Any, kind: str, n_failed: int, n_unfinished: int):
        self.estimate = estimate
        self.replicates = replicates
        self.kind = kind
        self.n_failed = n_failed
        self.n_unfinished = n_unfinished

    @property
    def errors(self) -> Mixture | StudentTMixture:
        """The standard deviation of each element over the replicates."""
        spread = (as_array(np.std(np.asarray(a), 0, ddof=1)) for a in self.replicates)
        return type(self.replicates)(*spread)

    def intervals(self, mass: float = 0.95) -> Interval:
        """Percentile intervals of each element (Efron & Tibshirani 1993, section 13.3).

        Args:
            mass: probability of each interval, between 0 and 1.

        Raises:
            ValueError: for a mass that is not between 0 and 1.
        """
        if not 0 < mass < 1:
            raise ValueError(f"mass must be between 0 and 1, but it is {mass}.")
        limits = (0.5 - 0.5 * mass, 0.5 + 0.5 * mass)
        lower, upper = (
            type(self.replicates)(
                *(as_array(np.quantile(np.asarray(a), p, axis=0)) for a in self.replicates)
            )
            for p in limits
        )
        return Interval(lower, upper)

    def summary(self) -> str:
        """The estimates with their standard errors, and what to know about the replicates."""
        k, d = self.estimate.means.shape
        n_sound = self.replicates.weights.shape[0]
        lines = [f"{self.kind} bootstrap: K={k}, D={d}, {n_sound} replicates"]
        lines += table(self.estimate, self.errors)
        if self.n_failed:
            lines.append(f"note: the fits of {self.n_failed} replicates failed; they are left out.")
        if self.n_unfinished:
            lines.append(
                f"note: the fits of {self.n_unfinished} replicates ended with max_iter; raise it."
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<jaxgmm Bootstrap: {self.summary()}>"


@usage("jaxgmm.bootstrap(key, result, x, algorithm)")
def bootstrap(
    key: Array,
    state: State | Fitted,
    x: Samples,
    algorithm: Algorithm,
    n_replicates: int = 999,
    kind: str = "parametric",
    *,
    max_iter: int = 1000,
    tol: float = 1e-8,
    sample_weight: ArrayLike | None = None,
) -> Bootstrap:
    """Fit replicates of the data, for standard errors and percentile intervals of the estimate.

    A replicate is fitted from the fitted state, and its components get the names of the estimate's,
    by the rule of `align`. The replicates are lanes over data sets in one compiled program, which
    takes as many at a time as fit in the cache; a data set is drawn where it is needed and never
    kept. The kinds are (O'Hagan, Murphy, Scrucca & Gormley 2019 compare them for mixtures):

    - ``"parametric"``: as many samples from the fitted mixture;
    - ``"nonparametric"``: the rows drawn with replacement (Efron 1979). A component of few samples
      may get none of its own;
    - ``"weighted"``: all rows with random weights, exponential ones divided by their mean (Newton &
      Raftery 1994), under which no row is ever lost.

    Args:
        key: PRNG key.
        state: what the algorithm has fitted: the state of one lane, or a `Result`, whose best state
            counts.
        x: the samples of the fit, ``(N, D)``, or `Rows`.
        algorithm: of the fit, from `em` or `cavi`, also wrapped; after CAVI the replicates are
            those of the posterior's mean.
        n_replicates: B.
        kind: ``"parametric"``, ``"nonparametric"`` or ``"weighted"``.
        max_iter: largest number of iterations of a replicate.
        tol: as in `fit`; smaller, because a replicate starts close to its optimum.
        sample_weight: of the fit, ``(N,)``; a weight of 2 counts a sample twice, and only the other
            two kinds know what that is.

    Returns:
        `Bootstrap`, with ``errors``, ``intervals(mass)``, ``replicates`` and ``summary()``.

    Raises:
        ValueError: for an unknown kind, a parametric bootstrap of rows with weights, a state that
            is not the algorithm's, an algorithm with minibatches or draws, or if all replicates
            failed.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> algorithm = jaxgmm.em(jaxgmm.flat_prior(1, 2))
        >>> result = jaxgmm.fit(jax.random.key(1), x, algorithm)
        >>> found = jaxgmm.bootstrap(jax.random.key(2), result, x, algorithm, 99, "weighted")
        >>> found.replicates.means.shape
        (99, 1, 2)
        >>> lower, upper = found.intervals(0.9)
        >>> bool(lower.means[0, 0] < x[:, 0].mean() < upper.means[0, 0])
        True
    """
    check_choice("kind", kind, KINDS)
    check_ascends("bootstrap", algorithm)
    check_positive_int("n_replicates", n_replicates)
    check_positive_int("max_iter", max_iter)
    check_non_negative("tol", tol)
    state, x = _own_state(state, algorithm), floats_of(x)
    _, rows = check_fitted_rows(state, x, sample_weight, "bootstrap")
    if kind == "parametric" and rows.weight is not None:
        raise ValueError(
            "a parametric bootstrap draws rows without weights, but these rows have weights; give "
            'kind="weighted" or kind="nonparametric".'
        )
    if kind == "parametric" and (rows.noise is not None or rows.labels is not None):
        raise ValueError(
            "a parametric bootstrap draws true values, but these rows have noise or labels; give "
            'kind="weighted" or kind="nonparametric".'
        )
    coordinates = Whitening(x, rows, algorithm)
    inner, q = coordinates.into(algorithm), coordinates.into(state.posterior)
    source = source_of(key, coordinates.rows, inner.view, q, kind)
    numbers = np.arange(1, n_replicates + 1, dtype=np.int32)
    lanes = given_lanes(inner, q, source, numbers)
    lanes = advance(inner, source, lanes, Limits(max_iter, tol), max_iter)
    sound = ~np.isin(lanes.status, FAILED)
    if not sound.any():
        raise ValueError(
            f"the fits of all {n_replicates} replicates failed, such as the first one: "
            f"{Status(int(lanes.status[0])).message}"
        )
    named = _named(inner.view, lanes.states.posterior, source.estimate)
    replicates = in_units(named, coordinates.to.inverse(), state.posterior.dtype)
    return Bootstrap(
        student_t_mixture(state) if has_student_t(state) else mixture(state),
        type(named)(*(as_array(a[sound]) for a in replicates)),
        kind,
        int((~sound).sum()),
        int((lanes.status == Status.MAX_ITERATIONS).sum()),
    )


def _own_state(fit: Any, algorithm: Algorithm) -> State:
    """The state of one lane of this algorithm."""
    state = state_of(fit, "bootstrap")
    check_start({"posterior": state.posterior}, algorithm.prior, 0)
    if state.view.point != algorithm.view.point:
        raise ValueError(
            f"the state was read as the {state.view.name} of its posterior, but {algorithm.name} "
            f"reads the {algorithm.view.name}; give the algorithm that fitted it."
        )
    return state


def source_of(key: Array, rows: Rows, view: View, q: Prior, kind: str) -> Source:
    """Where the replicates of a fit come from, all of it in the coordinates of the fit."""
    return Source(key, rows, _estimate(view, q), kind)


@program()
def _estimate(view: View, q: Prior) -> Estimate:
    return view.estimate(q)


@program()
def _named(view: View, posteriors: Prior, reference: Estimate) -> Any:
    """The mixtures of many posteriors, with the components' names of a reference."""

    def one(q: Prior) -> Mixture:
        m = view.estimate(q)
        own: Any = parameters(m, m.matrices())
        return rename(own, assignment(m.means, reference))

    return jax.vmap(one)(posteriors)


def in_units(named: Any, back: Affine, dtype: Any) -> tuple[np.ndarray, ...]:
    """Mixtures in the data's units, from the coordinates of a fit; in NumPy and 64 bits."""
    weights, means, covariances, *more = (np.asarray(a, np.float64) for a in named)
    matrix = np.asarray(back.matrix)
    if matrix.ndim < 2:
        matrix = np.eye(means.shape[-1]) * matrix
    covariances = np.einsum("ia,bkij,jc->bkac", matrix, covariances, matrix, optimize=True)
    return tuple(a.astype(dtype) for a in (weights, back.points(means), covariances, *more))
