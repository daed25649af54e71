"""Holds every kernel to its budget of registers, spills, local memory and access widths.

    python -m benchmarks.kernels.budgets [--write]     --write records today's figures in budgets.json

Needs nvcc, a disassembler and Triton, no GPU. budgets.json has, by hand, the limits of each kernel
("at_most", "at_least"; a number, or one for each architecture) and, by --write, the figures of each
instantiation. A figure past its limit is an error; one that differs from the record is printed.

registers, spill_bytes, stack_bytes, static_shared   as ptxas reports them
dynamic_shared     sizeof(CropShared) for crop_resize, which its launcher asks for
blocks, threads    resident on a multiprocessor, by its registers, shared memory, threads and blocks
                   (compiler.ARCHITECTURES)
instructions, ffma, local, generic, loads_8 ... stores_256   in the code, not as often as executed:
                   local is LDL and STL; generic LD and ST, whose memory the compiler did not know; loads
                   and stores are LDG and STG by the bits that a thread moves.

Why these limits: 80 registers are what 3 blocks of 256 threads may have (65536 / 768 = 85, granted in
steps of 8), and 3 crop_resize blocks are what the shared memory of sm_90 and sm_100 holds; on sm_80 it
holds 2. Clips must go out in 16-byte words and uint8 sources come in 4 bytes at a time, both through
instructions that know that their memory is global. The Triton kernels (triton_kernels.py) may use all
registers, for their sums live there, but spill none.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import compiler, triton_kernels
from .compiler import Figures

FILE = Path(__file__).parent / "budgets.json"

Table = dict[str, dict[str, Figures]]
SHOWN = ("registers", "spill_bytes", "stack_bytes", "local", "generic", "blocks", "threads")


def bound_for(bound: Any, architecture: str) -> int | None:
    """A limit is a number, or a table with one for some architectures."""
    value = bound.get(architecture) if isinstance(bound, dict) else bound
    return None if value is None else int(value)


def violations(limits: dict[str, Any], table: Table) -> list[str]:
    """Return one line for each figure that is past its limit, or that has no limits at all."""
    lines = []
    for kernel, rows in table.items():
        family = kernel.split("<")[0]
        if family not in limits:
            lines.append(f"{kernel}: no limits for {family} in {FILE.name}")
            continue
        for architecture, figures in rows.items():
            for sense, sign in (("at_most", 1), ("at_least", -1)):
                for figure, bound in limits[family].get(sense, {}).items():
                    value = bound_for(bound, architecture)
                    if value is not None and sign * figures[figure] > sign * value:
                        words = sense.replace("_", " ")
                        lines.append(
                            f"{kernel} on {architecture}: {figure} is {figures[figure]}, "
                            f"the limit is {words} {value}"
                        )
    families = {kernel.split("<")[0] for kernel in table}
    lines += [
        f"{family}: limits for a kernel that is not there" for family in limits.keys() - families
    ]
    return lines


def differences(recorded: Table, table: Table) -> list[str]:
    """Return one line for each kernel and architecture whose figures are not the recorded ones."""
    lines = []
    for kernel in sorted(recorded.keys() | table.keys()):
        before, now = recorded.get(kernel, {}), table.get(kernel, {})
        for architecture in sorted(before.keys() | now.keys()):
            old, new = before.get(architecture, {}), now.get(architecture, {})
            if not old or not new:
                lines.append(f"{kernel} on {architecture}: {'gone' if old else 'not recorded'}")
                continue
            changes = [
                f"{key} {old.get(key)} -> {new[key]}" for key in new if old.get(key) != new[key]
            ]
            if changes:
                lines.append(f"{kernel} on {architecture}: {', '.join(changes)}")
    return lines


def widths(figures: Figures, way: str) -> str:
    """Return "32:24 64:10": how many accesses of each width."""
    counts = {width: figures[f"{way}_{width}"] for width in compiler.WIDTHS}
    return " ".join(f"{width}:{count}" for width, count in counts.items() if count) or "-"


def show(table: Table) -> str:
    """Lay all kernels out as text."""
    heads = ("kernel", "arch", *SHOWN, "ffma", "loads", "stores")
    rows: list[tuple[str, ...]] = [heads]
    for kernel, by_architecture in table.items():
        for architecture, figures in by_architecture.items():
            shown = (str(figures[name]) for name in (*SHOWN, "ffma"))
            accesses = (widths(figures, way) for way in ("loads", "stores"))
            rows.append((kernel, architecture, *shown, *accesses))
    columns = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, columns, strict=True)).rstrip()
        for row in rows
    )


def write(budgets: dict[str, Any], table: Table) -> None:
    """Keep the limits, replace the figures; one line for a kernel on an architecture."""
    content = {
        "toolkit": compiler.toolkit(),
        "triton": triton_kernels.version(),
        "limits": budgets["limits"],
        "kernels": table,
    }
    text = json.dumps(content, indent=1)
    innermost = re.compile(r"\{[^{}]*\}")
    text = innermost.sub(lambda found: re.sub(r"\s+", " ", found[0]), text)
    FILE.write_text(text + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, compare and print; 1 if a limit is passed."""
    parser = argparse.ArgumentParser(description="Compiler budgets of all GPU kernels.")
    parser.add_argument("--write", action="store_true", help=f"record the figures in {FILE.name}")
    options = parser.parse_args(arguments)
    if reason := triton_kernels.why_not():
        raise SystemExit(f"budgets: {reason}")
    budgets = json.loads(FILE.read_text())
    table = compiler.measure() | triton_kernels.measure()
    print(f"nvcc {compiler.toolkit()}, {' '.join(compiler.project_flags())}")
    print(f"Triton {triton_kernels.version()}")
    for name, holds in compiler.ARCHITECTURES.items():
        print(
            f"a multiprocessor of {name}: {holds.registers} registers, {holds.shared_bytes} bytes of "
            f"shared memory, {holds.threads} threads, {holds.blocks} blocks"
        )
    print(show(table))
    if changed := differences(budgets["kernels"], table):
        written = f"nvcc {budgets['toolkit']} and Triton {budgets.get('triton')}"
        print(f"Differences from {FILE.name}, written with {written}:")
        print(*changed, sep="\n")
    exceeded = violations(budgets["limits"], table)
    print(*(f"over budget: {line}" for line in exceeded), sep="\n")
    if options.write:
        write(budgets, table)
    return 1 if exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
