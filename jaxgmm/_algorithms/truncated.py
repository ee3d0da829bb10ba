"""Truncated posteriors: each row has responsibilities for its C best components only."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_batching import sequential_vmap

from jaxgmm._algorithms.base import Algorithm
from jaxgmm._estep.data import Data
from jaxgmm._estep.estep import stats_of
from jaxgmm._estep.passes.common import Sums
from jaxgmm._estep.passes.truncated import Kept, nothing_kept, truncated_lane
from jaxgmm._estep.potentials import Potentials
from jaxgmm._estep.rows import Rows
from jaxgmm._estep.stats import Stats
from jaxgmm._lane.state import State
from jaxgmm._lane.status import Status
from jaxgmm._model.checks import check_model, check_normal
from jaxgmm._model.prior import Prior, best_order
from jaxgmm._numerics.calls import described
from jaxgmm._numerics.pytree import replace

# The neighbours of components are found anew after 0, 1, 2, 4, 8 and 16 passes, and then so often.
_OFTEN = 16


class Truncated(Algorithm):
    """What `em` and `cavi` share under a truncation; it comes before either as a base.

    A row's set of components is part of the state's memory. A pass replaces the set by the best
    that it finds among the candidates, which include the old set. So the bound, that of
    responsibilities which are 0 elsewhere, never goes down (Luecke & Forster 2019).
    """

    truncation: int
    # an iteration depends on the memory, too: such lanes neither race, nor move, nor nest
    ascends: ClassVar[bool] = False  # type: ignore[assignment]

    def of_rows(self, memory: Kept) -> Any:
        return Kept(components=True, neighbours=False)  # type: ignore[arg-type]

    def check(self, rows: Rows) -> None:
        check_model(self.prior, rows)
        check_truncatable(rows)

    def begin(self, key: Array, shared_key: Array, posterior: Prior, data: Data) -> State:
        state = super().begin(key, shared_key, posterior, data)
        kept = nothing_kept(data.rows.n_samples, self.prior.n_components, self.truncation)
        return replace(state, memory=kept)

    def expect(self, state: State, data: Data, beta: Array | None = None) -> Stats:
        return self._pass(state, data)[0]

    def advance(self, state: State, data: Data) -> State:
        stats, kept = self._pass(state, data)
        if self.prior.weights.ordered:
            kept = kept.renamed(best_order(self.prior, stats.count, point=self.view.point))
        return replace(self.maximise(state, stats), memory=kept)

    def _pass(self, state: State, data: Data) -> tuple[Stats, Kept]:
        check_truncatable(data.rows)
        kept, n = state.memory.components, data.rows.n_samples
        if kept.shape[-2] != n:
            raise ValueError(
                f"the state is of {kept.shape[-2]} rows, which it remembers one by one, but x has "
                f"{n}; begin anew with algorithm.init(key, x, state)."
            )
        n_iter = state.n_iter
        due = (n_iter & (n_iter - 1) == 0) | (n_iter % _OFTEN == 0)
        active = state.status == Status.RUNNING
        potentials = self.view.potentials(self.current(state))
        run = _lane_by_lane(data.axis)
        sums, kept = run(data.rows, data.centre, potentials, state.memory, due, active)
        return stats_of(sums, potentials), kept


@functools.cache
def _lane_by_lane(axis: str | None) -> Callable[..., tuple[Sums, Kept]]:
    """The pass of one lane; under `jax.vmap` one lane after the other.

    So what a lane does not need, such as neighbours in most passes, nobody computes.
    """

    def run(
        rows: Rows,
        centre: Array,
        potentials: Potentials,
        kept: Kept,
        due: Array,
        active: Array,
    ) -> tuple[Sums, Kept]:
        def work() -> tuple[Sums, Kept]:
            return truncated_lane(rows.x, rows.weight, centre, potentials, kept, due, axis)

        def nothing() -> tuple[Sums, Kept]:
            sums = jax.eval_shape(work)[0]
            return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), sums), kept

        # several devices add up their sums whether a lane is active or not
        return work() if axis is not None else lax.cond(active, work, nothing)

    return sequential_vmap(run)


def check_truncation(truncation: Any, prior: Prior) -> int:
    """The number of components that a row keeps: from 1 to K."""
    if isinstance(truncation, bool | np.bool) or not isinstance(truncation, int | np.integer):
        raise ValueError(
            "truncation must be an integer, the number of components that a row keeps, or None, "
            f"but it is {described(truncation)}; for instance truncation=5."
        )
    if not 1 <= truncation <= prior.n_components:
        raise ValueError(
            f"truncation must be from 1 to the {prior.n_components} components of the prior, but "
            f"it is {truncation}."
        )
    check_normal(prior, "a truncation")
    if prior.background:
        raise ValueError(
            "a truncated posterior has no background, which is near to every row; leave "
            "truncation out, or take the prior without jaxgmm.with_background."
        )
    return int(truncation)


def check_truncatable(rows: Rows) -> None:
    """Refuse rows that the truncated pass does not know."""
    said = {"missing": rows.missing, "noise": rows.noise, "labels": rows.labels}
    found = " and ".join(name for name, value in said.items() if value is not None)
    if found:
        raise ValueError(
            f"a truncated posterior takes complete rows without labels, but these have {found}; "
            "leave truncation out, as in jaxgmm.em(prior)."
        )
