"""What both estimators do: check, start, iterate all initialisations together, keep the best."""

import time
import warnings
from abc import ABCMeta, abstractmethod
from numbers import Integral, Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from jaxgmm._estep.data import Data
from jaxgmm._lane.state import State
from jaxgmm._lane.status import FAILED, Status
from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.programs import check_process
from jaxgmm._numerics.pytree import replace
from jaxgmm.sklearn import _programs as programs
from jaxgmm.sklearn._checks import DEGENERATE, FLOATS, NOT_CONVERGED, ill_defined
from jaxgmm.sklearn._inits import assign
from jaxgmm.sklearn._programs import Description, Model, Parameters, Rule

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")


class BaseMixture(DensityMixin, BaseEstimator, metaclass=ABCMeta):
    """Parameters, methods and checks that the two mixtures share."""

    _parameter_constraints: dict = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "covariance_type": [StrOptions(set(COVARIANCE_TYPES))],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "reg_covar": [Interval(Real, 0.0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "init_params": [StrOptions({"kmeans", "random", "random_from_data", "k-means++"})],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [Interval(Integral, 1, None, closed="left")],
    }

    n_components: int
    covariance_type: str
    tol: float
    reg_covar: float
    max_iter: int
    n_init: int
    init_params: str
    random_state: Any
    warm_start: bool
    verbose: int
    verbose_interval: int
    weights_: np.ndarray
    means_: np.ndarray
    covariances_: np.ndarray
    precisions_: np.ndarray
    precisions_cholesky_: np.ndarray

    # --- what a mixture says of itself ------------------------------------------------------

    @abstractmethod
    def _check_parameters(self, x: np.ndarray) -> None:
        """Check the parameters that say something of the data, and set those with defaults."""

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
    def _model(self, dtype: np.dtype) -> Model:
        """What predictions need, read off the fitted attributes."""

    def _given(self, x: np.ndarray, rows: np.ndarray | None = None) -> Parameters:
        """The parameters of a start that its assignment, of these rows, does not say."""
        return Parameters()

    # --- fitting ------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None):  # noqa: N803
        """Fit from ``n_init`` starts at once, and keep the one with the highest bound.

        Args:
            X: samples, array-like ``(N, D)``.
            y: ignored.

        Returns:
            The estimator itself.

        Raises:
            ValueError: for samples or parameters that scikit-learn refuses, and where every
                initialization has a component without a covariance.
        """
        self.fit_predict(X, y)
        return self

    @programs.with_x64
    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:  # noqa: N803
        """`fit`, and the most probable component of each sample: ``(N,)``."""
        check_process()
        self._validate_params()
        x: Any = validate_data(self, X, dtype=FLOATS, ensure_min_samples=2)
        if len(x) < self.n_components:
            raise ValueError(
                "Expected n_samples >= n_components but got "
                f"n_components = {self.n_components}, n_samples = {len(x)}"
            )
        self._check_parameters(x)
        began = time.perf_counter()
        resuming = self.warm_start and hasattr(self, "converged_")
        algorithm = self._rule(x, self.lower_bound_ if resuming else -np.inf)
        data = programs.as_data(x)
        if resuming:
            self._check_resumable(x)
            states = programs.stack([self._resumed(algorithm, data)])
        else:
            states = self._starts(algorithm, data, x)
        if (np.asarray(states.status) == Status.COLLAPSED).all():
            raise ValueError(ill_defined(x.dtype))
        history = np.empty((0, len(states.status)))
        if self.max_iter > 0:
            states, history = programs.iterate(algorithm, states, data, self.max_iter, self.tol)
        self._report(states, history, time.perf_counter() - began)
        self._n_samples = len(x)
        self._keep(states, history, x)
        return programs.labels(self._model(x.dtype), x)

    def _starts(self, algorithm: Rule, data: Data, x: np.ndarray) -> State:
        given = self._given(x)
        if all(a is not None for a in given):
            # initializations that are all the same
            return programs.stack([programs.start(algorithm, data, None, given)])
        random_state = check_random_state(self.random_state)
        states = []
        for _ in range(self.n_init):
            rows, to = assign(x, self.n_components, self.init_params, random_state)
            these = data if rows is x else programs.as_data(rows)
            given = self._given(x, rows)
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

    def _keep(self, states: State, history: np.ndarray, x: np.ndarray) -> None:
        """Set the fitted attributes to those of the best lane."""
        objective, last = np.asarray(states.objective), np.asarray(states.memory)
        failed = np.isin(last, FAILED)
        if failed.all():
            raise ValueError(ill_defined(x.dtype))
        sound = ~failed & (np.asarray(states.status) != Status.COLLAPSED)
        among = sound if sound.any() else ~failed
        if self.max_iter == 0:
            best = int(np.flatnonzero(among)[-1])
        else:
            best = int(np.argmax(np.where(among, objective, -np.inf)))
        self.converged_ = bool(last[best] == Status.CONVERGED)
        self.n_iter_ = int(np.asarray(states.n_iter)[best])
        self.lower_bounds_ = [float(a) for a in history[: self.n_iter_, best]]
        self.lower_bound_ = self.lower_bounds_[-1] if self.lower_bounds_ else -np.inf
        self._set_parameters(jax.tree.map(lambda a: as_array(np.asarray(a)[best]), states))
        if self.max_iter > 0 and not self.converged_:
            warnings.warn(NOT_CONVERGED, ConvergenceWarning, stacklevel=5)
        if self.max_iter > 0 and not sound.any():
            warnings.warn(DEGENERATE, ConvergenceWarning, stacklevel=5)

    def _set_parameters(self, state: State) -> Description:
        found = Description(*(np.array(a) for a in programs.describe(state)))
        self.weights_, self.means_ = found.weights, found.means
        self.covariances_, self.precisions_cholesky_ = found.covariances, found.precisions_cholesky
        factor = found.precisions_cholesky
        if self.covariance_type in ("full", "tied"):
            self.precisions_ = factor @ np.swapaxes(factor, -1, -2)
        else:
            self.precisions_ = factor**2
        return found

    def _report(self, states: State, history: np.ndarray, seconds: float) -> None:
        """Print what ``verbose`` asks for: lane by lane, since all have run at once."""
        if not self.verbose:
            return
        more = self.verbose > 1
        for lane, (status, n_iter) in enumerate(
            zip(np.asarray(states.memory), np.asarray(states.n_iter), strict=True)
        ):
            print(f"Initialization {lane}")
            if self.max_iter == 0:
                continue
            bounds = history[: int(n_iter), lane]
            every = self.verbose_interval
            for i in range(every, int(n_iter) + 1, every):
                change = bounds[i - 1] - bounds[i - 2] if i > 1 else np.inf
                print(f"  Iteration {i}" + (f"\t ll change {change:.5f}" if more else ""))
            end = "converged" if status == Status.CONVERGED else "did not converge"
            # no bound where the start has failed
            bound = bounds[-1] if len(bounds) else -np.inf
            details = f" time lapse {seconds:.5f}s\t lower bound {bound:.5f}."
            print(f"Initialization {end}." + (details if more else ""))

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

    def _samples(self, X: Any) -> tuple[Model, np.ndarray]:  # noqa: N803
        check_is_fitted(self)
        x = validate_data(self, X, reset=False, dtype=FLOATS)
        dtype = np.result_type(x, self.means_)
        with jax.enable_x64(True):
            return self._model(dtype), np.asarray(x, dtype)

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """The most probable component of each sample: ``(N,)``."""
        return programs.labels(*self._samples(X))

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """The probability of each component for each sample: ``(N, K)``, rows that sum to 1."""
        return programs.responsibilities(*self._samples(X))

    def score_samples(self, X: Any) -> np.ndarray:  # noqa: N803
        """The log-likelihood of each sample under the current model, in nats: ``(N,)``."""
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
        if n_samples < 1:
            raise ValueError(
                f"Invalid value for 'n_samples': {n_samples} . The sampling requires at least one "
                "sample."
            )
        rng = check_random_state(self.random_state)
        weights = np.asarray(self.weights_, np.float64)
        counts = rng.multinomial(n_samples, weights / weights.sum())
        shared = self.covariance_type == "tied"
        out = []
        for k, (mean, count) in enumerate(zip(self.means_, counts, strict=True)):
            covariance = self.covariances_ if shared else self.covariances_[k]
            if np.ndim(covariance) == 2:
                out.append(rng.multivariate_normal(mean, covariance, int(count)))
            else:
                noise = rng.standard_normal(size=(int(count), len(mean)))
                out.append(mean + noise * np.sqrt(covariance))
        x = np.concatenate(out).astype(np.float64, copy=False)
        return x, np.repeat(np.arange(len(counts), dtype=np.int64), counts)
