"""Where replicates come from: each a data set that its number alone draws, wherever it is needed.

A new kind is a function ``(key, rows, estimate) -> Rows`` and a line in `KINDS`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxgmm._estep.rows import Rows
from jaxgmm._model.estimate import Estimate
from jaxgmm._numerics.pytree import pytree, replace, static


def parametric(key: Array, rows: Rows, estimate: Estimate) -> Rows:
    """As many samples from the fitted mixture (Efron & Tibshirani 1993, section 6.5)."""
    component_key, x_key = jax.random.split(key)
    logits, shape = jnp.log(estimate.weights), (rows.n_samples,)
    return Rows(estimate.draw(x_key, jax.random.categorical(component_key, logits, shape=shape)))


def nonparametric(key: Array, rows: Rows, estimate: Estimate) -> Rows:
    """Rows drawn with replacement (Efron 1979), by how often each was: multinomial counts.

    A row of weight 2 is drawn as two rows are.
    """
    n, dtype = rows.n_samples, rows.x.dtype
    if rows.weight is None:
        drawn = jax.random.randint(key, (n,), 0, n)
        return replace(rows, weight=jnp.zeros((n,), dtype).at[drawn].add(1))
    total = jnp.round(rows.total)
    counts = jax.random.multinomial(key, total, rows.weight / rows.total, dtype=dtype)
    return replace(rows, weight=counts)


def weighted(key: Array, rows: Rows, estimate: Estimate) -> Rows:
    """Random weights: exponential ones with a mean of 1 (Newton & Raftery 1994).

    A row of weight 2 has the sum of two of them, a gamma variate. All are divided by their mean, as
    Dirichlet weights are.
    """
    n, dtype = rows.n_samples, rows.x.dtype
    if rows.weight is None:
        drawn = jax.random.exponential(key, (n,), dtype)
    else:
        some = rows.weight > 0
        drawn = jnp.where(some, jax.random.gamma(key, jnp.where(some, rows.weight, 1)), 0)
    return replace(rows, weight=drawn * (rows.total / jnp.sum(drawn)))


KINDS: dict[str, Callable[[Array, Rows, Estimate], Rows]] = {
    "parametric": parametric,
    "nonparametric": nonparametric,
    "weighted": weighted,
}


@pytree
class Source:
    """What replicates are drawn from.

    Attributes:
        key: PRNG key of all replicates.
        rows: the data.
        estimate: the fitted mixture, in the coordinates of the rows.
        kind: a name in `KINDS` (static).
    """

    key: Array
    rows: Rows
    estimate: Estimate
    kind: str = static()

    def replicate(self, number: Any) -> Rows:
        """The replicate of a number, from 1; the data themselves are number 0."""
        drawn = KINDS[self.kind](jax.random.fold_in(self.key, number), self.rows, self.estimate)
        given, own = number == 0, self.rows
        x = drawn.x if drawn.x is own.x else jnp.where(given, own.x, drawn.x)
        if drawn.weight is None:
            return replace(own, x=x)
        weight = jnp.ones_like(drawn.weight) if own.weight is None else own.weight
        return replace(own, x=x, weight=jnp.where(given, weight, drawn.weight))
