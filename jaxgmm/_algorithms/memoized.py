"""Memoized variational Bayes, and incremental EM: an update after every batch of a stream."""

from typing import Any

from jaxgmm._algorithms.base import Algorithm
from jaxgmm._algorithms.wrapper import Wrapper, check_ascends
from jaxgmm._numerics.calls import described, usage
from jaxgmm._numerics.pytree import pytree


@pytree
class Memoized(Wrapper):
    """See `memoized`."""

    inner: Any

    by_batch = True  # type: ignore[assignment]

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"memoized {self.inner.name}"


@usage("jaxgmm.memoized(jaxgmm.cavi(prior))")
def memoized(algorithm: Algorithm) -> Memoized:
    """EM or CAVI that updates its estimate after every batch of a `Stream`, not after every pass.

    Of CAVI it is memoized variational inference (Hughes & Sudderth 2013, section 3), of EM
    incremental EM (Neal & Hinton 1998). The statistics of every batch are kept. Those of a batch
    are computed anew from the latest estimate, take the place of the old ones, and the estimate is
    updated from the sum over all batches. This is coordinate ascent in the responsibilities of one
    batch and then in the posterior. So the bound never goes down, there is no step size, and the
    optimum is one of the plain algorithm. Many small batches make for few passes.

    The first pass is a plain one. The batches of every pass must hold the same rows in the same
    order. The statistics of a batch, those of K components in each lane, stay in memory twice.
    Rows in memory are one batch, of which it is the plain algorithm.

    Args:
        algorithm: from `em` or `cavi`, not wrapped.

    Raises:
        ValueError: for another algorithm.

    Example:
        >>> import jax, jaxgmm, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(2000, 2)) + 5 * rng.integers(0, 2, (2000, 1))
        >>> stream = jaxgmm.Stream(x, batch_size=200)
        >>> algorithm = jaxgmm.memoized(jaxgmm.cavi(jaxgmm.default_prior(stream, 2)))
        >>> jaxgmm.fit(jax.random.key(0), stream, algorithm).best.status.item()
        1
    """
    check_ascends("memoized", algorithm)
    if algorithm.core is not algorithm:
        raise ValueError(
            f"memoized wraps plain jaxgmm.em and jaxgmm.cavi, but {described(algorithm)} is "
            "wrapped already; call jaxgmm.memoized(algorithm.core)."
        )
    return Memoized(algorithm)
