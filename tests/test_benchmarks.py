"""The benchmark suite runs, and its records hold what a reader needs to believe them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


def run_benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, dict]]:
    """What a quick run of some printed, and its records."""
    folder = tmp_path_factory.mktemp("results")
    done = run_benchmarks("em_iteration", "--quick", "--output", str(folder))
    assert done.returncode == 0, done.stderr
    return done.stdout, {p.stem: json.loads(p.read_text()) for p in folder.glob("*.json")}


@pytest.mark.slow
def test_every_benchmark_leaves_a_record(quick):
    _, records = quick
    assert set(records) == {"em_iteration"}
    assert all(record["name"] == name and record["quick"] for name, record in records.items())


@pytest.mark.slow
def test_a_record_is_drawn(quick, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks._bars import draw_bars

    draw_bars(quick[1]["em_iteration"], tmp_path / "bars.png")
    assert (tmp_path / "bars.png").stat().st_size > 5_000


def test_whole_fits_are_judged_by_the_best_of_all(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks._measure import Run
    from benchmarks.time_to_optimum import summarise

    def runs(*pairs: tuple[float, float]) -> list[Run]:
        return [Run(milliseconds, (np.array([objective]),)) for milliseconds, objective in pairs]

    found = summarise(
        {"jaxgmm": runs((2.0, -1.0), (4.0, -1.00005)), "peer": runs((8.0, -1.0), (8.0, -1.1))}
    )
    assert (found["jaxgmm"]["success"], found["peer"]["success"]) == (1.0, 0.5)
    assert found["peer"]["milliseconds_per_success"] == 16.0
    assert found["peer"]["ratio"]["median"] == 3.0


@pytest.mark.slow
def test_the_others_leave_records_too(tmp_path: Path):
    names = [
        *("cavi_iteration", "restarts", "svi_step", "time_to_optimum"),
        *("memory", "startup", "accelerator"),
    ]
    peers = ["--peers", "sklearn", "numpyro"]
    done = run_benchmarks(*names, "--quick", "--output", str(tmp_path), *peers)
    assert done.returncode == 0, done.stderr
    records = {p.stem: json.loads(p.read_text()) for p in tmp_path.glob("*.json")}
    assert set(records) == set(names)
    for record in records.values():
        for row in record["rows"]:
            found = row["contenders"]["jaxgmm"]
            assert found.get("milliseconds", found.get("megabytes"))["median"] >= 0
    (found,) = (row["contenders"] for row in records["time_to_optimum"]["rows"])
    assert found["jaxgmm"]["success"] == 1
    assert 0 < records["accelerator"]["rows"][0]["contenders"]["jaxgmm"]["share"] < 1
    ratios = records["svi_step"]["rows"][0]["contenders"]["NumPyro"]["ratio"]
    assert ratios["median"] > 0


@pytest.mark.slow
def test_a_growing_problem_is_drawn(tmp_path: Path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import scaling

    done = run_benchmarks("scaling", "--quick", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "scaling.json").read_text())
    assert {axis: len(v) for axis, (v, _) in scaling.curves(record).items()} == {"N": 2, "R": 2}
    scaling.draw(record, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["em_iteration"])
def test_record_says_where_it_was_measured(quick, name):
    made = quick[1][name]["provenance"]
    assert made["python"] == sys.version.split()[0]
    assert made["packages"]["numpy"] == np.__version__
    for package in ("jaxgmm", "jax", "jaxlib", "scikit-learn"):
        assert made["packages"][package]
    assert made["cpu"]
    assert made["cores"] >= 1
    assert made["date"].endswith("+00:00")
    assert made["device"]
    assert made["commit"] is None or len(made["commit"]) == 40


def test_rows_hold_paired_times_and_agreement(quick):
    rows = quick[1]["em_iteration"]["rows"]
    assert {row["case"]["dtype"] for row in rows} == {"float32", "float64"}
    for row in rows:
        assert set(row["case"]) == {"N", "D", "K", "R", "dtype"}
        ours, theirs = (row["contenders"][c] for c in ("jaxgmm", "scikit-learn"))
        assert ours["compile_seconds"] > 0
        single = row["case"]["dtype"] == "float32"
        assert ours["difference"] < (2e-4 if single else 1e-12)
        assert 0 < theirs["difference"] < (5e-3 if single else 1e-9)
        a, b = (np.array(c["milliseconds"]["runs"]) for c in (ours, theirs))
        assert len(a) == len(b) == row["repeats"]
        assert (a > 0).all()
        assert (b > 0).all()
        for contender, runs in ((ours, a), (theirs, b)):
            found = contender["milliseconds"]
            expected = [np.median(runs), runs.min(), runs.max()]
            np.testing.assert_allclose([found[s] for s in ("median", "min", "max")], expected)
        np.testing.assert_allclose(theirs["ratio"]["median"], np.median(b / a))


def test_tables_come_from_the_records(quick, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks._report import render

    printed, records = quick
    for record in records.values():
        assert render(record) in printed


@pytest.mark.slow
def test_without_peers_ours_alone_is_measured(tmp_path):
    done = run_benchmarks("em_iteration", "--peers", "none", "--quick", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*.json")
    rows = json.loads(path.read_text())["rows"]
    assert len(rows) == 2
    assert all(set(row["contenders"]) == {"jaxgmm"} for row in rows)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(["em"], "no benchmark em"), (["--quick"], "needs --output")],
)
def test_wrong_arguments_are_refused(arguments, complaint):
    done = run_benchmarks(*arguments)
    assert done.returncode == 2
    assert complaint in done.stderr


def run_of(value: float, lanes: int = 1, milliseconds: float = 1.0):
    """A run of which one entry of the second array has the given value, else all are 1."""
    from benchmarks._measure import Run

    means = np.ones((lanes, 3, 2))
    means[0, 1, 1] = value
    return Run(milliseconds, (np.ones((lanes, 3)), means, np.ones((lanes, 3, 2, 2))))


@pytest.mark.parametrize("wrong", [1.1, np.nan])
@pytest.mark.parametrize("culprit", ["jaxgmm", "peer"])
def test_other_results_are_not_timed(monkeypatch, culprit, wrong):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks._measure import DisagreementError, compare

    def times(ours: float, theirs: float):
        # the peer does one lane of the two
        return compare(
            lambda: run_of(ours, lanes=2),
            {"peer": lambda: run_of(theirs, milliseconds=3.0)},
            2,
            reference=run_of(1.0, lanes=2),
            tolerance=1e-6,
            peer_tolerance=1e-3,
        )

    assert times(1.0, 1.0)["peer"]["ratio"]["median"] == 3.0
    with pytest.raises(DisagreementError, match=f"{culprit} differs"):
        times(wrong, 1.0) if culprit == "jaxgmm" else times(1.0, wrong)


@pytest.mark.parametrize(("covariance", "features"), [("full", 10), ("diag", 7), ("spherical", 5)])
def test_the_least_time_is_that_of_the_products_or_of_reading(
    covariance: str, features: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks._ceilings import least_milliseconds

    case = {"N": 100, "D": 3, "K": 2, "R": 1, "covariance": covariance, "dtype": "float32"}
    least = least_milliseconds(case, {"flops": 1e9, "bytes": 1e30})
    assert least == pytest.approx(1e3 * 4 * 100 * features * 2 / 1e9)
    reading = least_milliseconds(case | {"R": 4}, {"flops": 1e30, "bytes": 1e9})
    assert reading == pytest.approx(1e3 * 100 * 3 * 4 / 4 / 1e9)
