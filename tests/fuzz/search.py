"""Coordinate ascent in NumPy and float64, written from Bishop's book: is there a clean optimum?

The rows are centred and scaled first, exactly enough in float64, and the prior with them.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import digamma, logsumexp

from benchmarks import _oracle as oracle
from benchmarks._oracle import Distribution, Parameters

# Nats a sample by which an optimum must beat one component. The parameters that a second one has
# gain some thousandths even where there is nothing but noise.
ALIKE = 1e-4


class Problem(NamedTuple):
    x: np.ndarray
    weight: np.ndarray
    prior: Distribution
    point: bool
    # the least eigenvalue of correlations that the dtype of the fit holds
    least: float = 0.0


def standardised(problem: Problem) -> Problem:
    """The same problem in centred and scaled coordinates, in which a lane is as good or as bad."""
    x, prior = problem.x, problem.prior
    centre = x.mean(0)
    sd = np.sqrt(((x - centre) ** 2).mean(0))
    sd = np.full_like(sd, np.sqrt((sd**2).mean())) if prior.family == "spherical" else sd
    sd = np.where(sd > 0, sd, 1.0)
    match prior.family:
        case "full" | "tied":
            scale = prior.scale / sd / sd[:, None]
        case "diag":
            scale = prior.scale / sd**2
        case _:
            scale = prior.scale / sd[0] ** 2
    mean = (prior.mean - centre) / sd if prior.proper else prior.mean
    return problem._replace(x=(x - centre) / sd, prior=prior._replace(mean=mean, scale=scale))


def update(x: np.ndarray, r: np.ndarray, prior: Distribution) -> Distribution:
    """The conjugate update by weighted responsibilities (N, K); Bishop 2006, eq. 10.58 to 10.63."""
    n = r.sum(0)
    safe = np.where(n > 0, n, 1)
    means = (r.T @ x) / safe[:, None]
    centred = x[:, None] - means
    kappa = prior.kappa + n
    share = prior.kappa * n / np.where(kappa > 0, kappa, 1)
    gap = means - prior.mean
    mean = prior.mean + (n / np.where(kappa > 0, kappa, 1))[:, None] * gap
    new = prior._replace(concentration=prior.concentration + n, mean=mean, kappa=kappa)
    d = x.shape[1]
    if prior.family in ("full", "tied"):
        scatter = np.einsum("nk,nki,nkj->kij", r, centred, centred)
        scatter += np.einsum("k,ki,kj->kij", share, gap, gap)
        if prior.family == "tied":
            return new._replace(shape=prior.shape + n.sum(), scale=prior.scale + scatter.sum(0))
        return new._replace(shape=prior.shape + n, scale=prior.scale + scatter)
    scatter = np.einsum("nk,nki->ki", r, centred**2) + share[:, None] * gap**2
    if prior.family == "diag":
        return new._replace(shape=prior.shape + n[:, None] / 2, scale=prior.scale + scatter / 2)
    return new._replace(shape=prior.shape + d * n / 2, scale=prior.scale + scatter.sum(1) / 2)


def expected(q: Distribution) -> Parameters:
    """The mixture whose log densities, with `shift`, are q's expected ones."""
    k, d = q.mean.shape
    eye = np.eye(d)
    match q.family:
        case "full":
            covariances = q.scale / q.shape[:, None, None]
        case "tied":
            covariances = np.broadcast_to(q.scale / q.shape, (k, d, d))
        case "diag":
            covariances = (q.scale / q.shape)[:, :, None] * eye
        case _:
            covariances = (q.scale / q.shape)[:, None, None] * eye
    return Parameters(np.ones(k), q.mean, covariances)


def shift(q: Distribution) -> np.ndarray:
    """What the expected log joint of each component has beside the density of `expected`."""
    k, d = q.mean.shape
    if q.family in ("full", "tied"):
        nu = np.broadcast_to(q.shape, (k,))
        extra = digamma(0.5 * (nu[:, None] - np.arange(d))).sum(1) + d * np.log(2) - d * np.log(nu)
    else:
        shape = q.shape if q.family == "diag" else np.repeat(q.shape[:, None], d, 1)
        extra = (digamma(shape) - np.log(shape)).sum(1)
    a = q.concentration
    return digamma(a) - digamma(a.sum()) + 0.5 * (extra - d / q.kappa)


def joint_of(x: np.ndarray, q: Distribution, *, point: bool) -> np.ndarray:
    if point:
        return oracle.log_joint(x, oracle.mode(q))
    return oracle.log_joint(x, expected(q)) + shift(q)


def ascend(problem: Problem, r: np.ndarray, iterations: int = 500) -> tuple[Distribution, bool]:
    """A lane to its end, and whether its optimum is clean; it has given up where it is not."""
    x, weight, prior, point, least = problem
    weighted = weight[:, None] * r
    q, last = update(x, weighted, _weak(problem)), -np.inf
    for _ in range(iterations):
        joint = joint_of(x, q, point=point)
        rows = logsumexp(joint, axis=1)
        if not np.isfinite(rows).all():
            return q, False
        value = float(weight @ rows)
        weighted = weight[:, None] * np.exp(joint - rows[:, None])
        if point and not prior.proper and not _wide(q):
            return q, False
        # rows once more, or a change of the likelihood that no user would wait for
        if abs(value - last) <= 1e-8 * weight.sum():
            break
        last, q = value, update(x, weighted, prior)
    if prior.proper:
        return q, prior.family not in ("full", "tied") or eigenvalue(q.scale) >= least
    # components that are all alike are a saddle, which an ascent leaves too slowly to be seen
    if value - _undivided(problem) <= ALIKE * weight.sum() and len(prior.kappa) > 1:
        return q, False
    # whatever the weights' unit is, they are worth Kish's number of samples
    kish = weight.sum() / (weight**2).sum()
    return q, oracle.clean(oracle.mode(q), prior.family, kish * weighted.sum(0))


def eigenvalue(covariance: np.ndarray) -> float:
    """The least of the correlations of one covariance (D, D), or of several."""
    sd = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
    correlation = covariance / (sd[..., :, None] * sd[..., None, :])
    return float(np.linalg.eigvalsh(np.nan_to_num(correlation)).min())


def _undivided(problem: Problem) -> float:
    """The log-likelihood where all components are alike."""
    x, weight, prior, _ = problem
    k = len(prior.kappa)
    q = update(x, np.repeat(weight[:, None] / k, k, 1), prior)
    return oracle.log_likelihood(x, oracle.mode(q), weight)


def _wide(q: Distribution) -> bool:
    """Whether no variance has vanished for good; the rows' own variances are 1."""
    variances = np.diagonal(oracle.mode(q).covariances, axis1=1, axis2=2)
    return bool((variances > 1e-13).all())


def _weak(problem: Problem) -> Distribution:
    """A proper prior for the start: the problem's own, or a hundredth of a sample at the data."""
    prior = problem.prior
    if prior.proper:
        return prior
    k, d = prior.mean.shape
    c = k ** (-2 / d)
    base = prior._replace(kappa=np.full(k, 0.01))
    match prior.family:
        case "full":
            return base._replace(shape=np.full(k, d + 2.0), scale=np.tile(c * np.eye(d), (k, 1, 1)))
        case "tied":
            return base._replace(shape=np.asarray(d + 2.0), scale=c * np.eye(d))
        case "diag":
            return base._replace(shape=np.full((k, d), 1.5), scale=np.full((k, d), 0.5 * c))
        case _:
            return base._replace(shape=np.full(k, 1.5 * d), scale=np.full(k, 0.5 * d * c))


def start(rng: np.random.Generator, problem: Problem) -> np.ndarray:
    """Responsibilities of the nearest of K rows, chosen by k-means++ or at random; or random."""
    x, k = problem.x, problem.prior.mean.shape[0]
    style = rng.integers(3)
    if style == 2:
        return rng.dirichlet(np.full(k, 0.5), len(x))
    usable = np.flatnonzero(problem.weight > 0)
    chosen = [rng.choice(usable)]
    for _ in range(k - 1):
        squares = ((x[:, None] - x[chosen]) ** 2).sum(-1).min(1) * (problem.weight > 0)
        p = squares / squares.sum() if style == 0 and squares.sum() > 0 else None
        chosen.append(rng.choice(len(x), p=p) if p is not None else rng.choice(usable))
    return np.eye(k)[((x[:, None] - x[chosen]) ** 2).sum(-1).argmin(1)]


def finds_clean_optimum(problem: Problem, lanes: int = 100, seed: int = 0) -> bool:
    """Whether one of so many lanes ends at a clean optimum; the first that does ends the search."""
    problem = standardised(problem)
    rng = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        return any(ascend(problem, start(rng, problem))[1] for _ in range(lanes))
