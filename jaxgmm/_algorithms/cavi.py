"""Coordinate-ascent variational inference: the expectation view, the conjugate update."""

from jaxgmm._algorithms.base import Algorithm
from jaxgmm._estep.estep import Data, estep_on
from jaxgmm._lane.state import State
from jaxgmm._lane.status import Status
from jaxgmm._model.prior import Prior, sort_by_mass, update
from jaxgmm._model.views import bound, expected_potentials, kl_divergence
from jaxgmm._numerics.checks import check_prior, check_proper
from jaxgmm._numerics.pytree import pytree, replace


@pytree
class CAVI(Algorithm):
    """See `cavi`."""

    prior: Prior

    name = "CAVI"
    view = "expectation"

    def advance(self, state: State, data: Data) -> State:
        active = state.status == Status.RUNNING
        stats = estep_on(data, expected_potentials(state.posterior), active)
        stats, current = sort_by_mass(self.prior, stats, state.posterior)
        q = update(self.prior, stats, current)
        objective = bound(stats, expected_potentials(q), kl_divergence(q, self.prior))
        return replace(state, posterior=q, objective=objective)


def cavi(prior: Prior) -> CAVI:
    """Mean-field variational inference ``q(z) q(pi, mu, Lambda)`` by coordinate ascent.

    Bishop 2006, section 10.2: q(z) from the expected log weights (digammas) and the Gaussian
    cross-entropy, then the conjugate update of everything else. The objective is the evidence
    lower bound at the returned posterior and the responsibilities of that sweep, with every
    constant; it never decreases, and for K = 1 it is the log evidence.

    Args:
        prior: proper.

    Raises:
        ValueError: for a prior that is improper or whose leaves do not belong together.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (200, 2))
        >>> algorithm = jaxgmm.cavi(jaxgmm.default_prior(x, 3))
        >>> result = jaxgmm.fit(jax.random.key(1), x, algorithm)
        >>> result.best.posterior.components.mean.shape
        (3, 2)
    """
    prior = check_prior(prior)
    check_proper(prior, "CAVI")
    return CAVI(prior)
