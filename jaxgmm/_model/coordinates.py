"""A posterior, or the point estimate at its mode, as a point of unconstrained space."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxgmm._estep.structures import structure
from jaxgmm._model.known import put_known, tamed
from jaxgmm._model.prior import Prior
from jaxgmm._model.views import Mode, View
from jaxgmm._numerics.bijections import SharesMap, forward, interior, inverse
from jaxgmm._numerics.pytree import replace


def unconstrain(node: Any) -> dict[str, Array]:
    """The unconstrained coordinates of a distribution's learnt fields."""
    finite = tamed(node)
    return {name: inverse(t, getattr(finite, name)) for name, t in node.transforms().items()}


def constrain(node: Any, coordinates: dict[str, Array]) -> Any:
    """``node`` with the learnt fields at the given coordinates; what it knows stays."""
    fields = {name: forward(t, coordinates[name]) for name, t in node.transforms().items()}
    return put_known(replace(node, **fields), node)


def coordinates_of(q: Prior, view: View) -> dict[str, Any]:
    """Coordinates of the posterior's hyperparameters, or of the point at its mode."""
    if not view.point:
        parts = {"weights": unconstrain(q.weights), "components": unconstrain(q.components)}
        return parts if q.tails is None else {**parts, "tails": unconstrain(q.tails)}
    m = Mode().estimate(q)
    point: dict[str, Any] = {"weights": interior(m.weights), "means": m.means}
    point |= {"covariance": m.covariance, "degrees": m.degrees}
    return {name: inverse(t, point[name]) for name, t in _point_maps(q).items()}


def known_coordinates(q: Prior) -> dict[str, Array]:
    """Which of a point's coordinates are those of known parameters, on which nothing depends."""
    known = {"means": q.components.known_means(), "covariance": q.components.precisions.known()}
    weights = _point_maps(q).get("weights")
    if isinstance(weights, SharesMap):
        known["weights"] = ~weights.used
    return {
        name: jnp.broadcast_to(mask.reshape(mask.shape + (1,) * (a.ndim - mask.ndim)), a.shape)
        for name, a in coordinates_of(q, Mode()).items()
        for mask in (known.get(name, jnp.asarray(False)),)
    }


def posterior_of(prior: Prior, coordinates: dict[str, Any], total: Array, view: View) -> Prior:
    """The posterior with these coordinates, of ``total`` samples where they are a point's."""
    if not view.point:
        return replace(
            prior,
            weights=constrain(prior.weights, coordinates["weights"]),
            components=constrain(prior.components, coordinates["components"]),
            tails=None if prior.tails is None else constrain(prior.tails, coordinates["tails"]),
        )
    m, maps = Mode().estimate(prior), _point_maps(prior)
    point = {name: forward(t, coordinates[name]) for name, t in maps.items()}
    return Mode().posterior_at(prior, replace(m, **point), total)


def units_of(q: Prior, view: View) -> Any:
    """The units of the coordinates: standard deviations for means, 1 for logarithms."""
    sd = jnp.sqrt(view.estimate(q).variances())
    ones: dict[str, Any] = _ones(coordinates_of(q, view))
    if view.point:
        return {**ones, "means": sd}
    return {**ones, "components": {**ones["components"], "mean": sd}}


def _ones(tree: Any) -> Any:
    return {n: _ones(a) if isinstance(a, dict) else jnp.ones_like(a) for n, a in tree.items()}


def _point_maps(q: Prior) -> dict[str, Any]:
    """Bijections of a point estimate's weights (K,), means (K, D) and covariance."""
    from numpyro.distributions import biject_to, constraints

    # a coordinate that the objective does not depend on would drift: Adam rescales rounding
    maps: dict[str, Any] = {"means": biject_to(constraints.real_matrix)}
    if q.weights.transforms():
        simplex = biject_to(constraints.simplex)
        maps["weights"] = q.weights.point_map() if hasattr(q.weights, "point_map") else simplex
    if q.components.precisions.learnt:
        maps["covariance"] = structure(q.components.structure).bijection()
    return maps if q.tails is None else {**maps, **q.tails.transforms()}
