"""GaussianMixture: expectation maximisation."""

import math
from typing import Any

import numpy as np

from jaxgmm._estep.data import Data
from jaxgmm._lane.state import State
from jaxgmm._model.defaults import flat_prior
from jaxgmm._model.families import FAMILIES
from jaxgmm._model.views import Mode
from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.pytree import replace
from jaxgmm._numerics.special import LOG_2PI
from jaxgmm.sklearn import _programs as programs
from jaxgmm.sklearn._base import BaseMixture
from jaxgmm.sklearn._checks import check_floats, check_positive_definite, check_shape
from jaxgmm.sklearn._programs import Model, Parameters
from jaxgmm.sklearn._rules import GaussianRule


class GaussianMixture(BaseMixture):
    """Gaussian mixture by maximum likelihood (EM), with the interface of scikit-learn's.

    It replaces `sklearn.mixture.GaussianMixture`. Constructor, fitted attributes, methods, errors
    and warnings are the same. With the same ``random_state`` the starts, the iterations and the fit
    are the same, too, up to rounding. All ``n_init`` initialisations run at once, in one program.

    Samples in float32 are computed in float32, and all other samples in float64, whatever the
    settings of JAX are. The settings are not changed. A program is compiled, which takes about a
    second, for each number of features, components and initialisations. It serves numbers of
    samples that differ by up to an eighth, because samples of weight 0 fill up its arrays.
    `jaxgmm.cache_programs` keeps programs for later processes. Predictions of few samples compile
    nothing.

    What differs from scikit-learn:

    - An initialisation that fails with an ill-defined covariance is left out. The ValueError is
      raised only if all initialisations fail.
    - An initialisation in which a component has collapsed (`jaxgmm.is_degenerate`) is never the
      best, because its likelihood is an artefact. If all of them have collapsed, there is a
      ConvergenceWarning.
    - With ``init_params`` ``"k-means++"`` or ``"random_from_data"`` the first element of
      ``lower_bounds_`` is higher by ``log(n_samples / n_components)``, because the weights sum to
      one from the start.
    - ``verbose`` prints only after all initialisations have ended.
    - An empty component keeps a count of ``10 (n_features + 2) eps`` samples; in scikit-learn it
      keeps ``10 eps``.

    Parameters:
        n_components: K, the number of components.
        covariance_type: ``"full"`` (each component has a covariance matrix of its own), ``"tied"``
            (one for all), ``"diag"`` (a diagonal one each) or ``"spherical"`` (a variance each).
        tol: a fit has converged when the mean log-likelihood of the samples, in nats, changes by
            less in one iteration.
        reg_covar: added to the diagonal of each covariance, in squared units of the data.
        max_iter: largest number of iterations; with 0 the fit is its start.
        n_init: number of initialisations, of which the best is kept.
        init_params: ``"kmeans"``, ``"k-means++"``, ``"random"`` (responsibilities) or
            ``"random_from_data"`` (means).
        weights_init: ``(K,)``, in place of the weights that ``init_params`` gives.
        means_init: ``(K, D)``, in place of the means that ``init_params`` gives.
        precisions_init: inverse covariances at the start: ``(K, D, D)`` full, ``(D, D)`` tied,
            ``(K, D)`` diag, ``(K,)`` spherical.
        random_state: seed or RandomState of the starts, and of `sample`.
        warm_start: whether `fit` continues from the last fit, as one initialisation.
        verbose: 1 prints the iterations, 2 also prints the changes of the bound.
        verbose_interval: iterations between two printed lines.

    Attributes:
        weights_: ``(K,)``.
        means_: ``(K, D)``.
        covariances_: in the shape of ``precisions_init``.
        precisions_: the inverses of the covariances.
        precisions_cholesky_: upper triangular factors F of the precisions, ``F F^T``; square roots
            for diag and spherical. Predictions read this, ``means_`` and ``weights_``.
        converged_: whether the best fit converged.
        n_iter_: number of iterations of the best fit.
        lower_bound_: mean log-likelihood at the start of its last iteration, in nats.
        lower_bounds_: list of the lower bounds of all iterations.
        n_features_in_: D.
        feature_names_in_: names of the features, if the samples have any.

    Example:
        >>> import numpy as np
        >>> from jaxgmm.sklearn import GaussianMixture
        >>> X = np.concatenate([np.linspace(0, 1, 30), np.linspace(5, 6, 10)])[:, None]
        >>> mixture = GaussianMixture(n_components=2, random_state=0).fit(X)
        >>> print(mixture.weights_.round(3), mixture.means_.ravel().round(3))
        [0.75 0.25] [0.5 5.5]
        >>> print(mixture.predict([[0.2], [5.7]]))
        [0 1]
    """

    _parameter_constraints: dict = {
        **BaseMixture._parameter_constraints,
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "precisions_init": ["array-like", None],
    }

    def __init__(
        self,
        n_components: Any = 1,
        *,
        covariance_type: Any = "full",
        tol: Any = 1e-3,
        reg_covar: Any = 1e-6,
        max_iter: Any = 100,
        n_init: Any = 1,
        init_params: Any = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
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
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval

    def _check_parameters(self, x: np.ndarray) -> None:
        k, d = self.n_components, x.shape[1]
        if self.weights_init is not None:
            self.weights_init = _check_weights(self.weights_init, k)
        if self.means_init is not None:
            self.means_init = check_floats(self.means_init)
            check_shape(self.means_init, (k, d), "means")
        if self.precisions_init is not None:
            self.precisions_init = _check_precisions(
                self.precisions_init, self.covariance_type, k, d
            )

    def _given(self, x: np.ndarray, rows: np.ndarray | None = None) -> Parameters:
        k, d = self.n_components, x.shape[1]
        covariances = None
        if self.precisions_init is not None:
            matrices = as_matrices(self.precisions_init, self.covariance_type, k, d)
            covariances = np.linalg.inv(matrices)
        elif rows is not None and rows is not x and self.covariance_type == "tied":
            # one sample for each component: scikit-learn's formula takes the others, too
            tied = (x.T @ x - rows.T @ rows) / k + self.reg_covar * np.eye(d)
            covariances = as_matrices(tied, "tied", k, d)
        given = (self.weights_init, self.means_init, covariances)
        return Parameters(*(None if a is None else as_array(a, x.dtype) for a in given))

    def _rule(self, x: np.ndarray, previous: float) -> GaussianRule:
        dtype = x.dtype
        prior = flat_prior(self.n_components, x.shape[1], self.covariance_type, dtype)
        view = Mode(as_array(self.reg_covar, dtype))
        path = programs.path_for(x, self.n_components)
        return GaussianRule(prior, view, as_array(previous, dtype), path)

    def _resumed(self, algorithm: GaussianRule, data: Data) -> State:
        covariances = as_matrices(self.covariances_, self.covariance_type, *self.means_.shape)
        given = (self.weights_, self.means_, covariances)
        point = Parameters(*(as_array(a, data.x.dtype) for a in given))
        return programs.start(algorithm, data, None, point)

    def _state(self) -> State:
        # of the samples only their number counts
        data = programs.as_data(self.means_)
        total = as_array(self._n_samples, self.means_.dtype)
        return self._resumed(self._rule(self.means_, -np.inf), replace(data, total=total))

    def _model(self, dtype: np.dtype) -> Model:
        factor = np.asarray(self.precisions_cholesky_)
        d = self.means_.shape[1]
        if self.covariance_type in ("full", "tied"):
            log_det = np.log(np.diagonal(factor, axis1=-2, axis2=-1)).sum(axis=-1)
        else:
            log_det = np.log(factor).sum(axis=-1) if factor.ndim == 2 else d * np.log(factor)
        with np.errstate(divide="ignore"):  # a weight of 0
            const = np.log(self.weights_) + log_det - 0.5 * d * LOG_2PI
        return Model(const, self.means_, factor, self.covariance_type)

    def _n_parameters(self) -> int:
        k, d = self.means_.shape
        precisions = FAMILIES[self.covariance_type].distribution
        return k - 1 + k * d + precisions.n_parameters(k, d)

    def bic(self, X: Any) -> float:  # noqa: N803
        """Bayesian information criterion on the samples; smaller is better."""
        n = len(X)
        return -2 * self.score(X) * n + self._n_parameters() * math.log(n)

    def aic(self, X: Any) -> float:  # noqa: N803
        """Akaike's information criterion on the samples; smaller is better."""
        return -2 * self.score(X) * len(X) + 2 * self._n_parameters()


def as_matrices(a: np.ndarray, covariance_type: str, k: int, d: int) -> np.ndarray:
    """Covariances or precisions of any type as matrices, ``(K, D, D)``."""
    if covariance_type in ("full", "tied"):
        return np.broadcast_to(a, (k, d, d))
    rows = a if covariance_type == "diag" else a[:, None]
    return rows[:, :, None] * np.eye(d, dtype=a.dtype)


def _check_weights(weights: Any, n_components: int) -> np.ndarray:
    weights = check_floats(weights)
    check_shape(weights, (n_components,), "weights")
    if (weights < 0).any() or (weights > 1).any():
        # scikit-learn's words, which have the two the wrong way round
        raise ValueError(
            "The parameter 'weights' should be in the range [0, 1], but got max value "
            f"{weights.min():.5f}, min value {weights.max():.5f}"
        )
    tolerance = 1e-6 if weights.dtype == np.float32 else 1e-8
    if abs(1 - weights.sum()) > tolerance:
        raise ValueError(
            "The parameter 'weights' should be normalized, but got sum(weights) = "
            f"{weights.sum():.5f}"
        )
    return weights


def _check_precisions(precisions: Any, covariance_type: str, k: int, d: int) -> np.ndarray:
    shapes = {"full": (k, d, d), "tied": (d, d), "diag": (k, d), "spherical": (k,)}
    precisions = check_floats(precisions, allow_nd=covariance_type == "full")
    check_shape(precisions, shapes[covariance_type], f"{covariance_type} precision")
    for one in precisions if covariance_type == "full" else [precisions]:
        check_positive_definite(one, covariance_type)
    return precisions
