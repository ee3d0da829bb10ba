"""The true values of rows with gaps and errors, given a fitted mixture."""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from jaxgmm._estep.latent import columns_of, latent, latent_of, spread_of
from jaxgmm._estep.moments import feature_noise
from jaxgmm._estep.padded import by_row
from jaxgmm._estep.potentials import Potentials
from jaxgmm._estep.row_logits import relative_row_logits, row_width
from jaxgmm._estep.rows import Rows
from jaxgmm._lane.state import State
from jaxgmm._mixture.mixture import (
    Mixture,
    Model,
    check_fitted_rows,
    estimate,
    n_components_of,
    plug_in,
)
from jaxgmm._numerics import linalg
from jaxgmm._numerics.blocks import map_blocks
from jaxgmm._numerics.calls import described, usage
from jaxgmm._numerics.checks import check_positive_int
from jaxgmm._numerics.programs import program
from jaxgmm._numerics.pytree import replace


@usage("jaxgmm.impute(result, rows)")
def impute(
    state: Model, rows: Rows, *, key: Array | None = None, n_draws: int | None = None
) -> Float[Array, "*S N D"]:
    """The values of rows without gaps and errors: their means given what was observed, or draws.

    Under the density of `mixture` the values of a row given what was observed are a mixture of
    normal distributions (Ghahramani & Jordan 1994). Their mean is the best guess of each value, but
    such values vary too little; for estimates from them draw several completed data sets (multiple
    imputation, Rubin 1987). What was observed without an error stays as it is.

    Args:
        state: a fit, or a `Mixture`.
        rows: `Rows` with missing values or noise, ``(N, D)``.
        key: PRNG key of the draws; without one the result is the mean.
        n_draws: S, the number of draws; with a key 1 by default.

    Returns:
        ``(N, D)`` means; with a key ``(S, N, D)`` draws.

    Raises:
        ValueError: for samples that are not `Rows`, bad rows, ``n_draws`` without a key.

    Example:
        >>> import jax.numpy as jnp, jaxgmm
        >>> halves, means = jnp.array([0.5, 0.5]), jnp.array([[0.0, 0.0], [9.0, 9.0]])
        >>> pair = jaxgmm.Mixture(halves, means, jnp.stack([jnp.eye(2)] * 2))
        >>> rows = jaxgmm.Rows(jnp.array([[9.5, jnp.nan], [1.0, 2.0]]), missing="nan")
        >>> print(jaxgmm.impute(pair, rows))
        [[9.5 9. ]
         [1.  2. ]]
    """
    if not isinstance(rows, Rows):
        raise ValueError(
            f"impute takes rows that say what is missing, but it was given {described(rows)}; call "
            'jaxgmm.impute(result, jaxgmm.Rows(x, missing="nan")).'
        )
    if key is None and n_draws is not None:
        raise ValueError(
            "n_draws was given without a key; call jaxgmm.impute(result, rows, key=key, n_draws=5)."
        )
    number = check_positive_int("n_draws", 1 if n_draws is None else n_draws)
    model, rows = check_fitted_rows(state, rows, None, "impute", far=True)
    if key is None:
        return by_row(_means, model, rows, n_components_of(model))
    return _draws(key, model, rows, number)


@program()
def _means(model: State | Mixture, rows: Rows) -> Array:
    potentials = plug_in(model)

    def of_block(block: Rows) -> Array:
        r = jax.nn.softmax(relative_row_logits(block, potentials), axis=-1)
        found = latent(block, potentials, spread_of(potentials, block))
        values = potentials.mean[:, :, None] + found.shift
        return _as_observed(block, linalg.einsum("bk,kdb->bd", r, values))

    return map_blocks(of_block, rows, row_width(rows, potentials))


@functools.partial(jax.jit, static_argnames="number")
def _draws(key: Array, model: State | Mixture, rows: Rows, number: int) -> Array:
    # given what is known of it, a value of the background is drawn as a normal one
    potentials, m = plug_in(model), replace(estimate(model), background=False, degrees=None)

    def of_block(block: Rows, keys: Array) -> Array:
        # a joint draw of values and observations, moved to what was observed (Matheron's rule)
        which_key, value_key, error_key = jax.vmap(lambda a: jax.random.split(a, 3))(keys).T
        component = jax.vmap(jax.random.categorical)(
            which_key, relative_row_logits(block, potentials)
        )
        draw = jax.vmap(lambda key, c: m.draw(key, c[None])[0] - m.means[c])
        values = draw(value_key, component)
        if potentials.tail is not None:  # given its precision scale a row is normal
            degrees = potentials.tail.degrees[component]
            scale = _scales(which_key, block, potentials, component, degrees)
            values = values / jnp.sqrt(scale)[:, None]
        observed = values + _errors(error_key, block)
        # (K, D, B): one draw is of one component, but costs as much as of all
        gap = block.x.T[None] - potentials.mean[:, :, None] - observed.T[None]
        shift = latent_of(columns_of(block), gap, spread_of(potentials, block)).shift
        mine = jnp.take_along_axis(shift, component[None, None], axis=0)[0].T
        return _as_observed(block, m.means[component] + values + mine)

    def one(key: Array) -> Array:
        keys = jax.random.split(key, rows.n_samples)
        return map_blocks(lambda b: of_block(*b), (rows, keys), row_width(rows, potentials))

    return lax.map(one, jax.random.split(key, number))


def _scales(
    keys: Array, rows: Rows, potentials: Potentials, component: Array, degrees: Array
) -> Array:
    """Draws of the precision scales of rows, given what was observed and the component, (B,)."""
    squares = latent(rows, potentials, spread_of(potentials, rows)).squares
    mine = jnp.take_along_axis(squares, component[None], axis=0)[0]
    heavy = jnp.isfinite(degrees)
    degrees = jnp.where(heavy, degrees, 1)
    seen = jnp.ones(rows.x.shape, bool) if rows.missing is None else ~rows.missing
    shape = 0.5 * (degrees + jnp.sum(seen, axis=1, dtype=rows.x.dtype))
    # another number from the same key would not be independent of the component
    keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
    gamma = jax.vmap(lambda key, a: jax.random.gamma(key, a, dtype=a.dtype))(keys, shape)
    return jnp.where(heavy, gamma / (0.5 * (degrees + mine)), 1)


def _errors(keys: Array, rows: Rows) -> Array:
    """Draws of the errors of the rows, ``(B, D)``."""
    shape, dtype = rows.x.shape[1:], rows.x.dtype
    standard = jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)
    if rows.noise is None:
        return jnp.zeros_like(standard)
    if rows.noise.ndim < 3:
        return jnp.sqrt(feature_noise(rows.noise, rows.x.shape)) * standard
    # semi-definite ones have a factor beside rounding
    size = jnp.max(linalg.diagonal(rows.noise), axis=-1)[:, None, None]
    little = 8 * shape[0] * jnp.finfo(dtype).eps * jnp.where(size > 0, size, 1)
    root = linalg.cholesky(rows.noise + little * linalg.eye_like(rows.noise))
    return linalg.einsum("bij,bj->bi", root, standard)


def _as_observed(rows: Rows, values: Array) -> Array:
    """The values, and those of the rows where they were observed without an error."""
    exact = jnp.ones(rows.x.shape, bool) if rows.missing is None else ~rows.missing
    if rows.noise is not None:
        exact = exact & (feature_noise(rows.noise, rows.x.shape) == 0)
    return jnp.where(exact, rows.x, values)
