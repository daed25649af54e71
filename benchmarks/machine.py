"""What a result was measured on: processor, threads, versions. Never the name of the host."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "stor_ops",
    "torch",
    "torchvision",
    "numpy",
    "pytest-benchmark",
    "opencv-python-headless",
    "pillow",
    "kornia",
    "nvidia-dali-cuda130",
    "pytorch-metric-learning",
    "lightly",
)


def cpu_model() -> str:
    """Name of the processor as the kernel has it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def slug(cpus: int) -> str:
    """Name of the folder of this machine's results."""
    words = re.sub(r"\((r|tm)\)|@.*", "", cpu_model().lower())
    return "-".join(re.findall(r"[a-z0-9]+", words)) + f"-{cpus}-cores"


def versions() -> dict[str, str]:
    """Versions of all packages that take part; those that are not installed say so."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _governor() -> str:
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return path.read_text().strip() if path.exists() else "not visible"


def _commit() -> str:
    """Commit of the working tree, marked where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--match="]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _library() -> str:
    path = ROOT / "stor_ops" / "_cpu.so"
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.exists() else "not built"


class Disturbance:
    """How busy others kept the processors while some processes were timed."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._own = dict.fromkeys([*pids, os.getpid()], 0)
        self._begin = self._ticks()

    def _ticks(self) -> tuple[int, int, int]:
        """All ticks, the busy ones of them, and those of the processes themselves."""
        line = Path("/proc/stat").read_text().splitlines()[0]
        ticks = [int(word) for word in line.split()[1:9]]
        _user, _nice, _system, idle, waiting, *_ = ticks
        for pid in self._own:
            with suppress(FileNotFoundError):  # it died, and used no more than it had
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                self._own[pid] = int(fields[11]) + int(fields[12])
        return sum(ticks), sum(ticks) - idle - waiting, sum(self._own.values())

    def share(self) -> float:
        """Return the share of all processor time since the beginning that others used."""
        total, busy, own = (
            now - then for now, then in zip(self._ticks(), self._begin, strict=True)
        )
        return max(busy - own, 0) / max(total, 1)


def describe(cpus: Sequence[int]) -> dict[str, Any]:
    """Return all that a reader needs to judge or repeat a result."""
    import torch

    return {
        "cpu": cpu_model(),
        "architecture": platform.machine(),
        "cpus_pinned": list(cpus),
        "cpus_online": os.cpu_count(),
        "threads": len(cpus),
        "governor": _governor(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "stor_ops_isa": os.environ.get("STOR_OPS_ISA", "") or "the processor's best",
        "commit": _commit(),
        "cpu_library_sha256": _library(),
        "versions": versions(),
    }
