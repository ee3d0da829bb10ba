"""Gaussian mixture inference in JAX: EM, CAVI and SVI over hundreds of restarts at once.

``jaxgmm.plot``, ``jaxgmm.sklearn`` and ``jaxgmm.numpyro`` are imported when they are first used.
"""

import importlib as _importlib
import sys as _sys
import warnings as _warnings
from importlib.util import find_spec as _find_spec
from operator import attrgetter as _attrgetter
from typing import Any as _Any

from jaxgmm import algebra, stats, views
from jaxgmm._algorithms.annealed import Annealed, annealed
from jaxgmm._algorithms.base import Algorithm
from jaxgmm._algorithms.cavi import CAVI, cavi
from jaxgmm._algorithms.em import EM, em
from jaxgmm._algorithms.fixed_point import fixed_point
from jaxgmm._algorithms.memoized import memoized
from jaxgmm._algorithms.natural import NaturalGradient, NaturalSVI, natural_gradient
from jaxgmm._algorithms.squarem import Squarem, squarem
from jaxgmm._algorithms.svi import SVI, svi
from jaxgmm._estep.estep import estep
from jaxgmm._estep.rows import Rows
from jaxgmm._export.arviz import to_arviz
from jaxgmm._export.checkpoints import resume
from jaxgmm._export.files import load, save
from jaxgmm._fit.fit import fit
from jaxgmm._fit.result import Result
from jaxgmm._fit.run import run
from jaxgmm._fit.select import select
from jaxgmm._fit.selection import Selection
from jaxgmm._fit.warm_up import compile_for
from jaxgmm._inference.bootstrap import bootstrap
from jaxgmm._inference.information import standard_errors
from jaxgmm._inference.likelihood_ratio import likelihood_ratio_test
from jaxgmm._lane.degenerate import is_degenerate
from jaxgmm._lane.state import State
from jaxgmm._lane.status import Status
from jaxgmm._mixture.criteria import aic, bic, icl
from jaxgmm._mixture.density import log_prob, predict, responsibilities
from jaxgmm._mixture.draws import Interval, credible_intervals, sample, sample_posterior
from jaxgmm._mixture.evidence import elbo, prior_gradient, sampled_elbo
from jaxgmm._mixture.imputation import impute
from jaxgmm._mixture.labels import align, order_components
from jaxgmm._mixture.mixture import Mixture, StudentTMixture, mixture, student_t_mixture
from jaxgmm._mixture.pruning import prune
from jaxgmm._mixture.quantiles import cdf, quantile
from jaxgmm._mixture.sampled import (
    outlier_scores,
    sampled_entropy,
    sampled_kl,
    sampled_log_prob,
)
from jaxgmm._model.background import with_background
from jaxgmm._model.bounds import bound
from jaxgmm._model.components.independent_normal_gamma import IndependentNormalGamma
from jaxgmm._model.components.known_covariance import KnownCovariance
from jaxgmm._model.components.normal_gamma import NormalGamma
from jaxgmm._model.components.normal_wishart import NormalWishart
from jaxgmm._model.components.spherical_normal_gamma import SphericalNormalGamma
from jaxgmm._model.components.tied_normal_wishart import TiedNormalWishart
from jaxgmm._model.defaults import default_prior, flat_prior
from jaxgmm._model.freeze import freeze
from jaxgmm._model.prior import Prior, update
from jaxgmm._model.student_t import with_student_t
from jaxgmm._model.weights.dirichlet import Dirichlet
from jaxgmm._model.weights.fixed_weights import FixedWeights
from jaxgmm._model.weights.stick_breaking import StickBreaking
from jaxgmm._numerics.cache import cache_programs
from jaxgmm._stream.errors import StreamError
from jaxgmm._stream.stream import Stream

__version__ = "0.2.0"

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
    "NaturalGradient",
    "NaturalSVI",
    "NormalGamma",
    "NormalWishart",
    "Prior",
    "Result",
    "Rows",
    "Selection",
    "SphericalNormalGamma",
    "Squarem",
    "State",
    "Status",
    "StickBreaking",
    "Stream",
    "StreamError",
    "StudentTMixture",
    "TiedNormalWishart",
    "aic",
    "algebra",
    "align",
    "annealed",
    "bic",
    "bootstrap",
    "bound",
    "cache_programs",
    "cavi",
    "cdf",
    "compile_for",
    "credible_intervals",
    "default_prior",
    "elbo",
    "em",
    "estep",
    "fit",
    "fixed_point",
    "flat_prior",
    "freeze",
    "icl",
    "impute",
    "is_degenerate",
    "likelihood_ratio_test",
    "load",
    "log_prob",
    "memoized",
    "mixture",
    "natural_gradient",
    "order_components",
    "outlier_scores",
    "predict",
    "prior_gradient",
    "prune",
    "quantile",
    "responsibilities",
    "resume",
    "run",
    "sample",
    "sample_posterior",
    "sampled_elbo",
    "sampled_entropy",
    "sampled_kl",
    "sampled_log_prob",
    "save",
    "select",
    "squarem",
    "standard_errors",
    "stats",
    "student_t_mixture",
    "svi",
    "to_arviz",
    "update",
    "views",
    "with_background",
    "with_student_t",
]

# Flat names of version 0.1 that have moved, until version 0.3.
_MOVED = {
    **{name: f"algebra.{name}" for name in algebra.__all__},
    **{name: f"stats.{name}" for name in stats.__all__},
    **{name: f"views.{name}" for name in views.__all__ if name[0].islower()},
    "empty_stats": "stats.empty",
    "scale_stats": "stats.scale",
    "label_stats": "stats.from_labels",
    "responsibility_stats": "stats.from_responsibilities",
}
# Bridges to packages that are slow to import, or that not everyone has.
_BRIDGES = {"numpyro": "numpyro", "plot": "matplotlib", "sklearn": "sklearn"}
_GONE = {
    "BayesianGaussianMixture": "sklearn.BayesianGaussianMixture(n_components)",
    "GaussianMixture": "sklearn.GaussianMixture(n_components)",
    "mode_potentials": "views.Mode(reg_covar).potentials(q)",
    "expected_potentials": "views.Expectation().potentials(q)",
    "log_prior": "-views.Mode(reg_covar).penalty(q, prior)",
}


def __getattr__(name: str) -> _Any:
    if name in _BRIDGES:
        return _importlib.import_module(f"jaxgmm.{name}")
    if name in _MOVED:
        new = _MOVED[name]
        _warnings.warn(
            f"jaxgmm.{name} has moved: use jaxgmm.{new}.", DeprecationWarning, stacklevel=2
        )
        return _attrgetter(new)(_sys.modules[__name__])
    hint = f"; use jaxgmm.{_GONE[name]}" if name in _GONE else ""
    raise AttributeError(f"module 'jaxgmm' has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    there = (name for name, needed in _BRIDGES.items() if _find_spec(needed))
    return sorted({*globals(), *there})
