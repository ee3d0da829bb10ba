"""What one waits for: the import, and the quickstart's three fits with their compilation."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._measure import Run, compare

UNIT = "ms"
QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart.py"


def _process(*arguments: str) -> Run:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return Run(1e3 * (time.perf_counter() - began), ())


def _row(what: str, repeats: int, ours: list[str], **peers: list[str]) -> dict[str, Any]:
    found = compare(
        lambda: _process(*ours),
        {
            name: lambda arguments=arguments: _process(*arguments)
            for name, arguments in peers.items()
        },
        repeats,
        reference=Run(0.0, ()),
        tolerance=0.0,
        peer_tolerance=0.0,
    )
    case = {"what": what, "dtype": "float32"}
    return {"case": case, "iterations": 1, "repeats": repeats, "contenders": found}


def measure(peers: list[str], *, quick: bool) -> list[dict[str, Any]]:
    """The import beside that of jax alone; and all of the quickstart, in a process of its own."""
    repeats = 2 if quick else 15
    rows = [_row("import", repeats, ["-c", "import jaxgmm"], jax=["-c", "import jax"])]
    if not quick:
        with tempfile.TemporaryDirectory() as folder:
            output = str(Path(folder) / "quickstart.png")
            rows.append(_row("quickstart", 3, [str(QUICKSTART), "--output", output]))
    return rows
