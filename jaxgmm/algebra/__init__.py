"""The algebra of Gaussian mixtures: marginals, conditionals, affine images, products, merging.

All functions are pure and take a `jaxgmm.Mixture`; ``jaxgmm.mixture(state)`` is that of a fit. They
work under `jax.jit`, `jax.vmap` and `jax.grad`.

Example:
    >>> import jax.numpy as jnp, jaxgmm
    >>> m = jaxgmm.Mixture(jnp.ones(1), jnp.array([[1.0, 2.0]]), jnp.eye(2)[None])
    >>> first = jaxgmm.algebra.marginal(m, [0])
    >>> print(jaxgmm.algebra.affine(first, jnp.array([[3.0]])).means)
    [[3.]]
"""

from jaxgmm._mixture.algebra import (
    Moments,
    affine,
    condition,
    marginal,
    merge_components,
    moments,
    product,
    regress,
)

__all__ = [
    "Moments",
    "affine",
    "condition",
    "marginal",
    "merge_components",
    "moments",
    "product",
    "regress",
]
