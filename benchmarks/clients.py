"""Whether packages that use scikit-learn's mixtures work with ours.

``python -m benchmarks.clients`` makes a virtual environment with the packages, and runs the same
checks in it twice: with scikit-learn's classes, and with the names in `sklearn.mixture` bound to
those of `jaxgmm.sklearn` before any package is imported. Of their distributions only astroML's has
tests of its mixtures, which are run. The estimators of scikit-lego and cgmm go through
scikit-learn's checks of any estimator, and all but scikit-lego's through what their documentation
shows.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import SkipTest

import numpy as np

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "scikit-lego",
    "rdt",
    "pyod",
    "astroML",
    "scikit-image",
    "skl2onnx",
    "onnxruntime",
    "sdmetrics",
    "smt",
    "cgmm",
    "pythresh",
    "pyclustering",  # which one of PyThresh's thresholders imports and does not require
    "pytest",
)
Rows = Iterator[tuple[str, str]]
# what was done where an exception ended it
ALL = "what comes next"


def samples(seed: int = 0) -> np.ndarray:
    """Three clusters, ``(300, 2)``."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(m, 1, (100, 2)) for m in ((0, 0), (6, 0), (0, 6))])


def with_outliers() -> np.ndarray:
    """Those clusters, and 15 samples that are anywhere, ``(315, 2)``."""
    anywhere = np.random.default_rng(1).uniform(-20, 20, (15, 2))
    return np.concatenate([samples(), anywhere])


def scikit_lego() -> Rows:
    """Its six estimators under scikit-learn's checks: how many pass, and which do not."""
    from sklego import mixture, naive_bayes  # type: ignore[import-not-found]

    modules = {
        "GMMClassifier": mixture,
        "BayesianGMMClassifier": mixture,
        "GMMOutlierDetector": mixture,
        "BayesianGMMOutlierDetector": mixture,
        "GaussianMixtureNB": naive_bayes,
        "BayesianGaussianMixtureNB": naive_bayes,
    }
    for name, module in modules.items():
        options = {"threshold": 0.95} if name == "GMMOutlierDetector" else {}
        yield f"`{name}`: checks of any estimator", _checks(getattr(module, name)(**options))


def rdt() -> Rows:
    """Its column transformer: what it makes of a column, and how well it gets it back."""
    import pandas as pd  # type: ignore[import-not-found]
    from rdt.transformers.numerical import (  # type: ignore[import-not-found]
        ClusterBasedNormalizer,
    )

    rng = np.random.default_rng(0)
    column = np.concatenate([rng.normal(0, 1, 300), rng.normal(9, 1, 200)])
    table = pd.DataFrame({"a": column})
    np.random.seed(0)  # noqa: NPY002 (its mixture draws from the global state)
    normalizer = ClusterBasedNormalizer(max_clusters=5, missing_value_generation=None)
    coded = normalizer.fit_transform(table, "a")
    back = normalizer.reverse_transform(coded)["a"].to_numpy()
    components = int(np.sum(normalizer.valid_component_indicator))
    yield "`ClusterBasedNormalizer`: components", str(components)
    yield "`ClusterBasedNormalizer`: a column and back", _within(np.abs(back - column).max(), 1e-6)


def pyod() -> Rows:
    """Its detector: the outliers that it finds."""
    from pyod.models.gmm import GMM  # type: ignore[import-not-found]
    from sklearn.metrics import roc_auc_score

    x = with_outliers()
    detector = GMM(n_components=3, contamination=0.05, random_state=0).fit(x)
    found = roc_auc_score(np.arange(315) >= 300, detector.decision_scores_)
    yield "`GMM`: area under the curve", f"{found:.6f}"
    yield "`GMM`: samples called outliers", str(int(detector.predict(x).sum()))


def astroml() -> Rows:
    """Its own tests of what uses a mixture."""
    import pytest

    for name in ("classification.tests.test_gmm_bayes", "density_estimation.tests.test_xdeconv"):
        counter = _Counter()
        # without the conftest.py of the folder that this runs in
        options = ["-c", os.devnull, "-p", "no:cacheprovider", "-p", "no:faker", "--noconftest"]
        ended = pytest.main([*options, "--pyargs", f"astroML.{name}"], [counter])
        if ended not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            raise RuntimeError(f"pytest ended with {ended!r}")
        yield f"`{name}`", _outcome(counter.passed, counter.failed)


def scikit_image() -> Rows:
    """A Fisher vector of a mixture: its norm."""
    from skimage.feature import fisher_vector  # type: ignore[import-not-found]
    from sklearn.mixture import GaussianMixture

    model = GaussianMixture(3, covariance_type="diag", random_state=0).fit(samples())
    yield "`fisher_vector`: norm", f"{np.linalg.norm(fisher_vector(samples(1), model)):.6f}"


def skl2onnx() -> Rows:
    """Every kind of mixture converted: whether the probabilities are those of the model."""
    from onnxruntime import InferenceSession  # type: ignore[import-not-found]
    from skl2onnx import to_onnx  # type: ignore[import-not-found]
    from sklearn import mixture

    x = samples()
    for name in ("GaussianMixture", "BayesianGaussianMixture"):
        largest = 0.0
        for kind in ("full", "tied", "diag", "spherical"):
            model = getattr(mixture, name)(n_components=3, covariance_type=kind, random_state=0)
            session = InferenceSession(to_onnx(model.fit(x), x[:1]).SerializeToString())
            found = session.run(None, {"X": x})[1]
            largest = max(largest, float(np.abs(found - model.predict_proba(x)).max()))
        yield f"`to_onnx({name})`: probabilities", _within(largest, 1e-6)


def sdmetrics() -> Rows:
    """Its likelihood of synthetic data: of the mixture that BIC prefers, and of a given one."""
    import pandas as pd  # type: ignore[import-not-found]
    from sdmetrics.single_table import GMLogLikelihood  # type: ignore[import-not-found]

    real, synthetic = (pd.DataFrame(samples(seed), columns=["a", "b"]) for seed in (0, 1))
    columns = {name: {"sdtype": "numerical"} for name in real}
    kinds = ("full", "tied", "diag", "spherical")
    for what, options in {
        "three components": {"n_components": 3},
        "up to six components of any kind": {"n_components": (1, 6), "covariance_type": kinds},
    }.items():
        np.random.seed(0)  # noqa: NPY002 (its mixtures draw from the global state)
        score = GMLogLikelihood.compute(real, synthetic, {"columns": columns}, **options)
        yield f"`GMLogLikelihood`: {what}", f"{score:.6f}"


def smt() -> Rows:
    """Its mixture of experts, of a function with jumps: the relative error elsewhere."""
    from smt.applications import MOE  # type: ignore[import-not-found]

    def jumps(x: np.ndarray) -> np.ndarray:
        return np.where(x < 0.4, x**2, np.where(x < 0.8, 3 * x + 1, np.sin(10 * x)))

    train, test = np.random.default_rng(0).uniform(size=(2, 50, 1))
    for what, smooth in {"smooth": True, "hard": False}.items():
        np.random.seed(0)  # noqa: NPY002 (its mixture draws from the global state)
        model = MOE(n_clusters=3, xt=train, yt=jumps(train), smooth_recombination=smooth)
        model.train()
        error = np.linalg.norm(model.predict_values(test) - jumps(test))
        yield f"`MOE`, {what}: relative error", f"{error / np.linalg.norm(jumps(test)):.6f}"


def cgmm() -> Rows:
    """A mixture conditioned on a feature, and its regressors, which make mixtures too."""
    import cgmm  # type: ignore[import-not-found]
    from sklearn.mixture import GaussianMixture

    x = samples()
    for kind in ("full", "tied", "diag", "spherical"):
        joint = GaussianMixture(3, covariance_type=kind, random_state=0).fit(x)
        given = cgmm.GMMConditioner(joint, cond_idx=[0]).precompute().condition([1.0])
        found = f"{given.mean()[0]:.6f}, {given.score(x[:, 1:]):.6f}, {given.bic(x[:, 1:]):.4f}"
        yield f"`GMMConditioner`, {kind}: mean, score and BIC", found
    for name in (
        "ConditionalGMMRegressor",
        "DiscriminativeConditionalGMMRegressor",
        "MixtureOfExpertsRegressor",
        "ConditionalStudentTRegressor",
        "ConditionalGHRegressor",
    ):
        model = getattr(cgmm, name)(n_components=3, random_state=0).fit(x[:, :1], x[:, 1])
        error = np.sqrt(np.mean((model.predict(x[:, :1]).ravel() - x[:, 1]) ** 2))
        given = model.condition(x[:2, :1])[0]
        density = getattr(given, "score_samples", None) or given.logpdf
        found = f"{error:.6f}, {np.mean(density(x[:, 1:])):.6f}"
        yield f"`{name}`: error, and log density given the first sample", found
    for name in ("ConditionalGMMRegressor", "DiscriminativeConditionalGMMRegressor"):
        yield f"`{name}`: checks of any estimator", _checks(getattr(cgmm, name)())


def pythresh() -> Rows:
    """Its thresholders: the samples called outliers, by the scores of two detectors."""
    from pyod.models.iforest import IForest  # type: ignore[import-not-found]
    from pyod.models.knn import KNN  # type: ignore[import-not-found]
    from pythresh.thresholds.clust import CLUST  # type: ignore[import-not-found]
    from pythresh.thresholds.gamgmm import GAMGMM  # type: ignore[import-not-found]

    detectors = [KNN(), IForest(random_state=0)]
    scores = np.stack([d.fit(with_outliers()).decision_scores_ for d in detectors], axis=1)
    called = int(CLUST(method="bgm").eval(scores).sum())
    yield "`CLUST` by its mixture: samples called outliers", str(called)
    counts = [int(GAMGMM(skip=True, random_state=s).eval(scores).sum()) for s in range(1, 7)]
    yield "`GAMGMM`: samples called outliers, for six seeds", ", ".join(map(str, counts))


CLIENTS: dict[str, Callable[[], Rows]] = {
    "scikit-lego": scikit_lego,
    "RDT": rdt,
    "PyOD": pyod,
    "astroML": astroml,
    "scikit-image": scikit_image,
    "skl2onnx": skl2onnx,
    "SDMetrics": sdmetrics,
    "SMT": smt,
    "cgmm": cgmm,
    "PyThresh": pythresh,
}


class _Counter:
    """A plugin of pytest that counts."""

    def __init__(self) -> None:
        self.passed, self.failed = 0, set()

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed.add(report.nodeid.split("::")[-1])
        elif report.when == "call":
            self.passed += report.passed


def _checks(estimator: Any) -> str:
    """scikit-learn's checks of any estimator: how many pass, and which do not."""
    from sklearn.utils.estimator_checks import estimator_checks_generator

    passed, failed = 0, set()
    pairs: Any = estimator_checks_generator(estimator)
    for each, check in pairs:
        try:
            check(each)
            passed += 1
        except SkipTest:
            pass
        except Exception as error:
            failed.add(f"{check.func.__name__} ({type(error).__name__})")
    return _outcome(passed, failed)


def _outcome(passed: int, failed: set[str]) -> str:
    return f"{passed} passed" + (f"; not {', '.join(sorted(failed))}" if failed else "")


def _within(error: float, tolerance: float) -> str:
    return f"within {tolerance:g}" if error <= tolerance else f"off by {error:.2g}"


def check(replaced: bool) -> list[tuple[str, str, str]]:
    """The outcomes in this process: package, what was done, what came."""
    if replaced:
        import sklearn.mixture

        import jaxgmm.sklearn

        for name in jaxgmm.sklearn.__all__:
            setattr(sklearn.mixture, name, getattr(jaxgmm.sklearn, name))
    rows = []
    for package, client in CLIENTS.items():
        try:
            rows += [(package, *row) for row in client()]
        except Exception as error:
            rows.append((package, ALL, f"{type(error).__name__}: {error}"[:200]))
    return rows


def environment(folder: Path) -> Path:
    """The Python of a virtual environment with the packages, made unless it is there."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = [python, "-m", "pip", "install", "-q", f"{ROOT}[sklearn]", *PACKAGES]
        subprocess.run(install, check=True)
    return python


def run(python: Path, which: str) -> list[list[str]]:
    """The outcomes of `check` in a process of that Python."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [python, "-m", "benchmarks.clients", "--check", which, "--into", file.name]
        variables = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run(command, check=True, cwd=ROOT, env=variables, stdout=subprocess.DEVNULL)
        return json.loads(Path(file.name).read_text())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clients", description=__doc__)
    parser.add_argument("--environment", type=Path, help="folder of the virtual environment")
    parser.add_argument("--check", choices=["sklearn", "jaxgmm"], help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.check:
        warnings.simplefilter("ignore")
        options.into.write_text(json.dumps(check(options.check == "jaxgmm")))
        return
    with tempfile.TemporaryDirectory() as folder:
        python = environment(options.environment or Path(folder) / "clients")
        theirs, ours = (run(python, which) for which in ("sklearn", "jaxgmm"))
    print("| package | what | scikit-learn's | ours |\n| --- | --- | --- | --- |")
    found = {(package, what): outcome for package, what, outcome in ours}
    for package, what, outcome in theirs:
        ended = next((text for (a, b), text in found.items() if a == package and b == ALL), "")
        after = found.get((package, what), ended)
        print(f"| {package} | {what} | {outcome} | {'the same' if after == outcome else after} |")


if __name__ == "__main__":
    main()
