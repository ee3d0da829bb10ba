"""The second part of a family: a distribution of its components' precisions."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxgmm._estep.structures import structure
from jaxgmm._model.known import tamed
from jaxgmm._numerics.pytree import child_names

# How many means a precision stands behind, of which a joint mode depends; None asks for the mean
# of the precision instead of a mode.
Means = Array | int | None
# So many means, which no improper prior has: a divisor of the mode that is never 0.
_MANY = 1 << 20


class Draw(NamedTuple):
    """A draw of the precisions.

    Attributes:
        factor: F with ``F F^T`` the precision, in the structure's shape.
        log_det: ``log|F|``.
        colour: from standard normals (K, D) to draws of ``Normal(0, (F F^T)^-1)``.
    """

    factor: Array
    log_det: Array
    colour: Callable[[Array], Array]


class Precision:
    """Base of `Wishart`, `SharedWishart`, `GammaPerFeature`, `GammaPerComponent` and `Known`.

    A pytree whose fields are those of the family, after the mean's. Scatters, factors and
    covariances have the shape of the ``structure``. ``shared`` says that there is one precision for
    all components; ``learnt`` that it is learnt at all.
    """

    structure: ClassVar[str]
    shared: ClassVar[bool] = False
    learnt: ClassVar[bool] = True
    # the degrees of freedom, which are infinite where what they scale is a known covariance
    strengths: ClassVar[dict[str, str]] = {}

    @classmethod
    def of(cls, components: Any) -> Any:
        """The precisions of a family's components, by the names of their fields."""
        return cls(*(getattr(components, name) for name in child_names(cls)))

    def blend(self, other: Any, rho: Array) -> Any:
        """``(1 - rho) self + rho other`` in natural parameters, which all fields are."""
        return jax.tree.map(lambda a, b: (1 - rho) * a + rho * b, tamed(self), tamed(other))

    def known(self) -> Array:
        """Whether each covariance is known."""
        return jnp.asarray(not self.learnt)

    def congruent(self, matrix: Array) -> Any:
        """Of samples multiplied by a matrix, as `Structure.congruent` takes it."""
        covariance = structure(self.structure).congruent(self.covariance_at(_MANY), matrix)
        share = jnp.ones((), covariance.dtype)
        return self.at(covariance, _MANY, share)

    def log_jacobian(self, matrix: Array, log_det: Array, n_means: Means) -> Array:
        """What the log density gains, unnormalised, where samples were multiplied by a matrix."""
        scaleless = self.congruent(0 * matrix)
        factor = jnp.broadcast_to(matrix, scaleless.covariance_at(_MANY).shape)
        return scaleless.log_density(factor, log_det, n_means)

    @staticmethod
    def pooled_features(d: int) -> int:
        """Features whose scatters one precision pools."""
        return 1

    def summands(self, factor: Array) -> Array | float:
        """How large the products are of which ``tr(scatter F F^T)`` is a sum, all in all.

        ``sum_kd S_kd (F_k F_k^T)_dd``, of posterior scales with the diagonal S_kd. It is the trace
        itself where the axes are those of the ellipsoids. Where they are not, products of both
        signs cancel, and what rounding leaves of them grows with the correlations: it is that of
        each entry of a scatter, ``eps sqrt(S_ii S_jj)``, times the entry of the precision (the
        scaled condition of Higham 2002, section 10.1). 0 where nothing but squares are summed.
        """
        return 0.0

    # --- what a precision has to say; docs/new_family.md goes through it -----------------------
    # refuses values that are none of a prior's, with a ValueError
    def check(self) -> None: ...
    # the shape of every field
    @staticmethod
    def shapes(k: int, d: int) -> dict[str, tuple[int, ...]]: ...
    # free parameters of the covariances
    @staticmethod
    def n_parameters(k: int, d: int) -> int: ...
    # with fewer samples a covariance is singular by itself
    @staticmethod
    def minimum_samples(d: int) -> int: ...
    # the improper prior whose mode is the maximum-likelihood estimate
    @classmethod
    def flat(cls, k: int, d: int, dtype: Any, n_means: int) -> Any: ...
    # of degrees of freedom and the scale that they divide: S, or one component's of it
    @classmethod
    def of_degrees(cls, degrees: Any, scale: Any, k: int, d: int) -> Any: ...
    # the degrees of freedom, as `of_degrees` takes them
    def degrees(self) -> Any: ...
    # with so many samples (K,) more, which have no scatter
    def counted(self, count: Array) -> Any: ...
    # with a scatter more, S
    def scattered(self, scatter: Array) -> Any: ...
    # the covariance at the joint mode with so many means, or E[Lambda]^-1: S
    def covariance_at(self, n_means: Means) -> Any: ...
    # with that covariance; shared, the mean of several ones by their share (K,)
    def at(self, covariance: Array, n_means: Means, share: Array) -> Any: ...
    # a factor of E[Lambda], and half of E log|Lambda|
    def expectation(self) -> Any: ...
    # a reparameterised draw
    def sample(self, key: Array) -> Any: ...
    # KL(self || prior) of each precision, given the factor of `expectation`
    def kl(self, prior: Any, factor: Array) -> Any: ...
    # log density over the covariances times |F| of each mean, at a factor S with log|F| (K,);
    # without its constant
    def log_density(self, factor: Array, log_det: Array, n_means: Means) -> Any: ...
    # that constant; of no meaning where it is not proper
    def log_normaliser(self) -> Any: ...
    # whether each integrates to one
    def proper(self) -> Any: ...
    # samples behind each covariance, the prior's included
    def samples(self) -> Any: ...
    # what a new sample of each component is distributed as, see `predictive`
    def predictive(self, mean: Array, mean_precision: Array) -> Any: ...
    # NumPyro bijections from unconstrained space, for each field that is learnt
    def transforms(self) -> Any: ...
    # name and NumPyro distribution of the precisions as a site of a model; None if they are known
    def site(self) -> Any: ...
    # the covariance S at a value of the site
    def at_site(self, value: Array) -> Any: ...
    # the value of the site at a covariance S
    def site_value(self, covariance: Array) -> Any: ...
