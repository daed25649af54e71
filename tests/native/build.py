"""Compiles module.cpp with g++ and imports it; no torch is involved."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType

import pybind11

NAME = "stor_native"


def load(folder: Path) -> ModuleType:
    """Build the extension into ``folder`` and return it."""
    library = folder / f"{NAME}{sysconfig.get_config_var('EXT_SUFFIX')}"
    command = [
        *(os.environ.get("CXX", "c++"), "-std=c++20", "-O0", "-shared", "-fPIC"),
        *("-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"),
        *(f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"),
        *(str(Path(__file__).with_name("module.cpp")), "-o", str(library)),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)
    spec = importlib.util.spec_from_file_location(NAME, library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
