"""GaussianMixture: expectation maximisation."""

from typing import Any

import numpy as np
from sklearn import mixture

from jaxgmm._estep.data import Data
from jaxgmm._lane.state import State
from jaxgmm._model.defaults import flat_prior
from jaxgmm._model.views import Mode
from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.pytree import replace
from jaxgmm.sklearn import _programs as programs
from jaxgmm.sklearn._base import LanesMixin
from jaxgmm.sklearn._online import OnlineMixin
from jaxgmm.sklearn._programs import Description, Parameters
from jaxgmm.sklearn._rules import GaussianRule


class GaussianMixture(OnlineMixin, LanesMixin, mixture.GaussianMixture):
    """Gaussian mixture by maximum likelihood (EM), with the interface of scikit-learn's.

    It derives from `sklearn.mixture.GaussianMixture` and replaces it. Constructor, fitted
    attributes, methods, errors and warnings are the same. With the same ``random_state`` the
    starts, the iterations and the fit are the same, too, up to rounding. All ``n_init``
    initialisations run at once, in one program. `fit` takes ``sample_weight``, too, and
    `partial_fit` learns from one batch after the other.

    Samples in float32 are computed in float32, and all other samples in float64, whatever the
    settings of JAX are. The settings are not changed. A program is compiled, which takes about a
    second, for each number of features, components and initialisations. It serves numbers of
    samples that differ by up to an eighth, because samples of weight 0 fill up its arrays.
    `jaxgmm.cache_programs` keeps programs for later processes. Predictions of few samples compile
    nothing.

    What differs from scikit-learn:

    - An initialisation that fails with an ill-defined covariance is left out. The ValueError is
      raised only if all initialisations fail.
    - With ``reg_covar=0`` the likelihood has no maximum. Then an initialisation in which a
      component has collapsed (`jaxgmm.is_degenerate`) is the best only if all of them have
      collapsed. With any other ``reg_covar`` the one with the highest ``lower_bound_`` is kept, so
      more initialisations never lower it; ``regularised_`` says whether a component is a spike.
    - With ``init_params`` ``"k-means++"`` or ``"random_from_data"`` the first element of
      ``lower_bounds_`` is higher by ``log(n_samples / n_components)``, because the weights sum to
      one from the start.
    - ``verbose`` prints only after all initialisations have ended.
    - A subclass that replaces a step of scikit-learn's loop, such as ``_m_step``, is fitted by that
      loop, which calls it: one initialisation after the other, and without ``sample_weight``.
    - Arrays of other libraries are copied to NumPy, and what is returned is NumPy's; an array on a
      GPU is refused.
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
        lower_bound_: mean log-likelihood at the start of its last iteration, in nats; with weights
            the weighted mean.
        lower_bounds_: list of the lower bounds of all iterations.
        regularised_: ``(K,)``, whether more than half of a component's variance, in some direction,
            is ``reg_covar``. Such a component is a spike on few samples, or on equal ones, whose
            likelihood ``reg_covar`` decides; or the units of the data are too small for it.
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

    def _added(self) -> Any:
        return self.reg_covar

    def _given(
        self, x: np.ndarray, weight: np.ndarray | None, rows: np.ndarray | None = None
    ) -> Parameters:
        k, d = self.n_components, x.shape[1]
        covariances = None
        if self.precisions_init is not None:
            matrices = as_matrices(self.precisions_init, self.covariance_type, k, d)
            covariances = np.linalg.inv(matrices)
        elif rows is not None and rows is not x and self.covariance_type == "tied":
            # one sample for each component: scikit-learn's formula takes the others, too
            every = x.T @ (x if weight is None else weight[:, None] * x)
            tied = (every - rows.T @ rows) / k + self.reg_covar * np.eye(d)
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

    def _parameters(self, found: Description, state: State) -> tuple[Any, ...]:
        return found.weights, found.means, found.covariances, found.precisions_cholesky


def as_matrices(a: np.ndarray, covariance_type: str, k: int, d: int) -> np.ndarray:
    """Covariances or precisions of any type as matrices, ``(K, D, D)``."""
    if covariance_type in ("full", "tied"):
        return np.broadcast_to(a, (k, d, d))
    rows = a if covariance_type == "diag" else a[:, None]
    return rows[:, :, None] * np.eye(d, dtype=a.dtype)
