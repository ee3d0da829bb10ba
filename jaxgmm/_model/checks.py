"""Checks of a model, before any tracing."""

from typing import Any

import jax
from jax import Array

from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.checks import (
    check_leaves_finite,
    holds,
    is_float,
    is_traced,
)


def check_prior(prior: Any) -> Any:
    """A `Prior` whose shapes, dtypes and values belong together; arrays from array-likes."""
    weights, components = prior.weights, prior.components
    # strongly typed, so that no two priors of one dtype compile two programs
    prior = jax.tree.map(as_array, prior)
    weights, components = prior.weights, prior.components
    dtypes = {str(a.dtype) for a in jax.tree.leaves(prior)}
    if len(dtypes) > 1 or not is_float(components.mean.dtype):
        raise ValueError(
            "all leaves of the prior must have one floating-point dtype, float32 or float64, but "
            f"they have {', '.join(sorted(dtypes))}; convert them with astype."
        )
    if components.mean.ndim != 2:
        raise ValueError(
            f"the prior's mean must have shape (K, D), but its shape is "
            f"{tuple(components.mean.shape)}."
        )
    for node in (components, weights):
        for name, shape in node.expected_shapes().items():
            value = getattr(node, name)
            if value.shape != shape:
                raise ValueError(
                    f"the prior's {name} must have shape {shape} to go with the others, but its "
                    f"shape is {tuple(value.shape)}."
                )
    if weights.n_components != components.n_components:
        raise ValueError(
            f"the prior's weights are of {weights.n_components} components, but its mean is of "
            f"{components.n_components}."
        )
    if is_traced(prior):
        return prior
    check_leaves_finite("the prior", prior)
    components.check()
    weights.check()
    return prior


def is_bounded(prior: Any) -> bool:
    """Whether the components' priors are proper, so that the posterior density is bounded."""
    return holds(_is_proper, prior.components)


def _is_proper(prior: Any) -> Array:
    return prior.is_proper()


def _has_mode(weights: Any) -> Array:
    return weights.has_mode()


def check_proper(prior: Any, algorithm: str, otherwise: str = "") -> None:
    """Refuse an improper prior where the bound needs a proper one."""
    if not is_traced(prior) and not holds(_is_proper, prior):
        hint = f", {otherwise}" if otherwise else ""
        raise ValueError(
            f"{algorithm} needs a proper prior (positive concentration and mean_precision, "
            "degrees_of_freedom above D - 1), but this one is improper; use "
            f"jaxgmm.default_prior(x, n_components), jaxgmm.em for maximum likelihood{hint}."
        )


def check_has_mode(prior: Any, algorithm: str) -> None:
    """Refuse weights whose posterior density is unbounded where a point estimate is asked for."""
    if not is_traced(prior) and not holds(_has_mode, prior.weights):
        raise ValueError(
            f"{algorithm} needs weights whose posterior has a mode (concentration, or alpha and "
            f"beta, of at least 1), but they are {prior.weights}; use jaxgmm.cavi, or jaxgmm.svi "
            "in another view, for sparse weights."
        )


def check_model(prior: Any, x: Array) -> None:
    """The samples and the prior are of one width and dtype, and there are enough samples."""
    if x.shape[1] != prior.n_features:
        raise ValueError(
            f"x has {x.shape[1]} features, but the prior has {prior.n_features}; make the prior "
            "from these data, for instance with jaxgmm.default_prior(x, n_components)."
        )
    if x.dtype != prior.dtype:
        raise ValueError(
            f"x is {x.dtype}, but the prior is {prior.dtype}; give both one dtype, for instance "
            f"x.astype('{prior.dtype}')."
        )
    if x.shape[0] < prior.n_components:
        raise ValueError(
            f"x has {x.shape[0]} rows, fewer than the {prior.n_components} components of the "
            "prior; fit fewer components."
        )
