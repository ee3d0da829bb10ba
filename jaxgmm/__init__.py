"""Gaussian mixture inference in JAX: EM, CAVI and SVI over hundreds of restarts at once."""

from jaxgmm._algebra import affine, condition, marginal, merge_components, product, regress
from jaxgmm._algorithm import Algorithm
from jaxgmm._anneal import Annealed, annealed
from jaxgmm._arviz import to_arviz
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
from jaxgmm._implicit import fixed_point
from jaxgmm._labels import align, order_components
from jaxgmm._mixture import Mixture, Moments, moments
from jaxgmm._natural import NaturalGradient, NaturalSVI, natural_gradient
from jaxgmm._persist import load, save
from jaxgmm._potentials import Potentials, expected_log_joint
from jaxgmm._predict import (
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
from jaxgmm._predictive import (
    Interval,
    cdf,
    credible_intervals,
    outlier_scores,
    quantile,
    sampled_entropy,
    sampled_kl,
    sampled_log_prob,
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
    "Interval",
    "KnownCovariance",
    "Mixture",
    "Moments",
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
    "affine",
    "aic",
    "align",
    "annealed",
    "bic",
    "bound",
    "cavi",
    "cdf",
    "condition",
    "credible_intervals",
    "default_prior",
    "elbo",
    "em",
    "empty_stats",
    "estep",
    "expected_log_joint",
    "expected_log_weights",
    "expected_potentials",
    "fit",
    "fixed_point",
    "flat_prior",
    "gaussian_cross_entropy",
    "icl",
    "interpolate",
    "is_degenerate",
    "kl_divergence",
    "label_stats",
    "load",
    "log_evidence",
    "log_prior",
    "log_prob",
    "marginal",
    "merge",
    "merge_components",
    "mixture",
    "mode_potentials",
    "moments",
    "natural_gradient",
    "order_components",
    "outlier_scores",
    "predict",
    "prior_gradient",
    "product",
    "quantile",
    "regress",
    "responsibilities",
    "responsibility_stats",
    "run",
    "sample",
    "sample_posterior",
    "sampled_elbo",
    "sampled_entropy",
    "sampled_kl",
    "sampled_log_prob",
    "sampled_potentials",
    "save",
    "scale_stats",
    "select",
    "squarem",
    "svi",
    "to_arviz",
    "update",
]
