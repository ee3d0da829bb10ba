"""Records with their provenance, as JSON, and the Markdown tables made from them."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import jax

from benchmarks._problems import cores

_PACKAGES = ("jaxgmm", "jax", "jaxlib", "numpy", "scikit-learn", "daal", "gmmx", "numpyro")
# columns of a share, of those records that have them
_SHARES = {
    "success": "at the optimum",
    "converged": "converged",
    "share": "of the ceiling",
}
# settings that change how fast anything runs
_VARIABLES = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    root = Path(__file__).parents[1]
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def provenance() -> dict[str, Any]:
    """Where, when and with what a record was measured."""
    commit = _git("rev-parse", "HEAD")
    device = jax.devices()[0]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "modified": bool(_git("status", "--porcelain", "--", "jaxgmm")) if commit else None,
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in _PACKAGES},
        "cpu": _cpu_model(),
        "cores": cores(),
        # of the minute before: other work on the machine makes every figure doubtful
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "device": f"{device.platform} {device.device_kind}",
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def save(record: dict[str, Any], folder: Path) -> Path:
    """Write the record to ``folder/NAME.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record['name']}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def load(path: Path) -> dict[str, Any]:
    """A record that `save` wrote."""
    return json.loads(path.read_text())


def rows_beside(path: Path, only: list[str] | None) -> list[dict[str, Any]]:
    """The rows on file of other data than ``only`` these, to which new ones are added."""
    if not only or not path.exists():
        return []
    return [row for row in load(path)["rows"] if row["case"]["data"] not in only]


def _interval(values: dict[str, float], digits: int) -> str:
    def short(value: float) -> str:
        return f"{value:.{digits}g}" if value < 10**digits else f"{value:.0f}"

    return f"{short(values['median'])} ({short(values['min'])} to {short(values['max'])})"


def _cell(found: dict[str, Any], name: str, quantity: str) -> str:
    return _interval(found[name][quantity], 3) if name in found else ""


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def render(record: dict[str, Any]) -> str:
    """A record as Markdown: medians with (minimum to maximum), and each peer's over ours."""
    rows, made = record["rows"], record["provenance"]
    axes = list(rows[0]["case"])
    quantity = "megabytes" if "megabytes" in rows[0]["contenders"]["jaxgmm"] else "milliseconds"
    peers = [*dict.fromkeys(name for row in rows for name in row["contenders"] if name != "jaxgmm")]
    head = [*axes, "jaxgmm", *peers, *(f"{name} / jaxgmm" for name in peers)]
    shares = [
        (name, field)
        for field in _SHARES
        for name in ["jaxgmm", *peers]
        if any(field in row["contenders"].get(name, {}) for row in rows)
    ]
    head += [*(f"{name}: {_SHARES[field]}" for name, field in shares), "compile, s"]
    lines = [f"### {record['name']}: {record['unit']}", "", _row(head), _row(["---"] * len(head))]
    for row in rows:
        found = row["contenders"]
        lines.append(
            _row(
                [
                    *(str(row["case"][axis]) for axis in axes),
                    *(_cell(found, name, quantity) for name in ["jaxgmm", *peers]),
                    *(_cell(found, name, "ratio") for name in peers),
                    *(f"{found[n][f]:.0%}" if n in found else "" for n, f in shares),
                    f"{seconds:.1f}" if (seconds := found["jaxgmm"].get("compile_seconds")) else "",
                ]
            )
        )
    lines.append("")
    dtypes = dict.fromkeys(row["case"]["dtype"] for row in rows)
    for peer in peers:
        means = []
        for dtype in dtypes:
            ratios = [
                row["contenders"][peer]["ratio"]["median"]
                for row in rows
                if row["case"]["dtype"] == dtype and peer in row["contenders"]
            ]
            if ratios:
                means.append(f"{geometric_mean(ratios):.3g} in {dtype}")
        lines.append(f"Geometric mean of {peer} / jaxgmm: {', '.join(means)}.")
    devices = {row["contenders"]["jaxgmm"].get("devices", 1) for row in rows}
    if devices != {1}:
        lines.append(f"jaxgmm has 1 device or {max(devices)}, one for each core, as is faster.")
    versions = ", ".join(f"{name} {v}" for name, v in made["packages"].items() if v)
    commit = f", commit {made['commit'][:10]}" if made["commit"] else ""
    modified = " (modified)" if made["modified"] else ""
    lines.append(
        f"{made['cpu']}, {made['cores']} cores, {made['device']}; Python {made['python']}, "
        f"{versions}; {made['date']}{commit}{modified}."
    )
    return "\n".join(lines)
