"""``python -m stor_ops.info``: what this installation is made of and what it can do here, and why not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform

import torch

from . import __version__, _load

OPS = (
    "sample_view_pairs",
    "overlap_rate",
    "pairwise_overlap_rate",
    "crop_resize",
    "crop_resize_pair",
    "info_nce",
)
OPTIONAL = {
    "triton": "info_nce and torch.compile on a GPU",
    "torchvision": "backbones of training/",
    "decord": "fast video decoding in training/",
    "av": "exact video decoding in training/",
    "matplotlib": "plots of training/ and benchmarks/",
}


def device_types() -> frozenset[str]:
    """Return the torch device types that the compiled ops of this installation run on."""
    return _load.DEVICE_TYPES - {"meta"}


def _version(package: str) -> str:
    """Version of an importable package without importing it."""
    if importlib.util.find_spec(package) is None:
        return "not installed"
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "installed"


def _kernels(op: str) -> str:
    if _load.LOAD_ERROR is not None:
        return "none"
    has = torch._C._dispatch_has_kernel_for_dispatch_key  # public code has no other way to ask
    name = f"stor_ops::{op}"
    gpu = "Triton on CUDA" if op == "info_nce" else "CUDA"
    keys = {"CPU": "C++ on the CPU", "CUDA": gpu, "CompositeExplicitAutograd": "torch elsewhere"}
    return ", ".join(text for key, text in keys.items() if has(name, key)) or "none"


def report() -> str:
    """Return the report as text, a line for each fact."""
    gpu = (
        f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
        if torch.cuda.is_available()
        else "none usable"
    )
    library = _load.LOAD_ERROR or f"{_load.CPU_LIBRARY.name} loaded"
    cuda_library = _load.CUDA_ERROR or f"{_load.CUDA_LIBRARY.name} loaded; no GPU has run it yet"
    lines = [
        f"stor_ops     {__version__}",
        f"python       {platform.python_version()} on {platform.machine()} {platform.system()}",
        f"torch        {torch.__version__}, CUDA {torch.version.cuda or 'not built in'}",
        f"gpu          {gpu}",
        f"cpu library  {library}",
        f"cuda library {cuda_library}",
        "ops",
        *(f"  {op:22} {_kernels(op)}" for op in OPS),
        "optional packages",
        *(f"  {name:22} {_version(name):16} {purpose}" for name, purpose in OPTIONAL.items()),
    ]
    if _load.LOAD_ERROR is not None:
        lines.append(f"remedy       {_load.REMEDY}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(report())
