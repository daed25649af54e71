"""Compiles a binding of emulated CUDA kernels and runs Python code on it, plain or under sanitizers.

A binding is a C++ file that defines the pybind11 module of its own name, as planted_module.cpp does.
    plain  -O2, imported into this process: kernels = load(source)
    asan   AddressSanitizer and UndefinedBehaviorSanitizer; any finding ends the process
    tsan   ThreadSanitizer: slow, thousands of CUDA threads a second; findings are printed
The sanitized flavours need a process with their library loaded first: run_sanitized(flavour, source, code).
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FOLDER = ROOT / "build" / "emulator"
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
COMPILER = "g++"

FLAVOURS = {
    "plain": ["-O2"],
    "asan": [
        *("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
        "-fno-sanitize=vptr",  # kernels have no virtual functions, and the build takes longer
    ],
    "tsan": ["-O1", "-fsanitize=thread"],
}
PRELOADS = {"asan": ["libasan.so", "libubsan.so", "libstdc++.so"], "tsan": ["libtsan.so"]}
# ThreadSanitizer wants memory where it expects it; newer kernels randomise addresses more than it knows.
FIXED_ADDRESSES = ["setarch", "-R"]
ENVIRONMENT = {
    "asan": {
        "ASAN_OPTIONS": "detect_leaks=0",  # Python itself never frees everything
        "UBSAN_OPTIONS": "print_stacktrace=1",
    },
    "tsan": {"TSAN_OPTIONS": "exitcode=66"},
}


@functools.cache
def cuda_include() -> Path | None:
    """Where CUDA's vector and half types are declared: in Triton's wheel, or in a toolkit."""
    folders = []
    try:
        triton = distribution("triton").locate_file("triton")
        folders.append(Path(str(triton)) / "backends" / "nvidia" / "include")
    except PackageNotFoundError:
        pass
    if nvcc := shutil.which("nvcc"):
        folders.append(Path(nvcc).resolve().parents[1] / "include")
    for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        if home:
            folders.append(Path(home) / "include")
    needed = ("cuda_fp16.h", "cuda_bf16.h", "crt/host_defines.h")
    for folder in folders:
        if all((folder / name).exists() for name in needed):
            return folder
    return None


@functools.cache
def why_not(flavour: str = "plain") -> str | None:
    """What this machine lacks to run a flavour of the emulator, if anything."""
    if platform.machine() != "x86_64" or sys.platform != "linux":
        return "the emulator switches stacks on x86-64 Linux only"
    if shutil.which(COMPILER) is None:
        return f"the emulator needs {COMPILER}"
    if cuda_include() is None:
        return "the emulator needs CUDA's headers: install triton or a CUDA toolkit"
    for name in PRELOADS.get(flavour, ()):
        if not _runtime_library(name).exists():
            return f"{COMPILER} has no {name}"
    if flavour == "tsan" and subprocess.run([*FIXED_ADDRESSES, "true"], check=False).returncode:
        return f"ThreadSanitizer needs {shlex.join(FIXED_ADDRESSES)}, which fails here"
    return None


def build(source: Path, flavour: str = "plain") -> Path:
    """Compile, unless nothing that the file includes has changed; returns the module's path."""
    source = source.resolve()
    folder = FOLDER / f"{source.stem}-{flavour}"
    library = folder / f"{source.stem}{SUFFIX}"
    dependencies, stamp = folder / "dependencies.d", folder / "stamp"
    command = _compile_command(source, flavour)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "lock"):
        current = stamp.read_text() if stamp.exists() and library.exists() else None
        if current is None or current != _digest(command, dependencies):
            stamp.unlink(missing_ok=True)
            partial = library.with_suffix(".partial")
            full = [*command, "-MMD", "-MF", str(dependencies), "-MT", "x", "-o", str(partial)]
            done = subprocess.run(full, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise RuntimeError(f"{shlex.join(full)}\n{done.stderr}")
            partial.replace(library)
            stamp.write_text(_digest(command, dependencies))
    return library


def load(source: Path) -> ModuleType:
    """Build the plain flavour and import it into this process."""
    spec = importlib.util.spec_from_file_location(source.stem, build(source))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_sanitized(
    flavour: str, source: Path, code: str | Path, *arguments: str, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run Python code (text, or the path of a script) in a process under the flavour's sanitizers.

    The module is there to import by its name. All output, the sanitizers' too, is in ``stdout``;
    ``returncode`` is 0 only if the code ran to its end and no sanitizer had anything to say.
    """
    library = build(source, flavour)
    script = ["-c", textwrap.dedent(code)] if isinstance(code, str) else [str(code)]
    path = [str(library.parent), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        **ENVIRONMENT[flavour],
        "LD_PRELOAD": " ".join(str(_runtime_library(name)) for name in PRELOADS[flavour]),
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "PYTHONMALLOC": "malloc",  # small objects too get a block, and redzones, of their own
        "OPENBLAS_NUM_THREADS": "1",
    }
    return subprocess.run(
        [*(FIXED_ADDRESSES if flavour == "tsan" else []), sys.executable, *script, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )


def _compile_command(source: Path, flavour: str) -> list[str]:
    import pybind11

    return [
        *(COMPILER, "-std=c++20", "-x", "c++", "-g1", "-shared", "-fPIC", "-DSTOR_EMULATOR"),
        # Two modules in one process share nothing: each has its own emulator.
        *("-fvisibility=hidden", "-fdata-sections", "-ffp-contract=off"),
        *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),  # #pragma unroll
        *FLAVOURS[flavour],
        *(f"-I{ROOT / 'csrc'}", f"-I{HERE}"),
        *("-isystem", str(HERE / "cuda_headers"), "-isystem", str(cuda_include())),
        *("-isystem", pybind11.get_include(), "-isystem", sysconfig.get_paths()["include"]),
        str(source),
        f"-Wl,-T,{HERE / 'static_shared.ld'}",
    ]


def _digest(command: list[str], dependencies: Path) -> str:
    """Of the command and the contents of all that the last build read, but for system headers."""
    digest = hashlib.sha256(shlex.join(command).encode())
    names = dependencies.read_text().replace("\\\n", " ").split()[1:]
    for name in [*names, str(HERE / "static_shared.ld")]:
        path = Path(name)
        digest.update(path.read_bytes() if path.exists() else b"gone")
    return digest.hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Only one process at a time: pytest-xdist's workers want the same modules."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@functools.cache
def _runtime_library(name: str) -> Path:
    command = [COMPILER, f"-print-file-name={name}"]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return Path(found).resolve()
