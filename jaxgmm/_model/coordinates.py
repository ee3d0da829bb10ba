"""A posterior, or the point estimate at its mode, as a point of unconstrained space."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxgmm._lane.starts import posterior_at
from jaxgmm._model.prior import Prior
from jaxgmm._numerics.bijections import (
    constrain,
    forward,
    interior,
    inverse,
    point_transforms,
    unconstrain,
)


def coordinates_of(q: Prior, *, mode: bool) -> dict[str, Any]:
    """Coordinates of the posterior's hyperparameters, or of the point at its mode."""
    if not mode:
        return {"weights": unconstrain(q.weights), "components": unconstrain(q.components)}
    point = {
        "weights": interior(jnp.exp(q.weights.mode())),
        "means": q.components.mean,
        "covariances": q.components.covariances(mode=True),
    }
    return {name: inverse(t, point[name]) for name, t in _point_maps(q).items()}


def posterior_of(prior: Prior, coordinates: dict[str, Any], total: Array, *, mode: bool) -> Prior:
    """The posterior with these coordinates, of ``total`` samples where they are a point's."""
    if not mode:
        return Prior(
            constrain(prior.weights, coordinates["weights"]),
            constrain(prior.components, coordinates["components"]),
        )
    maps = _point_maps(prior)
    point = {name: forward(t, coordinates[name]) for name, t in maps.items()}
    if "weights" not in point:
        point["weights"] = jnp.exp(prior.weights.mode())
    if "covariances" not in point:
        point["covariances"] = prior.components.covariances(mode=True)
    parameters = (point["weights"], point["means"], point["covariances"])
    return posterior_at(prior, parameters, total, mode=True)


def _point_maps(prior: Prior) -> dict[str, Any]:
    # a coordinate that the objective does not depend on would drift: Adam rescales rounding
    known = {
        "weights": not prior.weights.transforms(),
        "covariances": prior.components.covariance_name == "known",
    }
    return {name: t for name, t in point_transforms().items() if not known.get(name, False)}
