"""What one waits for: the import, the quickstart, and the first call of a process.

Each run is a process of its own. The first calls are timed without the imports: with nothing
compiled before, with all programs in a folder from an earlier process, and scikit-learn's.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks._first import CASES
from benchmarks._measure import Contender, Run, compare

UNIT = "ms"
ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "examples" / "quickstart.py"


def _process(*arguments: str) -> Run:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, cwd=ROOT)
    return Run(1e3 * (time.perf_counter() - began), ())


def _first(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks._first", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return json.loads(done.stdout)


def _run(*arguments: str) -> Run:
    return Run(_first(*arguments)["milliseconds"], ())


def _row(
    what: str, repeats: int, ours: Contender, peers: Mapping[str, Contender], programs: Any = ""
) -> dict[str, Any]:
    options = {"reference": Run(0.0, ()), "tolerance": 0.0, "peer_tolerance": 0.0}
    found = compare(ours, peers, repeats, **options)
    case = {"what": what, "dtype": "float32", "programs": programs}
    return {"case": case, "iterations": 1, "repeats": repeats, "contenders": found}


def measure(peers: list[str], *, quick: bool) -> Iterator[dict[str, Any]]:
    """A row at a time: the import beside that of jax alone, the quickstart, and first calls."""
    importing = {"jax": lambda: _process("-c", "import jax")}
    yield _row("import", 2 if quick else 15, lambda: _process("-c", "import jaxgmm"), importing)
    with tempfile.TemporaryDirectory() as folder:
        if not quick:
            output = str(Path(folder) / "quickstart.png")
            yield _row("quickstart", 3, lambda: _process(str(QUICKSTART), "--output", output), {})
        for name in ["estimator"] if quick else CASES:
            kept = str(Path(folder) / name)
            others: dict[str, Contender] = {"kept programs": lambda n=name, f=kept: _run(n, f)}
            if "sklearn" in peers and "SVI" not in name:
                others["sklearn"] = lambda n=name: _run(f"{n}, sklearn")
            programs = _first(name)["programs"]
            yield _row(name, 1 if quick else 5, lambda n=name: _run(n), others, programs)
