"""The objectives of jaxgmm once more, in NumPy and float64, from their definitions and SciPy's.

Nothing here calls jaxgmm: priors and posteriors are read by the names of their fields. A covariance
is a matrix (K, D, D) here whatever the family is.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import special
from scipy.special import digamma, logsumexp

# The least standard deviation of a cluster beside the pooled one is 16 eps of the dtype; squared,
# and of float32 for both dtypes: eigenvalues in float64 could not tell that of float64.
RESOLVED = (16 * np.finfo(np.float32).eps) ** 2

FAMILIES = {
    "NormalWishart": "full",
    "TiedNormalWishart": "tied",
    "NormalGamma": "diag",
    "SphericalNormalGamma": "spherical",
}


def gammaln(a: Any) -> np.ndarray:
    """SciPy's, with a type."""
    return np.asarray(special.gammaln(a))


def multigammaln(a: float, d: int) -> float:
    """Log of the multivariate gamma function (Bishop 2006, below eq. B.79)."""
    return float(d * (d - 1) / 4 * np.log(np.pi) + gammaln(a - np.arange(d) / 2).sum())


class Distribution(NamedTuple):
    """A prior or a posterior: Dirichlet weights, normal means, and their precisions.

    Attributes:
        family: ``"full"``, ``"tied"``, ``"diag"`` or ``"spherical"``.
        concentration: ``(K,)``.
        mean: ``(K, D)``.
        kappa: ``(K,)``, the precision of the means in samples.
        shape: degrees of freedom, or shapes of gammas, as in the family's class.
        scale: scales, or rates of gammas, as in the family's class.
    """

    family: str
    concentration: np.ndarray
    mean: np.ndarray
    kappa: np.ndarray
    shape: np.ndarray
    scale: np.ndarray

    @property
    def proper(self) -> bool:
        d = self.mean.shape[1]
        least = d - 1 if self.family in ("full", "tied") else 0
        return bool((self.kappa > 0).all() and np.all(self.shape > least))


class Parameters(NamedTuple):
    """Weights ``(K,)``, means ``(K, D)``, covariances ``(K, D, D)``."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray


def read(prior: Any) -> Distribution:
    """A prior or posterior of jaxgmm, of one lane."""
    c = prior.components
    family = FAMILIES[type(c).__name__]
    wishart = family in ("full", "tied")
    fields = ("degrees_of_freedom", "scale") if wishart else ("shape", "rate")
    arrays = (
        prior.weights.concentration,
        c.mean,
        c.mean_precision,
        *(getattr(c, f) for f in fields),
    )
    return Distribution(family, *(np.asarray(a, np.float64) for a in arrays))


def mode(q: Distribution) -> Parameters:
    """The joint mode over weights, means and covariances."""
    k, d = q.mean.shape
    excess = np.maximum(q.concentration - 1, 0)
    weights = excess / excess.sum() if excess.sum() > 0 else np.full(k, 1 / k)
    eye = np.eye(d)
    match q.family:
        case "full":
            covariances = q.scale / (q.shape + d + 2)[:, None, None]
        case "tied":
            covariances = np.broadcast_to(q.scale / (q.shape + d + 1 + k), (k, d, d))
        case "diag":
            covariances = (q.scale / (q.shape + 1.5))[:, :, None] * eye
        case _:
            covariances = (q.scale / (q.shape + 1 + d / 2))[:, None, None] * eye
    return Parameters(weights, q.mean, covariances)


def from_sklearn(model: Any, d: int) -> Parameters:
    """The parameters of a fitted GaussianMixture."""
    k, eye, c = len(model.weights_), np.eye(d), model.covariances_
    match model.covariance_type:
        case "tied":
            c = np.broadcast_to(c, (k, d, d))
        case "diag":
            c = c[:, :, None] * eye
        case "spherical":
            c = c[:, None, None] * eye
    return Parameters(model.weights_, model.means_, c)


def _squares(
    x: np.ndarray, means: np.ndarray, matrices: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``(x - m)^T M^-1 (x - m)`` of all rows (N, K), and ``log|M|`` (K,), by correlations.

    A matrix with a variance of 0, or with no Cholesky factor in float64, gives NaN.
    """
    with np.errstate(all="ignore"):
        sd = np.sqrt(np.diagonal(matrices, axis1=1, axis2=2))
        correlations = matrices / sd[:, :, None] / sd[:, None, :]
        squares, log_dets = [], []
        for m, s, r in zip(means, sd, correlations, strict=True):
            try:
                lower = np.linalg.cholesky(r)
            except np.linalg.LinAlgError:
                lower = np.full_like(r, np.nan)
            if not np.isfinite(lower).all():
                squares.append(np.full(len(x), np.nan))
                log_dets.append(np.nan)
                continue
            z = np.linalg.solve(lower, ((x - m) / s).T)
            squares.append((z**2).sum(0))
            log_dets.append(2 * np.log(np.diagonal(lower)).sum() + 2 * np.log(s).sum())
    return np.stack(squares, axis=1), np.array(log_dets)


def log_joint(x: np.ndarray, p: Parameters) -> np.ndarray:
    """``log w_k + log Normal(x | mu_k, Sigma_k)``, (N, K)."""
    squares, log_dets = _squares(x, p.means, p.covariances)
    with np.errstate(divide="ignore"):
        log_weights = np.log(p.weights)
    joint = log_weights - 0.5 * (squares + log_dets + x.shape[1] * np.log(2 * np.pi))
    return np.where(p.weights > 0, joint, -np.inf)


def log_likelihood(x: np.ndarray, p: Parameters, weight: np.ndarray | None = None) -> float:
    """Summed over the rows, in nats."""
    rows = np.asarray(logsumexp(log_joint(x, p), axis=1))
    return float(rows.sum() if weight is None else weight @ rows)


def log_prior(p: Parameters, prior: Distribution) -> float:
    """Log density over weights (beside the uniform one), means and covariances; 0 if flat.

    Normal times inverse Wishart, or inverse gamma, as in Murphy (2007).
    """
    if not prior.proper:
        return 0.0
    k, d = p.means.shape
    a, kappa = prior.concentration, prior.kappa
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.where(a == 1, 0.0, (a - 1) * np.log(p.weights)).sum()
    weights += gammaln(a.sum()) - gammaln(a).sum() - gammaln(k)
    squares = np.empty(k)
    log_dets = np.empty(k)
    for j in range(k):
        square, log_det = _squares(prior.mean[j][None], p.means[[j]], p.covariances[[j]])
        squares[j], log_dets[j] = square[0, 0], log_det[0]
    normal = 0.5 * (d * np.log(kappa / (2 * np.pi)) - log_dets - kappa * squares).sum()
    variances = np.diagonal(p.covariances, axis1=1, axis2=2)
    match prior.family:
        case "full":
            own = zip(prior.scale, prior.shape, p.covariances, strict=True)
            return float(weights + normal + sum(_wishart(*each) for each in own))
        case "tied":
            return float(weights + normal + _wishart(prior.scale, prior.shape, p.covariances[0]))
        case "diag":
            return float(weights + normal + _inverse_gamma(prior, variances).sum())
        case _:
            return float(weights + normal + _inverse_gamma(prior, variances[:, 0]).sum())


def _wishart(scale: np.ndarray, nu: np.ndarray, covariance: np.ndarray) -> float:
    """Log density of an inverse Wishart at a covariance."""
    d = len(scale)
    _, scale_det = np.linalg.slogdet(scale)
    _, log_det = np.linalg.slogdet(covariance)
    trace = np.trace(np.linalg.solve(covariance, scale))
    constant = 0.5 * nu * (scale_det - d * np.log(2)) - multigammaln(float(nu) / 2, d)
    return float(constant - 0.5 * (nu + d + 1) * log_det - 0.5 * trace)


def _inverse_gamma(prior: Distribution, variance: np.ndarray) -> np.ndarray:
    a, b = prior.shape, prior.scale
    return a * np.log(b) - gammaln(a) - (a + 1) * np.log(variance) - b / variance


# --- the evidence lower bound -----------------------------------------------------------------


def elbo(
    x: np.ndarray, q: Distribution, prior: Distribution, weight: np.ndarray | None = None
) -> float:
    """With the best responsibilities for q; Bishop 2006, section 10.2."""
    k, d = q.mean.shape
    if q.family in ("full", "tied"):
        nu = np.broadcast_to(q.shape, (k,))
        scale = np.broadcast_to(q.scale, (k, d, d))
        expected = scale / nu[:, None, None]
        steps = np.arange(d)
        log_lambda = digamma(0.5 * (nu[:, None] - steps)).sum(1) + d * np.log(2)
        extra = log_lambda - d * np.log(nu)
    else:
        shape = q.shape if q.family == "diag" else np.repeat(q.shape[:, None], d, 1)
        rate = q.scale if q.family == "diag" else np.repeat(q.scale[:, None], d, 1)
        expected = (rate / shape)[:, :, None] * np.eye(d)
        extra = (digamma(shape) - np.log(shape)).sum(1)
    squares, log_dets = _squares(x, q.mean, expected)
    a = q.concentration
    log_weights = digamma(a) - digamma(a.sum())
    means = -0.5 * d / q.kappa
    joint = log_weights + 0.5 * (extra - log_dets - d * np.log(2 * np.pi)) + means - 0.5 * squares
    rows = np.asarray(logsumexp(joint, axis=1))
    evidence = rows.sum() if weight is None else weight @ rows
    return float(evidence - _kl(q, prior, expected))


def _kl(q: Distribution, prior: Distribution, expected: np.ndarray) -> float:
    """KL(q || prior), given E[Lambda]^-1 of each component."""
    k, d = q.mean.shape
    a, b = q.concentration, prior.concentration
    kl = gammaln(a.sum()) - gammaln(b.sum()) + (gammaln(b) - gammaln(a)).sum()
    kl += ((a - b) * (digamma(a) - digamma(a.sum()))).sum()
    for j in range(k):
        square, _ = _squares(prior.mean[j][None], q.mean[[j]], expected[[j]])
        ratio = prior.kappa[j] / q.kappa[j]
        kl += 0.5 * (d * (ratio - 1 - np.log(ratio)) + prior.kappa[j] * square[0, 0])
    if q.family in ("full", "tied"):
        own = (q.scale, q.shape, prior.scale, prior.shape)
        if q.family == "tied":
            return float(kl + _kl_wishart(*own))
        return float(kl + sum(_kl_wishart(*each) for each in zip(*own, strict=True)))
    s, r, s0, r0 = q.shape, q.scale, prior.shape, prior.scale
    gammas = (s - s0) * digamma(s) - gammaln(s) + gammaln(s0) + s0 * (np.log(r) - np.log(r0))
    return float(kl + (gammas + s * (r0 / r - 1)).sum())


def _kl_wishart(s: np.ndarray, degrees: np.ndarray, s0: np.ndarray, degrees0: np.ndarray) -> float:
    d, nu, nu0 = len(s), float(degrees), float(degrees0)
    _, log_s = np.linalg.slogdet(s)
    _, log_s0 = np.linalg.slogdet(s0)
    trace = np.trace(np.linalg.solve(s, s0))
    psi = digamma(0.5 * (nu - np.arange(d))).sum()
    return float(
        0.5 * nu0 * (log_s - log_s0)
        + 0.5 * nu * (trace - d)
        + multigammaln(nu0 / 2, d)
        - multigammaln(nu / 2, d)
        + 0.5 * (nu - nu0) * psi
    )


def objective(
    x: np.ndarray, state: Any, prior: Any = None, weight: np.ndarray | None = None
) -> float:
    """What jaxgmm's state of one lane should say of itself, in nats, summed over the rows."""
    x = np.asarray(x, np.float64)
    q, p = read(state.posterior), read(state.prior if prior is None else prior)
    if not state.view.point:
        return elbo(x, q, p, weight)
    at = mode(q)
    return log_likelihood(x, at, weight) + log_prior(at, p)


# --- which optima are clean -------------------------------------------------------------------


def clean(p: Parameters, family: str, counts: np.ndarray, margin: float = 1.0) -> bool:
    """The rule of `jaxgmm.is_degenerate` for maximum likelihood, in float64.

    Every component has the samples that its covariance needs, and in no direction a variance below
    `RESOLVED` of the pooled one, or 1e-2 with a handful of samples; all divided by a margin.
    """
    d = p.means.shape[1]
    if not all(np.isfinite(a).all() for a in p):
        return False
    if family == "tied":
        return bool((counts > 1e-9).all()) and np.linalg.cond(_correlation(p.covariances[0])) < 1e13
    needs = d + 1 if family == "full" else 2
    if (counts < needs * (1 - 1e-6) / margin).any():
        return False
    pooled = np.einsum("k,kij->ij", counts / counts.sum(), p.covariances)
    sd = np.sqrt(np.diagonal(pooled))
    if not (sd > 0).all():
        return False
    try:
        root = np.linalg.inv(np.linalg.cholesky(pooled / sd[:, None] / sd))
    except np.linalg.LinAlgError:
        return False
    for count, c in zip(counts, p.covariances, strict=True):
        least = np.linalg.eigvalsh(root @ (c / sd[:, None] / sd) @ root.T)[0]
        if least < (1e-2 if count < 5 * needs / margin else RESOLVED) / margin:
            return False
    return True


def _correlation(c: np.ndarray) -> np.ndarray:
    sd = np.sqrt(np.diagonal(c))
    return c / sd[:, None] / sd
