"""Gaussian mixture inference in JAX: EM, CAVI and SVI over hundreds of restarts at once."""

from jaxgmm._algorithms.annealed import Annealed, annealed
from jaxgmm._algorithms.base import Algorithm
from jaxgmm._algorithms.cavi import CAVI, cavi
from jaxgmm._algorithms.em import EM, em
from jaxgmm._algorithms.fixed_point import fixed_point
from jaxgmm._algorithms.natural import NaturalGradient, NaturalSVI, natural_gradient
from jaxgmm._algorithms.squarem import Squarem, squarem
from jaxgmm._algorithms.svi import SVI, svi
from jaxgmm._estep.assigned import label_stats, responsibility_stats
from jaxgmm._estep.estep import estep, log_evidence
from jaxgmm._estep.potentials import Potentials, expected_log_joint
from jaxgmm._estep.stats import Stats, empty_stats, merge, scale_stats
from jaxgmm._export.arviz import to_arviz
from jaxgmm._export.files import load, save
from jaxgmm._fit.fit import fit
from jaxgmm._fit.result import Result
from jaxgmm._fit.run import run
from jaxgmm._fit.select import select
from jaxgmm._fit.selection import Selection
from jaxgmm._lane.degenerate import is_degenerate
from jaxgmm._lane.state import State
from jaxgmm._lane.status import Status
from jaxgmm._mixture.algebra import affine, condition, marginal, merge_components, product, regress
from jaxgmm._mixture.density import (
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
from jaxgmm._mixture.draws import (
    Interval,
    cdf,
    credible_intervals,
    outlier_scores,
    quantile,
    sampled_entropy,
    sampled_kl,
    sampled_log_prob,
)
from jaxgmm._mixture.evidence import elbo, prior_gradient, sampled_elbo
from jaxgmm._mixture.labels import align, order_components
from jaxgmm._mixture.mixture import Mixture, Moments, moments
from jaxgmm._model.families import (
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
from jaxgmm._model.prior import Prior, default_prior, flat_prior, interpolate, update
from jaxgmm._model.views import (
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
