"""One sweep over the numbers of components: all K of a covariance as groups of one fit."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxgmm._estep.data import Data, prepare
from jaxgmm._estep.log_evidence import log_evidence_on
from jaxgmm._estep.padded import padded, padded_weight
from jaxgmm._estep.rows import Rows
from jaxgmm._fit.driver import Driver, Limits, resized
from jaxgmm._fit.launch import start_groups
from jaxgmm._fit.search import best_of, moving, search
from jaxgmm._fit.whitening import Whitening
from jaxgmm._lane.starts import Start
from jaxgmm._lane.state import State
from jaxgmm._mixture.criteria import log_assignment
from jaxgmm._mixture.density import log_density
from jaxgmm._mixture.mixture import plug_in
from jaxgmm._model.padding import completed, pad, unpad
from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.programs import Call, Effort, Program, effort_of, program
from jaxgmm._numerics.pytree import replace

# Folded into the key of a sweep for its moves.
_BRANCH = 2
# Rounds of moves without improvement after which an optimum is left alone: a fit has three times as
# many, and fewer start from neighbours.
_PATIENCE = 2


class Options(NamedTuple):
    """What all sweeps of a selection share, see `select`."""

    init: Start
    n_restarts: int
    limits: Limits


class Outcome(NamedTuple):
    """Of one sweep over K: the best state of each, and its scores.

    Attributes:
        best: every leaf leads with the number of K.
        scores: log-likelihood, log assignment, and over the held-out rows the sum of the
            log-densities and of their squares: ``(number of K, 4)``.
        total: sum of the weights of the fitted rows.
    """

    best: State
    scores: np.ndarray
    total: float


class Sweep:
    """All K of one covariance, as groups of lanes of one program."""

    def __init__(
        self, x: Any, algorithms: list[Any], sizes: list[int], rows: Rows, options: Options
    ):
        self.algorithms, self.sizes, self.options = algorithms, sizes, options
        self.rows, self.named = rows, isinstance(options.init, str)
        self.coordinates = Whitening(x, rows, algorithms[0], pads=self.named)
        wide = [a.with_prior(pad(a.prior, sizes[-1])) for a in algorithms]
        # in NumPy, which compiles nothing for another shape
        stacked = jax.tree.map(lambda *a: np.stack([np.asarray(b) for b in a]), *wide)
        self.padded = _completed(stacked, padded(rows))
        self.models = self.coordinates.into(self.padded, led=True)

    def ahead(self, key: Array, weight: Array | None, held_out: Array | None) -> None:
        """Begin to compile what `run` will call."""
        rows = self._weighted(weight)
        if rows.x.committed:
            return
        data = _prepare.on(Effort.QUICK, rows).shapes()
        states, driver = self._starts(key, data, weight, shapes=True), self._driver(data)
        n_lanes, n_groups = states.status.shape[0], len(self.sizes)
        driver.call(states, group=np.arange(n_lanes) // (n_lanes // n_groups)).ahead()
        best = resized(states, n_groups)
        if self.algorithms[0].races and self.sizes[-1] > 1:
            sizes, n = np.asarray(self.sizes), self.options.n_restarts
            moving(key, (_BRANCH, 0), best, sizes, driver, n, n).ahead()
        self._scoring(best, data, self._longer(held_out)).ahead()

    def _weighted(self, weight: Array | None) -> Rows:
        """The rows in the coordinates of the fit, with the weights of a fold or of all."""
        rows = self.coordinates.rows
        return rows if weight is None else replace(rows, weight=self._longer(weight))

    def _own(self, weight: Array | None) -> Array | None:
        """The weights of the user's rows: those of a fold, or all."""
        return self.rows.weight if weight is None else weight

    def _shift(self) -> np.ndarray:
        """What the log density of each padded row gains on the way back to the data's units."""
        shift = np.asarray(self.coordinates.log_dets(), self.rows.x.dtype)
        more = self.coordinates.rows.n_samples - self.rows.n_samples
        return np.pad(shift, (0, more)) if shift.ndim else shift

    def _longer(self, weight: Array | None) -> Array | None:
        if weight is None:
            return None
        return padded_weight(weight, self.coordinates.rows.n_samples)

    def _driver(self, data: Data) -> Driver:
        o = self.options
        return Driver(self.models, data, o.limits, o.n_restarts, n_groups=len(self.sizes))

    def _starts(
        self, key: Array, data: Data, weight: Array | None, *, shapes: bool = False
    ) -> State:
        o, own, sizes = self.options, self.coordinates, np.asarray(self.sizes)
        present = np.arange(sizes[-1]) < sizes[:, None]
        rows = self._weighted(weight) if self.named else replace(self.rows, weight=weight)
        standard = own.standard if self.named else None
        arguments = (key, data, self.models, present, o.n_restarts, o.init, rows, standard)
        return start_groups(*arguments, shapes=shapes)

    def _scoring(self, best: State, data: Data, held_out: Array | None) -> Call:
        work = data.rows.n_samples * data.rows.n_features * self.sizes[-1] * len(self.sizes)
        return _scores.on(effort_of(work), best, data, held_out, self._shift())

    def run(self, key: Array, weight: Array | None, held_out: Array | None) -> Outcome:
        """The best of random starts, and then of moves as long as they find something better.

        Args:
            key: PRNG key.
            weight: of each row.
            held_out: weights of the rows that are held out from that.

        Raises:
            KeyboardInterrupt: as soon as there is one: a sweep is whole or it is not.
        """
        o, race, own = self.options, self.algorithms[0].races, self.coordinates
        data = _prepare(self._weighted(weight))
        driver = self._driver(data)
        progress, interrupted = driver.run(self._starts(key, data, weight), race)
        best = best_of(progress)
        if race and not interrupted:
            sizes = np.asarray(self.sizes)
            patience = np.clip(sizes - 1, 1, _PATIENCE)
            best, interrupted = search(key, _BRANCH, best, sizes, driver, o.n_restarts, patience)
        if interrupted:
            raise KeyboardInterrupt
        total = float(data.total)
        scores = np.array(self._scoring(best, data, self._longer(held_out))(), np.float64)
        gain = own.gain(self._own(weight), total)
        scores[:, 0] += gain
        best, *_ = own.back(best, self.padded, gain)
        return Outcome(best, scores, total)

    def state(self, outcome: Outcome, g: int) -> State:
        """The best state of one K, in its own shape."""
        padded = jax.tree.map(lambda a: as_array(np.asarray(a)[g]), outcome.best)
        posterior = unpad(padded.posterior, self.sizes[g])
        return replace(padded, prior=self.algorithms[g].prior, posterior=posterior, memory=())


_prepare = Program(prepare)


@program()
def _completed(algorithms: Any, rows: Rows) -> Any:
    """Algorithms with padded priors, which lead every leaf, whose absent components are proper."""
    moments = rows.moments(algorithms.prior.components.structure)
    return algorithms.with_prior(jax.vmap(lambda p: completed(p, *moments))(algorithms.prior))


@program()
def _scores(best: State, data: Data, held_out: Array | None, shift: Array) -> Array:
    """The scores of `Outcome`, of one state after the other; the likelihood in the fit's units.

    The shift, one or one of each row, is what the log density of a sample gains on the way back.
    """

    def one(state: State) -> Array:
        potentials = plug_in(state)
        likelihood = log_evidence_on(data, potentials)
        assignment = log_assignment(potentials, data.rows)
        held = jnp.zeros((2,), data.x.dtype)
        if held_out is not None:
            density = log_density(state, data.values) + shift
            # a row that is not held out may be anything, an outlier of no density, too
            density = jnp.where(held_out > 0, density, 0)
            held = jnp.stack([jnp.sum(held_out * density), jnp.sum(held_out * density**2)])
        return jnp.concatenate([jnp.stack([likelihood, assignment]), held])

    return lax.map(one, best)
