"""One sweep over the numbers of components: all K of a covariance as groups of one fit."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxgmm._estep.data import Data, Rows, prepare
from jaxgmm._estep.log_evidence import log_evidence_on
from jaxgmm._fit.driver import Driver, Limits
from jaxgmm._fit.launch import start_groups
from jaxgmm._fit.search import best_of, search
from jaxgmm._fit.whitening import Whitening
from jaxgmm._lane.starts import Start
from jaxgmm._lane.state import State
from jaxgmm._mixture.criteria import log_assignment, plug_in
from jaxgmm._mixture.density import log_density
from jaxgmm._model.padding import pad, unpad
from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.programs import Program, effort_of, program
from jaxgmm._numerics.pytree import replace


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
        self.x, self.coordinates = rows.x, Whitening(x, rows, algorithms[0])
        moments = rows.moments(algorithms[0].prior.components.structure)
        padded = [a.with_prior(pad(a.prior, sizes[-1], *moments)) for a in algorithms]
        # in NumPy, which compiles nothing for another shape
        self.padded = jax.tree.map(
            lambda *leaves: as_array(np.stack([np.asarray(a) for a in leaves])), *padded
        )
        self.models = self.coordinates.into(self.padded, led=True)

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
        data = _prepare(replace(own.rows, weight=weight))
        sizes = np.asarray(self.sizes)
        present = np.arange(sizes[-1]) < sizes[:, None]
        driver = Driver(self.models, data, o.limits, o.n_restarts, n_groups=len(sizes))
        named = isinstance(o.init, str)
        rows = replace(own.rows if named else Rows(self.x), weight=weight)
        standard = own.standard if named else None
        states = start_groups(key, data, self.models, present, o.n_restarts, o.init, rows, standard)
        progress, interrupted = driver.run(states, race)
        best = best_of(progress)
        if race and not interrupted:
            best, interrupted = search(key, 2, best, sizes, driver, o.n_restarts)
        if interrupted:
            raise KeyboardInterrupt
        total = float(data.total)
        effort = effort_of(data.x.size * self.sizes[-1] * len(sizes))
        scores = np.asarray(_scores.with_effort(effort)(best, data, held_out)) + 0.0
        held = 0.0 if held_out is None else float(np.sum(held_out, dtype=np.float64))
        scores = _in_units(scores, own.log_det, total, held)
        best, _ = own.back(best, self.padded, total)
        return Outcome(best, scores, total)

    def state(self, outcome: Outcome, g: int) -> State:
        """The best state of one K, in its own shape."""
        padded = jax.tree.map(lambda a: as_array(np.asarray(a)[g]), outcome.best)
        posterior = unpad(padded.posterior, self.sizes[g])
        return replace(padded, prior=self.algorithms[g].prior, posterior=posterior, memory=())


_prepare = Program(prepare)


def _in_units(scores: np.ndarray, log_det: float, total: float, held_out: float) -> np.ndarray:
    """The scores of densities in the data's units, each of which is larger by ``log_det``."""
    likelihood, assignment, density, squares = scores.astype(np.float64).T
    squares = squares + 2 * log_det * density + held_out * log_det**2
    shifted = (likelihood + log_det * total, assignment, density + log_det * held_out, squares)
    return np.stack(shifted, axis=-1)


@program()
def _scores(best: State, data: Data, held_out: Array | None) -> Array:
    """The scores of `Outcome`, of one state after the other."""

    def one(state: State) -> Array:
        potentials = plug_in(state)
        likelihood = log_evidence_on(data, potentials)
        assignment = log_assignment(potentials, data.x, data.weight)
        held = jnp.zeros((2,), data.x.dtype)
        if held_out is not None:
            density = log_density(state, data.x)
            # a row that is not held out may be anything, an outlier of no density, too
            density = jnp.where(held_out > 0, density, 0)
            held = jnp.stack([jnp.sum(held_out * density), jnp.sum(held_out * density**2)])
        return jnp.concatenate([jnp.stack([likelihood, assignment]), held])

    return lax.map(one, best)
