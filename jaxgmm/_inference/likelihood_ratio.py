"""The likelihood-ratio test of two mixtures, by a parametric bootstrap of the smaller one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgmm._algorithms.base import Algorithm
from jaxgmm._algorithms.wrapper import check_ascends
from jaxgmm._estep.row_checks import check_rows
from jaxgmm._estep.rows import Samples, floats_of
from jaxgmm._estep.structures import structure
from jaxgmm._fit.driver import Limits
from jaxgmm._fit.fit import fit
from jaxgmm._fit.moves import Move, apply
from jaxgmm._fit.whitening import Whitening, into
from jaxgmm._inference.bootstrap import source_of
from jaxgmm._inference.replicates import (
    Lanes,
    advance,
    compile_ahead,
    given_lanes,
    random_lanes,
    together,
)
from jaxgmm._inference.resampling import Source
from jaxgmm._lane.state import State
from jaxgmm._lane.status import FAILED, Status
from jaxgmm._model.checks import check_model
from jaxgmm._model.estimate import Estimate, given_estimate
from jaxgmm._model.prior import Prior
from jaxgmm._numerics.affine import Affine
from jaxgmm._numerics.calls import usage
from jaxgmm._numerics.checks import check_non_negative, check_positive_int
from jaxgmm._numerics.programs import program
from jaxgmm._numerics.pytree import replace, take

# Iterations after which the starts of a replicate are compared; and those of them that go on.
_SHORT = 16
_KEPT = 2


class LikelihoodRatioTest:
    """What `likelihood_ratio_test` returns.

    Attributes:
        statistic: twice the log of the likelihood ratio of the data.
        replicates: the statistics of the replicates; without those whose fits failed.
        p_value: of the null model.
        null: the state of the null model, fitted to the data.
        models: what the two models are, in words.
        n_failed: replicates whose fits failed.
    """

    def __init__(
        self,
        statistic: float,
        replicates: np.ndarray,
        null: State,
        models: tuple[str, str],
        n_failed: int,
    ):
        self.statistic = statistic
        self.replicates = replicates
        self.null = null
        self.models = models
        self.n_failed = n_failed

    @property
    def p_value(self) -> float:
        """The share of the statistics that are as large as that of the data, its own included.

        NaN if the fits of the data failed.
        """
        if np.isnan(self.statistic):
            return float("nan")
        larger = int(np.sum(self.replicates >= self.statistic))
        return (1 + larger) / (len(self.replicates) + 1)

    def summary(self) -> str:
        """What was tested, and what came out."""
        null, alternative = self.models
        lines = [
            f"{null} against {alternative}: 2 log(likelihood ratio) {self.statistic:.3f}, "
            f"p = {self.p_value:.3g} ({len(self.replicates)} replicates)"
        ]
        if len(self.replicates):
            middle, high = np.quantile(self.replicates, [0.5, 0.95])
            lines.append(f"under the null: median {middle:.3f}, 95 % quantile {high:.3f}")
        if np.isnan(self.statistic):
            lines.append("All fits of the data failed: fit fewer components, or use a prior.")
        if self.n_failed:
            lines.append(f"note: the fits of {self.n_failed} replicates failed; they are left out.")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<jaxgmm LikelihoodRatioTest: {self.summary()}>"


@usage("jaxgmm.likelihood_ratio_test(key, x, null, alternative)")
def likelihood_ratio_test(
    key: Array,
    x: Samples,
    null: Algorithm,
    alternative: Algorithm,
    n_replicates: int = 999,
    *,
    n_starts: int = 8,
    max_iter: int = 1000,
    tol: float = 1e-7,
) -> LikelihoodRatioTest:
    """Test whether a larger mixture fits better than chance explains, such as three components.

    Twice the log of the likelihood ratio of a mixture with a component more has no chi-squared
    distribution, because the smaller model is where the larger one loses its identity. So its
    distribution is that of replicates from the fitted null model (McLachlan 1987; McLachlan & Peel
    2000, section 6.4). The p-value is ``(1 + number of replicates with a statistic as large) / (B +
    1)``.

    Both models are fitted to the data exactly as to each replicate. The null model starts from its
    fit to the data; the alternative, if it has one component more, from each way to split a
    component of that fit. Both also start ``n_starts`` times by k-means++ on the replicate. After
    16 iterations the two best starts go on. All replicates are lanes over data sets in one compiled
    program for each model.

    Args:
        key: PRNG key.
        x: samples, ``(N, D)``, without weights.
        null: the smaller model, as `em` of its prior; `squarem` may wrap it.
        alternative: the larger model, which contains the null model.
        n_replicates: B.
        n_starts: random starts of each model for each replicate.
        max_iter: largest number of iterations of a lane.
        tol: as in `fit`.

    Returns:
        `LikelihoodRatioTest`, with ``statistic``, ``p_value``, ``replicates`` and ``summary()``.

    Raises:
        ValueError: for algorithms that have no point estimate, an alternative that does not contain
            the null model (fewer components, or a covariance structure that cannot be as general),
            rows with weights, and a null model whose fit to the data failed.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> one, two = (jaxgmm.em(jaxgmm.flat_prior(k, 2, "spherical")) for k in (1, 2))
        >>> test = jaxgmm.likelihood_ratio_test(
        ...     jax.random.key(1), x, one, two, n_replicates=19, n_starts=2
        ... )
        >>> test.p_value > 0.05
        True
    """
    for algorithm in (null, alternative):
        check_ascends("likelihood_ratio_test", algorithm)
        if not algorithm.view.point:
            raise ValueError(
                "likelihood_ratio_test compares point estimates, but "
                f"{algorithm.name} has none; give it jaxgmm.em."
            )
    for name, number in {"n_replicates": n_replicates, "max_iter": max_iter}.items():
        check_positive_int(name, number)
    check_positive_int("n_starts", n_starts)
    check_non_negative("tol", tol)
    x = floats_of(x)
    rows = check_rows(x)
    check_model(null.prior, rows)
    check_model(alternative.prior, rows)
    if rows.weight is not None:
        raise ValueError(
            "likelihood_ratio_test draws rows without weights, but these rows have weights."
        )
    if rows.noise is not None or rows.labels is not None:
        raise ValueError(
            "likelihood_ratio_test draws true values, but these rows have noise or labels; compare "
            "the models by jaxgmm.select(key, rows, ...)."
        )
    coordinates = Whitening(x, rows, null)
    to = _as_general(coordinates.to, null, alternative)
    fit_key, draw_key, start_key = jax.random.split(key, 3)
    best = fit(fit_key, x, null, tol=tol, max_iter=max_iter, progress=False).best
    if int(best.status) in FAILED:
        raise ValueError(
            f"the null model's fit to the data failed: {Status(int(best.status)).message}"
        )
    small, q = coordinates.into(null), coordinates.into(best.posterior)
    large = into(alternative, to)
    source = source_of(draw_key, coordinates.rows, small.view, q, "parametric")
    plan = (n_starts, n_replicates, Limits(max_iter, tol))
    for algorithm in (small, large):
        compile_ahead(algorithm, source, n_starts * (n_replicates + 1))
    keys = jax.random.split(start_key)
    low = _highest(small, jax.tree.map(lambda a: a[None], q), source, keys[0], *plan)
    starts = _nested_starts(large, source)
    high = _highest(large, starts, source, keys[1], *plan)
    # the null model is one of the alternative's
    statistics = np.maximum(2 * (high - low), 0)
    replicates = statistics[1:]
    sound = ~np.isnan(replicates)
    models = (_in_words(null), _in_words(alternative))
    failed = int((~sound).sum())
    return LikelihoodRatioTest(float(statistics[0]), replicates[sound], best, models, failed)


def _in_words(algorithm: Algorithm) -> str:
    k, name = algorithm.prior.n_components, algorithm.prior.components.covariance_name
    return f"{k} component{'s' if k > 1 else ''} ({name} covariance)"


def _as_general(to: Affine, null: Algorithm, alternative: Algorithm) -> Affine:
    """The null model's coordinates, as the alternative takes them."""
    square = structure(alternative.prior.components.structure).separate == "full"
    fewer = alternative.prior.n_components < null.prior.n_components
    fewer = fewer or alternative.prior.n_parameters <= null.prior.n_parameters
    if fewer or (np.ndim(to.matrix) == 2 and not square):
        raise ValueError(
            f"the alternative, {_in_words(alternative)}, does not contain the null model, "
            f"{_in_words(null)}; it needs more parameters, as many components or more, and "
            "covariances as general."
        )
    if square and np.ndim(to.matrix) < 2:
        return Affine(to.before, np.diag(np.broadcast_to(to.matrix, np.shape(to.before))), to.after)
    return to


def _nested_starts(algorithm: Any, source: Source) -> Prior | None:
    """Posteriors at which the alternative starts, led by their number; None if there are none."""
    more = algorithm.prior.n_components - source.estimate.weights.shape[0]
    if more > 1:
        return None
    return (
        _splits(algorithm.prior, algorithm.view, source)
        if more
        else _same(algorithm.prior, algorithm.view, source)
    )


def _general(prior: Prior, estimate: Estimate) -> Estimate:
    """An estimate in the shape of another model's, with a covariance of each component."""
    kind = prior.components.structure
    return given_estimate(kind, estimate.weights, estimate.means, estimate.matrices())


@program()
def _same(prior: Prior, view: Any, source: Source) -> Prior:
    total = jnp.asarray(source.rows.n_samples, source.rows.x.dtype)
    q = view.posterior_at(prior, _general(prior, source.estimate), total)
    return jax.tree.map(lambda a: a[None], q)


@program()
def _splits(prior: Prior, view: Any, source: Source) -> Prior:
    """Every split of one component of the fitted mixture."""
    total = jnp.asarray(source.rows.n_samples, source.rows.x.dtype)
    small = _general(prior, source.estimate)
    k = small.weights.shape[0]

    def longer(a: Array) -> Array:
        return jnp.concatenate([a, a[-1:]])

    weights = jnp.append(small.weights, 0)
    means, covariance = longer(small.means), longer(small.covariance)
    large = replace(small, weights=weights, means=means, covariance=covariance)

    def split(which: Array) -> Prior:
        new = jnp.full_like(which, k)
        return view.posterior_at(prior, apply(large, large, Move(new, new, which)), total)

    return jax.vmap(split)(jnp.arange(k))


def _highest(
    algorithm: Any,
    starts: Prior | None,
    source: Source,
    key: Array,
    n_starts: int,
    n_replicates: int,
    limits: Limits,
) -> np.ndarray:
    """The highest log likelihood of the data and of each replicate; NaN if all lanes failed."""
    numbers = np.arange(n_replicates + 1, dtype=np.int32)
    groups: list[Lanes] = []
    n_given = 0 if starts is None else jax.tree.leaves(starts)[0].shape[0]
    given = jax.tree.map(np.asarray, starts)
    for i in range(n_given):
        groups.append(given_lanes(algorithm, take(given, i), source, numbers))
    groups.append(random_lanes(algorithm, key, source, np.tile(numbers, n_starts)))
    lanes = together(*groups)
    lanes = advance(algorithm, source, lanes, limits, min(_SHORT, limits.max_iter))
    beaten = np.argsort(np.argsort(-_table(lanes, n_replicates + 1), axis=0), axis=0) >= _KEPT
    running = lanes.status == Status.RUNNING
    lanes = lanes.with_status(beaten.ravel() & running, Status.DROPPED)
    lanes = advance(algorithm, source, lanes, limits, limits.max_iter)
    best = np.max(_table(lanes, n_replicates + 1), axis=0)
    return np.where(np.isfinite(best), best, np.nan)


def _table(lanes: Lanes, n: int) -> np.ndarray:
    """Log likelihoods, lanes of a replicate below each other; -inf of those that failed."""
    failed = np.isin(lanes.status, FAILED) | np.isnan(lanes.log_likelihood)
    return np.where(failed, -np.inf, lanes.log_likelihood).reshape(-1, n)
