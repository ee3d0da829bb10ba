"""Stepwise EM: an estimator that learns from one batch after the other."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from sklearn import config_context
from sklearn.utils.validation import validate_data

from jaxgmm._estep.data import Data
from jaxgmm._estep.stats import Stats, merge, scale
from jaxgmm._lane.state import State
from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.programs import program
from jaxgmm._numerics.pytree import all_finite, replace
from jaxgmm.sklearn import _programs as programs
from jaxgmm.sklearn._base import LanesMixin
from jaxgmm.sklearn._checks import FLOATS, OWN_STEPS, as_numpy, ill_defined, positive_rows
from jaxgmm.sklearn._rules import GaussianRule

# Exponent of the step sizes, that of `jaxgmm.natural_gradient`.
_FORGETTING = 0.7


class Online(NamedTuple):
    """What an estimator remembers of the batches it has seen.

    Attributes:
        stats: running mean of the sufficient statistics of a sample; NumPy's arrays.
        n_batches: how many.
        total: sum of the weights of all samples.
    """

    stats: Stats
    n_batches: int
    total: float


class OnlineMixin(LanesMixin):
    """`partial_fit`, by stepwise EM."""

    @programs.with_x64
    @config_context(array_api_dispatch=False)
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None):  # noqa: N803
        """Learn from one batch of samples more, by stepwise EM (Cappe & Moulines 2009).

        The first batch is fitted as `fit` does, and must be large enough for that. Batch t then
        changes the running mean of the sufficient statistics of a sample by the share
        ``rho = t^-0.7`` (t = 2, 3, ...), and the estimate is that of maximum likelihood for the
        mean. So early batches are forgotten by and by, and the estimate settles. Batches should be
        alike: shuffle samples that come sorted. For data that can be read again, `jaxgmm.fit` of a
        `jaxgmm.Stream` is exact.

        Args:
            X: samples, array-like ``(n, D)``.
            y: ignored.
            sample_weight: ``(n,)``, non-negative.

        Returns:
            The estimator itself. ``lower_bound_`` is the mean log-likelihood of this batch before
            the update, and ``n_iter_`` the number of batches; `fit` begins anew.

        Raises:
            ValueError: as `fit` does, and for a batch of another width.
        """
        if self._has_own_steps():
            raise ValueError(OWN_STEPS.format(type(self).__name__))
        before: Online | None = getattr(self, "_online", None)
        if before is None:
            self.fit(X, y, sample_weight)
        given: Any = validate_data(self, as_numpy(X, "X"), reset=False, dtype=FLOATS)
        every = np.asarray(given, self.means_.dtype)
        x, weight = positive_rows(every, as_numpy(sample_weight, "sample_weight"))
        data = programs.as_data(x, weight)
        algorithm: Any = self._rule(x, -np.inf)
        n_batches, total = 1, float(data.total)
        if before is not None:
            n_batches, total = before.n_batches + 1, before.total + total
        numbers = (as_array(a, x.dtype) for a in (n_batches**-_FORGETTING, total))
        old = None if before is None else jax.tree.map(as_array, before.stats)
        state = self._resumed(algorithm, data)
        stats, state, bound, usable = _stepped(algorithm, state, data, old, *numbers)
        if not usable:
            raise ValueError(ill_defined(x.dtype))
        if before is not None:
            self._take(state)
            self.lower_bound_ = bound.item()
            self.lower_bounds_ = [*self.lower_bounds_, self.lower_bound_]
            self.n_iter_, self.converged_ = n_batches, False
        else:
            self.n_iter_ = 1
        self._note(total)
        self._online = Online(jax.tree.map(np.asarray, stats), n_batches, total)
        return self


@program()
def _stepped(
    algorithm: GaussianRule,
    state: State,
    data: Data,
    old: Stats | None,
    rho: Array,
    total: Array,
) -> tuple[Stats, State, Array, Array]:
    """The mean statistics after a batch, the state, the batch's bound, and if all is finite."""
    new = algorithm.expect(state, data)
    count = jnp.sum(new.count)
    bound = new.log_evidence / count
    new = scale(new, 1 / count)
    stats = new if old is None else merge(scale(old, 1 - rho), scale(new, rho))
    state = replace(state, posterior=algorithm.from_stats(scale(stats, total)))
    return stats, state, bound, all_finite(state.potentials)
