"""Fewer components: a fit without those that no sample needs."""

import jax.numpy as jnp
import numpy as np

from jaxgmm._lane.state import Fitted, State, state_of
from jaxgmm._model.prior import reordered
from jaxgmm._numerics.checks import check_positive
from jaxgmm._numerics.pytree import replace


def prune(state: State | Fitted, least: float = 0.5) -> State:
    """The state without the components that have fewer than ``least`` samples.

    A fit with more components than needed, under a prior that lets components be empty (a Dirichlet
    process, a sparse Dirichlet), leaves some of them without samples. What is left is a model of
    its own: its prior has the components that are kept, and broken sticks are as many as they are.
    The samples of the others, fewer than ``least`` each, are nobody's until the next iteration.

    Args:
        state: of one lane, with free weights.
        least: expected number of samples, in units of the weights, below which a component goes.

    Returns:
        A state that every function takes, and `run` and `fit` go on from. Its objective is -inf, as
        before a first iteration; `elbo` computes the bound.

    Raises:
        ValueError: for the states of several lanes, given weights, ``least`` that is not positive,
            or if no component has so many samples.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> algorithm = jaxgmm.cavi(jaxgmm.default_prior(x, 5, weights="dirichlet_process"))
        >>> state = jaxgmm.fit(jax.random.key(1), x, algorithm).best
        >>> jaxgmm.prune(state).prior.n_components
        1
    """
    state = state_of(state, "prune")
    check_positive("least", least)
    prior, q = state.prior, state.posterior
    if not hasattr(prior.weights, "counts"):
        raise ValueError(
            "prune needs weights that are learnt, but these are given; leave out the components "
            "that you do not want from the prior."
        )
    count = np.asarray(q.weights.counts(prior.weights))
    # a background stays component 0, however few samples it has
    first = prior.background & (np.arange(len(count)) == 0)
    kept = jnp.asarray(np.flatnonzero((count >= least) | first))
    if kept.size == 0:
        raise ValueError(
            f"no component has {least} samples: the largest number is {count.max():.3g}; lower "
            "least."
        )
    weights = prior.weights.kept(kept)
    smaller = replace(reordered(prior, kept), weights=weights)
    weights = weights.update(jnp.asarray(count)[kept])
    posterior = replace(reordered(q, kept), weights=weights)
    unknown = jnp.full_like(state.objective, -jnp.inf)
    return replace(state, prior=smaller, posterior=posterior, objective=unknown, memory=())
