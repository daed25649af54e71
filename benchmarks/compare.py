"""Shows two result files of one suite side by side and marks what changed beyond noise.

python -m benchmarks.compare OLD.json NEW.json [--threshold 0.05]

A time has changed if the quartile ranges lie apart (the whole ranges, if there are fewer than 8 rounds) and
the medians differ by more than the threshold; a peak by more than the threshold and a MiB. Exit status 1
if something of ours became slower or larger, or is not "ok" any more.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .suite import Record

OURS = "stor_ops"
FEW = 8  # rounds; quartiles of fewer lie too close together to speak of noise


def changed_time(old: Record, new: Record, threshold: float) -> int:
    """1 slower, -1 faster, 0 within noise."""
    few = min(len(old["seconds"]), len(new["seconds"])) < FEW
    low, high = ("min_s", "max_s") if few else ("q1_s", "q3_s")
    ratio = new["median_s"] / old["median_s"]
    if new[low] > old[high] and ratio > 1 + threshold:
        return 1
    if new[high] < old[low] and ratio < 1 / (1 + threshold):
        return -1
    return 0


def changed_memory(old: Record, new: Record, threshold: float) -> int:
    """1 larger, -1 smaller, 0 within noise."""
    before, after = old["peak_growth_mib"], new["peak_growth_mib"]
    if before is None or after is None or abs(after - before) <= max(1.0, threshold * before):
        return 0
    return 1 if after > before else -1


def compare(old: dict[str, Any], new: dict[str, Any], threshold: float) -> tuple[list[str], bool]:
    """Lines to print, and whether something of ours got worse."""
    lines, worse = _differing_facts(old, new), False
    before = {(r["case"], r["contender"]): r for r in old["records"]}
    after = {(r["case"], r["contender"]): r for r in new["records"]}
    width = max((len(name) for _, name in [*before, *after]), default=0)
    case = ""
    for key in dict.fromkeys([*before, *after]):
        if key[0] != case:
            case = key[0]
            lines += ["", case]
        line, bad = _line(before.get(key), after.get(key), threshold)
        lines.append(f"  {key[1]:{width}}  {line}")
        worse |= bad and key[1].startswith(OURS)
    return lines, worse


def _line(old: Record | None, new: Record | None, threshold: float) -> tuple[str, bool]:
    if old is None or new is None:
        return ("only in the new file" if old is None else "only in the old file"), False
    if old["status"] != "ok" or new["status"] != "ok":
        return f"{old['status']} -> {new['status']}", old["status"] == "ok"
    time, memory = changed_time(old, new, threshold), changed_memory(old, new, threshold)
    text = f"{_time(old)} -> {_time(new)}  x {new['median_s'] / old['median_s']:.2f} "
    text += {1: "SLOWER", -1: "faster", 0: "      "}[time]
    if None not in (old["peak_growth_mib"], new["peak_growth_mib"]):
        text += f"  {old['peak_growth_mib']:8.1f} -> {new['peak_growth_mib']:8.1f} MiB "
        text += {1: "LARGER", -1: "smaller", 0: ""}[memory]
    return text.rstrip(), time > 0 or memory > 0


def _time(record: Record) -> str:
    median, lower, upper = (1e3 * record[key] for key in ("median_s", "q1_s", "q3_s"))
    return f"{median:9.2f} ms [{lower:.2f} to {upper:.2f}]".ljust(36)


def _differing_facts(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Whatever else differs between the two runs; on two machines times say little."""

    def facts(result: dict[str, Any]) -> dict[str, Any]:
        machine = result["machine"]
        return {**machine, **machine["versions"], "versions": "", "quick": result["quick"]}

    before, after = facts(old), facts(new)
    return [
        f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Read both files and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--threshold", type=float, default=0.05, help="share of the old median")
    options = parser.parse_args(arguments)
    old, new = (json.loads(path.read_text()) for path in (options.old, options.new))
    if old["suite"] != new["suite"]:
        parser.error(f"expected one suite, got {old['suite']} and {new['suite']}")
    lines, worse = compare(old, new, options.threshold)
    print("\n".join(lines))
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
