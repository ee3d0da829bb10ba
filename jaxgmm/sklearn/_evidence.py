"""The bound of a posterior that is the best one for its responsibilities, less their entropy."""

from typing import Any

import numpy as np
from scipy.special import betaln, gammaln

from jaxgmm._numerics.special import LOG_2PI


def log_evidence(model: Any, n_samples: int) -> float:
    """Log evidence of samples with known components, in nats: a difference of normalisers.

    The posterior is conjugate, so it is ``log Z(posterior) - log Z(prior)`` with the constants of
    the likelihood (Bishop 2006, eq. 2.227 to 2.229; Murphy 2007, eq. 266).

    Args:
        model: a fitted `BayesianGaussianMixture`.
        n_samples: N.
    """
    k, d = model.means_.shape
    means = 0.5 * d * np.sum(np.log(model.mean_precision_prior_ / model.mean_precision_))
    prior = _log_normaliser(
        model.covariance_type, model.degrees_of_freedom_prior_, model.covariance_prior_, d
    )
    degrees = np.asarray(model.degrees_of_freedom_)
    shape = degrees.shape + (1,) * (np.ndim(model.covariances_) - degrees.ndim)
    scale = model.covariances_ * degrees.reshape(shape)
    posterior = _log_normaliser(model.covariance_type, degrees, scale, d)
    precisions = np.sum(posterior) - (1 if model.covariance_type == "tied" else k) * prior
    constant = -0.5 * n_samples * d * LOG_2PI
    return float(constant + means + precisions + _weights(model, k))


def _log_normaliser(covariance_type: str, degrees: Any, scale: Any, d: int) -> Any:
    """Log of the integral of the unnormalised density (Bishop 2006, eq. B.26 and B.79)."""
    if covariance_type in ("full", "tied"):
        log_det = np.linalg.slogdet(scale)[1]
        terms = gammaln((np.asarray(degrees)[..., None] - np.arange(d)) / 2).sum(axis=-1)
        # pi to a power that is the same for prior and posterior is left out
        return terms - 0.5 * degrees * (log_det - d * np.log(2))
    if covariance_type == "spherical":
        shape, rate = degrees * d / 2, scale * d / 2
        return gammaln(shape) - shape * np.log(rate)
    shape, rate = np.asarray(degrees / 2)[..., None], scale / 2
    return (gammaln(shape) - shape * np.log(rate)).sum(axis=-1)


def _weights(model: Any, k: int) -> float:
    prior, found = model.weight_concentration_prior_, model.weight_concentration_
    if model.weight_concentration_prior_type == "dirichlet_process":
        up, down = (a[:-1] for a in found)
        return np.sum(betaln(up, down) - betaln(1.0, prior))
    return np.sum(gammaln(found)) - gammaln(np.sum(found)) - k * gammaln(prior) + gammaln(k * prior)
