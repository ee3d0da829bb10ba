"""Views of a posterior, and the pieces of their bounds.

A view says how a posterior is read. `Mode` reads it as a point estimate, `Expectation` averages
over it, and `Sample` draws from it. Each view turns a posterior into potentials, and knows the
penalty that its bound subtracts.

Example:
    >>> import jax, jaxgmm
    >>> x = jax.random.normal(jax.random.key(0), (100, 2))
    >>> q = jaxgmm.default_prior(x, 3)
    >>> for view in (jaxgmm.views.Mode(), jaxgmm.views.Expectation()):
    ...     print(view.name, view.potentials(q).mean.shape)
    mode (3, 2)
    expectation (3, 2)
"""

from jaxgmm._model.bounds import gaussian_cross_entropy, kl_divergence
from jaxgmm._model.estimate import Estimate
from jaxgmm._model.prior import interpolate
from jaxgmm._model.views import Expectation, Mode, Sample, View, sampled_potentials
from jaxgmm._model.weights.dirichlet import expected_log_weights

__all__ = [
    "Estimate",
    "Expectation",
    "Mode",
    "Sample",
    "View",
    "expected_log_weights",
    "gaussian_cross_entropy",
    "interpolate",
    "kl_divergence",
    "sampled_potentials",
]
