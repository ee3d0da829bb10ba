"""scikit-learn's mixtures, fitted by jaxgmm: every initialisation at once, in one compiled program.

`GaussianMixture` and `BayesianGaussianMixture` take the place of those in `sklearn.mixture`. Needs
scikit-learn: ``pip install "jaxgmm[sklearn]"``.
"""

from jaxgmm.sklearn._bayesian import BayesianGaussianMixture
from jaxgmm.sklearn._gaussian import GaussianMixture

__all__ = ["BayesianGaussianMixture", "GaussianMixture"]
