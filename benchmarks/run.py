"""Runs benchmark suites and writes their results.

python -m benchmarks.run                         every suite, in full, on an otherwise idle machine
python -m benchmarks.run info_nce --cases 8192   one suite, only the cases whose name has this in it
python -m benchmarks.run --quick --out FOLDER    small sizes, two rounds: whether the suite works

Results go to benchmarks/results/<processor>-<cores>-cores/<suite>.json, .csv, .md and .png.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import machine, report, ring
from .suite import SUITES, Case, Lookup, Record, Suite, load_suite

RESULTS = Path(__file__).parent / "results"


def run_suite(
    suite: Suite, cases: Sequence[Case], only: Sequence[str], cpus: Sequence[int], *, quick: bool
) -> dict[str, Any]:
    """Run cases one after another, saying how each went; return the result."""
    begun = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    load = f"{os.getloadavg()[0]:.2f}"
    records: list[Record] = []
    for case in cases:
        start = time.monotonic()
        wanted = [name for name in case.contenders if not only or any(o in name for o in only)]
        contenders = [suite.contender(name) for name in wanted]
        print(f"== {suite.name}: {case.name}", flush=True)
        found = ring.run_case(suite, case, contenders, cpus, quick=quick)
        for record in found:
            print(f"   {record['contender']:28} {_summary(record)}")
        busy = found[0]["others_cpu_share"] if found else 0.0
        others = f"others used {100 * busy:.1f} % of the processors"
        print(f"   took {time.monotonic() - start:.0f} s; {others}", flush=True)
        records += found
    targets = [] if quick else suite.targets(Lookup(records))
    return {
        "suite": suite.name,
        "quick": quick,
        "begun": begun,
        "load_average": load,
        "machine": machine.describe(cpus),
        "targets": report.verdicts(targets),
        "records": records,
    }


def _summary(record: Record) -> str:
    if record["status"] != "ok":
        return f"{record['status']}: {record['why']}"
    growth = record["peak_growth_mib"]
    memory = "memory unknown" if growth is None else f"{growth:9.1f} MiB"
    lower, upper = 1e3 * record["q1_s"], 1e3 * record["q3_s"]
    spread = f"[{lower:.2f} to {upper:.2f}]"
    return f"{1e3 * record['median_s']:10.2f} ms {spread:24} {memory}  {record['way']}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, write. Exit status 1 if a contender failed or computed something wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}")
    parser.add_argument(
        "--cases", default="", help="only cases whose name has this regular expression"
    )
    parser.add_argument("--only", action="append", default=[], help="only contenders like this")
    parser.add_argument("--threads", type=int, help="of those that this process may use")
    parser.add_argument("--quick", action="store_true", help="small sizes, two rounds")
    parser.add_argument("--out", type=Path, help="folder of the results")
    options = parser.parse_args(arguments)
    if unknown := set(options.suites) - set(SUITES):
        parser.error(f"expected suites of {', '.join(SUITES)}, got {', '.join(sorted(unknown))}")
    cpus = sorted(os.sched_getaffinity(0))[: options.threads]
    folder = options.out or RESULTS / machine.slug(len(cpus))
    if options.quick and options.out is None:
        parser.error("--quick: expected --out, so that it does not replace a real result")

    failed = False
    for name in options.suites or SUITES:
        suite = load_suite(name)
        cases = [case for case in suite.cases(options.quick) if re.search(options.cases, case.name)]
        result = run_suite(suite, cases, options.only, cpus, quick=options.quick)
        for path in report.write(result, folder):
            print(f"wrote {path}")
        for target in result["targets"]:
            word = {True: "pass", False: "MISS", None: "-"}[target["passed"]]
            print(f"{word:5} {target['text']}: {target['reached']}")
        failed |= any(record["status"] in ("failed", "wrong") for record in result["records"])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
