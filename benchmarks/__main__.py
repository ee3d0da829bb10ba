"""``python -m benchmarks [NAME...]``: measure, write JSON, print Markdown."""

import argparse
import os
from importlib import import_module
from pathlib import Path

import jax

from benchmarks import _report as report
from benchmarks._bars import draw_bars
from benchmarks._contenders import PEERS

NAMES = (
    "em_iteration",
    "cavi_iteration",
    "restarts",
    "svi_step",
    "time_to_optimum",
    "scaling",
    "memory",
    "stream",
    "startup",
    "accelerator",
    "optima",
    "truncated",
)
RESULTS = Path(__file__).parent / "results"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; or all")
    parser.add_argument(
        "--peers",
        nargs="+",
        default=["sklearn"],
        choices=[*PEERS, "all", "none"],
        help="libraries to compare with, those that know the algorithm (default: sklearn)",
    )
    parser.add_argument(
        "--device", choices=["cpu", "gpu", "tpu"], help="where jaxgmm runs (default: JAX's choice)"
    )
    parser.add_argument("--output", type=Path, help=f"folder of the JSON (default: {RESULTS})")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, to see that all runs; needs --output"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="PROBLEM", help="of optima; the others' rows stay as they are"
    )
    parser.add_argument("--keys", type=int, help="fits of each problem of optima (default: 50)")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in NAMES]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if options.quick and options.output is None:
        parser.error("--quick needs --output, so that no real result is overwritten")
    if (options.only or options.keys) and options.names != ["optima"]:
        parser.error("--only and --keys are for optima alone")
    if options.peers == ["all"]:
        options.peers = list(PEERS)
    if options.peers == ["none"]:
        options.peers = []
    elif {"all", "none"} & set(options.peers):
        parser.error("--peers all and --peers none stand alone")
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if options.device:
        # for this process and those of the contenders; CUDA is what JAX calls an NVIDIA GPU
        platform = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}[options.device]
        os.environ["JAX_PLATFORMS"] = platform
        jax.config.update("jax_platforms", platform)
    jax.config.update("jax_enable_x64", True)
    for name in options.names or NAMES:
        benchmark = import_module(f"benchmarks.{name}")
        made = report.provenance()
        folder, rows, more = options.output or RESULTS, [], {}
        if name == "optima":
            more = {"only": options.only, "n_keys": options.keys}
            rows = report.rows_beside(folder / f"{name}.json", options.only)
        record = {
            "name": name,
            "unit": benchmark.UNIT,
            "quick": options.quick,
            "provenance": made,
            "rows": rows,
        }
        path = folder / f"{name}.json"
        # some benchmarks give a row at a time: what was measured before an interruption stays
        for row in benchmark.measure(options.peers, quick=options.quick, **more):
            rows.append(row)
            path = report.save(record, folder)
        getattr(benchmark, "draw", draw_bars)(record, path.with_suffix(".png"))
        print(report.render(record), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
