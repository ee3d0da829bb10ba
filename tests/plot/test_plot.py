"""Pictures: what is on the axes, and whose axes they are."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import clusters
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy import stats

import jaxgmm
import jaxgmm.plot
from jaxgmm import Mixture, Result, Selection, State, Status
from jaxgmm._lane.state import initial_state
from jaxgmm._numerics.pytree import replace
from jaxgmm.views import Expectation, Mode, View

ROOT = Path(__file__).parents[2]
KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def without_pyplot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another test of this process may have imported it."""
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)


def random_mixture(d: int, k: int = 3, seed: int = 0) -> Mixture:
    """Of float64 NumPy leaves."""
    rng = np.random.default_rng(seed)
    factors = 0.5 * rng.standard_normal((k, d, d)) + np.eye(d)
    covariances = np.einsum("kij,klj->kil", factors, factors)
    return Mixture(rng.dirichlet(np.full(k, 5.0)), rng.normal(0, 4, (k, d)), covariances)


def draws(mixture: Mixture, n: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = rng.choice(len(mixture.weights), n, p=mixture.weights)
    noise = rng.standard_normal((n, mixture.means.shape[1]))
    factors = np.linalg.cholesky(mixture.covariances)[labels]
    return mixture.means[labels] + np.einsum("nij,nj->ni", factors, noise)


def densities(mixture: Mixture, at: np.ndarray, features: list[int]) -> np.ndarray:
    """By SciPy: weight times marginal density of each component, (N, K)."""
    mixture = Mixture(*(np.asarray(a) for a in mixture))
    parts = [
        w * stats.multivariate_normal(m[features], c[np.ix_(features, features)]).pdf(at)
        for w, m, c in zip(*mixture, strict=True)
    ]
    return np.stack(parts, axis=1)


LINE, PLANE, SPACE = (random_mixture(d) for d in (1, 2, 4))
# in the plane: 5 % of it on a spike, and a component that is lost
SPIKE = Mixture(
    np.array([0.6, 0.35, 0.05, 0.0]),
    np.array([[0.0, 0.0], [5.0, 5.0], [2.0, 2.0], [np.nan, 0.0]]),
    np.stack([np.eye(2), np.eye(2), 1e-12 * np.eye(2), np.full((2, 2), np.nan)]),
)


def fitted(x: jax.Array, k: int, view: View) -> State:
    """A state whose posterior is that of labels in turn: no fit, but a proper one."""
    prior = jaxgmm.default_prior(x, k)
    labels = jnp.argsort(jnp.argsort(x[:, 0])) * k // x.shape[0]
    posterior = jaxgmm.update(prior, jaxgmm.stats.from_labels(x, labels, k))
    return initial_state(prior, posterior, view)


@pytest.fixture(scope="module")
def x() -> jax.Array:
    return clusters(n=90)


@pytest.fixture(scope="module")
def point(x: jax.Array) -> State:
    return fitted(x, 3, Mode(jnp.zeros(())))


@pytest.fixture(scope="module")
def posterior(x: jax.Array) -> State:
    return fitted(x, 3, Expectation())


LANES = [
    # status, objective after each iteration, and at the end
    (Status.CONVERGED, [-30.0, -12.0, -10.0, -10.0], -10.0),
    (Status.CONVERGED, [-30.0, -11.0, -10.0, np.nan], -10.0),
    (Status.CONVERGED, [-20.0, -20.0, np.nan, np.nan], -20.0),
    (Status.COLLAPSED, [-40.0, 500.0, np.nan, np.nan], 500.0),
    (Status.NONFINITE, [-40.0, np.nan, np.nan, np.nan], -np.inf),
    (Status.DROPPED, [-25.0, np.nan, np.nan, np.nan], -25.0),
]


def result(state: State, lanes: Any = LANES, *, history: bool = True) -> Result:
    status, rows, final = zip(*lanes, strict=True)
    states = jax.tree.map(lambda a: jnp.broadcast_to(a, (len(lanes), *a.shape)), state)
    states = replace(states, status=jnp.asarray(status), objective=jnp.asarray(final))
    algorithm = jaxgmm.em(state.prior)
    return Result(algorithm, states, np.array(rows).T if history else None, False, ())


def texts(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


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
    # and is at the edge of the axis, once for each K
    (arrows,) = [c for c in axes.collections if len(c.get_offsets()) == 4]
    top = axes.get_ylim()[1]
    np.testing.assert_allclose(arrows.get_offsets(), [[k, top] for k in range(1, 5)])
    assert axes.get_xlim()[0] < 1
    # where larger is better, the low end is left out
    axes = jaxgmm.plot.selection(selection("elbo", worst=-1000.0))
    assert axes.get_ylim()[0] > -10
    assert "best: full, K=1" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_cv_has_error_bars_and_the_axes_may_be_yours():
    ours = jaxgmm.plot.new_axes()
    assert jaxgmm.plot.selection(selection("cv"), ours) is ours
    assert len(ours.containers) == 3


def test_the_table_of_a_selection():
    found = selection("bic")
    text = found.summary()
    assert "[1.0000]" in text
    assert text.splitlines()[1].split() == ["K", "full", "tied", "diag"]
    assert text.splitlines()[4].split() == ["3", "1.5000", "-", "3.0000"]
    assert (found.covariance, found.n_components) == ("full", 2)


PICTURES = {
    "points": lambda p, q, x, ax: jaxgmm.plot.points(p, x, ax=ax),
    "points of a posterior": lambda p, q, x, ax: jaxgmm.plot.points(q, x, (1, 0), ax),
    "ellipses": lambda p, q, x, ax: jaxgmm.plot.ellipses(p, ax=ax),
    "density": lambda p, q, x, ax: jaxgmm.plot.density(p, ax=ax),
    "histogram": lambda p, q, x, ax: jaxgmm.plot.histogram(q, x, 1, ax),
    "qq": lambda p, q, x, ax: jaxgmm.plot.qq(p, x, 1, ax),
    "weights": lambda p, q, x, ax: jaxgmm.plot.weights(KEY, q, ax=ax),
    "weights of an estimate": lambda p, q, x, ax: jaxgmm.plot.weights(KEY, p, ax=ax),
    "traces": lambda p, q, x, ax: jaxgmm.plot.traces(result(p), ax),
    "optima": lambda p, q, x, ax: jaxgmm.plot.optima(result(p), ax),
}


@pytest.mark.parametrize("name", PICTURES)
def test_axes_in_axes_out(name: str, point: State, posterior: State, x: jax.Array):
    ours = jaxgmm.plot.new_axes()
    assert PICTURES[name](point, posterior, x, ours) is ours
    assert ours.has_data()
    ours.figure.canvas.draw()
    other = PICTURES[name](point, posterior, x, None)
    assert other is not ours
    assert (other.get_xlabel(), other.get_ylabel()) == (ours.get_xlabel(), ours.get_ylabel())


def test_pyplot_is_never_imported_and_matplotlib_only_when_asked_for():
    program = """
import sys
import jaxgmm
assert "matplotlib" not in sys.modules and "jaxgmm.plot" not in sys.modules
import numpy as np
import jaxgmm.plot
mixture = jaxgmm.Mixture(np.ones(1), np.zeros((1, 2)), np.eye(2)[None])
axes = jaxgmm.plot.pairs(mixture, np.random.default_rng(0).normal(size=(50, 2)))
jaxgmm.plot.density(mixture, ax=axes[1, 0])
axes[0, 0].figure.canvas.draw()
assert "matplotlib.figure" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_two_components_look_the_same():
    looks = [jaxgmm.plot.style(k) for k in range(84)]
    assert len({(look.colour, look.marker) for look in looks}) == 84
    assert len({(look.colour, look.line) for look in looks[:48]}) == 48


# linear sRGB as people without one kind of cone see it (Machado, Oliveira & Fernandes 2009)
VISION = {
    "usual": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
# linear sRGB to cones, and their cube roots to Oklab (Ottosson 2020)
CONES = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
OKLAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]


@pytest.mark.parametrize("vision", VISION)
def test_no_two_of_twelve_colours_are_closer_than_those_of_okabe_and_ito(vision: str):
    rgb = np.array([to_rgb(jaxgmm.plot.style(k).colour) for k in range(12)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(VISION[vision]).T, 0, 1)
    place = np.cbrt(seen @ np.array(CONES).T) @ np.array(OKLAB).T
    apart = np.linalg.norm(place[:, None] - place, axis=-1) + np.eye(12)
    assert apart.min() == apart[:7, :7].min() > 0.07


def test_pyplots_current_axes_are_those_of_who_uses_it(monkeypatch: pytest.MonkeyPatch):
    current = jaxgmm.plot.new_axes()
    current.scatter([-20, 30], [-10, 10])
    pyplot = SimpleNamespace(gca=lambda: current)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", pyplot)
    limits = (*current.get_xlim(), *current.get_ylim())
    assert jaxgmm.plot.density(PLANE) is jaxgmm.plot.ellipses(PLANE) is current
    assert (*current.get_xlim(), *current.get_ylim()) == pytest.approx(limits)
    other = jaxgmm.plot.new_axes()
    assert jaxgmm.plot.ellipses(PLANE, ax=other) is other


def test_components_are_named_in_a_legend_or_by_numbers_beside_them():
    many = random_mixture(2, 10)
    x = draws(many, 60)
    few = jaxgmm.plot.points(PLANE, x)
    assert texts(few) == ["component 0", "component 1", "component 2"]
    assert not few.texts
    assert jaxgmm.plot.points(PLANE, x, legend=False).get_legend() is None
    for ax in (jaxgmm.plot.points(many, x), jaxgmm.plot.histogram(many, x)):
        assert ax.get_legend() is None
        assert [text.get_text() for text in ax.texts] == [str(k) for k in range(10)]
        ax.figure.canvas.draw()
        assert ax.texts[3].get_color() == jaxgmm.plot.style(3).colour
    places = [text.xy for text in jaxgmm.plot.points(many, x, (1, 0)).texts]
    np.testing.assert_allclose(places, many.means[:, ::-1])
    # those without samples get no number
    away = np.where(np.arange(10)[:, None] < 8, many.means, 1000.0)
    fewer = many._replace(means=away)
    numbers = [text.get_text() for text in jaxgmm.plot.points(fewer, x).texts]
    assert numbers == [str(k) for k in range(8)]


@pytest.mark.parametrize(("mixture", "features"), [(PLANE, (0, 1)), (SPACE, (3, 1))])
def test_ellipses_hold_the_mass(mixture: Mixture, features: tuple[int, int]):
    mass = (0.1, 0.5, 0.95)
    patches = iter(jaxgmm.plot.ellipses(mixture, mass, features).patches)
    n = 20_000
    for k in range(3):
        own = draws(Mixture(np.ones(1), *(a[k : k + 1] for a in mixture[1:])), n)[:, list(features)]
        for share in mass:
            patch = next(patches)
            outline = patch.get_path().transformed(patch.get_patch_transform())
            inside = outline.contains_points(own).mean()
            assert inside == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / n) + 1e-3)
    assert next(patches, None) is None


def contours(ax: Any) -> list[tuple[float, np.ndarray]]:
    """Level and vertices of the lower edge of each filled contour, off the edge of the grid."""
    (filled,) = [c for c in ax.collections if hasattr(c, "levels")]
    out = []
    for level, path in zip(filled.levels, filled.get_paths(), strict=False):
        vertices = path.vertices[path.codes != path.CLOSEPOLY]
        out.append((level, vertices))
    return out


def check_contours(ax: Any, density: Any, n_levels: int = 3) -> list[float]:
    """Every vertex is on one of the two levels of its contour, and both occur."""
    found = contours(ax)
    levels = [level for level, _ in found]
    assert len(levels) == n_levels
    assert levels == sorted(levels)
    for i, (level, vertices) in enumerate(found):
        values = density(vertices)
        upper = levels[i + 1] if i + 1 < len(levels) else np.inf
        # linear between points of a fine grid
        low, high = np.isclose(values, level, rtol=0.02), np.isclose(values, upper, rtol=0.02)
        assert (low | high).all()
        assert low.any()
    return levels


@pytest.mark.parametrize("kind", ["point", "posterior"])
def test_density_is_log_prob_and_its_regions_hold_the_mass(
    kind: str, request: pytest.FixtureRequest
):
    state = request.getfixturevalue(kind)
    ax = jaxgmm.plot.density(state, mass=(0.3, 0.9, 0.6))
    levels = check_contours(ax, lambda at: np.exp(jaxgmm.log_prob(state, jnp.asarray(at))))
    draw, _ = jaxgmm.sample(KEY, state, 4000)
    values = np.exp(jaxgmm.log_prob(state, draw))
    for level, share in zip(levels, (0.9, 0.6, 0.3), strict=True):
        assert np.mean(values > level) == pytest.approx(share, abs=0.035)


def test_density_with_its_features_swapped(posterior: State):
    ax = jaxgmm.plot.density(posterior, (1, 0), mass=(0.3, 0.6, 0.9))
    check_contours(ax, lambda at: np.exp(jaxgmm.log_prob(posterior, jnp.asarray(at[:, ::-1]))))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x[:, 1]", "x[:, 0]")


def test_density_of_two_features_out_of_four_is_the_marginal():
    ax = jaxgmm.plot.density(SPACE, (3, 1), mass=(0.3, 0.6, 0.9))
    check_contours(ax, lambda at: densities(SPACE, at, [3, 1]).sum(axis=1))


def test_density_fills_axes_that_show_something():
    ax = jaxgmm.plot.new_axes()
    ax.scatter([-20, 30], [-10, 10])
    before = (*ax.get_xlim(), *ax.get_ylim())
    jaxgmm.plot.density(PLANE, ax=ax)
    assert (*ax.get_xlim(), *ax.get_ylim()) == pytest.approx(before)
    ax = jaxgmm.plot.density(PLANE, limits=((-1, 1), (-2, 2)))
    assert (*ax.get_xlim(), *ax.get_ylim()) == pytest.approx((-1, 1, -2, 2))


def test_histogram_of_one_feature_is_log_prob(x: jax.Array):
    state = fitted(x[:, :1], 2, Expectation())
    ax = jaxgmm.plot.histogram(state, x[:, :1], bins=7)
    density, *components = ax.lines
    at = density.get_xdata()
    expected = np.exp(jaxgmm.log_prob(state, jnp.asarray(at)[:, None]))
    np.testing.assert_allclose(density.get_ydata(), expected, rtol=1e-9)
    # a Student-t has no normal's tails: this is not the density of the mixture
    plain = densities(jaxgmm.mixture(state), at[:, None], [0]).sum(axis=1)
    assert np.abs(plain / expected - 1).max() > 0.01
    total = sum(line.get_ydata() for line in components)
    np.testing.assert_allclose(total, expected, rtol=1e-9)
    assert sum(bar.get_height() * bar.get_width() for bar in ax.patches) == pytest.approx(1)
    assert len(ax.patches) == 7
    assert texts(ax) == ["density", "component 0", "component 1"]


def test_histogram_of_one_feature_out_of_four_is_the_marginal():
    ax = jaxgmm.plot.histogram(SPACE, draws(SPACE, 400), 2, names=["a", "b", "c (m)", "d"])
    _, *components = ax.lines
    at = components[0].get_xdata()
    expected = densities(SPACE, at[:, None], [2])
    for k, line in enumerate(components):
        np.testing.assert_allclose(line.get_ydata(), expected[:, k], rtol=1e-9)
    assert np.trapezoid(expected.sum(axis=1), at) == pytest.approx(1, abs=0.02)
    assert ax.get_xlabel() == "c (m)"


def test_qq_is_the_sorted_samples_at_the_quantiles_and_their_band(x: jax.Array):
    wide = Mixture(np.ones(1), np.array([[1.0, 2.0]]), np.diag([4.0, 9.0])[None])
    ax = jaxgmm.plot.qq(wide, x, 1, mass=0.9)
    at, sample = ax.collections[1].get_offsets().T
    n, normal = len(x), stats.norm(2.0, 3.0)
    np.testing.assert_allclose(sample, np.sort(x[:, 1]))
    np.testing.assert_allclose(at, normal.ppf((np.arange(n) + 0.5) / n), rtol=1e-9, atol=1e-9)
    # the smallest of n is below a point with the probability that not all are above it
    low, high = ax.collections[0].get_paths()[0].get_extents().intervaly
    np.testing.assert_allclose(1 - (1 - normal.cdf(low)) ** n, 0.05)
    np.testing.assert_allclose(normal.cdf(high) ** n, 0.95)


def test_points_have_the_colours_and_markers_of_their_components():
    x = draws(PLANE, 300)
    share = densities(PLANE, x, [0, 1])
    share /= share.sum(axis=1, keepdims=True)
    ax = jaxgmm.plot.points(PLANE, x)
    assert len(ax.collections) == 6  # with one of each component for the legend
    palette = np.array([to_rgb(jaxgmm.plot.style(k).colour) for k in range(3)])
    for k in range(3):
        drawn, key = ax.collections[2 * k : 2 * k + 2]
        mine = share.argmax(axis=1) == k
        np.testing.assert_allclose(drawn.get_offsets(), x[mine])
        assert key.get_label() == f"component {k}"
        np.testing.assert_allclose(key.get_facecolor()[0, :3], palette[k])
        # blended as light is, and so the component's own where that is sure
        light = drawn.get_facecolor()[:, :3] ** 2.2
        np.testing.assert_allclose(light, share[mine] @ palette**2.2, atol=1e-6)
        outlined = np.array(drawn.get_linewidths()) > 0
        np.testing.assert_array_equal(outlined, share[mine, k] < 0.75)


def test_of_many_samples_a_stated_subset_is_drawn():
    x = draws(PLANE, 6000)
    ax = jaxgmm.plot.points(PLANE, x)
    drawn = np.concatenate([c.get_offsets() for c in ax.collections])
    assert len(drawn) == 5000
    assert ax.get_title(loc="right") == "5,000 of 6,000 samples"
    # some of the samples, each once
    assert len(np.unique(drawn, axis=0)) == 5000
    assert {tuple(row) for row in drawn.tolist()} <= {tuple(row) for row in x.tolist()}
    again = jaxgmm.plot.points(PLANE, x)
    np.testing.assert_array_equal(
        drawn, np.concatenate([c.get_offsets() for c in again.collections])
    )
    assert jaxgmm.plot.points(PLANE, x[:5000]).get_title(loc="right") == ""
    axes = jaxgmm.plot.pairs(PLANE, x)
    assert axes[1, 0].get_title(loc="right") == ""
    assert axes[0, 0].figure.legends[0].get_title().get_text() == "5,000 of 6,000 samples"


def test_what_is_left_of_a_degenerate_mixture_is_drawn():
    x = draws(Mixture(*(a[:2] for a in SPIKE))._replace(weights=np.array([0.5, 0.5])), 100)
    ax = jaxgmm.plot.points(SPIKE, x)
    assert ax.collections[0].get_label() == "component 0"
    assert any(c.get_label() == "undefined responsibilities" for c in ax.collections)
    jaxgmm.plot.ellipses(SPIKE, [0.9], ax=ax)
    assert len(ax.patches) == 3
    jaxgmm.plot.density(SPIKE, mass=(0.5, 0.9), ax=ax)
    # the spike, denser than all else, has not taken the levels
    wide = Mixture(*(a[:2] for a in SPIKE))
    check_contours(ax, lambda at: densities(wide, at, [0, 1]).sum(axis=1), 2)
    ax.figure.canvas.draw()
    ax = jaxgmm.plot.histogram(SPIKE, x)
    tallest = max(bar.get_height() for bar in ax.patches)
    assert ax.lines[0].get_ydata().max() > 100
    assert ax.get_ylim() == pytest.approx((0, 2 * tallest))
    ax.figure.canvas.draw()
    jaxgmm.plot.weights(KEY, SPIKE).figure.canvas.draw()


def test_weights_have_credible_intervals_after_cavi_and_none_after_em(
    point: State, posterior: State
):
    ax = jaxgmm.plot.weights(KEY, posterior, 0.8)
    concentration = np.asarray(posterior.posterior.weights.concentration)
    mean = concentration / concentration.sum()
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], mean)
    marginal = stats.beta(concentration, concentration.sum() - concentration)
    low, high = np.split(ax.lines[0].get_ydata(), 2)
    # a quantile of 4,000 draws has an error of about 0.001 here
    np.testing.assert_allclose(low, marginal.ppf(0.1), atol=0.006)
    np.testing.assert_allclose(high, marginal.ppf(0.9), atol=0.006)
    segments = np.array(ax.collections[0].get_segments())
    np.testing.assert_allclose(segments[:, :, 1], np.stack([low, high], axis=1))
    assert "80 %" in ax.get_ylabel()
    ax = jaxgmm.plot.weights(KEY, point)
    assert not ax.lines
    np.testing.assert_allclose(
        [bar.get_height() for bar in ax.patches], jaxgmm.mixture(point).weights
    )


def test_traces_show_what_became_of_each_lane(point: State):
    ax = jaxgmm.plot.traces(result(point))
    assert texts(ax) == [
        "3 CONVERGED",
        "1 DROPPED",
        "1 NONFINITE",
        "1 COLLAPSED",
        "best lane: \N{MINUS SIGN}10.00",
    ]
    low, high = ax.get_ylim()
    assert -50 < low < -25  # the dropped lane is in sight
    assert -10 < high < 0  # and the spike is not
    marked = {
        line.get_marker(): line.get_xydata().tolist()
        for line in ax.lines
        if line.get_marker() in "sXo" and line.get_linestyle() == "None"
    }
    assert marked["X"] == [[2, high]]
    assert marked["s"] == [[1, low]]
    assert marked["o"] == [[4, -10]]
    colours = {line.get_color() for line in ax.lines}
    assert len(colours) == 5
    assert jaxgmm.plot.traces(result(point), first=2).get_xlim()[0] > 1


def test_traces_show_what_moves_added_and_lanes_that_all_failed(point: State):
    moved = [(Status.CONVERGED, np.arange(-60.0, -20.0), -15.0)]
    ax = jaxgmm.plot.traces(result(point, moved))
    assert texts(ax)[1:] == [
        "best lane: \N{MINUS SIGN}21.00",
        "finally: \N{MINUS SIGN}15.00",
    ]
    assert ax.get_ylim()[0] < -21 < -15 < ax.get_ylim()[1]
    assert ax.get_xscale() == "log"
    ax.figure.canvas.draw()
    ax = jaxgmm.plot.traces(result(point, [LANES[3], LANES[3]]))
    assert texts(ax)[0] == "2 COLLAPSED"
    assert ax.get_ylim()[0] < 500 < ax.get_ylim()[1]
    # not one finite number
    ax = jaxgmm.plot.traces(result(point, [(Status.NONFINITE, [np.nan] * 2, np.nan)]))
    ax.figure.canvas.draw()


def test_optima_are_those_of_the_result(point: State):
    own = result(point)
    ax = jaxgmm.plot.optima(own)
    drawn = np.concatenate([line.get_xydata() for line in ax.lines])
    assert sorted(drawn.tolist(), reverse=True) == [[-10, 2], [-20, 1]]
    assert [tuple(row) for row in sorted(drawn.tolist(), reverse=True)] == own.optima()
    assert ax.get_title(loc="right") == "3 of 6 lanes converged, to 2 optima"
    assert [text.get_text() for text in ax.texts] == ["best: \N{MINUS SIGN}10.00"]
    # the lane that was dropped is beyond the worst optimum; nearer ones are crosses on the axis
    assert ax.get_legend() is None
    near = [*LANES, (Status.MAX_ITERATIONS, [-30.0] * 4, -12.0)]
    ax = jaxgmm.plot.optima(result(point, near))
    assert ax.collections[-1].get_offsets().tolist() == [[-12, 0]]
    assert texts(ax) == ["did not converge (1 of 2 are in the picture)"]
    assert jaxgmm.plot.optima(own, tolerance=20.0).get_title(loc="right").endswith("to 1 optimum")


def test_pairs_show_every_two_features_below_the_diagonal():
    x = draws(SPACE, 200)
    names = ["a", "b", "c", "d"]
    axes = jaxgmm.plot.pairs(SPACE, x, (0, 3, 2), names=names, mass=[0.9])
    assert axes.shape == (3, 3)
    assert [ax.get_xlabel() for ax in axes[2]] == ["a", "d", "c"]
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["", "d", "c"]
    centres = [patch.center for patch in axes[2, 1].patches]
    np.testing.assert_allclose(centres, SPACE.means[:, [3, 2]])
    at = axes[1, 1].lines[1].get_xdata()
    np.testing.assert_allclose(
        axes[1, 1].lines[1].get_ydata(), densities(SPACE, at[:, None], [3])[:, 0], rtol=1e-9
    )
    assert not any(ax.axison for ax in axes[np.triu_indices(3, 1)])
    assert axes[1, 0].get_xlim() == axes[2, 0].get_xlim()
    # on a part of a figure
    left, _ = Figure(layout="constrained").subfigures(1, 2)
    axes = jaxgmm.plot.pairs(SPACE, x, (1, 0), left)
    assert axes[1, 0].figure is left
    left.figure.canvas.draw()


P = jaxgmm.plot
ERRORS = {
    "between 0 and 1, the model's, but got (0, 2)": lambda s, x: P.points(s, x, (0, 2)),
    "2 different features between 0 and 1": lambda s, x: P.ellipses(s, features=(1, 1)),
    "the model's, but got (0, -1)": lambda s, x: P.density(s, (0, -1)),
    "one feature between 0 and 1": lambda s, x: P.histogram(s, x, 2),
    "x must be 2-d": lambda s, x: P.points(s, x[:, 0]),
    "x has 1 features": lambda s, x: P.histogram(s, x[:, :1]),
    "x has 3 features, but the mixture has 2": lambda s, x: P.pairs(PLANE, np.ones((5, 3))),
    "x is float32, but": lambda s, x: P.points(s, x.astype(jnp.float32)),
    "NaN or infinity in rows 0": lambda s, x: P.points(s, x.at[0].set(jnp.nan)),
    "names must be a sequence of 2 strings": lambda s, x: P.points(s, x, names=["a"]),
    "but it is 'ab'": lambda s, x: P.ellipses(s, names="ab"),
    "mass must be between 0 and 1": lambda s, x: P.ellipses(s, (0.5, 1.0)),
    "excluded, but it is 0.0": lambda s, x: P.weights(KEY, s, 0.0),
    "but it is (0.0,)": lambda s, x: P.density(s, mass=(0.0,)),
    "limits must be ((left, right), (bottom, top))": lambda s, x: P.density(s, limits=(0, 1)),
    "the smaller first": lambda s, x: P.density(s, limits=((1, 0), (0, 1))),
    "no component has finite parameters": lambda s, x: P.density(
        Mixture(np.ones(1), np.zeros((1, 2)), np.full((1, 2, 2), np.nan))
    ),
    "but this one has 6 lanes": lambda s, x: P.points(result(s).states, x),
    "takes a fit, the result of": lambda s, x: P.ellipses(x),
    "points takes the state of one lane": lambda s, x: P.points(result(s).states, x),
    "many mixtures at once": lambda s, x: P.ellipses(Mixture(*(a[None] for a in PLANE))),
    "fit again with jaxgmm.fit(..., history=True)": lambda s, x: P.traces(result(s, history=False)),
    "first=5 is beyond the 4 iterations": lambda s, x: P.traces(result(s), first=5),
    "Result of jaxgmm.fit(key, x, algorithm), but got a State": lambda s, x: P.traces(s),
    "algorithm), but got a State": lambda s, x: P.optima(s),
    "no lane of this fit converged": lambda s, x: P.optima(result(s, LANES[3:])),
    "the model has one; call jaxgmm.plot.histogram(result, x)": lambda s, x: P.points(
        LINE, np.ones((5, 1))
    ),
    "shows two features, but": lambda s, x: P.ellipses(LINE),
    "but the model has one; call": lambda s, x: P.density(LINE),
    "2 to 8 features, but this would be of 1": lambda s, x: P.pairs(s, x, (0,)),
    "would be of 9": lambda s, x: P.pairs(random_mixture(9), np.ones((5, 9))),
    "mass must be between 0 and 1, both excluded": lambda s, x: P.qq(s, x, mass=1.0),
    "bins must be an integer": lambda s, x: P.histogram(s, x, bins=0),
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors_say_what_came_and_what_was_expected(message: str, point: State, x: jax.Array):
    with pytest.raises(ValueError, match=re.escape(message)):
        ERRORS[message](point, x)


def test_the_documentation_has_every_picture_of_the_gallery():
    text = (ROOT / "examples" / "gallery.py").read_text()
    drawn = set(text.partition("DRAWN")[2].partition("\n)\n")[0].split("("))
    kept = {path.stem for path in (ROOT / "docs" / "pictures").glob("*.png")}
    assert kept == {entry.partition(",")[0] for entry in drawn if entry[:1].islower()}


@pytest.mark.slow
def test_the_gallery_draws_them(tmp_path: Path):
    from matplotlib.image import imread

    program = [sys.executable, "-W", "error", str(ROOT / "examples" / "gallery.py")]
    done = subprocess.run([*program, "--output", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    paths = sorted(tmp_path.glob("*.png"))
    assert [p.name for p in paths] == sorted(
        p.name for p in (ROOT / "docs" / "pictures").glob("*.png")
    )
    assert all(imread(path).shape[1] == 600 for path in paths)
    assert sum(path.stat().st_size for path in paths) < 400_000


@pytest.mark.slow
def test_a_real_selection_is_drawn():
    found = jaxgmm.select(jax.random.key(0), clusters(n=90), (1, 2, 3), n_restarts=4)
    assert len(jaxgmm.plot.selection(found).lines) == 4
