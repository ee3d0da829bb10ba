"""Mixtures with scikit-learn's interface; all initialisations run at once, in one program.

`GaussianMixture` and `BayesianGaussianMixture` replace the classes in `sklearn.mixture`. The module
needs scikit-learn: ``pip install "jaxgmm[sklearn]"``.
"""

from jaxgmm.sklearn._bayesian import BayesianGaussianMixture
from jaxgmm.sklearn._gaussian import GaussianMixture

__all__ = ["BayesianGaussianMixture", "GaussianMixture"]
