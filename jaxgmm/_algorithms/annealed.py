"""Deterministic annealing: soft responsibilities first, and then ever harder ones."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxgmm._algorithms.base import Wrapper
from jaxgmm._algorithms.cavi import CAVI
from jaxgmm._algorithms.em import EM
from jaxgmm._estep.estep import Data, estep_on
from jaxgmm._estep.potentials import Potentials
from jaxgmm._lane.state import State, state_penalty, state_potentials
from jaxgmm._lane.status import Status
from jaxgmm._model.prior import Prior, sort_by_mass, update
from jaxgmm._model.views import bound
from jaxgmm._numerics.checks import check_positive_int, is_traced
from jaxgmm._numerics.pytree import pytree, replace


def tempered(potentials: Potentials, beta: Array) -> Potentials:
    """The potentials of ``beta`` times every logit."""
    return replace(
        potentials, const=beta * potentials.const, factor=jnp.sqrt(beta) * potentials.factor
    )


@pytree
class Annealed(Wrapper):
    """See `annealed`."""

    inner: EM | CAVI
    n_steps: Int[Array, ""]
    start: Float[Array, ""]

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"annealed {self.inner.name}"

    def begin(self, key: Array, shared_key: Array, posterior: Prior, data: Data) -> State:
        return self.inner.begin(key, shared_key, posterior, data)

    def beta(self, n_iter: Array) -> Float[Array, ""]:
        """The inverse temperature of an iteration, from ``start`` to 1 by equal factors."""
        left = jnp.maximum(self.n_steps - n_iter, 0) / self.n_steps
        return self.start ** left.astype(self.start.dtype)

    def advance(self, state: State, data: Data) -> State:
        active = state.status == Status.RUNNING
        beta = self.beta(state.n_iter)
        stats = estep_on(data, tempered(state_potentials(state), beta), active)
        stats, current = sort_by_mass(self.prior, stats, state.posterior)
        q = update(self.prior, stats, current, mode=self.view == "mode")
        new = replace(state, posterior=q)
        objective = bound(stats, state_potentials(new), state_penalty(new))
        return replace(new, objective=objective)

    def judge(self, old: State, new: State, data: Data, tol: Array) -> Array:
        # until its temperature is 1 a lane neither settles nor has to go up
        status = self.inner.judge(old, new, data, tol)
        calm = (status == Status.CONVERGED) | (status == Status.DECREASED)
        cooling = new.n_iter <= self.n_steps
        return jnp.where(calm & cooling, int(Status.RUNNING), status).astype(jnp.int32)


def annealed(algorithm: EM | CAVI, n_steps: int = 50, start: float = 0.7) -> Annealed:
    """EM or CAVI with deterministic annealing (Ueda & Nakano 1998; Katahira et al. 2008).

    The first ``n_steps`` iterations take responsibilities ``softmax(beta logits)``, with beta going
    from ``start`` to 1 by equal factors; from then on it is the plain algorithm, with its optima.
    A small beta smooths the bound, so that a poor start matters less: on Old Faithful with three
    components 28% of k-means++ starts then reach the best optimum, of 12% without. It is no cure:
    where beta is small enough for components to fall together (0.5 and less there, and any beta
    from random responsibilities) they never part again; on a grid of 5 x 5 clusters 38% got
    there, of 66%.

    The objective is the bound of these responsibilities all along, which is valid but need not go
    up before beta is 1. By default such lanes do not race, nor try moves.

    Args:
        algorithm: from `em` or `cavi`.
        n_steps: iterations until beta is 1.
        start: the first beta, in (0, 1].

    Raises:
        ValueError: for another algorithm, ``n_steps < 1`` or ``start`` outside (0, 1].

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (200, 2))
        >>> algorithm = jaxgmm.annealed(jaxgmm.em(jaxgmm.flat_prior(2, 2)))
        >>> result = jaxgmm.fit(jax.random.key(1), x, algorithm, n_restarts=4)
        >>> bool(result.best.n_iter > 50)
        True
    """
    if not isinstance(algorithm, EM | CAVI):
        raise ValueError(
            "algorithm must come from jaxgmm.em or jaxgmm.cavi, but it is a "
            f"{type(algorithm).__name__}."
        )
    check_positive_int("n_steps", n_steps)
    if not is_traced(start) and not 0 < float(start) <= 1:
        raise ValueError(f"start must be above 0 and at most 1, but it is {start}.")
    return Annealed(
        algorithm, jnp.asarray(n_steps, jnp.int32), jnp.asarray(start, algorithm.prior.dtype)
    )
