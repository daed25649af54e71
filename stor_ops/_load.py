"""Loads the compiled libraries, and says what to do where one is missing or broken.

``import stor_ops`` never fails for want of a binary: the first call of an op does, with the remedy.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

_Fake = TypeVar("_Fake", bound=Callable[..., Any])

CPU_LIBRARY = Path(__file__).with_name("_cpu.so")
CUDA_LIBRARY = Path(__file__).with_name("_cuda.so")
REMEDY = (
    "rebuild it with `pip install --force-reinstall --no-deps stor_ops`, or in a checkout "
    "`pip install --no-build-isolation -e .`; `python -m stor_ops.info` shows what is there"
)


def _load(library: Path) -> str | None:
    """Return why ``library`` cannot be used, or None once its ops are registered."""
    if not library.exists():
        return f"{library.name} is not in {library.parent}: the package was not built here"
    if _is_cut_short(library):
        return f"{library.name} in {library.parent} is cut short"
    try:
        torch.ops.load_library(library)
    except (OSError, RuntimeError) as error:
        # torch says only that it could not; the cause has the loader's own words.
        return f"{library.name} does not load under torch {torch.__version__}: {error.__cause__ or error}"
    return None


def _is_cut_short(library: Path) -> bool:
    """Whether an ELF file ends before its section table: the loader would crash on its missing pages."""
    with library.open("rb") as file:
        header = file.read(64)
    if header[:5] != b"\x7fELF\x02" or len(header) < 64:
        return False  # not 64-bit ELF; if it is nothing at all, the loader says so
    section_table: int = struct.unpack_from("<Q", header, 0x28)[0]
    entry_size: int
    entries: int
    entry_size, entries = struct.unpack_from("<HH", header, 0x3A)
    return library.stat().st_size < section_table + entry_size * entries


def _load_cuda() -> str | None:
    """Return why the CUDA library cannot be used; it needs the schemas of the other one."""
    if LOAD_ERROR is not None:
        return "it needs the CPU library"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} has no CUDA"
    return _load(CUDA_LIBRARY)


LOAD_ERROR = _load(CPU_LIBRARY)
CUDA_ERROR = _load_cuda()
DEVICE_TYPES = frozenset({"cpu", "meta"} | ({"cuda"} if CUDA_ERROR is None else set()))
"""Device types that the loaded libraries have kernels for, and meta for shapes alone."""


def require(op: str, device: torch.device | None = None) -> None:
    """Raise unless ``op`` can run, on ``device`` if its kernels are compiled for one kind each.

    Raises:
        RuntimeError: there is no usable binary.
        ValueError: the binary has no kernel for this kind of device.

    """
    if LOAD_ERROR is not None:
        raise RuntimeError(
            f"{op}: the compiled library of stor_ops is unusable: {LOAD_ERROR}. {REMEDY}"
        )
    if device is not None and device.type not in DEVICE_TYPES:
        raise ValueError(
            f"{op}: expected tensors on one of {sorted(DEVICE_TYPES)}, got {device}: "
            f"no kernel is loaded for it (CUDA: {CUDA_ERROR or 'loaded'})"
        )


def register_fake(op: str) -> Callable[[_Fake], _Fake]:
    """Decorate the shape function of ``stor_ops::op``; without a binary there is nothing to register."""

    def register(fake: _Fake) -> _Fake:
        if LOAD_ERROR is None:
            torch.library.register_fake(f"stor_ops::{op}", fake)
        return fake

    return register
