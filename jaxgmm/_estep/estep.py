"""The E-step: one function for every algorithm."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxgmm._estep.data import Data, prepare
from jaxgmm._estep.passes import PASSES, careful_lane, lane_pass
from jaxgmm._estep.passes.common import Path, Sums
from jaxgmm._estep.potentials import Potentials, expected_log_joint
from jaxgmm._estep.rows import Rows, as_rows
from jaxgmm._estep.stats import Stats
from jaxgmm._numerics.calls import described
from jaxgmm._numerics.checks import check_choice
from jaxgmm._numerics.devices import varying_as
from jaxgmm._numerics.pytree import replace, take


def _lane_sums(
    path: Path,
    block_size: int | None,
    axis: str | None,
    rows: Rows,
    weight: Array | None,
    centre: Array,
    active: Array | bool,  # outside of a program JAX makes it Python's
    potentials: Potentials,
) -> Sums:
    weight = None if weight is None else weight[None]
    one = jax.tree.map(lambda a: a[None], potentials)
    lanes = jnp.asarray(active)[None]
    return take(lane_pass(path, block_size, axis)(rows, weight, centre, lanes, one), 0)


pass_sums: Any = jax.custom_jvp(_lane_sums, nondiff_argnums=(0, 1, 2))


@pass_sums.defjvp
def _sums_jvp(
    path: Path,
    block_size: int | None,
    axis: str | None,
    primals: tuple[Any, ...],
    tangents: tuple[Any, ...],
) -> tuple[Sums, Sums]:
    # One more pass, by residuals and rematerialised block by block: no N x K memory.
    rows, weight, _, _, potentials = primals
    drows, dweight, _, _, dpotentials = tangents

    def recompute(rows: Rows, weight: Array | None, potentials: Potentials) -> Sums:
        weight = None if weight is None else weight[None]
        # with the sum over devices, whose transpose JAX then knows
        return careful_lane(rows, weight, potentials, block_size, axis)

    tangent = jax.jvp(recompute, (rows, weight, potentials), (drows, dweight, dpotentials))[1]
    return _lane_sums(path, block_size, axis, *primals), tangent


def estep(
    x: Float[Array, "N D"] | Rows,
    potentials: Potentials,
    *,
    sample_weight: Float[Array, " N"] | None = None,
    path: Path = "auto",
    block_size: int | None = None,
) -> Stats:
    """Expected sufficient statistics under the responsibilities of the given potentials.

    The responsibilities are ``r[n, k] = softmax_k logit[n, k]`` (Bishop 2006, eq. 9.23 for the
    mode, 10.49 for the expectation); they are summed block by block and never stored. This
    function works under `jax.jit`, under `jax.vmap` over the potentials (with one matrix product
    for all of them), and under `jax.grad`, `jax.jvp` and `jax.hessian` (with one more pass).

    Args:
        x: samples, ``(N, D)``, finite.
        potentials: of a mixture or a posterior, see `Potentials`.
        sample_weight: non-negative, ``(N,)``; a weight of 2 counts a sample twice.
        path: ``"feature"`` (fast), ``"whitened"`` (precise even if clusters are narrow and far
            apart) or ``"auto"``, which takes the fast path only where it is precise enough.
        block_size: number of rows handled at one time; by default as many as fit in the cache.

    Returns:
        `Stats`. Those of parts of the data can be added by `jaxgmm.stats.merge`.

    Raises:
        ValueError: for an unknown ``path``.

    Example:
        >>> import jax, jaxgmm
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> prior = jaxgmm.default_prior(x, 3)
        >>> stats = jaxgmm.estep(x, jaxgmm.views.Expectation().potentials(prior))
        >>> print(round(float(stats.count.sum()), 3))
        100.0
    """
    check_choice("path", path, PASSES)
    if not isinstance(potentials, Potentials):
        raise ValueError(
            f"estep takes potentials, such as state.potentials, but it was given "
            f"{described(potentials)}; call jaxgmm.estep(x, state.potentials)."
        )
    return _estep(as_rows(x, sample_weight), potentials, path, block_size)


@functools.partial(jax.jit, static_argnames=("path", "block_size"))
def _estep(rows: Rows, potentials: Potentials, path: Path, block_size: int | None) -> Stats:
    return estep_on(prepare(rows), potentials, path=path, block_size=block_size)


def estep_on(
    data: Data,
    potentials: Potentials,
    active: Array | bool = True,
    *,
    path: Path = "auto",
    block_size: int | None = None,
) -> Stats:
    """`estep` on prepared data; a lane that is not ``active`` may be computed carelessly."""
    args = (data.values, data.weight, data.centre, jnp.asarray(active), potentials)
    return stats_of(pass_sums(path, block_size, data.axis, *varying_as(args, args)), potentials)


def stats_of(sums: Sums, potentials: Potentials) -> Stats:
    """The statistics that a pass has summed, with their entropy under the potentials."""
    stats = Stats(
        count=sums.count,
        mean=sums.mean,
        scatter=sums.scatter,
        entropy=jnp.zeros_like(sums.log_evidence),
        log_evidence=sums.log_evidence,
        structure=potentials.structure,
        mass=sums.mass,
        excess=sums.excess,
    )
    # sum r logit + entropy = log-evidence, so the entropy needs no pass of its own
    return replace(stats, entropy=stats.log_evidence - expected_log_joint(stats, potentials))
