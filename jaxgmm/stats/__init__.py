"""Sufficient statistics: what a pass keeps of the rows, and the potentials that it needs.

`jaxgmm.estep` makes `Stats` from `Potentials`. `merge` adds the statistics of two parts of the
data, so that blocks, minibatches, devices and hosts combine in the same way.

Example:
    >>> import jax, jaxgmm
    >>> x = jax.random.normal(jax.random.key(0), (100, 2))
    >>> potentials = jaxgmm.views.Expectation().potentials(jaxgmm.default_prior(x, 3))
    >>> halves = jaxgmm.estep(x[:50], potentials), jaxgmm.estep(x[50:], potentials)
    >>> print(round(float(jaxgmm.stats.merge(*halves).count.sum()), 3))
    100.0
"""

from jaxgmm._estep.assigned import from_labels, from_responsibilities
from jaxgmm._estep.log_evidence import log_evidence
from jaxgmm._estep.potentials import Potentials, expected_log_joint
from jaxgmm._estep.stats import Stats, empty, merge, scale

__all__ = [
    "Potentials",
    "Stats",
    "empty",
    "expected_log_joint",
    "from_labels",
    "from_responsibilities",
    "log_evidence",
    "merge",
    "scale",
]
