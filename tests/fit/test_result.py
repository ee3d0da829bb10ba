"""What a result says of the data."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_iris, load_wine

import jaxgmm
from jaxgmm._fit.result import data_notes

rng = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


REPEATED = {
    "ten rows of 110": (np.r_[normal(100), np.full(10, 10.0)][:, None], "row 100 of x occurs 10"),
    "in three dimensions": (np.r_[normal(50, 3), np.zeros((20, 3))], "row 50 of x occurs 20 times"),
    "most of the rows": (np.r_[np.ones((300, 2)), normal(100, 2)], "row 0 of x occurs 300 times"),
    "two of them": (
        np.r_[np.zeros(500), np.ones(400), normal(100)][:, None],
        "row 0 of x occurs 500 times, row 500 of x occurs 400 times: a component can shrink",
    ),
    "among rounded ones": (
        np.r_[np.round(normal(1000), 1), np.full(600, 9.0)][:, None],
        "row 1000 of x occurs 600 times",
    ),
    "a value of one column": (
        np.c_[normal(1000), np.where(np.arange(1000) < 400, 0.5, normal(1000))],
        "^0.5 occurs 400 times in column 1 of x: a component can shrink onto it.",
    ),
    "of many rows": (np.r_[normal(150_000, 2), np.zeros((900, 2))], "occurs 900 times"),
    "huge": (1e150 * np.r_[normal(100), np.full(10, 9.0)][:, None], "row 100 of x occurs 10 times"),
}


@pytest.mark.parametrize("case", REPEATED)
def test_repeated_rows_are_said(case: str, dtype: str):
    x, sentence = REPEATED[case]
    x = x / 1e140 if case == "huge" and dtype == "float32" else x
    (note,) = data_notes(jaxgmm.Rows(jnp.asarray(x, dtype)))
    assert re.search(sentence, note), note


IRIS = load_iris().data
ORDINARY = {
    "iris": IRIS,
    "petals": IRIS[:, 2:],
    **{f"column {j} of iris": IRIS[:, [j]] for j in range(4)},
    "wine": load_wine().data,
    "rounded to 0.1": np.round(normal(10_000, 1), 1),
    "rounded to 0.001": np.round(normal(30_000, 1), 3),
    "rounded in the plane": np.round(normal(10_000, 2), 1),
    "rounded and skew": np.round(rng.lognormal(size=(5000, 2)), 1),
    "rounded, heavy tails": np.round(rng.standard_cauchy((10_000, 1)), 1),
    "counts": rng.poisson(3.0, (1000, 1)).astype(float),
    "few rows": normal(3, 2),
    "nine equal rows": np.r_[normal(100), np.full(9, 10.0)][:, None],
}


@pytest.mark.parametrize("case", ORDINARY)
def test_of_ordinary_rounded_data_nothing_is_said(case: str, dtype: str):
    assert data_notes(jaxgmm.Rows(jnp.asarray(ORDINARY[case], dtype))) == ()


def test_many_columns_make_one_sentence():
    x = normal(300, 9)
    x[:100] = np.where(np.arange(9) < 7, 0, x[:100])
    (note,) = data_notes(jaxgmm.Rows(jnp.asarray(x)))
    assert note.count("occurs 100 times") == 5
    assert "and the like in 2 more columns" in note
    (note,) = data_notes(jaxgmm.Rows(jnp.asarray(load_breast_cancer().data)))
    assert "0 occurs 13 times in column 6" in note


def test_a_fit_says_it():
    x = REPEATED["ten rows of 110"][0]
    algorithm = jaxgmm.em(jaxgmm.default_prior(x, 2))
    result = jaxgmm.fit(jax.random.key(0), x, algorithm, max_iter=3, moves=False)
    assert "note: row 100 of x occurs 10 times" in result.summary()
