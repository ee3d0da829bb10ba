"""The registry: which families there are, by the names that people give them.

A new family is a file in `components`, or one of weights in `weights`, and a line here.
"""

from typing import Any, Protocol, runtime_checkable

from jax import Array

from jaxgmm._model.components.independent_normal_gamma import IndependentNormalGamma
from jaxgmm._model.components.known_covariance import KnownCovariance
from jaxgmm._model.components.normal_gamma import NormalGamma
from jaxgmm._model.components.normal_wishart import NormalWishart
from jaxgmm._model.components.spherical_normal_gamma import SphericalNormalGamma
from jaxgmm._model.components.tied_normal_wishart import TiedNormalWishart
from jaxgmm._model.weights.dirichlet import Dirichlet
from jaxgmm._model.weights.fixed_weights import FixedWeights
from jaxgmm._model.weights.partly_fixed_weights import PartlyFixedWeights
from jaxgmm._model.weights.stick_breaking import StickBreaking


@runtime_checkable
class Weights(Protocol):
    """What a distribution of the weights provides; see `Dirichlet` for each meaning."""

    @property
    def ordered(self) -> bool: ...
    @property
    def n_components(self) -> int: ...
    @property
    def n_parameters(self) -> int: ...
    def expected_shapes(self) -> dict[str, tuple[int, ...]]: ...
    def update(self, count: Array) -> Any: ...
    def interpolate(self, other: Any, rho: Array) -> Any: ...
    def with_weights(self, weights: Array, total: Array, *, point: bool) -> Any: ...
    def mode(self) -> Array: ...
    def expectation(self) -> Array: ...
    def mean(self) -> Array: ...
    def sample(self, key: Array) -> Array: ...
    def kl(self, prior: Any) -> Array: ...
    def log_prior(self, log_weights: Array) -> Array: ...
    def check(self) -> None: ...
    def is_proper(self) -> Array: ...
    def has_mode(self) -> Array: ...
    def present(self) -> Array: ...
    def padded(self, n_absent: int) -> Any: ...
    def truncated(self, n_components: int) -> Any: ...
    def site(self) -> Any: ...
    def transforms(self) -> dict[str, Any]: ...


# `covariance=` and `weights=` of `flat_prior` and `default_prior`
FAMILIES: dict[str, Any] = {
    "full": NormalWishart,
    "tied": TiedNormalWishart,
    "diag": NormalGamma,
    "spherical": SphericalNormalGamma,
}
WEIGHTS: dict[str, Any] = {
    "dirichlet": Dirichlet,
    "dirichlet_process": StickBreaking,
    "fixed": FixedWeights,
}
# what a covariance matrix in place of a name stands for
KNOWN = KnownCovariance
# what weights are that are known, and those of which some are
KNOWN_WEIGHTS, PARTLY_KNOWN_WEIGHTS = FixedWeights, PartlyFixedWeights
# those that have no name, and are made by their own names, or by `freeze`
OTHERS = (IndependentNormalGamma, PartlyFixedWeights)

# all that a file may hold
ALL: tuple[Any, ...] = (*WEIGHTS.values(), *FAMILIES.values(), KNOWN, *OTHERS)
