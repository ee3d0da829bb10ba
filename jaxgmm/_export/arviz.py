"""Draws from a posterior, as ArviZ has them."""

import inspect
import warnings
from typing import Any

import numpy as np
from jax import Array

from jaxgmm._lane.state import Fitted, State, posterior_state
from jaxgmm._mixture.draws import sample_posterior
from jaxgmm._numerics.calls import usage
from jaxgmm._numerics.checks import check_positive_int


@usage("jaxgmm.to_arviz(key, result)")
def to_arviz(key: Array, state: State | Fitted, n_draws: int = 1000) -> Any:
    """Draws of weights, means and covariances from the posterior, for ArviZ's tables and plots.

    The state is that of CAVI or SVI. The draws are independent and form one chain, so diagnostics
    of convergence say nothing about q. In particular they do not show that q is a product of
    factors, which is too narrow where components overlap.

    Args:
        key: PRNG key.
        state: of one lane.
        n_draws: number of draws.

    Returns:
        ``InferenceData`` (ArviZ before 1.0) or ``DataTree``, with a group ``posterior``. After the
        axes chain and draw, ``weights`` has the axis component, ``means`` the axes component and
        feature, and ``covariances`` the axes component, feature and other_feature.

    Raises:
        ImportError: without ArviZ.
        ValueError: for the state of a point estimate, or of several lanes, or ``n_draws < 1``.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> state = jaxgmm.fit(jax.random.key(1), x, jaxgmm.cavi(jaxgmm.default_prior(x, 3))).best
        >>> data = jaxgmm.to_arviz(jax.random.key(2), state, n_draws=10)
        >>> data.posterior["means"].dims
        ('chain', 'draw', 'component', 'feature')
    """
    state = posterior_state(state, "to_arviz")
    check_positive_int("n_draws", n_draws)
    arviz = _import_arviz()
    draws = sample_posterior(key, state, n_draws)
    samples = {name: np.asarray(a)[None] for name, a in draws._asdict().items()}
    k, d = state.posterior.n_components, state.posterior.n_features
    coords = {"component": range(k), "feature": range(d), "other_feature": range(d)}
    dims = {
        "weights": ["component"],
        "means": ["component", "feature"],
        "covariances": ["component", "feature", "other_feature"],
    }
    named = {"coords": {name: list(values) for name, values in coords.items()}, "dims": dims}
    # groups are arguments before ArviZ 1.0, and keys since
    if "posterior" in inspect.signature(arviz.from_dict).parameters:
        return arviz.from_dict(posterior=samples, **named)
    return arviz.from_dict({"posterior": samples}, **named)


def _import_arviz() -> Any:
    try:
        with warnings.catch_warnings():
            # that a next version will differ, which concerns this function and not its caller
            warnings.simplefilter("ignore", FutureWarning)
            import arviz
    except ImportError as error:
        raise ImportError(
            'to_arviz needs ArviZ; install it with pip install "jaxgmm[arviz]".'
        ) from error
    return arviz
