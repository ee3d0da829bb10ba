"""BayesianGaussianMixture: variational inference by coordinate ascent."""

from typing import Any

import numpy as np
from scipy.special import digamma
from sklearn import mixture
from sklearn.mixture._gaussian_mixture import _estimate_log_gaussian_prob

from jaxgmm._estep.data import Data
from jaxgmm._lane.state import State, initial_state
from jaxgmm._model.prior import Prior
from jaxgmm._model.views import Expectation
from jaxgmm._numerics.arrays import as_array
from jaxgmm.sklearn import _programs as programs
from jaxgmm.sklearn._base import LanesMixin
from jaxgmm.sklearn._evidence import log_evidence
from jaxgmm.sklearn._priors import components_of, covariance_of, is_singular, weights_of
from jaxgmm.sklearn._programs import Description
from jaxgmm.sklearn._rules import BayesianRule


class BayesianGaussianMixture(LanesMixin, mixture.BayesianGaussianMixture):
    """Variational Bayesian Gaussian mixture (CAVI), with the interface of scikit-learn's.

    It derives from `sklearn.mixture.BayesianGaussianMixture` and replaces it. Constructor, fitted
    attributes, methods, errors and warnings are the same, and so are the starts for a
    ``random_state``. All ``n_init`` initialisations run at once. See `GaussianMixture` for
    precision, compilation, subclasses and arrays of other libraries. With ``sample_weight`` the
    evidence is that of repeated rows, so that the sum of the weights is the number of observations.

    With full covariances and ``"dirichlet_distribution"`` every iteration equals scikit-learn's up
    to rounding, and so do the posterior and all predictions. In the other cases scikit-learn's
    formulas do not belong to the model that it describes. This class uses the formulas of the
    model, and so a fit may need more iterations, or fewer:

    - ``"diag"`` and ``"spherical"``: each precision has a gamma distribution of shape ``nu / 2``
      and rate ``S / 2`` (both times D for spherical). Here nu is ``degrees_of_freedom_``, and S is
      ``covariances_ * degrees_of_freedom_``. The prior has the same form, with
      ``degrees_of_freedom_prior`` and ``covariance_prior``. For given responsibilities every fitted
      attribute equals scikit-learn's. But the expected log precision is that of the gamma
      distribution, ``digamma(shape) - log(rate)``; scikit-learn uses the log determinant of a
      D-dimensional Wishart distribution. So the responsibilities differ, and then the fits.
    - ``"tied"``: one Wishart distribution of ``degrees_of_freedom_prior + N`` degrees of freedom
      and of scale ``covariance_prior`` plus the pooled scatter. scikit-learn divides N and the
      scatter by K, as if the prior counted K times.
    - ``"dirichlet_process"``: the last of the K sticks takes all the remaining mass (Blei & Jordan
      2006), so the second array of ``weight_concentration_`` ends in 0. scikit-learn breaks the
      last stick, too, which takes some mass from the last component. The components are sorted by
      mass, because this order has the highest bound.
    - ``lower_bound_`` is the evidence lower bound with every constant, in nats, summed over all
      samples. For K = 1 it is the log evidence. scikit-learn's bound leaves out terms that depend
      only on the prior and on the shape of the data, so for equal posteriors the two bounds differ
      by a constant. ``tol`` limits the change of the bound, not divided by N, as in scikit-learn.
    - A default ``covariance_prior`` that is singular has ``reg_covar`` added to its diagonal.

    ``reg_covar`` works as in scikit-learn: it adds this variance to the scatter of a component for
    each of the component's samples, which lowers the bound. `score_samples` is also that of
    scikit-learn, ``log sum_k exp E[log pi_k N(x | mu_k, Lambda_k)]``. It is a lower bound of the
    log density and integrates to less than one. The posterior predictive density is
    `jaxgmm.log_prob` of `to_state`.

    Parameters:
        n_components: K, the number of components; some may remain nearly empty.
        covariance_type: ``"full"``, ``"tied"``, ``"diag"`` or ``"spherical"``.
        tol: a fit has converged when its bound, in nats, changes by less in one iteration.
        reg_covar: added to the diagonal of covariances, in squared units of the data.
        max_iter: largest number of iterations; with 0 the fit is its start.
        n_init: number of initialisations, of which the one with the highest bound is kept.
        init_params: ``"kmeans"``, ``"k-means++"``, ``"random"`` or ``"random_from_data"``.
        weight_concentration_prior_type: ``"dirichlet_process"`` or ``"dirichlet_distribution"``.
        weight_concentration_prior: of each component; ``1 / K`` by default. For the process the
            second parameter of each stick's ``Beta(1, .)``.
        mean_precision_prior: in samples; 1 by default.
        mean_prior: ``(D,)``; by default the mean of the samples.
        degrees_of_freedom_prior: above ``D - 1``; D by default.
        covariance_prior: inverse scale of the Wishart distributions: ``(D, D)`` for full and tied,
            ``(D,)`` for diag, a number for spherical; by default from the samples' covariance.
        random_state: seed or RandomState of the starts, and of `sample`.
        warm_start: whether `fit` continues from the last fit, as one initialisation.
        verbose: 1 prints the iterations, 2 also prints the changes of the bound.
        verbose_interval: iterations between two printed lines.

    Attributes:
        weights_: ``E[pi]``, ``(K,)``.
        means_: ``E[mu]``, ``(K, D)``.
        covariances_: ``E[Lambda]^-1``: ``(K, D, D)`` full, ``(D, D)`` tied, ``(K, D)`` diag,
            ``(K,)`` spherical.
        precisions_: ``E[Lambda]``.
        precisions_cholesky_: upper triangular factors F of the precisions, ``F F^T``; square roots
            for diag and spherical.
        converged_: whether the best fit converged.
        n_iter_: number of iterations of the best fit.
        lower_bound_: evidence lower bound of the best fit, in nats.
        lower_bounds_: list of the lower bounds of all iterations.
        weight_concentration_: ``(K,)`` of the Dirichlet distribution, or the sticks' two ``(K,)``.
        mean_precision_: ``(K,)``.
        degrees_of_freedom_: ``(K,)``; for tied a number.
        weight_concentration_prior_: a number; the other priors' attributes are
            ``mean_precision_prior_``, ``mean_prior_``, ``degrees_of_freedom_prior_`` and
            ``covariance_prior_``.
        regularised_: ``(K,)``, whether more than half of a component's variance, in some direction,
            is ``reg_covar``.
        n_features_in_: D.
        feature_names_in_: names of the features, if the samples have any.

    Example:
        >>> import numpy as np
        >>> from jaxgmm.sklearn import BayesianGaussianMixture
        >>> X = np.concatenate([np.linspace(0, 1, 30), np.linspace(5, 6, 10)])[:, None]
        >>> mixture = BayesianGaussianMixture(n_components=3, random_state=0).fit(X)
        >>> print(mixture.weights_.round(2))
        [0.75 0.24 0.01]
        >>> print(mixture.predict([[0.2], [5.7]]))
        [0 1]
    """

    # --- the priors ---------------------------------------------------------------------------

    def _set_defaults(self, x: np.ndarray, weight: np.ndarray | None) -> None:
        if weight is not None and self.mean_prior is None:
            self.mean_prior_ = np.average(x, axis=0, weights=weight).astype(x.dtype)
        if self.covariance_prior is None:
            if weight is not None:
                self.covariance_prior_ = covariance_of(x, weight, self.covariance_type)
            if is_singular(self.covariance_prior_, x.dtype):
                eye = np.eye(x.shape[1]) if np.ndim(self.covariance_prior_) == 2 else 1
                self.covariance_prior_ = self.covariance_prior_ + self.reg_covar * eye

    def _added(self) -> Any:
        count = self.mean_precision_ - self.mean_precision_prior_
        if self.covariance_type == "tied":
            count = count.sum()
        return self.reg_covar * count / self.degrees_of_freedom_

    def _prior(self, d: int, dtype: np.dtype) -> Prior:
        k, concentration = self.n_components, np.asarray(self.weight_concentration_prior_)
        if self.weight_concentration_prior_type == "dirichlet_process":
            weights = weights_of((np.ones(k), np.full(k, concentration)), dtype)
        else:
            weights = weights_of(np.full(k, concentration), dtype)
        components = components_of(
            self.covariance_type,
            np.broadcast_to(self.mean_prior_, (k, d)),
            np.full(k, self.mean_precision_prior_),
            np.asarray(self.degrees_of_freedom_prior_),
            np.asarray(self.covariance_prior_),
            dtype,
        )
        return Prior(weights, components)

    def _rule(self, x: np.ndarray, previous: float) -> BayesianRule:
        dtype = x.dtype
        return BayesianRule(
            self._prior(x.shape[1], dtype),
            Expectation(),
            as_array(self.reg_covar, dtype),
            as_array(previous, dtype),
            programs.path_for(x, self.n_components),
        )

    # --- the posterior ------------------------------------------------------------------------

    def _parameters(self, found: Description, state: State) -> tuple[Any, ...]:
        weights, components = state.posterior.weights, state.posterior.components
        precision = np.array(components.mean_precision)
        if not weights.ordered:
            concentration: Any = np.array(weights.concentration)
        else:
            last = 1 + precision[-1:] - precision.dtype.type(self.mean_precision_prior_)
            concentration = (
                np.append(np.array(weights.alpha), last),
                np.append(np.array(weights.beta), np.zeros_like(last)),
            )
        degrees = np.array(components.precisions.degrees())[()]
        shaped = found.covariances, found.precisions_cholesky
        return concentration, precision, found.means, degrees, *shaped

    def _posterior(self, dtype: np.dtype) -> Prior:
        degrees = np.asarray(self.degrees_of_freedom_)
        ones = (1,) * (self.covariances_.ndim - 1)
        each = degrees.reshape(-1, *ones) if degrees.ndim else degrees
        components = components_of(
            self.covariance_type,
            self.means_,
            self.mean_precision_,
            degrees,
            self.covariances_ * each,
            dtype,
        )
        return Prior(weights_of(self.weight_concentration_, dtype), components)

    def _resumed(self, algorithm: BayesianRule, data: Data) -> State:
        return programs.resume(algorithm, self._posterior(data.x.dtype), data)

    def _state(self) -> State:
        dtype = self.means_.dtype
        prior = self._prior(self.means_.shape[1], dtype)
        return initial_state(prior, self._posterior(dtype), Expectation())

    def _log_det_gap(self) -> Any:
        # half of E log|Lambda| - log|E Lambda| (Bishop 2006, eq. 10.65 and B.30), and D / 2 kappa
        nu, d = np.asarray(self.degrees_of_freedom_), self.means_.shape[1]
        if self.covariance_type == "diag":
            gap = d * (digamma(nu / 2) - np.log(nu / 2))
        elif self.covariance_type == "spherical":
            gap = d * (digamma(nu * d / 2) - np.log(nu * d / 2))
        else:
            gap = digamma((nu[..., None] - np.arange(d)) / 2).sum(axis=-1) - d * np.log(nu / 2)
        return 0.5 * (gap - d / self.mean_precision_)

    # --- scikit-learn's steps, where its formulas are not the model's -----------------------------

    def _estimate_log_prob(self, X: Any, xp: Any = None) -> np.ndarray:  # noqa: N803
        given = self.means_, self.precisions_cholesky_, self.covariance_type
        return _estimate_log_gaussian_prob(X, *given) + self._log_det_gap()

    def _m_step(self, X: Any, log_resp: np.ndarray, xp: Any = None) -> None:  # noqa: N803
        if self.weight_concentration_prior_type == "dirichlet_process":
            mass = np.exp(log_resp).sum(axis=0)
            log_resp = log_resp[:, np.argsort(-mass, kind="stable")]
        super()._m_step(X, log_resp)

    def _estimate_weights(self, nk: np.ndarray) -> None:
        super()._estimate_weights(nk)
        if self.weight_concentration_prior_type == "dirichlet_process":
            self.weight_concentration_[1][-1] = 0

    def _estimate_wishart_tied(self, nk: np.ndarray, xk: np.ndarray, sk: np.ndarray) -> None:
        # Bishop 2006, eq. 10.62 and 10.63, of a Wishart distribution that all components share
        total, difference = nk.sum(), xk - self.mean_prior_
        between = (self.mean_precision_prior_ * nk / self.mean_precision_) * difference.T
        self.degrees_of_freedom_ = self.degrees_of_freedom_prior_ + total
        scale = self.covariance_prior_ + total * sk + between @ difference
        self.covariances_ = scale / self.degrees_of_freedom_

    def _compute_lower_bound(self, log_resp: np.ndarray, log_prob_norm: Any) -> np.float64:
        entropy = -np.sum(np.exp(log_resp) * log_resp)
        return np.float64(entropy + log_evidence(self, len(log_resp)))
