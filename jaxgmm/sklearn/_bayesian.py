"""BayesianGaussianMixture: variational inference by coordinate ascent."""

from numbers import Real
from typing import Any

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from jaxgmm._estep.data import Data
from jaxgmm._lane.state import State, initial_state
from jaxgmm._model.prior import Prior
from jaxgmm._model.views import Expectation
from jaxgmm._numerics.arrays import as_array
from jaxgmm.sklearn import _programs as programs
from jaxgmm.sklearn._base import BaseMixture
from jaxgmm.sklearn._checks import check_floats, check_positive_definite, check_shape
from jaxgmm.sklearn._priors import components_of, is_singular, weights_of
from jaxgmm.sklearn._programs import Description, Model
from jaxgmm.sklearn._rules import BayesianRule

_POSITIVE = Interval(Real, 0.0, None, closed="neither")


class BayesianGaussianMixture(BaseMixture):
    """Variational Bayesian Gaussian mixture (CAVI), with the interface of scikit-learn's.

    It replaces `sklearn.mixture.BayesianGaussianMixture`. Constructor, fitted attributes, methods,
    errors and warnings are the same, and so are the starts for a ``random_state``. All ``n_init``
    initialisations run at once. See `GaussianMixture` for precision and compilation.

    With full covariances and ``"dirichlet_distribution"`` every iteration equals scikit-learn's up
    to rounding, and so do the posterior and all predictions. In the other cases scikit-learn's
    formulas do not belong to the model that it describes. This class uses the formulas of the
    model:

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

    _parameter_constraints: dict = {
        **BaseMixture._parameter_constraints,
        "weight_concentration_prior_type": [
            StrOptions({"dirichlet_process", "dirichlet_distribution"})
        ],
        "weight_concentration_prior": [None, _POSITIVE],
        "mean_precision_prior": [None, _POSITIVE],
        "mean_prior": [None, "array-like"],
        "degrees_of_freedom_prior": [None, _POSITIVE],
        "covariance_prior": [None, "array-like", _POSITIVE],
    }

    def __init__(
        self,
        *,
        n_components: Any = 1,
        covariance_type: Any = "full",
        tol: Any = 1e-3,
        reg_covar: Any = 1e-6,
        max_iter: Any = 100,
        n_init: Any = 1,
        init_params: Any = "kmeans",
        weight_concentration_prior_type: Any = "dirichlet_process",
        weight_concentration_prior: Any = None,
        mean_precision_prior: Any = None,
        mean_prior: Any = None,
        degrees_of_freedom_prior: Any = None,
        covariance_prior: Any = None,
        random_state: Any = None,
        warm_start: Any = False,
        verbose: Any = 0,
        verbose_interval: Any = 10,
    ):
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weight_concentration_prior_type = weight_concentration_prior_type
        self.weight_concentration_prior = weight_concentration_prior
        self.mean_precision_prior = mean_precision_prior
        self.mean_prior = mean_prior
        self.degrees_of_freedom_prior = degrees_of_freedom_prior
        self.covariance_prior = covariance_prior
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval

    # --- the priors ---------------------------------------------------------------------------

    def _check_parameters(self, x: np.ndarray) -> None:
        d = x.shape[1]
        self.weight_concentration_prior_ = _default(
            self.weight_concentration_prior, 1.0 / self.n_components
        )
        self.mean_precision_prior_ = _default(self.mean_precision_prior, 1.0)
        if self.mean_prior is None:
            self.mean_prior_ = x.mean(axis=0)
        else:
            self.mean_prior_ = check_floats(self.mean_prior)
            check_shape(self.mean_prior_, (d,), "means")
        self.degrees_of_freedom_prior_ = _default(self.degrees_of_freedom_prior, d)
        if self.degrees_of_freedom_prior_ <= d - 1:
            raise ValueError(
                f"The parameter 'degrees_of_freedom_prior' should be greater than {d - 1}, but got "
                f"{self.degrees_of_freedom_prior_:.3f}."
            )
        self.covariance_prior_ = self._checked_covariance_prior(x)

    def _checked_covariance_prior(self, x: np.ndarray) -> Any:
        d, kind = x.shape[1], self.covariance_type
        matrix = kind in ("full", "tied")
        if self.covariance_prior is None:
            spread = np.atleast_2d(np.cov(x.T)) if matrix else np.var(x, axis=0, ddof=1)
            if kind == "spherical":
                spread = spread.mean()
            if is_singular(spread, x.dtype):
                spread = spread + self.reg_covar * (np.eye(d) if matrix else 1)
            return spread
        if kind == "spherical":
            return self.covariance_prior
        prior = check_floats(self.covariance_prior)
        check_shape(prior, (d, d) if matrix else (d,), f"{kind} covariance_prior")
        check_positive_definite(prior, kind)
        return prior

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

    def _set_parameters(self, state: State) -> Description:
        found = super()._set_parameters(state)
        weights, components = state.posterior.weights, state.posterior.components
        self.mean_precision_ = np.array(components.mean_precision)
        self.degrees_of_freedom_ = np.array(components.precisions.degrees())[()]
        if not weights.ordered:
            self.weight_concentration_ = np.array(weights.concentration)
        else:
            last = (
                1
                + self.mean_precision_[-1:]
                - self.mean_precision_.dtype.type(self.mean_precision_prior_)
            )
            self.weight_concentration_ = (
                np.append(np.array(weights.alpha), last),
                np.append(np.array(weights.beta), np.zeros_like(last)),
            )
        model = Model(found.const, self.means_, self.precisions_cholesky_, self.covariance_type)
        self._found = (self._attributes(), model)
        return found

    def _attributes(self) -> list[Any]:
        names = ("weight_concentration_", "mean_precision_", "means_", "degrees_of_freedom_")
        return [getattr(self, name) for name in (*names, "covariances_")]

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

    def _model(self, dtype: np.dtype) -> Model:
        fitted, model = self._found
        if all(a is b for a, b in zip(fitted, self._attributes(), strict=True)):
            return model
        # somebody has set another posterior
        p = programs.expected_potentials(self._posterior(dtype))
        const, mean, factor = (np.asarray(a) for a in (p.const, p.mean, p.factor))
        return Model(const, mean, factor, self.covariance_type)


def _default(value: Any, default: Any) -> Any:
    return default if value is None else value
