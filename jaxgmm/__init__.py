"""Gaussian mixture inference in JAX: EM, CAVI and SVI over hundreds of restarts at once."""

from jaxgmm._algorithm import Algorithm
from jaxgmm._anneal import Annealed, annealed
from jaxgmm._assign import label_stats, responsibility_stats
from jaxgmm._cavi import CAVI, cavi
from jaxgmm._degenerate import is_degenerate
from jaxgmm._em import EM, em
from jaxgmm._estep import estep, log_evidence
from jaxgmm._evidence import elbo, prior_gradient, sampled_elbo
from jaxgmm._families import (
    Dirichlet,
    FixedWeights,
    IndependentNormalGamma,
    KnownCovariance,
    NormalGamma,
    NormalWishart,
    SphericalNormalGamma,
    StickBreaking,
    TiedNormalWishart,
    expected_log_weights,
)
from jaxgmm._fit import fit
from jaxgmm._labels import align, order_components
from jaxgmm._natural import NaturalGradient, NaturalSVI, natural_gradient
from jaxgmm._potentials import Potentials, expected_log_joint
from jaxgmm._predict import (
    Mixture,
    aic,
    bic,
    icl,
    log_prob,
    mixture,
    predict,
    responsibilities,
    sample,
    sample_posterior,
)
from jaxgmm._prior import Prior, default_prior, flat_prior, interpolate, update
from jaxgmm._result import Result
from jaxgmm._run import run
from jaxgmm._select import select
from jaxgmm._selection import Selection
from jaxgmm._squarem import Squarem, squarem
from jaxgmm._state import State
from jaxgmm._stats import Stats, empty_stats, merge, scale_stats
from jaxgmm._status import Status
from jaxgmm._svi import SVI, svi
from jaxgmm._views import (
    bound,
    expected_potentials,
    gaussian_cross_entropy,
    kl_divergence,
    log_prior,
    mode_potentials,
    sampled_potentials,
)

__version__ = "0.1.0"

__all__ = [
    "CAVI",
    "EM",
    "SVI",
    "Algorithm",
    "Annealed",
    "Dirichlet",
    "FixedWeights",
    "IndependentNormalGamma",
    "KnownCovariance",
    "Mixture",
    "NaturalGradient",
    "NaturalSVI",
    "NormalGamma",
    "NormalWishart",
    "Potentials",
    "Prior",
    "Result",
    "Selection",
    "SphericalNormalGamma",
    "Squarem",
    "State",
    "Stats",
    "Status",
    "StickBreaking",
    "TiedNormalWishart",
    "aic",
    "align",
    "annealed",
    "bic",
    "bound",
    "cavi",
    "default_prior",
    "elbo",
    "em",
    "empty_stats",
    "estep",
    "expected_log_joint",
    "expected_log_weights",
    "expected_potentials",
    "fit",
    "flat_prior",
    "gaussian_cross_entropy",
    "icl",
    "interpolate",
    "is_degenerate",
    "kl_divergence",
    "label_stats",
    "log_evidence",
    "log_prior",
    "log_prob",
    "merge",
    "mixture",
    "mode_potentials",
    "natural_gradient",
    "order_components",
    "predict",
    "prior_gradient",
    "responsibilities",
    "responsibility_stats",
    "run",
    "sample",
    "sample_posterior",
    "sampled_elbo",
    "sampled_potentials",
    "scale_stats",
    "select",
    "squarem",
    "svi",
    "update",
]
