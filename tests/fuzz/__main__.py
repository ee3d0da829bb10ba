"""``python -m tests.fuzz FIRST LAST``: judge the cases of these seeds, and print what failed."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

import argparse
import json
from collections import Counter
from pathlib import Path

import jax

# each program runs a few dozen times, and is compiled for that
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_enable_x64", True)

from .cases import KINDS, case_of
from .laws import Verdict, judge


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int, help="one after the last seed")
    parser.add_argument("--kind", choices=list(KINDS), help="only cases of this kind of data")
    parser.add_argument("--output", type=Path, help="a file of failures, a line of JSON for each")
    options = parser.parse_args()
    verdicts: list[Verdict] = []
    last = None
    for seed in range(options.first, options.last):
        case = case_of(seed)
        if options.kind and case.kind != options.kind:
            continue
        if last != case.bucket:
            jax.clear_caches()
            last = case.bucket
        verdict = judge(case)
        verdicts.append(verdict)
        if verdict.failures:
            print(seed, case.kind, *case.bucket, verdict.failures, flush=True)
        if options.output:
            line = {"seed": seed, "kind": case.kind, **case.bucket._asdict()}
            line |= {"status": verdict.status, "failures": verdict.failures}
            with options.output.open("a") as file:
                file.write(json.dumps(line) + "\n")
    print(table(verdicts))


def table(verdicts: list[Verdict]) -> str:
    """How many cases break a law, by kind of data and by what the programs depend on."""
    lines = [f"{len(verdicts)} cases, {sum(bool(v.failures) for v in verdicts)} break a law"]
    views = {
        "law": None,
        "kind": lambda v: v.case.kind,
        "covariance": lambda v: v.case.bucket.covariance,
        "algorithm": lambda v: v.case.bucket.algorithm,
        "dtype": lambda v: v.case.bucket.dtype,
        "K": lambda v: v.case.bucket.k,
        "D": lambda v: v.case.bucket.d,
        "lanes": lambda v: v.case.bucket.lanes,
    }
    laws = Counter(law for v in verdicts for law, _ in v.failures)
    lines.append("law: " + (", ".join(f"{law} {n}" for law, n in laws.most_common()) or "none"))
    for name, of in views.items():
        if of is None:
            continue
        cases = Counter(of(v) for v in verdicts)
        broken = Counter(of(v) for v in verdicts if v.failures)
        each = (f"{value} {broken[value]}/{cases[value]}" for value, _ in broken.most_common())
        lines.append(f"{name}: " + (", ".join(each) or "none"))
    refused = Counter(v.status for v in verdicts if v.status.startswith("refused"))
    lines += [f"{n} {sentence}" for sentence, n in refused.most_common()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
