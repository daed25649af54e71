"""Builds the kernels as plain shared libraries that torch.ops.load_library loads.

The sources use only the torch stable ABI and no Python C API: one binary serves every Python 3 and
every torch from 2.10 on, so the wheel's tag is py3-none-<platform>.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from torch import __version__ as torch_version
from torch.utils.cpp_extension import BuildExtension, CppExtension

TORCH_TARGET = "0x020a000000000000"  # 2.10, the oldest torch that the binary runs on

CXX_FLAGS = [
    "-std=c++20",
    "-O3",
    "-g0",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
    "-ffp-contract=off",  # the sampled views must have the same bits everywhere
    f"-DTORCH_TARGET_VERSION={TORCH_TARGET}",
]


def sources() -> list[str]:
    return sorted(str(path) for path in Path("csrc").rglob("*.cpp"))


class Build(BuildExtension):
    """torch's ninja build, which says first what it is about to do."""

    def build_extensions(self) -> None:
        print(f"stor_ops: building for {platform.machine()} against torch {torch_version}")
        for extension in self.extensions:
            print(f"  {extension.name}: {' '.join(extension.sources)}")
            print(f"  flags: {' '.join(CXX_FLAGS)}")
        super().build_extensions()


class StableAbiWheel(bdist_wheel):
    """A wheel that any Python 3 may install: it holds no Python extension module."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


os.environ.setdefault("MAX_JOBS", str(min(os.cpu_count() or 1, 8)))
setup(
    ext_modules=[
        CppExtension(
            name="stor_ops._cpu",
            sources=sources(),
            extra_compile_args={"cxx": CXX_FLAGS},
            py_limited_api=True,  # leaves libtorch_python out of the link
        )
    ],
    cmdclass={
        "build_ext": Build.with_options(no_python_abi_suffix=True),
        "bdist_wheel": StableAbiWheel,
    },
)
