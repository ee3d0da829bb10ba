"""Mixtures with scikit-learn's interface; all initialisations run at once, in one program.

`GaussianMixture` and `BayesianGaussianMixture` derive from the classes in `sklearn.mixture` and
replace them. The module needs scikit-learn 1.6 or later: ``pip install "jaxgmm[sklearn]"``.
"""

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError(
        'jaxgmm.sklearn needs scikit-learn; install it with pip install "jaxgmm[sklearn]".'
    ) from error

from jaxgmm.sklearn._bayesian import BayesianGaussianMixture
from jaxgmm.sklearn._gaussian import GaussianMixture

__all__ = ["BayesianGaussianMixture", "GaussianMixture"]
