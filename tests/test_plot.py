"""Pictures: what is on the axes, whose axes they are, and that pyplot never hears of them."""

import sys

import jax
import numpy as np
import pytest
from conftest import clusters

import jaxgmm
import jaxgmm.plot
from jaxgmm import Selection, Status


def selection(criterion: str, worst: float = 3.0) -> Selection:
    rows = [
        {
            "covariance": covariance,
            "n_components": k,
            "status": Status.CONVERGED,
            "state": None,
            "cv_error": 0.1,
            criterion: value,
        }
        for covariance, values in {
            "full": (2.0, 1.0, 1.5, 2.0),
            "tied": (1.8, 1.2, np.nan, 1.4),
            "diag": (worst,) * 4,
        }.items()
        for k, value in enumerate(values, start=1)
    ]
    return Selection(criterion, rows, False)


def test_a_line_for_each_covariance_and_a_ring_around_the_best():
    axes = jaxgmm.plot.selection(selection("bic"))
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["full", "tied", "diag", "best: full, K=2"]
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [2.0, 1.0, 1.5, 2.0])
    assert axes.collections[0].get_offsets().tolist() == [[2, 1.0]]
    styles = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in axes.lines}
    assert len(styles) == 3
    assert axes.get_ylim()[1] > 3.0
    axes.figure.canvas.draw()


def test_a_hopeless_curve_does_not_flatten_the_others():
    axes = jaxgmm.plot.selection(selection("bic", worst=1000.0))
    assert axes.get_ylim()[1] < 10
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "diag (beyond the axis)" in labels
    # where larger is better, the low end is left out
    axes = jaxgmm.plot.selection(selection("elbo", worst=-1000.0))
    assert axes.get_ylim()[0] > -10
    assert "best: full, K=1" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_cv_has_error_bars_and_the_axes_may_be_yours():
    ours = jaxgmm.plot.new_axes()
    assert jaxgmm.plot.selection(selection("cv"), ours) is ours
    assert len(ours.containers) == 3
    assert (
        "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    )


def test_the_table_of_a_selection():
    found = selection("bic")
    text = found.summary()
    assert "[1.0000]" in text
    assert text.splitlines()[1].split() == ["K", "full", "tied", "diag"]
    assert text.splitlines()[4].split() == ["3", "1.5000", "-", "3.0000"]
    assert (found.covariance, found.n_components) == ("full", 2)


@pytest.mark.slow
def test_a_real_selection_is_drawn():
    found = jaxgmm.select(jax.random.key(0), clusters(n=90), (1, 2, 3), n_restarts=4)
    assert len(jaxgmm.plot.selection(found).lines) == 4
