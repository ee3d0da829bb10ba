"""Samples as people have them: integers, lists, data frames, masked arrays."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import jaxgmm
from jaxgmm._numerics.inputs import as_floats

WHOLE = np.asarray([[1, 0], [2, 1], [4, 1], [3, 0]])
FLOATS = WHOLE.astype(np.float64)


def frame(**changes: Any) -> pd.DataFrame:
    return pd.DataFrame({"length": WHOLE[:, 0], "large": WHOLE[:, 1]} | changes)


INPUTS: dict[str, Callable[[], Any]] = {
    "integers": lambda: WHOLE,
    "small integers": lambda: WHOLE.astype(np.int8),
    "unsigned integers": lambda: WHOLE.astype(np.uint32),
    "a list": lambda: WHOLE.tolist(),
    "integers of JAX": lambda: jnp.asarray(WHOLE),
    "a frame": frame,
    "a frame of floats": lambda: frame().astype(float),
    "a frame with booleans": lambda: frame(large=WHOLE[:, 1] > 0),
    "a nullable frame": lambda: frame(
        length=pd.array([1, 2, 4, 3], "Int64"), large=pd.array([False, True, True, False])
    ),
    "a frame with one name twice": lambda: frame().set_axis(["a", "a"], axis=1),
    "a masked array without masked values": lambda: np.ma.masked_array(WHOLE),
}


@pytest.mark.parametrize("name", INPUTS)
def test_numbers_become_floats(name: str):
    found = as_floats(INPUTS[name]())
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, FLOATS)


def test_floats_stay_as_they_are():
    for dtype in ("float32", "float64"):
        assert as_floats(FLOATS.astype(dtype)).dtype == dtype
        assert as_floats(frame().astype(dtype)).dtype == dtype
    x = jnp.asarray(FLOATS)
    assert as_floats(x) is x
    assert jax.eval_shape(as_floats, jnp.asarray(WHOLE)).dtype == jnp.float64


def test_every_function_of_samples_takes_them():
    prior = jaxgmm.default_prior(FLOATS, 1)
    assert jaxgmm.default_prior(WHOLE, 1) == prior
    assert jaxgmm.default_prior(jaxgmm.Rows(frame()), 1) == prior
    algorithm = jaxgmm.cavi(prior)
    key = jax.random.key(0)
    expected = jaxgmm.fit(key, FLOATS, algorithm, 1, max_iter=3)
    for rows in (WHOLE, frame(), jnp.asarray(WHOLE)):
        found = jaxgmm.fit(key, rows, algorithm, 1, max_iter=3)
        assert found.states == expected.states
        assert (jaxgmm.log_prob(found, rows) == jaxgmm.log_prob(expected, FLOATS)).all()
        assert jaxgmm.elbo(found, rows) == jaxgmm.elbo(expected, FLOATS)


REFUSED: dict[str, tuple[Any, str]] = {
    "strings in a frame": (
        frame(species=["a", "b", "a", "b"]),
        r"column 'species' of x is .*not numbers; .*x.drop\(columns=\['species'\]\)",
    ),
    "categories": (frame(species=pd.Categorical(["a", "b", "a", "b"])), "'species' of x is categ"),
    "dates": (frame(day=pd.date_range("2020", periods=4)), "'day' of x is datetime64"),
    "objects": (frame(large=np.asarray([1, "b", 2.0, 3], object)), "'large' of x is object"),
    "missing": (
        frame(large=pd.array([1, None, 3, 4], "Int64")),
        "NaN or infinity in rows 1, columns 1; drop or impute",
    ),
    "strings": (np.asarray([["1", "2"]] * 4), r"real numbers.*dtype <U1; .*np.asarray\(x, float"),
    "array of objects": (FLOATS.astype(object), "real numbers.*of dtype object"),
    "complex": (FLOATS * 1j, "real numbers.*of dtype complex128"),
    "ragged": ([[1.0, 2.0], [3.0]], "rows are of different lengths"),
    "sparse": (csr_matrix(FLOATS), r"x is sparse.*x.toarray\(\)"),
    "a dictionary": ({"length": [1.0]}, "it is a dict"),
    "nothing": (None, "it is None"),
    "masked": (np.ma.masked_array(FLOATS, FLOATS == 4), "masked values in rows 2; drop these"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_number_is_refused(name: str, monkeypatch: pytest.MonkeyPatch):
    # users have no type checker
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    rows, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        jaxgmm.default_prior(rows, 1)
    mixture = jaxgmm.Mixture(np.ones(1), np.zeros((1, 2)), np.eye(2)[None])
    with pytest.raises(ValueError, match=message):
        jaxgmm.predict(mixture, rows)
