"""What nvcc made of every kernel: compiles instances.cu, reads ptxas' report and the disassembly."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = Path(__file__).parent / "instances.cu"
WARP = 32
WIDTHS = (8, 16, 32, 64, 128, 256)

Figures = dict[str, int]


@dataclass(frozen=True)
class Multiprocessor:
    """What one multiprocessor holds: CUDA C++ Programming Guide, "Compute Capabilities"."""

    threads: int
    blocks: int
    shared_bytes: int
    registers: int = 65536
    registers_granted: int = 256  # at a time, to a warp
    shared_granted: int = 128  # at a time, to a block
    shared_reserved: int = 1024  # by the system, for each block

    def blocks_of(self, threads: int, registers: int, shared_bytes: int) -> int:
        """How many blocks of a kernel are resident at once."""
        warps = -(-threads // WARP)
        per_warp = -(-registers * WARP // self.registers_granted) * self.registers_granted
        shared = -(-shared_bytes // self.shared_granted) * self.shared_granted
        return min(
            self.blocks,
            self.threads // (warps * WARP),
            self.registers // (per_warp * warps),
            self.shared_bytes // (shared + self.shared_reserved),
        )


ARCHITECTURES = {
    "sm_80": Multiprocessor(threads=2048, blocks=32, shared_bytes=164 * 1024),
    "sm_90": Multiprocessor(threads=2048, blocks=32, shared_bytes=228 * 1024),
    "sm_100": Multiprocessor(threads=2048, blocks=32, shared_bytes=228 * 1024),
}

# How the C++ ABI writes a template argument.
ARGUMENTS = {"f": "float", "6__half": "float16", "13__nv_bfloat16": "bfloat16", "h": "uint8"}


@cache
def find_nvcc() -> str | None:
    """Return the compiler that setup.py would take."""
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc", path=str(Path(home) / "bin") if home else None)


@cache
def find_disassembler() -> str | None:
    """Return nvdisasm: the one in Triton's wheel, or the toolkit's."""
    folders = []
    triton = find_spec("triton")
    if triton is not None and triton.origin is not None:
        folders.append(Path(triton.origin).parent / "backends" / "nvidia" / "bin")
    if nvcc := find_nvcc():
        folders.append(Path(nvcc).resolve().parent)
    path = os.pathsep.join([*map(str, folders), os.environ.get("PATH", "")])
    return shutil.which("nvdisasm", path=path)


def why_not() -> str | None:
    """What this machine lacks, if anything."""
    if find_nvcc() is None:
        return "there is no nvcc"
    if find_disassembler() is None:
        return "there is no nvdisasm: install triton or a CUDA toolkit"
    return None


def toolkit() -> str:
    """Version of the compiler, for other versions give other figures."""
    text = _run([str(find_nvcc()), "--version"])
    found = re.search(r"V(\d+\.\d+\.\d+)", text)
    return found[1] if found else text


def project_flags() -> list[str]:
    """nvcc's flags as setup.py has them: its assignments are run, not the build."""
    wanted = ("TORCH_TARGET", "DEFINES", "NVCC_FLAGS")
    tree = ast.parse((ROOT / "setup.py").read_text())
    tree.body = [
        node
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in wanted
    ]
    values: dict[str, list[str]] = {}
    exec(compile(tree, "setup.py", "exec"), values)
    return values["NVCC_FLAGS"]


def measure() -> dict[str, dict[str, Figures]]:
    """Figures of every kernel on every architecture."""
    with ThreadPoolExecutor(2) as pool:
        columns = list(pool.map(_measure, ARCHITECTURES))
    kernels = sorted(columns[0])
    by_architecture = dict(zip(ARCHITECTURES, columns, strict=True))
    return {
        kernel: {name: column[kernel] for name, column in by_architecture.items()}
        for kernel in kernels
    }


def _measure(architecture: str) -> dict[str, Figures]:
    with tempfile.TemporaryDirectory() as folder:
        cubin = str(Path(folder) / "instances.cubin")
        report = _run(
            [
                *(str(find_nvcc()), *project_flags(), "--expt-relaxed-constexpr", "-cubin"),
                *(f"-arch={architecture}", f"-I{ROOT / 'csrc'}", "-Xptxas", "-v"),
                *(str(SOURCE), "-o", cubin),
            ]
        )
        code = _run([str(find_disassembler()), "-c", cubin])
    return read_figures(report, code, ARCHITECTURES[architecture])


def read_figures(report: str, code: str, limits: Multiprocessor) -> dict[str, Figures]:
    """Put ptxas' report, the disassembly and the occupancy together, by kernel."""
    facts = re.search(r"launch_factsILi(\d+)ELi(\d+)ELi(\d+)E", report)
    assert facts is not None, report
    shared_bytes, crop_threads, view_threads = map(int, facts.groups())
    figures = {}
    for symbol, part in re.findall(
        r"Compiling entry function '(\w+)'(.*?)(?=Compiling|\Z)", report, re.DOTALL
    ):
        kernel = kernel_name(symbol)
        if kernel is None:
            continue
        of_crop = kernel.startswith("crop_resize")
        threads = crop_threads if of_crop else view_threads
        registers, static = _number(r"Used (\d+) reg", part), _number(r"(\d+) bytes smem", part)
        dynamic = shared_bytes if of_crop else 0
        blocks = limits.blocks_of(threads, registers, static + dynamic)
        figures[kernel] = {
            "registers": registers,
            "spill_bytes": sum(map(int, re.findall(r"(\d+) bytes spill", part))),
            "stack_bytes": _number(r"(\d+) bytes stack", part),
            "static_shared": static,
            "dynamic_shared": dynamic,
            "blocks": blocks,
            "threads": blocks * threads,
            **count_instructions(_function(code, symbol)),
        }
    return figures


def kernel_name(symbol: str) -> str | None:
    """Return "crop_resize_kernel<float>" of a mangled name; None if it is none of the project's."""
    found = re.match(r"_ZN4stor\d+(\w+?_kernel)(?:I(.+?)EE)?", symbol)
    if found is None:
        return None
    return f"{found[1]}<{ARGUMENTS[found[2]]}>" if found[2] else found[1]


def count_instructions(code: str) -> Figures:
    """Count one kernel's instructions: all, local and generic accesses, global ones by their width."""
    opcodes = re.findall(
        r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]+)", code, re.MULTILINE
    )
    count: Counter[str] = Counter()
    for opcode in opcodes:
        name, *modifiers = opcode.split(".")
        if name in ("LDG", "STG"):
            count[f"{'loads' if name == 'LDG' else 'stores'}_{access_width(modifiers)}"] += 1
        elif name in ("LD", "ST"):
            count["generic"] += 1  # the compiler did not know which memory it would be
        elif name in ("LDL", "STL"):
            count["local"] += 1
        elif name == "FFMA":
            count["ffma"] += 1
    names = [f"{way}_{width}" for way in ("loads", "stores") for width in WIDTHS]
    return {
        "instructions": len(opcodes),
        **{name: count[name] for name in ("local", "generic", "ffma", *names)},
    }


def access_width(modifiers: list[str]) -> int:
    """Bits that one thread moves."""
    for modifier in modifiers:
        # .EF, .CONSTANT and their like say other things; ENL2.256 is the widest.
        if found := re.fullmatch(r"[US]?(8|16|64|128|256)", modifier):
            return int(found[1])
    return 32


def _function(code: str, symbol: str) -> str:
    found = re.search(rf"^{symbol}:$(.*?)(?=^//-----|\Z)", code, re.DOTALL | re.MULTILINE)
    assert found is not None, symbol
    return found[1]


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout + done.stderr
