"""Every example runs by itself, prints the known figures and saves a picture."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NUMBER = r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?"


def run_example(name: str, picture: Path, *arguments: str) -> str:
    """Run it as a user does, with warnings as errors, and return what it printed."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), "--output", str(picture)]
    environment = os.environ | {"MPLBACKEND": "Agg", "XLA_FLAGS": ""}  # see conftest.py
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, env=environment, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(text: str, label: str) -> list[float]:
    """The numbers on the line that starts with a label."""
    found = re.search(rf"^{re.escape(label)}(?!\w)(.*)$", text, re.MULTILINE)
    assert found, f"no line starts with {label!r} in:\n{text}"
    return [float(number) for number in re.findall(NUMBER, found[1])]


def check_picture(path: Path) -> None:
    from matplotlib.image import imread

    image = imread(path)
    height, width, _ = image.shape
    assert 900 < width < 2000
    assert 400 < height < 1200
    assert 30_000 < path.stat().st_size < 1_500_000
    # not blank: white paper with something on it in every quarter
    for rows in np.array_split(image[..., :3], 2):
        for quarter in np.array_split(rows, 2, axis=1):
            assert 0.01 < np.mean(quarter < 0.95) < 0.9


@pytest.mark.slow
def test_quickstart(tmp_path: Path) -> None:
    text = run_example("quickstart.py", tmp_path / "picture.png")
    em, cavi, svi = (numbers(text, name) for name in ("EM", "CAVI", "SVI"))
    # best of long searches: -1114.439873; float32 keeps a sum of 272 terms to a few 1e-3
    assert em[0] == pytest.approx(-1114.44, abs=0.006)
    # the usual trap, -1119.213971, which half of the lanes reach or fall short of
    assert em[1] == pytest.approx(-1119.22, abs=0.02)
    assert cavi[0] == pytest.approx(-1173.07, abs=0.01)
    # the assignments are summed out, so that the bound may pass CAVI's; noise may lower it
    assert cavi[0] - 1 < svi[0] < cavi[0] + 4
    for row in (em, cavi, svi):
        best, median, worst, iterations, compile_seconds, run_seconds, *lanes = row
        assert worst <= median <= best
        assert iterations > 10
        assert compile_seconds > 0
        assert run_seconds > 0
        assert sum(lanes) == 256
    assert re.search(r"^CAVI .* 256 CONVERGED$", text, re.MULTILINE)
    assert "NONFINITE" not in text
    assert "DECREASED" not in text
    check_picture(tmp_path / "picture.png")


def test_system1_prints_every_published_digit(tmp_path: Path) -> None:
    text = run_example("system1_cavi.py", tmp_path / "picture.png")
    assert numbers(text, "ELBO at the start") == [-733.858]
    assert numbers(text, "ELBO at the end") == [-323.5292857]
    assert numbers(text, "sweeps") == [17]
    assert numbers(text, "E[mu]") == [7.3993, 7.4017, 4.4907, 4.1577, 1.2618, 1.6898]
    assert numbers(text, "Cov[mu], diagonals") == [0.0407, 0.0522, 0.0519]
    assert numbers(text, "E[pi]") == [0.3899, 0.3040, 0.3061]
    bounds, furthest = numbers(text, "trace")
    assert bounds == 18
    assert furthest < 1e-9
    check_picture(tmp_path / "picture.png")


@pytest.mark.slow
def test_system2(tmp_path: Path) -> None:
    text = run_example("system2_em.py", tmp_path / "picture.png")
    few = numbers(text, "10 starts, loose")
    many = numbers(text, "256 starts, loose")
    tight = numbers(text, "256 starts, tight")
    (truth,) = numbers(text, "true parameters")
    (own,) = numbers(text, "assigned to their own component:")
    # the same seed starts other lanes when there are more of them, but a loose rule finds it too
    assert truth < few[0] < tight[0]
    assert truth < many[0] < tight[0]
    assert tight[0] == pytest.approx(few[0], abs=1)
    assert 5 < few[3] < 40  # median iterations; about 20 were published
    assert few[4] < 100
    assert own > 95
    (kept, smallest) = numbers(text, "keeps the smallest bound               kept")
    assert kept == tight[0] > smallest
    assert numbers(text, "normalises by (2 pi)^N, not ^D         the density integrates to") == [1]
    (far,) = numbers(text, "overflows at far points                log density of one is")
    assert -1e10 < far < -1e6
    (zero,) = numbers(text, "makes NaN of 0 log 0                   entropy of hard labels is")
    assert zero == 0
    assert "COLLAPSED, and 9 other lanes went on" in text
    # a lane on a spike is a collapsed one, and no bound goes down
    assert "DECREASED" not in text
    check_picture(tmp_path / "picture.png")


def check_system3(text: str, short_of_em: float) -> None:
    assert "element (1, 0, 1) is -0.3 and element (1, 1, 0) is -2" in text
    assert "must be symmetric" in text
    *_, _seconds = numbers(text, "lanes")
    (best,) = numbers(text, "Adam, best")
    (median,) = numbers(text, "Adam, median")
    (em,) = numbers(text, "EM, best")
    (short,) = numbers(text, "short of EM by")
    assert abs(short) < short_of_em
    assert best == pytest.approx(em, abs=short_of_em + 1e-3)
    assert best - 1 < median <= best  # most lanes get there, not only the luckiest
    assert "NONFINITE" not in text


@pytest.mark.slow
def test_system3_briefly(tmp_path: Path) -> None:
    text = run_example(
        "system3_gradient_em.py",
        tmp_path / "picture.png",
        *("--steps", "1000", "--learning-rate", "0.01"),
    )
    check_system3(text, 1e-2)
    check_picture(tmp_path / "picture.png")


@pytest.mark.slow
def test_system3_as_published(tmp_path: Path) -> None:
    check_system3(run_example("system3_gradient_em.py", tmp_path / "picture.png"), 1e-4)


@pytest.mark.slow
def test_system4(tmp_path: Path) -> None:
    text = run_example("system4_svi.py", tmp_path / "picture.png")
    for name in ("last iterate", "averaged"):
        assert numbers(text, f"{name}: lanes that found both") == [64, 64]
        assert numbers(text, f"{name}: best lane's means") == pytest.approx([1, 7], abs=0.35)
        low1, high1, low7, high7 = numbers(text, f"{name}: lanes' means between")
        assert 0.5 < low1 <= high1 < 1.7
        assert 6.3 < low7 <= high7 < 7.7
    # averaging takes most of the swing of the last iterates away
    last, averaged = (
        numbers(text, f"{name}: lanes' means between") for name in ("last iterate", "averaged")
    )
    assert averaged[1] - averaged[0] < 0.3 * (last[1] - last[0])
    # one draw a step from a wide start: some lanes of the published q do not get there
    found, lanes = numbers(text, "published q: lanes that found both")
    assert 0.75 * lanes <= found <= lanes == 64
    assert numbers(text, "published q: best lane's means") == pytest.approx([1, 7], abs=0.35)
    check_picture(tmp_path / "picture.png")


@pytest.mark.slow
def test_system5_as_published(tmp_path: Path) -> None:
    text = run_example("system5_bayes.py", tmp_path / "picture.png")
    furthest, lanes = numbers(text, "furthest from the published")
    low, high = numbers(text, "scales between")
    assert lanes == 64  # none was flagged, and all found the three clusters
    assert furthest < 0.05
    assert 0.026 < low < high < 0.036
    svi, _ = numbers(text, "SVI, bound of the best lane")
    cavi, _ = numbers(text, "CAVI, bound of the best lane")
    assert svi == pytest.approx(cavi, abs=1)
    (own,) = numbers(text, "CAVI, its own, lower bound")
    assert own < cavi
    check_picture(tmp_path / "picture.png")


@pytest.mark.slow
def test_empirical_bayes(tmp_path: Path) -> None:
    text = run_example("empirical_bayes.py", tmp_path / "picture.png")
    (learnt,) = numbers(text, "alpha learnt")
    (best,) = numbers(text, "best alpha of a grid")
    # neighbours on the grid are 12% apart
    assert learnt == pytest.approx(best, rel=0.12)
    (there,) = numbers(text, "bound there")
    (at_one,) = numbers(text, "bound at alpha = 1")
    assert there > at_one + 20
    (slope,) = numbers(text, "slope there, by log alpha")
    assert abs(slope) < 0.01
    assert numbers(text, "components in use") == [5]
    check_picture(tmp_path / "picture.png")


@pytest.mark.slow
def test_selection(tmp_path: Path) -> None:
    text = run_example("selection.py", tmp_path / "picture.png", "--largest", "4")
    assert "[2314.29" in text
    assert numbers(text, "  3")[1] == pytest.approx(2314.2957, abs=0.002)
    check_picture(tmp_path / "picture.png")


@pytest.mark.slow
def test_uncertainty(tmp_path: Path) -> None:
    text = run_example("uncertainty.py", tmp_path / "picture.png", "--replicates", "199")
    # of the best optima of one and of two components, and of the usual one of three, -1119.21
    statistics = re.findall(r"likelihood ratio\) (.*), p = (\S+) ", text)
    assert [float(a) for a, _ in statistics[:2]] == pytest.approx([319.07, 22.10], abs=0.05)
    p_values = [float(p) for _, p in statistics]
    assert p_values[0] == 1 / 200
    assert p_values[1] < 0.05 < p_values[2]
    assert numbers(text, "components: 3, after") != []
    errors = [
        re.search(rf"^{kind}(?:.*\n){{5}}", text, re.MULTILINE)
        for kind in ("observed", "parametric")
    ]
    assert all(errors)
    first, second = (re.findall(r"\((\S+)\)", match[0])[-5:] for match in errors if match)
    # of the large cluster both are right: 16% is three standard errors of 199 replicates
    np.testing.assert_allclose(
        np.array(first, float), np.array(second, float), rtol=0.16, atol=0.003
    )
    check_picture(tmp_path / "picture.png")


@pytest.mark.slow
def test_a_vae_gains_by_a_mixture_prior_already_after_some_epochs(tmp_path: Path) -> None:
    text = run_example("vae.py", tmp_path / "picture.png", "--epochs", "40", "--seeds", "1")
    _normal, _mixture, gain, *_, tight = numbers(text, "0   ")
    assert gain > 0.3  # 0.92
    assert tight > 0.3
    check_picture(tmp_path / "picture.png")


@pytest.mark.slow
def test_a_vae_gains_by_a_mixture_prior_for_every_seed(tmp_path: Path) -> None:
    text = run_example("vae.py", tmp_path / "picture.png")
    for seed in "012":
        assert numbers(text, f"{seed}   ")[2] > 1  # 2.4, 2.7, 3.4


@pytest.mark.slow
def test_mixture_density(tmp_path: Path) -> None:
    text = run_example("mixture_density.py", tmp_path / "picture.png")
    (one,), (truth,) = numbers(text, "one Gaussian"), numbers(text, "the truth")
    mixture = numbers(text, "5 components")[0]
    assert one + 0.5 < mixture < truth
    assert truth - mixture < 0.1
    check_picture(tmp_path / "picture.png")


@pytest.mark.slow
def test_many_fits(tmp_path: Path) -> None:
    arguments = ("--sets", "1000", "--sample", "20")
    text = run_example("many_fits.py", tmp_path / "picture.png", *arguments)
    assert numbers(text, "our estimates by scikit-learn, gap")[0] < 1e-5
    ours, theirs = numbers(text, "mean, ours and scikit-learn's")
    assert ours > theirs - 0.05
    check_picture(tmp_path / "picture.png")


@pytest.mark.slow
def test_numpyro_model(tmp_path: Path) -> None:
    text = run_example("numpyro_model.py", tmp_path / "picture.png")
    whole, fit = numbers(text, "sds, whole model"), numbers(text, "sds, fit")
    np.testing.assert_allclose(whole, [0.3, 0.25, 0.25, 0.3], atol=0.08)
    assert (np.array(fit) > whole).all()
    assert numbers(text, "NUTS")[-1] == 0  # divergences
    check_picture(tmp_path / "picture.png")


@pytest.mark.slow
def test_a_survey_with_holes_is_nearly_as_good_as_without(tmp_path: Path) -> None:
    text = run_example("survey.py", tmp_path / "picture.png")
    means, shares = numbers(text, "with holes")
    filled, _ = numbers(text, "holes filled with means")
    assert means < 0.08  # about 1.3 times the error of complete answers, 0.06
    assert shares < 0.03
    assert filled > 0.5
    check_picture(tmp_path / "picture.png")


@pytest.mark.slow
def test_stars_without_their_errors(tmp_path: Path) -> None:
    text = run_example("stars.py", tmp_path / "picture.png")
    names = ("errors and background", "errors alone", "values taken for true", "the truth")
    both, alone, taken, truth = (numbers(text, name)[0] for name in names)
    assert truth - 0.05 < both <= truth
    assert taken + 0.1 < alone < truth - 0.3
    (before,), (after,) = numbers(text, "as observed"), numbers(text, "given the fit")
    assert after < 0.75 * before
    check_picture(tmp_path / "picture.png")
