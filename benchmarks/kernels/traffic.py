"""Counts the memory traffic of crop_resize_pair's kernel, on the standard job scaled down.

    python -m benchmarks.kernels.traffic [--write]     --write keeps traffic.json and traffic.md

The kernel's own source runs on the CPU in tests/emulator, which counts the 32-byte sectors that each
warp asks for (tests/emulator/traffic.h says how). The job: two views of two videos as
`sample_view_pairs` draws them with seed 0, 2 frames of 112 x 112 from uint8 frames of 256 x 340 x 3; also
from 1080 x 1920, and from 256 x 341, whose rows begin anywhere within a word. A case fixes both views'
rotation; flips stay as drawn. Buffers begin on 256 bytes, as torch's allocator gives them. Figures and
targets:

written          Distinct sectors that each block stores to, summed over blocks, over the sectors of the
                 clips. 1.0: every sector is written once, whole, by one block. 2.0: two blocks write half
                 a sector each, which costs twice the L2 writes (DRAM sees it once if L2 keeps it).
read             Distinct sectors that each block loads, summed over blocks, over those of the crops: all
                 pixels that a view's box touches, for each of its frames. This is what leaves L2, with an
                 L1 that keeps what its block has read. Above 1 are the rows that neighbouring tiles share;
                 below 1 only where bilinear taps skip pixels of a large crop. At most 1.15.
dram             Distinct sectors that the whole launch loads over distinct sectors of all crops together
                 (two views of one video overlap): what leaves DRAM, with an L2 that keeps everything.
load, store      Sectors a request touches beyond the fewest that could hold its bytes: lanes that lie
                 apart, or a run that begins within a sector. At most 4, for loads and for stores.
again            Sectors of all load requests over the distinct ones of each block: how often L1 serves
                 a sector that the block has had before, once for each output row that it is a tap of. No
                 target; at 1 the blended rows would come from registers.

What the views' and the overlap's kernels move (some 200 bytes a row) passes through plain pointers, which
the emulator does not count.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from stor_ops import Views, sample_view_pairs

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TESTS = ROOT / "tests"
SECTOR = 32
ALIGNMENT = 256

TARGETS = {"written": 1.0, "read": 1.15, "load": 4.0, "store": 4.0}
FIGURES = {
    "written": "written",
    "read": "read",
    "dram": "dram",
    "load": "load excess",
    "store": "store excess",
    "again": "again",
}


@dataclass(frozen=True)
class Case:
    """Options of one launch."""

    dtype: str = "bfloat16"
    antialias: bool = True
    rotation: int = 0
    channels_last: bool = False
    height: int = 256
    width: int = 340
    frames: int = 2
    size: int = 112
    videos: int = 2

    @property
    def name(self) -> str:
        """What sets this case apart, in one line."""
        return ", ".join(
            (
                f"{self.height}x{self.width}",
                self.dtype,
                "antialias" if self.antialias else "bilinear",
                "quarter turn" if self.rotation % 2 else "upright",
                "channels last" if self.channels_last else "contiguous",
            )
        )


CASES = [
    *(
        Case(dtype, antialias, rotation, channels_last)
        for dtype in ("float32", "bfloat16", "uint8")
        for antialias in (True, False)
        for rotation in (0, 1)
        for channels_last in (False, True)
    ),
    *(
        Case(antialias=antialias, rotation=rotation, height=1080, width=1920)
        for antialias in (True, False)
        for rotation in (0, 1)
    ),
    Case(width=341),  # rows of 1023 bytes: most begin within a word
]


def emulator() -> tuple[Any, Any]:
    """Return the emulated kernels, built if need be, and the module that calls them on arrays."""
    for folder in (TESTS, TESTS / "emulator"):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    build = importlib.import_module("build")
    if reason := build.why_not():
        raise SystemExit(f"traffic: {reason}")
    return build.load(TESTS / "emulator" / "kernels_module.cpp"), importlib.import_module(
        "emulated"
    )


def aligned(shape: Sequence[int], dtype: Any) -> Any:
    """Return an array that begins where one of torch's CUDA tensors may begin."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % ALIGNMENT
    return memory[begin : begin + size].view(dtype).reshape(shape)


def sampled_views(case: Case, source_frames: int) -> list[Views]:
    """Two views of each video as drawn, but for the rotation."""

    def column(value: int) -> torch.Tensor:
        return torch.full((case.videos,), value)

    pairs = sample_view_pairs(
        column(source_frames),
        column(case.height),
        column(case.width),
        torch.arange(case.videos),
        clip_frames=case.frames,
        seed=0,
    )
    for views in (pairs.first, pairs.second):
        views.rotation.fill_(case.rotation)
    return [pairs.first, pairs.second]


def crop_sectors(case: Case, videos: list[Any], targets: list[Views]) -> tuple[int, int]:
    """Sectors of every crop of every frame, added up, and the distinct ones among them."""
    total, distinct = 0, set[int]()
    for views in targets:
        for row in range(len(views)):
            video = videos[int(views.video[row])]
            x0, y0, x1, y1 = views.box[row].tolist()
            left, right = max(int(np.floor(x0)), 0), min(int(np.ceil(x1)), case.width)
            rows = np.arange(max(int(np.floor(y0)), 0), min(int(np.ceil(y1)), case.height))
            for t in range(case.frames):
                position = np.floor(float(views.start[row]) + t * float(views.stride[row]) + 0.5)
                frame = int(np.clip(position, 0, video.shape[0] - 1))
                line = video.ctypes.data + frame * video.strides[0] + rows * video.strides[1]
                first = (line + left * video.strides[2]) // SECTOR
                last = (line + right * video.strides[2] - 1) // SECTOR
                sectors = {
                    s for a, b in zip(first, last, strict=True) for s in range(int(a), int(b) + 1)
                }
                total += len(sectors)
                distinct |= sectors
    return total, len(distinct)


def measure(case: Case, kernels: Any, emulated: Any) -> dict[str, float]:
    """Run one launch and return its figures."""
    source_frames = 4 * case.frames
    shape = (source_frames, case.height, case.width, 3)
    videos = [aligned(shape, np.uint8) for _ in range(case.videos)]
    targets = sampled_views(case, source_frames)
    fields = [
        emulated.views(**{name: column.numpy() for name, column in asdict(views).items()})
        for views in targets
    ]
    kernels.set_order("forward")
    kernels.start_traffic()
    with patch.object(emulated, "poisoned", aligned):
        clips, _ = emulated.crop_resize(
            kernels,
            videos,
            fields,
            (case.frames, case.size, case.size),
            dtype=case.dtype,
            antialias=case.antialias,
            channels_last=case.channels_last,
        )
    report = kernels.stop_traffic()
    reads, writes = report["reads"], report["writes"]
    crops, distinct = crop_sectors(case, videos, targets)
    clip_sectors = sum(-(-clip.nbytes // SECTOR) for clip in clips)
    figures = {
        "written": writes["block_sectors"] / clip_sectors,
        "read": reads["block_sectors"] / crops,
        "dram": reads["unique_sectors"] / distinct,
        "load": (reads["sectors"] - reads["ideal_sectors"]) / reads["requests"],
        "store": (writes["sectors"] - writes["ideal_sectors"]) / writes["requests"],
        "again": reads["sectors"] / reads["block_sectors"],
    }
    return {name: round(value, 3) for name, value in figures.items()}


def misses(name: str, figures: dict[str, float]) -> list[str]:
    """Return a line for each figure of a case that is over its target."""
    return [
        f"{name}: {FIGURES[figure]} is {figures[figure]:.3f}, target {target}"
        for figure, target in TARGETS.items()
        if figures[figure] > target
    ]


def markdown(table: dict[str, dict[str, float]]) -> str:
    """The table with the targets in its heading, over-target figures in bold."""
    heads = [
        f"{title} (≤ {TARGETS[figure]})" if figure in TARGETS else title
        for figure, title in FIGURES.items()
    ]
    lines = [
        "# Memory traffic of the crop_resize kernel, counted by the emulator",
        "",
        "Written by `python -m benchmarks.kernels.traffic --write`; what the figures mean stands at the",
        "top of traffic.py. Counted on a CPU, not measured on a GPU. Bold: over its target.",
        "",
        f"| Case | {' | '.join(heads)} |",
        f"|---|{'---:|' * len(heads)}",
    ]
    for name, figures in table.items():
        cells = [
            f"**{value:.3f}**" if value > TARGETS.get(figure, np.inf) else f"{value:.3f}"
            for figure, value in figures.items()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all cases; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description="Memory traffic of the crop_resize kernel.")
    parser.add_argument("--write", action="store_true", help="keep traffic.json and traffic.md")
    options = parser.parse_args(arguments)
    kernels, emulated = emulator()
    print(f"{'':58}" + "".join(f"{title:>14}" for title in FIGURES.values()))
    table = {}
    for case in CASES:
        figures = table[case.name] = measure(case, kernels, emulated)
        print(f"{case.name:58}" + "".join(f"{v:14.3f}" for v in figures.values()), flush=True)
    missed = [line for name, figures in table.items() for line in misses(name, figures)]
    print(*(f"over target: {line}" for line in missed), sep="\n")
    if options.write:
        content = {"targets": TARGETS, "cases": table}
        (HERE / "traffic.json").write_text(json.dumps(content, indent=1) + "\n")
        (HERE / "traffic.md").write_text(markdown(table))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
