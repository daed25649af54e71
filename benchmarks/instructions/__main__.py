"""Counts the instructions of every job and holds them to the record.

    python -m benchmarks.instructions [--write]     --write records today's counts in counts.json

Needs a C++ compiler, torch's headers and valgrind, whose callgrind knows instruction sets up to AVX2:
what is compiled for AVX-512 comes from the same source and is not counted. A count more than
TOLERANCE above its record is an error; below it, it is time to record the better one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

FILE = Path(__file__).with_name("counts.json")
ROOT = Path(__file__).parents[2]
SOURCES = (
    Path(__file__).with_name("jobs.cpp"),
    *sorted(Path(__file__).with_name("jobs").glob("*.cpp")),
    *(ROOT / "csrc" / kernel for kernel in ("crop_resize/row_kernels.cpp", "info_nce/softmax.cpp")),
)
FLAGS = (
    *("-std=c++20", "-O3", "-g0", "-fvisibility=hidden", "-ffp-contract=off"),
    *("-Wall", "-Wextra", "-Wno-unused-parameter", "-rdynamic"),
)
TOLERANCE = 0.02  # another compiler version may order a few instructions otherwise


def torch_headers() -> Path:
    """Folder of torch's headers, without the time that importing torch takes."""
    torch = find_spec("torch")
    if torch is None or torch.origin is None:
        raise ModuleNotFoundError("torch is not installed")
    return Path(torch.origin).parent / "include"


def build(folder: Path) -> Path:
    """Compile the jobs as setup.py compiles the kernels; return the program."""
    program = folder / "jobs"
    compiler = os.environ.get("CXX", "c++")
    headers = ("-isystem", str(torch_headers()))
    command = [compiler, *FLAGS, *headers, *map(str, SOURCES), "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def count(program: Path, job: str) -> int:
    """Instructions executed inside of one job."""
    command = [
        *("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"),
        *("--collect-atstart=no", "--toggle-collect=measured", str(program), job),
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"Collected : (\d+)", run.stderr)
    if found is None or int(found[1]) == 0:
        raise RuntimeError(f"callgrind counted nothing in {job}: {run.stderr}")
    return int(found[1])


def measure() -> dict[str, int]:
    """Count every job."""
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder))
        listed = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout
        return {job: count(program, job) for job in listed.splitlines()}


def violations(recorded: dict[str, int], counts: dict[str, int]) -> list[str]:
    """Return one line for each job that takes more than its record, or is in one list alone.

    A processor without an instruction set has no jobs for it; those are not missed.
    """
    lines = [f"{job}: not recorded" for job in counts.keys() - recorded.keys()]
    for job, before in recorded.items():
        now = counts.get(job)
        if now is None:
            if not job.endswith(" avx2"):
                lines.append(f"{job}: recorded, but there is no such job")
        elif now > before * (1 + TOLERANCE):
            lines.append(
                f"{job}: {now} instructions, {now / before - 1:+.1%} of the recorded {before}"
            )
    return lines


def main() -> int:
    """Print counts beside the record; return how many jobs violate it."""
    parser = argparse.ArgumentParser(prog="benchmarks.instructions", description=__doc__)
    parser.add_argument("--write", action="store_true", help="record today's counts")
    write = parser.parse_args().write
    if shutil.which("valgrind") is None:
        print("valgrind is not installed: nothing was counted", file=sys.stderr)
        return 1
    counts = measure()
    if write:
        FILE.write_text(json.dumps(counts, indent=1, sort_keys=True) + "\n")
    recorded: dict[str, int] = json.loads(FILE.read_text())
    for job, now in counts.items():
        before = recorded.get(job)
        print(f"{job:50} {now:>10}" + (f" {now / before - 1:+7.1%}" if before else ""))
    broken = violations(recorded, counts)
    print("\n".join(broken), file=sys.stderr)
    return len(broken)


if __name__ == "__main__":
    sys.exit(main())
