"""Tile sizes of the dense kernels: one set per architecture, precision and width of the rows.

They were chosen by what the compiler says, since no GPU has run them: no register spills in the most
demanding variant, tensor cores where there are any, shared memory within the architecture's
(benchmarks/kernels/budgets.json). STOR_OPS_AUTOTUNE=1 lets the GPU try a few neighbours, once per case.
"""

# mypy: disable-error-code="import-untyped,import-not-found"

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple

import torch

WARPS = 8
MAX_DIM = 1024
"""Rows wider than this are left to the torch version."""

Precision = Literal["half", "tf32", "ieee"]


class Tiles(NamedTuple):
    """How one dense kernel cuts its work."""

    rows: int  # owners per program
    columns: int  # others per step
    depth: int  # components per step of the logits; all of them if `whole`
    stages: int
    width: int = 0  # components of the gradient per program; 0 in the forward
    whole: bool = False  # a row fits in `depth`: it is read once for both products


class _Rule(NamedTuple):
    """Tiles for rows of up to so many components; for wholes depth and width follow the row."""

    dim: int
    tiles: Tiles


_SM_80: dict[Precision, tuple[list[_Rule], list[_Rule]]] = {
    "half": (
        [_Rule(128, Tiles(128, 64, 128, 3, whole=True)), _Rule(MAX_DIM, Tiles(128, 64, 64, 3))],
        [
            _Rule(128, Tiles(128, 32, 128, 3, 128, whole=True)),
            _Rule(256, Tiles(64, 32, 256, 3, 256, whole=True)),
            _Rule(MAX_DIM, Tiles(64, 64, 64, 3, 256)),
        ],
    ),
    "tf32": (
        [_Rule(128, Tiles(64, 64, 128, 3, whole=True)), _Rule(MAX_DIM, Tiles(128, 64, 32, 3))],
        [
            _Rule(128, Tiles(64, 32, 128, 3, 128, whole=True)),
            _Rule(MAX_DIM, Tiles(64, 32, 32, 2, 256)),
        ],
    ),
    "ieee": (
        [_Rule(MAX_DIM, Tiles(64, 64, 16, 2))],
        [_Rule(128, Tiles(64, 32, 32, 2, 128)), _Rule(MAX_DIM, Tiles(64, 16, 16, 2, 256))],
    ),
}
_SM_90: dict[Precision, tuple[list[_Rule], list[_Rule]]] = {
    **_SM_80,
    "half": (
        [
            _Rule(256, Tiles(128, 64, 256, 3, whole=True)),
            _Rule(512, Tiles(128, 32, 512, 2, whole=True)),
            _Rule(MAX_DIM, Tiles(128, 64, 64, 3)),
        ],
        [
            _Rule(128, Tiles(128, 64, 128, 3, 128, whole=True)),
            _Rule(256, Tiles(64, 32, 256, 3, 256, whole=True)),
            _Rule(512, Tiles(64, 16, 512, 3, 512, whole=True)),
            _Rule(MAX_DIM, Tiles(64, 64, 64, 3, 256)),
        ],
    ),
    "ieee": (
        _SM_80["ieee"][0],
        [_Rule(128, Tiles(64, 32, 16, 2, 128)), _Rule(MAX_DIM, Tiles(64, 16, 16, 2, 256))],
    ),
}
_SM_100: dict[Precision, tuple[list[_Rule], list[_Rule]]] = {
    **_SM_90,
    "half": (
        [
            _Rule(256, Tiles(64, 64, 256, 3, whole=True)),
            _Rule(512, Tiles(128, 32, 512, 2, whole=True)),
            _Rule(MAX_DIM, Tiles(64, 64, 64, 3)),
        ],
        [
            _Rule(128, Tiles(128, 64, 128, 3, 128, whole=True)),
            _Rule(512, Tiles(64, 32, 512, 3, 512, whole=True)),
            _Rule(MAX_DIM, Tiles(64, 64, 64, 2, 512)),
        ],
    ),
    "tf32": (
        [_Rule(128, Tiles(64, 64, 128, 3, whole=True)), _Rule(MAX_DIM, Tiles(64, 64, 32, 3))],
        [
            _Rule(128, Tiles(64, 32, 128, 3, 128, whole=True)),
            _Rule(MAX_DIM, Tiles(64, 64, 32, 3, 256)),
        ],
    ),
}
_INTERPRETER: tuple[list[_Rule], list[_Rule]] = (
    [_Rule(32, Tiles(32, 16, 32, 1, whole=True)), _Rule(MAX_DIM, Tiles(32, 16, 64, 1))],
    [_Rule(32, Tiles(16, 32, 32, 1, 32, whole=True)), _Rule(MAX_DIM, Tiles(16, 32, 64, 1, 128))],
)
# sm_86, 89 and 120 have as little shared memory as each other: 99 KiB a block, which _SM_80 keeps to.
TABLE = {80: _SM_80, 86: _SM_80, 90: _SM_90, 100: _SM_100}


@lru_cache
def architecture(device: torch.device) -> int | None:
    """Row of the table for a device, 0 for Triton's interpreter, None if there is none.

    Below compute capability 8.0 Triton compiles tl.dot without tensor cores and with spills.
    """
    if device.type == "cpu":
        return 0
    if device.type != "cuda" or torch.version.hip is not None:
        return None
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return None
    if major == 8:
        return 80 if minor in (0, 7) else 86
    return {9: 90, 10: 100, 11: 100}.get(major, 86)


@lru_cache
def multiprocessors(device: torch.device) -> int:
    """How many programs a device needs to be busy."""
    if device.type == "cpu":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def tiles(architecture: int, precision: Precision, dim: int, *, backward: bool) -> Tiles:
    """Return the static choice for rows of ``dim`` components, at most `MAX_DIM`."""
    rules = TABLE[architecture][precision] if architecture else _INTERPRETER
    chosen = next(rule.tiles for rule in rules[backward] if dim <= rule.dim)
    fitting = max(16, 1 << (dim - 1).bit_length())
    if chosen.whole:
        return chosen._replace(depth=fitting, width=fitting if backward else 0)
    return chosen._replace(width=min(chosen.width, fitting))


_tuned: dict[tuple[object, ...], Tiles] = {}


def choose(case: tuple[object, ...], static: Tiles, launch: Callable[[Tiles], object]) -> Tiles:
    """Return ``static``, or with STOR_OPS_AUTOTUNE=1 the fastest of it and its neighbours.

    Args:
        case: what the choice depends on; never the number of rows.
        static: the choice of the table.
        launch: runs the kernel, any number of times.

    """
    if os.environ.get("STOR_OPS_AUTOTUNE") != "1":
        return static
    if case not in _tuned:
        neighbours = [
            static,
            static._replace(columns=static.columns * 2),
            static._replace(columns=static.columns // 2),
            static._replace(rows=static.rows // 2),
            static._replace(stages=static.stages + 1),
        ]
        _tuned[case] = min(neighbours, key=lambda candidate: _milliseconds(candidate, launch))
    return _tuned[case]


def _milliseconds(candidate: Tiles, launch: Callable[[Tiles], object]) -> float:
    from triton.runtime.errors import OutOfResources
    from triton.testing import do_bench

    try:
        return float(do_bench(lambda: launch(candidate), warmup=5, rep=20))
    except OutOfResources:
        return float("inf")
