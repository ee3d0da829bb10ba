"""Selection: how many components, and which covariances."""

import functools
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxgmm._algorithms.base import Algorithm
from jaxgmm._algorithms.cavi import cavi
from jaxgmm._algorithms.em import em
from jaxgmm._estep.padded import padded_size
from jaxgmm._estep.row_checks import check_rows
from jaxgmm._estep.rows import Rows, Samples, floats_of
from jaxgmm._fit.driver import Limits
from jaxgmm._fit.selection import CRITERIA, Selection
from jaxgmm._fit.sweep import Options, Outcome, Sweep
from jaxgmm._lane.given import check_start
from jaxgmm._lane.status import Status
from jaxgmm._model.checks import check_model
from jaxgmm._model.defaults import default_prior, flat_prior
from jaxgmm._model.families import FAMILIES
from jaxgmm._model.padding import unpad
from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.calls import described, usage
from jaxgmm._numerics.checks import check_choice, check_non_negative, check_positive_int
from jaxgmm._numerics.programs import check_process, check_untraced, program


@usage("jaxgmm.select(key, x, range(1, 11))")
def select(
    key: Array,
    x: Samples,
    n_components: Iterable[int] = range(1, 11),
    covariance: str | Sequence[str] = tuple(FAMILIES),
    criterion: str = "bic",
    *,
    algorithm: Callable[[int, str], Algorithm] | None = None,
    n_restarts: int = 16,
    n_folds: int = 5,
    init: str | Callable[..., Array] = "mixed",
    max_iter: int = 1000,
    tol: float = 1e-6,
    sample_weight: ArrayLike | None = None,
    progress: bool | None = None,
) -> Selection:
    """Fit every number of components under every covariance, and choose by a criterion.

    All K of one covariance are lanes of one program. In a lane with fewer components the other
    components are absent, which does not change its fit. So two programs are compiled for each
    covariance, whatever the range of K. The lanes of one K race. The best of them then tries moves,
    as in `fit`, until two rounds find nothing better. Some moves come from neighbours: from the
    best lane of K - 1 with a component split, and from the best lane of K + 1 with two components
    merged (after Ueda et al. 2000).

    Args:
        key: PRNG key.
        x: samples, ``(N, D)``.
        n_components: the K to try.
        covariance: one or more names of covariances; or any names that your ``algorithm``
            knows.
        criterion: ``"bic"`` (Schwarz 1978), ``"aic"`` (Akaike 1974) or ``"icl"`` (Biernacki et al.
            2000), of which the smallest is best; ``"elbo"``, the bound of the evidence, or
            ``"cv"``, the mean log density of a held-out sample in nats, of which the largest is
            best.
        algorithm: a function from K and the name of a covariance to an algorithm, which is `em` or
            `cavi`, also inside `squarem` or `annealed`. The default is maximum likelihood, and for
            ``"elbo"`` CAVI with the prior that `default_prior` makes for the largest K. It is one
            prior for every K, because evidences under different priors cannot be compared.
        n_restarts: lanes for each K and covariance.
        n_folds: number of folds of ``"cv"``.
        init: a random start by name or a function, see `Algorithm.init`.
        max_iter: largest number of iterations of a lane.
        tol: as in `fit`.
        sample_weight: non-negative, ``(N,)``; the N of ``"bic"`` is their sum.
        progress: whether to show a progress bar; by default only on a terminal.

    Returns:
        `Selection`, with ``table``, ``best``, ``states`` and a printed form. Ctrl-C returns the
        covariances that were finished.

    Raises:
        ValueError: before any tracing, for bad samples or weights, unknown names, no K, a K above
            the number of rows, ``"elbo"`` without a posterior, an algorithm that is not EM or CAVI.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> selection = jaxgmm.select(jax.random.key(1), x, range(1, 4), ["spherical"])
        >>> selection.n_components, selection.covariance
        (1, 'spherical')
    """
    check_process()
    check_untraced("select", "choose a model outside of it", key, x, sample_weight)
    sizes = _sizes(n_components)
    names = _names(covariance)
    if algorithm in (em, cavi) or not (algorithm is None or callable(algorithm)):
        raise ValueError(
            "algorithm must be a function of K and the name of a covariance, such as lambda k, c: "
            f"jaxgmm.cavi(jaxgmm.default_prior(x, k, c)), but it is {described(algorithm)}."
        )
    x = floats_of(x)
    rows = check_rows(x, sample_weight)
    check_choice("criterion", criterion, CRITERIA)
    check_positive_int("n_restarts", n_restarts)
    check_positive_int("max_iter", max_iter)
    check_non_negative("tol", tol)
    if not sizes or not names:
        raise ValueError("select needs at least one n_components and one covariance to try.")
    if algorithm is None:
        for name in names:
            check_choice("covariance", name, FAMILIES)
        algorithm = _default_algorithm(x, rows, sizes[-1], criterion)
    sweeps = {name: [algorithm(k, name) for k in sizes] for name in names}
    for name, algorithms in sweeps.items():
        _check_sweep(name, algorithms, sizes, rows, criterion)
    start = check_start(init, sweeps[names[0]][-1].prior, rows.n_samples)
    if isinstance(start, dict):
        raise ValueError(f"init must be a random start by name, or a function, but it is {init!r}.")
    folds: list[Fold] = [(rows.weight, None)]
    if criterion == "cv":
        folds = _folds(key, rows, n_folds)
    options = Options(start, n_restarts, Limits(max_iter, tol))
    return _run_sweeps(key, x, rows, sweeps, sizes, folds, criterion, options, progress)


def _sizes(n_components: Any) -> list[int]:
    """The K to try, in order."""
    if not isinstance(n_components, Iterable) or isinstance(n_components, str | Algorithm):
        hint = f"range(1, {n_components + 1})" if isinstance(n_components, int) else "range(1, 11)"
        raise ValueError(
            f"n_components must be the numbers to try, such as {hint}, but it is "
            f"{described(n_components)}; call jaxgmm.select(key, x, {hint})."
        )
    return sorted({check_positive_int("n_components", k) for k in n_components})


def _names(covariance: Any) -> list[str]:
    """The covariances to try."""
    if isinstance(covariance, str):
        return [covariance]
    if not isinstance(covariance, Sequence):
        raise ValueError(
            'covariance must be a name or several, such as ("full", "diag"), but it is '
            f"{described(covariance)}."
        )
    return list(covariance)


def _default_algorithm(
    x: Any, rows: Rows, largest: int, criterion: str
) -> Callable[[int, str], Algorithm]:
    d, dtype = rows.n_features, rows.x.dtype
    weighted = x if isinstance(x, Rows) else Rows(x, rows.weight)

    @functools.cache
    def widest(covariance: str) -> Algorithm:
        if criterion == "elbo":
            return cavi(default_prior(weighted, largest, covariance))
        return em(flat_prior(largest, d, covariance, dtype))

    def make(k: int, covariance: str) -> Algorithm:
        whole = widest(covariance)
        if criterion == "elbo":
            return whole.with_prior(unpad(whole.prior, k))
        return whole.with_prior(flat_prior(k, d, covariance, dtype))

    return make


def _check_sweep(
    name: str, algorithms: Sequence[Any], sizes: list[int], rows: Rows, criterion: str
) -> None:
    for k, algorithm in zip(sizes, algorithms, strict=True):
        if not isinstance(algorithm, Algorithm) or not algorithm.ascends:
            raise ValueError(
                f"algorithm({k}, {name!r}) must come from jaxgmm.em or jaxgmm.cavi, plain or "
                f"wrapped and without a truncation, but it is {described(algorithm)}."
            )
        if algorithm.prior.n_components != k:
            raise ValueError(
                f"algorithm({k}, {name!r}) must have {k} components, but its prior has "
                f"{algorithm.prior.n_components}."
            )
        check_model(algorithm.prior, rows)
        if _kind(algorithm) != _kind(algorithms[0]):
            raise ValueError(
                f"algorithm must give one kind of model for all K of a covariance, but for "
                f"{name!r} it gives {_kind(algorithms[0])} and {_kind(algorithm)}."
            )
    if criterion == "elbo" and algorithms[0].view.point:
        raise ValueError(
            'criterion="elbo" compares bounds of the evidence, and needs jaxgmm.cavi, but '
            f"algorithm({sizes[0]}, {name!r}) is {algorithms[0].name}."
        )


def _kind(algorithm: Any) -> str:
    prior = algorithm.prior
    covariance = prior.components.covariance_name
    return f"{algorithm.name} of {covariance} covariances and {type(prior.weights).__name__}"


# Numbers in x up to which all covariances have their data, in coordinates of their own, at once, so
# that their programs can be compiled ahead.
_AHEAD = 1 << 22

# The weights of the rows that are fitted, and of those that are held out from that.
Fold = tuple[Array | None, Array | None]


def _folds(key: Array, rows: Rows, n_folds: int) -> list[Fold]:
    """All the rows, and then all but each fold: one program for all of them."""
    check_positive_int("n_folds", n_folds)
    x, weight, n_samples = rows.x, rows.weight, rows.n_samples
    if not 2 <= n_folds <= n_samples:
        raise ValueError(f"n_folds must be from 2 to {n_samples}, the rows of x; got {n_folds}.")
    whole = np.ones(n_samples, x.dtype) if weight is None else np.asarray(weight)
    # of a padded number: other numbers of rows share the program
    order = np.argsort(np.asarray(_noise(key, n=padded_size(n_samples)))[:n_samples])
    fold = np.empty(n_samples, int)
    fold[order] = np.arange(n_samples) % n_folds
    held = [np.where(fold == i, whole, 0).astype(x.dtype) for i in range(n_folds)]
    parts = [(whole, np.zeros_like(whole)), *((whole - h, h) for h in held)]
    return [(as_array(a), as_array(b)) for a, b in parts]


@program(static=("n",))
def _noise(key: Array, *, n: int) -> Array:
    return jax.random.uniform(jax.random.fold_in(key, 1), (n,))


def _run_sweeps(
    key: Array,
    x: Any,
    rows: Rows,
    sweeps: dict[str, list[Any]],
    sizes: list[int],
    folds: list[Fold],
    criterion: str,
    options: Options,
    progress: bool | None,
) -> Selection:
    from tqdm import tqdm

    found: list[dict[str, Any]] = []
    interrupted = False
    bar = tqdm(
        total=len(sweeps) * len(folds),
        desc="select",
        unit="sweep",
        leave=False,
        disable=None if progress is None else not progress,
    )
    try:
        ready = {}
        if rows.x.size <= _AHEAD:
            ready = {name: Sweep(x, a, sizes, rows, options) for name, a in sweeps.items()}
            for sweep in ready.values():
                sweep.ahead(key, *folds[0])
        for name, algorithms in sweeps.items():
            bar.set_postfix_str(name, refresh=False)
            sweep = ready.pop(name, None) or Sweep(x, algorithms, sizes, rows, options)
            outcomes = []
            for i, fold in enumerate(folds):
                outcomes.append(sweep.run(jax.random.fold_in(key, i), *fold))
                bar.update()
            found.extend(_rows(name, sweep, outcomes))
    except KeyboardInterrupt:
        if not found:
            raise
        interrupted = True
    finally:
        bar.close()
    selection = Selection(criterion, found, interrupted)
    if doubt := selection.doubt():
        warnings.warn(doubt, RuntimeWarning, stacklevel=4)
    return selection


def _rows(name: str, sweep: Sweep, folds: list[Outcome]) -> list[dict]:
    """One row of the table for each K: the fit to all the data, and its criteria."""
    out = []
    fitted, *held_out = folds
    total = fitted.total
    for g, k in enumerate(sweep.sizes):
        algorithm = sweep.algorithms[g]
        status = Status(int(fitted.best.status[g]))
        df = algorithm.prior.n_parameters
        log_likelihood, log_assignment, *_ = (float(a) for a in fitted.scores[g])
        bic = df * math.log(total) - 2 * log_likelihood
        row = {
            "covariance": name,
            "n_components": k,
            "n_parameters": df,
            "log_likelihood": log_likelihood,
            "bic": bic,
            "aic": 2 * df - 2 * log_likelihood,
            "icl": bic - 2 * log_assignment,
            "elbo": float(fitted.best.objective[g]) if not algorithm.view.point else math.nan,
            "cv": math.nan,
            "cv_error": math.nan,
            "status": status,
            "state": sweep.state(fitted, g),
        }
        if held_out:
            failed = any(Status(int(f.best.status[g])).failed for f in held_out)
            log_density = sum(float(f.scores[g, 2]) for f in held_out)
            squares = sum(float(f.scores[g, 3]) for f in held_out)
            mean = log_density / total
            row["cv"] = math.nan if failed else mean
            # of the mean over the samples, as if the folds' fits were independent of them
            row["cv_error"] = math.sqrt(max(squares / total - mean**2, 0) / total)
        if status.failed:
            row.update({c: math.nan for c in CRITERIA})
        out.append(row)
    return out
