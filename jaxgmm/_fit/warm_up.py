"""The programs of a fit, compiled before there are data."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array

from jaxgmm._algorithms.base import Algorithm, check_algorithm
from jaxgmm._fit.fit import fit
from jaxgmm._numerics.calls import usage
from jaxgmm._numerics.checks import check_positive_int

_CALL = "jaxgmm.compile_for(algorithm, n_samples)"


@usage(_CALL)
def compile_for(
    algorithm: Algorithm,
    n_samples: int,
    n_restarts: int | None = None,
    init: str | Callable[..., Array] = "mixed",
    **options: Any,
) -> None:
    """Compile what `fit` will call for data of this shape: a service does it before its first user.

    One iteration of a fit to random rows is done, with one round of moves. With `cache_programs`
    the programs also serve later processes. What a fit compiles only where lanes collapse is left
    to it.

    Args:
        algorithm: as for `fit`; the width of the data is that of its prior.
        n_samples: N.
        n_restarts: as for `fit`.
        init: a random start, as for `fit`.
        **options: others of `fit`, but for ``max_iter``, ``tol`` and ``effort``, which compile
            nothing.

    Raises:
        ValueError: as `fit`.

    Example:
        >>> import jaxgmm
        >>> jaxgmm.compile_for(jaxgmm.em(jaxgmm.flat_prior(2, 2)), n_samples=100)
    """
    check_algorithm(algorithm, _CALL)
    check_positive_int("n_samples", n_samples, _CALL)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n_samples, algorithm.prior.n_features)).astype(algorithm.prior.dtype)
    # all is near its end after one iteration
    given = {"max_iter": 1, "tol": 0.0, "effort": 1e-9, "progress": False, **options}
    result = fit(jax.random.key(0), x, algorithm, n_restarts, init, **given)
    jax.block_until_ready(result.states)
