"""Result files of a suite: JSON (everything), CSV (a line per contender and case), Markdown (tables).

python -m benchmarks.report RESULT.json     writes tables and plots again from the JSON
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .suite import Record, Suite, Target, load_suite

Result = dict[str, Any]
QUIET = 0.05  # share of the processors that others may use before a table says that it is not to be trusted

COLUMNS = (
    "suite",
    "case",
    "contender",
    "status",
    "median_s",
    "q1_s",
    "q3_s",
    "min_s",
    "max_s",
    "rounds",
    "threads",
    "way",
    "peak_growth_mib",
    "differences",
    "differs",
    "why",
)


def write(result: Result, folder: Path) -> list[Path]:
    """Write all files of a result; return their paths."""
    from .plots import plot

    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / result["suite"]
    paths = [stem.with_suffix(ending) for ending in (".json", ".csv", ".md")]
    paths[0].write_text(json.dumps(result, indent=1) + "\n")
    with paths[1].open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for record in result["records"]:
            measures = json.dumps(record.get("differences", {}))
            rounds = len(record.get("seconds", ()))
            writer.writerow({**record, "differences": measures, "rounds": rounds})
    plots = plot(result, folder)
    paths[2].write_text(markdown(result, plots))
    return [*paths, *plots]


def markdown(result: Result, plots: Sequence[Path] = ()) -> str:
    """Return the report: targets, a table for each case, how and on what it was measured."""
    suite = load_suite(result["suite"])
    lines = [f"# {suite.title}", ""]
    if result["quick"]:
        lines += [
            "**Quick run: small sizes, few rounds. It shows that the suite works, no speed.**",
            "",
        ]
    lines += _targets(result["targets"])
    for path in plots:
        lines += [f"![{path.stem}]({path.name})", ""]
    for name in dict.fromkeys(record["case"] for record in result["records"]):
        records = [record for record in result["records"] if record["case"] == name]
        lines += _table(suite, name, records)
    lines += ["## How it was measured", "", suite.method, "", HOW, ""]
    return "\n".join([*lines, *_machine(result)]) + "\n"


HOW = """\
Each contender of a case has a process of its own, all pinned to the same cores and alive at once. After
imports and a tiny call, its first call at full size is the one whose memory is measured and whose outputs
are checked; a contender outside its tolerance is not timed. Then they take turns in shuffled order, a few
calls each, timed by pytest-benchmark (pedantic rounds, garbage collection off); calls of less than half a
second are preceded by an untimed one in each turn. "Error" is that difference from the float64
reference which is nearest to its tolerance; all are in the JSON. "Time" is median [lower to upper
quartile]."""


def _targets(targets: Sequence[dict[str, Any]]) -> list[str]:
    if not targets:
        return []
    word = {True: "pass", False: "**miss**", None: "-"}
    rows = [[target["text"], target["reached"], word[target["passed"]]] for target in targets]
    return [*_rows(["Target", "Reached", ""], rows), ""]


def _table(suite: Suite, name: str, records: Sequence[Record]) -> list[str]:
    units = list(dict.fromkeys(unit for record in records for unit in record["work"]))
    own = next(
        (r["median_s"] for r in records if r["contender"] == suite.ours and r["status"] == "ok"),
        None,
    )
    heads = ["Contender", "Time, ms", "x ours", *(_rate_head(unit) for unit in units)]
    heads += ["Peak growth, MiB", "Error", "Way", "What it does differently"]
    rows = []
    for record in records:
        if record["status"] != "ok":
            note = f"{record['status']}: {record['why']}"
            rows.append([record["contender"], *["-"] * (len(heads) - 2), note.replace("|", "/")])
            continue
        median, lower, upper = (1e3 * record[key] for key in ("median_s", "q1_s", "q3_s"))
        growth = record["peak_growth_mib"]
        allowed, errors = record["allowed"], record["differences"]
        worst = max(allowed, key=lambda key: errors[key] / allowed[key]) if allowed else ""
        rows.append(
            [
                record["contender"],
                f"{median:.4g} [{lower:.4g} to {upper:.4g}]",
                f"{record['median_s'] / own:.2f}" if own else "-",
                *(_rate(unit, record["work"].get(unit), record["median_s"]) for unit in units),
                "-" if growth is None else f"{growth:.1f}",
                f"{errors[worst]:.2g} {worst.replace('_', ' ')}" if allowed else "not checked",
                record["way"] or "-",
                record["differs"],
            ]
        )
    busy = records[0]["others_cpu_share"]
    note = f"Other programs used {100 * busy:.1f} % of the processors during the timed rounds."
    if busy > QUIET:
        note = f"**Not a quiet machine.** {note}"
    return [f"## {name}", "", *_rows(heads, rows), "", note, ""]


def _rate_head(unit: str) -> str:
    return f"ns / {unit}" if unit.endswith("pixel") else f"G {unit} / s"


def _rate(unit: str, amount: float | None, seconds: float) -> str:
    if amount is None:
        return "-"
    rate = seconds / amount if unit.endswith("pixel") else amount / seconds / 1e18
    return f"{1e9 * rate:.4g}"


def _rows(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    table = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(row) + " |" for row in table]


def _machine(result: Result) -> list[str]:
    facts = dict(result["machine"])
    versions = facts.pop("versions")
    rows = [[key.replace("_", " "), str(value)] for key, value in facts.items()]
    rows.append(["begun", f"{result['begun']} UTC, load average {result['load_average']}"])
    rows.append(["versions", ", ".join(f"{name} {version}" for name, version in versions.items())])
    return ["## On what", "", *_rows(["", ""], rows)]


def verdicts(targets: Sequence[Target]) -> list[dict[str, Any]]:
    """Return targets as they stand in the JSON."""
    return [{"text": t.text, "reached": t.reached, "passed": t.passed} for t in targets]


if __name__ == "__main__":
    for name in sys.argv[1:]:
        source = Path(name)
        for written in write(json.loads(source.read_text()), source.parent):
            print(written)
