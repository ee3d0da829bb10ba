"""What both estimators do: check, start, iterate all initialisations together, keep the best."""

import time
import warnings
from abc import abstractmethod
from copy import copy
from inspect import signature
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture._base import BaseMixture
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from jaxgmm._estep.data import Data
from jaxgmm._lane.state import State
from jaxgmm._lane.status import FAILED, Status
from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.programs import check_process
from jaxgmm._numerics.pytree import replace
from jaxgmm.sklearn import _programs as programs
from jaxgmm.sklearn._checks import (
    FLOATS,
    NOT_CONVERGED,
    OWN_STEPS,
    as_numpy,
    check_number,
    has_own_steps,
    ill_defined,
    positive_rows,
)
from jaxgmm.sklearn._inits import assign
from jaxgmm.sklearn._onnx import OnnxMixin
from jaxgmm.sklearn._programs import Description, Model, Parameters, Rule
from jaxgmm.sklearn._verbose import report

# since scikit-learn 1.8 its checks are told the module of the arrays
_NAMESPACE = {"xp": np} if "xp" in signature(BaseMixture._check_parameters).parameters else {}


class LanesMixin(OnnxMixin, BaseMixture):
    """All initialisations in one program; among the bases it comes before scikit-learn's mixture.

    What it does not replace is inherited from there, and reads the fitted attributes.
    """

    covariance_type: str
    weights_: np.ndarray
    means_: np.ndarray
    covariances_: np.ndarray
    precisions_: np.ndarray
    precisions_cholesky_: np.ndarray

    # --- what a mixture says of itself --------------------------------------------------------

    @abstractmethod
    def _rule(self, x: np.ndarray, previous: float) -> Rule:
        """The algorithm, with the bound that the first iteration is compared with."""

    @abstractmethod
    def _resumed(self, algorithm: Rule, data: Data) -> State:
        """The state of the last fit, read off the fitted attributes."""

    @abstractmethod
    def _state(self) -> State:
        """The fit as a state, without its course."""

    @abstractmethod
    def _parameters(self, found: Description, state: State) -> tuple[Any, ...]:
        """What scikit-learn's ``_get_parameters`` returns, of a state."""

    @abstractmethod
    def _added(self) -> Any:
        """The variance that ``reg_covar`` has added to each covariance."""

    def _log_det_gap(self) -> Any:
        """What the expected log density of each component is above that of its estimate."""
        return 0.0

    def _given(
        self, x: np.ndarray, weight: np.ndarray | None, rows: np.ndarray | None = None
    ) -> Parameters:
        """The parameters of a start that its assignment, of these rows, does not say."""
        return Parameters()

    def _set_defaults(self, x: np.ndarray, weight: np.ndarray | None) -> None:
        """Set what `_check_parameters` cannot: it knows of no weights."""

    # --- fitting ------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None):  # noqa: N803
        """Fit from ``n_init`` starts at once, and keep the one with the highest bound.

        Args:
            X: samples, array-like ``(N, D)``. Arrays of other libraries are copied to NumPy.
            y: ignored.
            sample_weight: ``(N,)``, non-negative: how many times each sample has been observed. So
                a weight of 2 counts as two rows, a weight of 0 as none, and the likelihood of a
                sample is raised to the power of its weight. None means 1 each. Starts by
                ``"kmeans"`` and ``"k-means++"`` are those of the repeated rows; the other two draw
                by rows.

        Returns:
            The estimator itself.

        Raises:
            ValueError: for samples, weights or parameters that scikit-learn refuses, and where
                every initialization has a component without a covariance.
            TypeError: for an array that cannot be copied to NumPy.
        """
        self.fit_predict(X, y, sample_weight)
        return self

    @programs.with_x64
    @config_context(array_api_dispatch=False)
    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> np.ndarray:  # noqa: N803
        """`fit`, and the most probable component of each sample: ``(N,)``."""
        given = as_numpy(X, "X")
        if self._has_own_steps():
            if sample_weight is not None:
                raise ValueError(OWN_STEPS.format(type(self).__name__))
            labels = super().fit_predict(given, y)
            self._note(len(labels))
            return labels
        check_process()
        self._validate_params()
        every: Any = validate_data(self, given, dtype=FLOATS, ensure_min_samples=2)
        x, weight = positive_rows(every, as_numpy(sample_weight, "sample_weight"))
        check_number(x, self.n_components)
        self._check_parameters(x, **_NAMESPACE)
        self._set_defaults(x, weight)
        began = time.perf_counter()
        resuming = self.warm_start and hasattr(self, "converged_")
        algorithm = self._rule(x, self.lower_bound_ if resuming else -np.inf)
        data = programs.as_data(x, weight)
        if resuming:
            self._check_resumable(x)
            states = programs.stack([self._resumed(algorithm, data)])
        else:
            states = self._starts(algorithm, data, x, weight)
        if (np.asarray(states.status) == Status.COLLAPSED).all():
            raise ValueError(ill_defined(x.dtype))
        history = np.empty((0, len(states.status)))
        if self.max_iter > 0:
            states, history = programs.iterate(algorithm, states, data, self.max_iter, self.tol)
        report(self, states, history, time.perf_counter() - began)
        self._keep(states, history, x.dtype)
        self._note(len(x) if weight is None else float(weight.sum(dtype=np.float64)))
        return programs.labels(self._model(), every)

    def _has_own_steps(self) -> bool:
        """Whether a subclass replaces a step of scikit-learn's loop, which then is what fits."""
        return has_own_steps(self, LanesMixin)

    def _starts(
        self, algorithm: Rule, data: Data, x: np.ndarray, weight: np.ndarray | None
    ) -> State:
        given = self._given(x, weight)
        if all(a is not None for a in given):
            # initializations that are all the same
            return programs.stack([programs.start(algorithm, data, None, given)])
        random_state = check_random_state(self.random_state)
        states = []
        for _ in range(self.n_init):
            rows, to = assign(x, weight, self.n_components, self.init_params, random_state)
            these = data if rows is x else programs.as_data(rows)
            given = self._given(x, weight, rows)
            states.append(programs.start(algorithm, these, programs.padded(to), given))
        return programs.stack(states)

    def _check_resumable(self, x: np.ndarray) -> None:
        shape = (self.n_components, x.shape[1])
        if self.means_.shape != shape:
            raise ValueError(
                "warm_start goes on from the last fit, whose means_ have the shape "
                f"{self.means_.shape}, but n_components and X now need {shape}; set "
                "warm_start=False, or fit a clone."
            )

    def _keep(self, states: State, history: np.ndarray, dtype: np.dtype) -> None:
        """Set the fitted attributes to those of the best lane."""
        objective, last = np.asarray(states.objective), np.asarray(states.memory)
        among = ~np.isin(last, FAILED)
        if not among.any():
            raise ValueError(ill_defined(dtype))
        sound = among & (np.asarray(states.status) != Status.COLLAPSED)
        # with reg_covar the likelihood has a maximum; without, a collapsed component's has none
        if self.reg_covar == 0 and sound.any():
            among = sound
        if self.max_iter == 0:
            best = int(np.flatnonzero(among)[-1])
        else:
            best = int(np.argmax(np.where(among, objective, -np.inf)))
        self.converged_ = bool(last[best] == Status.CONVERGED)
        self.n_iter_ = int(np.asarray(states.n_iter)[best])
        self.lower_bounds_ = list(history[: self.n_iter_, best].astype(np.float64))
        self.lower_bound_ = self.lower_bounds_[-1] if self.lower_bounds_ else np.float64(-np.inf)
        self._take(jax.tree.map(lambda a: as_array(np.asarray(a)[best]), states))
        vars(self).pop("_online", None)
        if self.max_iter > 0 and not self.converged_:
            warnings.warn(NOT_CONVERGED, ConvergenceWarning, stacklevel=6)

    def _take(self, state: State) -> None:
        """Set the fitted parameters to those of a lane."""
        found = Description(*(np.array(a) for a in programs.describe(state)))
        self._set_parameters(self._parameters(found, state))
        # scikit-learn's have 64 bits in some cases and versions
        self.weights_ = found.weights
        self.precisions_ = self.precisions_.astype(found.means.dtype, copy=False)

    def _note(self, total: int | float) -> None:
        """Set what is ours alone: the number of samples, and which components need reg_covar."""
        self._n_samples, c = total, self.covariances_
        if self.covariance_type in ("full", "tied"):
            smallest = np.linalg.eigvalsh(c)[..., 0]
        else:
            smallest = c.min(axis=-1) if c.ndim == 2 else c
        shape = (len(self.means_),)
        self.regularised_ = np.broadcast_to(smallest < 2 * self._added(), shape).copy()

    # --- after the fit ------------------------------------------------------------------------

    @programs.with_x64
    def to_state(self) -> State:
        """The fit as a `jaxgmm.State`, for what jaxgmm can do with one.

        Its arrays have the precision of the fit; where that is float64, JAX's 64-bit types must be
        enabled, as by ``with jax.enable_x64(True):``.

        Returns:
            The state of one lane. Its objective is in nats and of all samples.
        """
        check_is_fitted(self, "n_iter_")
        state = self._state()
        status = Status.CONVERGED if self.converged_ else Status.MAX_ITERATIONS
        per_sample = state.view.point
        objective = self.lower_bound_ * (self._n_samples if per_sample else 1)
        return replace(
            state,
            objective=jnp.asarray(objective, state.prior.dtype),
            n_iter=jnp.asarray(self.n_iter_, jnp.int32),
            status=jnp.asarray(int(status), jnp.int32),
            record=(),
            memory=(),
        )

    def _model(self) -> Model:
        """What predictions need, read off the fitted attributes as scikit-learn's do."""
        factor, d = np.asarray(self.precisions_cholesky_), self.means_.shape[1]
        const = programs.log_norm(factor, self.covariance_type, d) + self._log_det_gap()
        with np.errstate(divide="ignore"):  # a weight of 0
            const = self._estimate_log_weights() + const
        return Model(const, self.means_, factor, self.covariance_type)

    @config_context(array_api_dispatch=False)
    def _samples(self, X: Any) -> tuple[Model, np.ndarray]:  # noqa: N803
        check_is_fitted(self)
        x = validate_data(self, as_numpy(X, "X"), reset=False, dtype=FLOATS)
        return self._model(), np.asarray(x, np.result_type(x, self.means_))

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """The most probable component of each sample: ``(N,)``."""
        if self._has_own_steps():
            return super().predict(X)
        return programs.labels(*self._samples(X))

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """The probability of each component for each sample: ``(N, K)``, rows that sum to 1."""
        if self._has_own_steps():
            return super().predict_proba(X)
        return programs.responsibilities(*self._samples(X))

    def score_samples(self, X: Any) -> np.ndarray:  # noqa: N803
        """The log-likelihood of each sample under the current model, in nats: ``(N,)``."""
        if self._has_own_steps():
            return super().score_samples(X)
        return programs.log_norms(*self._samples(X))

    def score(self, X: Any, y: Any = None) -> float:  # noqa: N803
        """The mean of `score_samples`; ``y`` is ignored."""
        return float(np.mean(self.score_samples(X)))

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Draw from the mixture of ``weights_``, ``means_`` and ``covariances_``.

        The draws of ``random_state`` are those of scikit-learn.

        Args:
            n_samples: how many.

        Returns:
            The samples ``(n_samples, D)`` and their components ``(n_samples,)``, sorted by
            component.
        """
        check_is_fitted(self)
        # weights in float32, whose sum in 64 bits may be above 1, are refused by NumPy
        double, weights = copy(self), np.asarray(self.weights_, np.float64)
        double.weights_ = weights / weights.sum()
        return super(LanesMixin, double).sample(n_samples)

    # --- for others ---------------------------------------------------------------------------

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # what is returned is NumPy's
        tags.array_api_support = False
        return tags
