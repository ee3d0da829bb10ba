"""Checks of what a user passes, before any tracing: what came, what was expected, what to do."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxgmm._numerics.arrays import as_array
from jaxgmm._numerics.calls import described, near
from jaxgmm._numerics.devices import for_everyone, is_local
from jaxgmm._numerics.inputs import as_floats, some_rows, unmasked
from jaxgmm._numerics.programs import program


def is_traced(*values: Any) -> bool:
    """Whether any leaf is a tracer, whose values no check can see."""
    return any(isinstance(a, Tracer) for a in jax.tree.leaves(values))


def holds(condition: Callable[[Any], Any], tree: Any) -> bool:
    """The truth of a condition on concrete arrays, as one program; also while tracing others."""
    with jax.ensure_compile_time_eval():
        return bool(_truth(tree, condition=condition))


@program(static=("condition",))
def _truth(tree: Any, *, condition: Callable[[Any], Any]) -> Array:
    return condition(tree)


def check_choice(name: str, value: Any, known: Iterable[str], hint: str = "") -> None:
    """Refuse a name that is not one of the known ones."""
    names = list(known)
    if not isinstance(value, str) or value not in names:
        shown = f"={value!r}" if isinstance(value, str) else f", {described(value)},"
        options = ", ".join(repr(n) for n in names)
        question = near(value, names)
        expected = f"{question}Known are" if question else "expected one of"
        raise ValueError(f"{name}{shown} is not known; {expected} {options}{hint}.")


def check_positive_int(name: str, value: Any, call: str = "") -> int:
    """Refuse anything but an integer of at least 1; the right call for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        more = f"; call {call}" if call else ""
        raise ValueError(
            f"{name} must be an integer of at least 1, but it is {described(value)}{more}."
        )
    return int(value)


def check_non_negative(name: str, value: Any) -> None:
    """Refuse a negative number or NaN; traced values pass."""
    if not is_traced(value) and not bool(np.all(_numbers(name, value) >= 0)):
        raise ValueError(f"{name} must be 0 or more, but it is {value}.")


def check_positive(name: str, value: Any) -> None:
    """Refuse numbers that are 0 or negative, and NaN; traced values pass."""
    if not is_traced(value) and not bool(np.all(_numbers(name, value) > 0)):
        raise ValueError(f"{name} must be positive, but it is {value}.")


def _numbers(name: str, value: Any) -> np.ndarray:
    values = np.asarray(value)
    if values.dtype.kind not in "iuf":
        raise ValueError(f"{name} must be a number, but it is {described(value)}.")
    return values


def is_float(dtype: Any) -> bool:
    """Whether it is a dtype that mixtures are computed in."""
    return str(dtype) in ("float32", "float64")


def check_samples(
    x: Any, n_features: int | None = None, name: str = "x", *, far: bool = False
) -> Array:
    """The samples as a 2-d floating-point array of finite values; see `as_floats`.

    Unless they may lie ``far`` away, as those that nothing is fitted to, the sum of their squares
    must not overflow either.
    """
    x = as_floats(x, name)
    if x.ndim != 2:
        more = f"for a single feature pass {name}[:, None]"
        if x.ndim > 2:
            more = f"for samples that are arrays themselves pass {name}.reshape(len({name}), -1)"
        raise ValueError(
            f"{name} must be 2-d, samples by features, but its shape is {tuple(x.shape)}; {more}."
        )
    if x.shape[0] == 0 or x.shape[1] == 0:
        raise ValueError(f"{name} is empty: its shape is {tuple(x.shape)}.")
    if not is_float(x.dtype):
        raise ValueError(
            f"{name} must be floating-point, float32 or float64, but its dtype is {x.dtype}; "
            f"convert it, for instance with {name}.astype('float32')."
        )
    if n_features is not None and x.shape[1] != n_features:
        raise ValueError(f"{name} has {x.shape[1]} features, but the model has {n_features}.")
    x = as_array(x)
    if not is_traced(x):
        with jax.ensure_compile_time_eval():
            finite = np.asarray(for_everyone(_finite_rows if is_local(x) else _finite, x))
        if not finite.all():
            where = "some row of some process"
            if finite.ndim:
                columns = some_rows(~np.isfinite(np.asarray(x)).all(axis=0), "columns")
                where = f"rows {some_rows(~finite)}, columns {columns}"
            raise ValueError(
                f"{name} has NaN or infinity in {where}; drop or impute them, or, where NaN means "
                f'a missing value, pass jaxgmm.Rows({name}, missing="nan").'
            )
        if not far:
            check_magnitude(x, name)
    return x


def check_magnitude(x: Array, name: str = "x") -> None:
    """Refuse samples the sum of whose squares about their mean, times N, overflows the dtype.

    One factor of N is that of a scatter, and the other leaves room for weights, and for precisions
    whose inverse must not be subnormal.
    """
    with jax.ensure_compile_time_eval():
        if np.isfinite(np.asarray(for_everyone(_scatter_times_n, x))):
            return
    where = "some row of some process"
    if is_local(x):
        values = np.asarray(x, np.longdouble)
        # the mean may be that of one huge value
        squares = (values - np.median(values, axis=0)) ** 2
        bad = squares >= min(squares.max(), jnp.finfo(x.dtype).max / (x.shape[0] * x.size))
        rows, columns = some_rows(bad.any(axis=1)), some_rows(bad.any(axis=0), "columns")
        where = f"rows {rows}, columns {columns}"
    raise ValueError(
        f"{name} has values so large in {where} that their squares overflow {x.dtype}; drop these "
        f"rows, or divide {name} by a constant."
    )


def _scatter_times_n(x: Any) -> Any:
    centred = x - (x / x.shape[0]).sum(axis=0)[None]
    return (centred**2).sum() * x.shape[0]


def _finite_rows(x: Any) -> Any:
    return x.__array_namespace__().isfinite(x).all(axis=1)


def _finite(x: Any) -> Any:
    return x.__array_namespace__().isfinite(x).all()


def check_variances(variances: np.ndarray, flat: np.ndarray, dtype: Any) -> None:
    """Refuse data in units in which the dtype cannot hold variances, save those of flat columns.

    A hundred million times larger and smaller ones must be at home in it as well: components are
    narrower than the data, and scatters are sums.
    """
    margin, info = 1e8, jnp.finfo(dtype)
    bad = (variances < float(info.tiny) * margin) | ~(variances < float(info.max) / margin)
    bad = bad & ~flat
    if bad.any():
        columns = ", ".join(str(i) for i in np.flatnonzero(bad)[:10])
        raise ValueError(
            f"column(s) {columns} of x have a variance of {variances[bad][0]:.3g}, which "
            f"{jnp.dtype(dtype).name} cannot hold with its products; divide x by its standard "
            "deviation, or use float64 (jax.config.update('jax_enable_x64', True))."
        )


def check_weights(sample_weight: Any, x: Array, name: str = "sample_weight") -> Array | None:
    """Sample weights as an (N,) array of the samples' dtype: finite, non-negative, not all 0."""
    if sample_weight is None:
        return None
    sample_weight = unmasked(name, sample_weight)
    shape = tuple(np.shape(sample_weight))
    if shape != (x.shape[0],):
        came = f"its shape is {shape}" if shape else f"it is {described(sample_weight)}"
        raise ValueError(
            f"{name} must have shape ({x.shape[0]},), a weight for each row of x, but {came}."
        )
    weight = jnp.asarray(sample_weight, x.dtype)
    if not is_traced(weight):
        values = np.asarray(for_everyone(_extremes, weight) if not is_local(weight) else weight)
        bad = ~(np.isfinite(values) & (values >= 0))
        if bad.any():
            raise ValueError(
                f"{name} must be finite and non-negative, but rows {some_rows(bad)} are not."
            )
        if not values.any():
            raise ValueError(f"{name} is 0 for every sample; at least one must be positive.")
    return weight


def _extremes(weight: Array) -> Array:
    # NaN in both, if there is any
    return jnp.stack([jnp.min(weight), jnp.max(weight)])


def check_covariance(name: str, matrix: Any, n_features: int | None = None) -> Array:
    """Symmetric positive definite matrices, (..., D, D)."""
    matrix = jnp.asarray(matrix)
    d = n_features if n_features is not None else matrix.shape[-1]
    if matrix.ndim < 2 or matrix.shape[-2:] != (d, d):
        raise ValueError(
            f"{name} must end in shape ({d}, {d}), but its shape is {tuple(matrix.shape)}."
        )
    if is_traced(matrix):
        return matrix
    values = np.asarray(matrix, np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, but it has NaN or infinity.")
    scale = np.sqrt(np.abs(np.einsum("...ii->...i", values)))
    allowed = 1e-4 * scale[..., :, None] * scale[..., None, :]
    asymmetry = np.abs(values - np.swapaxes(values, -1, -2))
    if (asymmetry > allowed).any():
        where = tuple(int(i) for i in np.argwhere(asymmetry > allowed)[0])
        mirror = (*where[:-2], where[-1], where[-2])
        raise ValueError(
            f"{name} must be symmetric, but element {where} is {values[where]:g} and element "
            f"{mirror} is {values[mirror]:g}; a covariance has the same in both."
        )
    # of correlations: beside large variances the small ones would be lost to rounding
    scale = np.where(scale > 0, scale, 1)
    smallest = np.linalg.eigvalsh(values / scale[..., :, None] / scale[..., None, :])[..., 0]
    if (smallest <= 0).any():
        raise ValueError(
            f"{name} must be positive definite, but the smallest eigenvalue of its correlations is "
            f"{smallest.min():g}; check it, or add a little to its diagonal."
        )
    return matrix


def check_simplex(name: str, weights: Any) -> None:
    """Refuse weights that are negative or do not sum to 1; traced values pass."""
    if is_traced(weights):
        return
    values = np.asarray(weights, np.float64)
    if not ((values >= 0).all() and abs(values.sum() - 1) <= 1e-3):
        raise ValueError(f"{name} must be non-negative and sum to 1, but they are {values}.")


def check_leaves_finite(what: str, tree: Any, infinite: Collection[str] = ()) -> None:
    """Refuse NaN and infinity in any leaf, naming it; traced leaves pass.

    Fields with a name among ``infinite`` may be infinite, but not negative and so.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path)[1:]
        allowed = name.rpartition(".")[2] in infinite
        if not is_traced(leaf):
            values = np.asarray(leaf)
            if not (np.isfinite(values) | (allowed & np.isposinf(values))).all():
                raise ValueError(f"{what} has NaN or infinity in {name}.")
