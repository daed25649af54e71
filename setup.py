"""Builds the kernels as plain shared libraries that torch.ops.load_library loads.

The sources use only the torch stable ABI and no Python C API: one binary serves every Python 3 and
every torch from 2.10 on, so the wheel's tag is py3-none-<platform>.

Environment:
    STOR_OPS_CUDA         1 builds the CUDA library or fails, 0 leaves it out; by default it is built
                          where torch has CUDA and nvcc is there. A GPU is not asked for.
    TORCH_CUDA_ARCH_LIST  architectures, as for torch; the default is below.
    MAX_JOBS              compilers at a time.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import torch
from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel

TORCH_TARGET = "0x020a000000000000"  # 2.10, the oldest torch that the binary runs on
ARCHITECTURES = "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"


def find_cuda() -> str | None:
    """Folder of the CUDA toolkit whose nvcc is on the path; nvcc itself says where that is.

    The program on the path may be a link or a script in a folder that holds no toolkit.
    """
    if home := os.environ.get("CUDA_HOME"):
        return home
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return None
    steps = subprocess.run([nvcc, "--dryrun", "-E", "x.cu"], capture_output=True, text=True)
    found = re.search(r"TOP=(\S+)", steps.stderr)
    return str(Path(found[1]).resolve()) if found else None


def wants_cuda() -> bool:
    """Whether the CUDA library is to be built; an impossible demand is an error."""
    switch = os.environ.get("STOR_OPS_CUDA", "auto")
    if switch not in ("0", "1", "auto"):
        raise SystemExit(f"STOR_OPS_CUDA: expected 0 or 1, got {switch}")
    lacking = [
        reason
        for reason, holds in {
            f"torch {torch.__version__} has no CUDA": torch.version.cuda is None,
            "there is no nvcc": find_cuda() is None,
        }.items()
        if holds
    ]
    if switch == "1" and lacking:
        raise SystemExit(f"STOR_OPS_CUDA=1, but {' and '.join(lacking)}")
    if switch == "auto" and lacking:
        print(f"stor_ops: no CUDA library, since {' and '.join(lacking)}")
    return switch != "0" and not lacking


CUDA = wants_cuda()
if CUDA:
    # Before cpp_extension is imported: it looks for the toolkit once, then.
    os.environ["CUDA_HOME"] = str(find_cuda())
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ARCHITECTURES)
os.environ.setdefault("MAX_JOBS", str(min(os.cpu_count() or 1, 8)))

from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension  # noqa: E402

DEFINES = [f"-DTORCH_TARGET_VERSION={TORCH_TARGET}"]
CXX_FLAGS = [
    *(
        "-std=c++20",
        "-O3",
        "-g0",
        "-fvisibility=hidden",
        "-Wall",
        "-Wextra",
        "-Wno-unused-parameter",
    ),
    "-ffp-contract=off",  # the sampled views must have the same bits everywhere
    *DEFINES,
]
NVCC_FLAGS = ["-std=c++20", "-O3", "-fmad=false", "-DUSE_CUDA", *DEFINES]


def sources(suffix: str) -> list[str]:
    return sorted(str(path) for path in Path("csrc").rglob(f"*{suffix}"))


def extensions() -> list[Extension]:
    # py_limited_api leaves libtorch_python out of the link.
    cpu = CppExtension(
        name="stor_ops._cpu",
        sources=sources(".cpp"),
        extra_compile_args={"cxx": CXX_FLAGS},
        py_limited_api=True,
    )
    if not CUDA:
        return [cpu]
    cuda = CUDAExtension(
        name="stor_ops._cuda",
        sources=sources(".cu"),
        extra_compile_args={"cxx": [*CXX_FLAGS, "-DUSE_CUDA"], "nvcc": NVCC_FLAGS},
        py_limited_api=True,
    )
    return [cpu, cuda]


class Build(BuildExtension):
    """torch's ninja build, which says first what it is about to do."""

    def build_extensions(self) -> None:
        print(f"stor_ops: building for {platform.machine()} against torch {torch.__version__}")
        for extension in self.extensions:
            print(f"stor_ops: {extension.name} from {' '.join(extension.sources)}")
        print(f"stor_ops: C++ flags {' '.join(CXX_FLAGS)}")
        if CUDA:
            print(f"stor_ops: nvcc flags {' '.join(NVCC_FLAGS)}, toolkit {os.environ['CUDA_HOME']}")
            print(f"stor_ops: architectures {os.environ['TORCH_CUDA_ARCH_LIST']}")
        super().build_extensions()


class StableAbiWheel(bdist_wheel):
    """A wheel that any Python 3 may install: it holds no Python extension module."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=extensions(),
    cmdclass={
        "build_ext": Build.with_options(no_python_abi_suffix=True),
        "bdist_wheel": StableAbiWheel,
    },
)
