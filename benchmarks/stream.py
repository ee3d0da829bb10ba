"""A streamed fit beside one in memory: time per pass, and the most memory resident.

Each figure is of a process of its own, stream and memory by turns: four lanes of EM, K=16, from the
same given starts. The time of a pass is the difference between fits of six and of two iterations,
over four. Data in memory are of at most four million rows, and their time is scaled by N.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._measure import spread

UNIT = "ms per pass of all lanes"
N_FEATURES, N_COMPONENTS, N_LANES = 8, 16, 4
SIZES = (1_000_000, 10_000_000, 100_000_000)
QUICK_SIZES = (2_000,)
_IN_MEMORY = 4_000_000
_PEER = 1_000_000

_PROGRAM = """
import re, sys, time
import numpy as np
mode, path, k, r, few, many = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:7])
whole = np.load(path, mmap_mode="r")
n, d = whole.shape
means = np.array(whole[: k * r]).reshape(r, k, d)
if mode == "sklearn":
    import warnings
    from sklearn.mixture import GaussianMixture
    warnings.simplefilter("ignore")
    x = np.array(whole)
    def fit(max_iter):
        for lane in range(r):
            GaussianMixture(
                k, tol=0, reg_covar=0, max_iter=max_iter, weights_init=np.full(k, 1 / k),
                means_init=means[lane], precisions_init=np.tile(np.eye(d), (k, 1, 1)),
            ).fit(x)
else:
    import jax, jaxgmm
    x = jaxgmm.Stream(path) if mode == "stream" else jax.numpy.array(whole)
    start = np.full((r, k), 1 / k, "f4"), means, np.tile(np.eye(d, dtype="f4"), (r, k, 1, 1))
    algorithm = jaxgmm.em(jaxgmm.flat_prior(k, d))
    def fit(max_iter):
        jax.block_until_ready(jaxgmm.fit(
            jax.random.key(0), x, algorithm, r, {"parameters": start}, max_iter, 0.0,
            moves=False, racing=False, progress=False,
        ).states)
    fit(1)
times = []
for max_iter in (few, many):
    began = time.perf_counter()
    fit(max_iter)
    times.append(time.perf_counter() - began)
seconds = max(times[1] - times[0], 1e-6) / (many - few) / n
# of this process: getrusage's begins at that of the process which started it
print(seconds, re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


def make_file(path: Path, n: int) -> None:
    """Normal rows about K centres, float32, written piece by piece."""
    rng = np.random.default_rng(0)
    centres = 4 * rng.normal(size=(N_COMPONENTS, N_FEATURES))
    out = np.lib.format.open_memmap(path, "w+", np.float32, (n, N_FEATURES))
    for i in range(0, n, 1 << 20):
        m = min(1 << 20, n - i)
        labels = rng.integers(0, N_COMPONENTS, m)
        out[i : i + m] = rng.normal(size=(m, N_FEATURES)) + centres[labels]
    out.flush()


def _run(mode: str, path: Path, *, quick: bool) -> tuple[float, float]:
    """Seconds per row and pass, and megabytes resident at most."""
    numbers = (N_COMPONENTS, N_LANES, 1, 2) if quick else (N_COMPONENTS, N_LANES, 2, 6)
    arguments = [sys.executable, "-c", _PROGRAM, mode, str(path), *map(str, numbers)]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    seconds, kilobytes = map(float, done.stdout.split()[-2:])
    return seconds, kilobytes / 1024


def measure(peers: list[str], *, quick: bool) -> list[dict[str, Any]]:
    """One row for each N."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n in QUICK_SIZES if quick else SIZES:
            path, few = Path(folder) / "x.npy", Path(folder) / "few.npy"
            make_file(path, n)
            np.save(few, np.load(path, mmap_mode="r")[:_IN_MEMORY])
            repeats = 1 if quick or n > 10_000_000 else 3
            runs: dict[str, list[tuple[float, float]]] = {"stream": [], "memory": []}
            for _ in range(repeats):
                for mode, file in (("stream", path), ("memory", few)):
                    runs[mode].append(_run(mode, file, quick=quick))
            if "sklearn" in peers and n <= _PEER:
                runs["sklearn"] = [_run("sklearn", path, quick=quick)]
            found: dict[str, Any] = {}
            for mode, pairs in runs.items():
                times = [1000 * seconds * n for seconds, _ in pairs]
                name = {"stream": "jaxgmm", "memory": "jaxgmm in memory"}.get(mode, mode)
                found[name] = {
                    "milliseconds": {**spread(times), "runs": times},
                    "resident_megabytes": [round(megabytes) for _, megabytes in pairs],
                }
                if mode != "stream":
                    ours = found["jaxgmm"]["milliseconds"]["runs"]
                    ratios = [other / own for own, other in zip(ours, times, strict=False)]
                    found[name]["ratio"] = {**spread(ratios), "runs": ratios}
            case = {"N": n, "D": N_FEATURES, "K": N_COMPONENTS, "R": N_LANES, "dtype": "float32"}
            case["file, MB"] = round(path.stat().st_size / 2**20)
            case["resident, MB"] = max(found["jaxgmm"]["resident_megabytes"])
            print(f"N={n}: {found['jaxgmm']['milliseconds']['median']:.4g} ms", file=sys.stderr)
            rows.append({"case": case, "iterations": 4, "repeats": repeats, "contenders": found})
            path.unlink()
    return rows
