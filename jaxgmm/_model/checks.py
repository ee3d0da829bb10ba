"""Checks of a model, before any tracing."""

from typing import Any

import jax
import numpy as np
from jax import Array

from jaxgmm._estep.row_checks import check_labels
from jaxgmm._estep.rows import Rows
from jaxgmm._model.components.base import Components
from jaxgmm._model.known import strengths_of
from jaxgmm._model.prior import Prior
from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.calls import described
from jaxgmm._numerics.checks import (
    check_leaves_finite,
    holds,
    is_float,
    is_traced,
)


def check_prior(prior: Any, what: str) -> Any:
    """A `Prior` whose shapes, dtypes and values belong together; arrays from array-likes."""
    if not isinstance(prior, Prior):
        raise ValueError(
            f"{what} takes a prior, the model, but it was given {described(prior)}; call "
            f"jaxgmm.{what}(jaxgmm.default_prior(x, n_components=3))."
        )
    weights, components = prior.weights, prior.components
    if not isinstance(components, Components) or not hasattr(type(weights), "has_mode"):
        raise ValueError(
            "a prior is jaxgmm.Prior(weights, components), such as Prior(Dirichlet(...), "
            f"NormalWishart(...)), but its weights are {described(weights)} and its components "
            f"are {described(components)}."
        )
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
    if prior.tails is not None and prior.tails.degrees.shape != (components.n_components,):
        raise ValueError(
            f"the prior's degrees of freedom must have shape ({components.n_components},), but "
            f"their shape is {tuple(prior.tails.degrees.shape)}."
        )
    if weights.n_components != components.n_components:
        raise ValueError(
            f"the prior's weights are of {weights.n_components} components, but its mean is of "
            f"{components.n_components}."
        )
    if is_traced(prior):
        return prior
    infinite = {*strengths_of(weights), *strengths_of(components)}
    check_leaves_finite("the prior", prior, infinite)
    components.check()
    weights.check()
    if prior.tails is not None:
        prior.tails.check()
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


def check_width(mean: Array, x: Array, what: str) -> None:
    """The samples are of the width and dtype of the means ``(K, D)`` of a prior or a fit."""
    k, d = mean.shape
    if x.shape[1] != d:
        if x.shape[0] == d:
            hint = "they look transposed, so pass x.T"
        elif what == "the prior":
            hint = f"make the prior from these data: jaxgmm.default_prior(x, n_components={k})"
        else:
            hint = "pass the columns of x that it was fitted to, in the same order"
        raise ValueError(f"x has {x.shape[1]} features, but {what} has {d}; {hint}.")
    if x.dtype != mean.dtype:
        hint = f"give both one dtype, for instance x.astype('{mean.dtype}')"
        wide = jax.config.jax_enable_x64  # type: ignore[attr-defined]
        if mean.dtype == np.float64 and not wide:
            # a cast of x would be undone
            hint = (
                "JAX's 64-bit types are off, so that x becomes float32: turn them on by "
                "jax.config.update('jax_enable_x64', True) or in with jax.enable_x64(True)"
            )
        raise ValueError(f"x is {x.dtype}, but {what} is {mean.dtype}; {hint}.")


def check_noise_free(prior: Any, rows: Rows) -> None:
    """Refuse rows with noise for Student-t components: the sum of the two has no closed form."""
    if prior.tails is not None and rows.noise is not None:
        raise ValueError(
            "the density of a Student-t variable with a normal error has no closed form: fit rows "
            "with noise with normal components, a prior without jaxgmm.with_student_t."
        )


def check_normal(prior: Any, what: str) -> None:
    """Refuse Student-t components where normal ones are needed."""
    if prior.tails is not None:
        raise ValueError(
            f"{what} needs normal components, but those of this prior are Student-t; use a prior "
            "without jaxgmm.with_student_t."
        )


def check_model(prior: Any, rows: Rows) -> None:
    """The rows and the prior are of one width, dtype and K, and there are enough rows."""
    x = rows.x
    check_width(prior.components.mean, x, "the prior")
    check_labels(rows, prior.n_components, prior.weights.ordered)
    check_noise_free(prior, rows)
    if x.shape[0] < prior.n_components:
        raise ValueError(
            f"x has {x.shape[0]} rows, fewer than the {prior.n_components} components of the "
            "prior; fit fewer components."
        )
