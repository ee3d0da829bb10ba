"""Checks of rows, before any tracing: what came, what was expected, what to do."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxgmm._estep.moments import feature_noise
from jaxgmm._estep.rows import Rows, Samples, floats_of
from jaxgmm._numerics.calls import described
from jaxgmm._numerics.checks import check_samples, check_weights, is_traced
from jaxgmm._numerics.devices import for_everyone, is_local
from jaxgmm._numerics.inputs import some_rows, unmasked


def check_rows(x: Samples, sample_weight: ArrayLike | None = None, *, far: bool = False) -> Rows:
    """Rows of checked arrays, from an array and its weights or from rows.

    Raises:
        ValueError: for samples that are not 2-d, floating-point and finite; weights of another
            shape, negative or all 0; weights both in the rows and beside them; missing values,
            noise or labels of another shape or dtype, a column without any value, negative
            variances, a matrix that is no covariance.
    """
    if not isinstance(x, Rows):
        x = check_samples(x, far=far)
        return Rows(x, check_weights(sample_weight, x))
    if sample_weight is not None and x.weight is not None:
        raise ValueError(
            "sample_weight was given, but the rows have weights of their own; give only one."
        )
    given = floats_of(x)
    values = check_samples(given.x, far=far)
    return Rows(
        values,
        check_weights(given.weight if sample_weight is None else sample_weight, values),
        given.missing if given.missing is None else jnp.asarray(given.missing),
        _checked_noise(given.noise, values),
        _checked_labels(given.labels, values.shape[0]),
    )


def _checked_noise(noise: Any, x: Array) -> Array | None:
    """Variances or covariances of the dtype of the samples."""
    if noise is None:
        return None
    n, d = x.shape
    noise = unmasked("noise", noise)
    shape = tuple(np.shape(noise))
    if shape not in ((n,), (n, d), (n, d, d)):
        raise ValueError(
            f"noise must be variances ({n},) or ({n}, {d}), or covariances ({n}, {d}, {d}), of the "
            f"errors of x, but it is {described(noise)}."
        )
    noise = jnp.asarray(noise, x.dtype)
    if is_traced(noise):
        return noise
    if not is_local(noise):  # what no process has alone is looked at roughly, by all
        if not for_everyone(_may_be_noise, noise):
            raise ValueError(
                "noise must be finite, and 0 or more, but some row of some process is not."
            )
        return noise
    values = np.asarray(noise, np.float64)
    bad = ~np.isfinite(values).reshape(n, -1).all(axis=1)
    if bad.any():
        raise ValueError(
            f"noise must be finite, but rows {some_rows(bad)} are not; a value of which nothing is "
            "known is missing: jaxgmm.Rows(x, missing=mask, noise=noise)."
        )
    variances = feature_noise(values, x.shape)
    bad = (variances < 0).any(axis=1)
    if not bad.any() and values.ndim == 3:
        # of correlations, by rounding
        sd = np.sqrt(np.where(variances > 0, variances, 1))
        correlation = values / sd[:, :, None] / sd[:, None, :]
        slack = 16 * d * float(jnp.finfo(x.dtype).eps)
        bad = np.abs(correlation - correlation.swapaxes(1, 2)).max(axis=(1, 2)) > slack
        bad |= np.linalg.eigvalsh(correlation)[:, 0] < -slack
    if bad.any():
        what = "symmetric positive semi-definite" if values.ndim == 3 else "0 or more"
        raise ValueError(f"noise must be {what}, but rows {some_rows(bad)} are not.")
    return noise


def _may_be_noise(noise: Any) -> Any:
    n, d = noise.shape[0], noise.shape[-1]
    variances = feature_noise(noise, (n, d))
    return jnp.isfinite(noise).all() & (variances >= 0).all()


def _checked_labels(labels: Any, n_samples: int) -> Array | None:
    """Labels (N,) of 32 bits, or allowed components (N, K)."""
    if labels is None:
        return None
    labels = unmasked("labels", labels)
    array = labels if isinstance(labels, jax.Array) else np.asarray(labels)
    form, kind = array.shape, array.dtype.kind
    if (kind in "iu" and form == (n_samples,)) or (
        kind == "b" and len(form) == 2 and form[0] == n_samples
    ):
        labels = jnp.asarray(array, jnp.int32 if kind in "iu" else bool)
        if not is_traced(labels):
            _check_label_values(labels if is_local(labels) else _few_labels(labels))
        return labels
    raise ValueError(
        f"labels must be integers ({n_samples},), -1 where the component is not known, or booleans "
        f"({n_samples}, K), True where a row may belong to a component, but they are "
        f"{described(array)}."
    )


def _few_labels(labels: Array) -> Any:
    """What no process has alone: its extremes, or whether rows and components are allowed any."""
    if labels.ndim == 1:
        return for_everyone(lambda a: jnp.stack([a.min(), a.max()]), labels)
    raise ValueError(
        "labels of rows that lie on several processes must be integers (N,), but these are "
        f"{described(labels)}."
    )


def _check_label_values(given: Any) -> None:
    labels = np.asarray(given)
    if labels.ndim == 1:
        if (labels < -1).any():
            raise ValueError(
                f"labels must be -1 or more, but rows {some_rows(labels < -1)} are not."
            )
        return
    if not labels.any(axis=1).all():
        raise ValueError(
            f"labels must allow each row a component, but rows {some_rows(~labels.any(axis=1))} "
            "are allowed none."
        )
    if not labels.any(axis=0).all():
        none = some_rows(~labels.any(axis=0), "components")
        raise ValueError(f"labels must allow each component a row, but {none} are allowed none.")


def check_labels(rows: Rows, n_components: int, ordered: bool) -> None:
    """The labels are of so many components, whose names mean something."""
    labels = rows.labels
    if labels is None:
        return
    if ordered:
        raise ValueError(
            "labels name the components, but stick-breaking weights put them in an order of their "
            'own; take a prior with Dirichlet weights, jaxgmm.default_prior(x, k), or "fixed" ones.'
        )
    if labels.ndim == 2 and labels.shape[1] != n_components:
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} are of {labels.shape[1]} components, but the "
            f"prior is of {n_components}."
        )
    if labels.ndim == 1 and not is_traced(labels):
        bad = np.asarray(labels if is_local(labels) else _few_labels(labels)) >= n_components
        if bad.any():
            raise ValueError(
                f"labels must be from -1 to {n_components - 1} for {n_components} components, but "
                f"rows {some_rows(bad)} are above."
            )
