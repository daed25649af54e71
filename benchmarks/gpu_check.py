"""Everything that only a GPU can show, in one go: ``make gpu-check``, under ten minutes.

The tests of the CUDA kernels (a skip counts as a failure), compute-sanitizer where it is installed, and
the standard job timed against what one would use instead, with the achieved share of the device's copy
bandwidth. Writes benchmarks/results/gpu-<name>.json. Exit status: 0 all well, 1 something failed, 2 no GPU.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import stor_ops
from stor_ops import ViewPairs, Views, info

ROOT = Path(__file__).parents[1]
MEAN, STD = (0.43, 0.39, 0.38), (0.23, 0.22, 0.22)
SIZE = (16, 112, 112)
NUM_VIDEOS, FRAMES, HEIGHT, WIDTH = 128, 64, 256, 340
DEVICE = "cuda"  # the tests of this file try the contenders on a CPU


def run(command: list[str], **environment: str) -> dict[str, Any]:
    """Run a command to its end; keep status and the end of what it said."""
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    return {"status": done.returncode, "output": (done.stdout + done.stderr)[-4000:]}


def standard_job(videos: int = NUM_VIDEOS) -> tuple[Tensor, ViewPairs]:
    """Return uint8 videos (B, T, H, W, 3) on the GPU and two views of each, at strides 1 and 2."""
    source = torch.randint(
        0, 256, (videos, FRAMES, HEIGHT, WIDTH, 3), dtype=torch.uint8, device=DEVICE
    )
    frames, heights, widths = (
        torch.full((videos,), size, device=DEVICE) for size in (FRAMES, HEIGHT, WIDTH)
    )
    keys = torch.arange(videos, device=DEVICE)
    pairs = stor_ops.sample_view_pairs(frames, heights, widths, keys, strides=(1, 2), rotate=False)
    return source, pairs


def ours(antialias: bool) -> Callable[[Tensor, ViewPairs], Tensor]:
    """Return the fused pair op as a function of the job."""

    def make(videos: Tensor, pairs: ViewPairs) -> Tensor:
        return stor_ops.crop_resize_pair(
            videos, pairs.first, pairs.second, SIZE, mean=MEAN, std=STD, antialias=antialias
        )[0]

    return make


def frames_of(videos: Tensor, views: Views, row: int) -> Tensor:
    """Frames (T, C, H, W) of one view, as floats in [0, 1]."""
    index = (views.start[row] + torch.arange(SIZE[0], device=DEVICE) * views.stride[row]).long()
    return videos[row, index.clamp(max=FRAMES - 1)].permute(0, 3, 1, 2).float() / 255


def normalised(clips: list[Tensor]) -> Tensor:
    """Clips (N, C, T, H, W) from a list of (T, C, H, W)."""
    batch = torch.stack(clips).transpose(1, 2)
    mean, std = (torch.tensor(values, device=DEVICE).view(3, 1, 1, 1) for values in (MEAN, STD))
    return (batch - mean) / std


def torchvision_peer(antialias: bool) -> Callable[[Tensor, ViewPairs], Tensor]:
    """Return torchvision's crop and resize, video by video; boxes are rounded to pixels."""
    from torchvision.transforms.v2 import functional

    def make(videos: Tensor, pairs: ViewPairs) -> Tensor:
        both = []
        for views in (pairs.first, pairs.second):
            boxes, flips = views.box.round().int().tolist(), views.flip.tolist()
            clips = []
            for row, (x0, y0, x1, y1) in enumerate(boxes):
                frames = frames_of(videos, views, row)
                clip = functional.resized_crop(
                    frames, y0, x0, y1 - y0, x1 - x0, list(SIZE[1:]), antialias=antialias
                )
                clips.append(clip.flip(-1) if flips[row] else clip)
            both.append(normalised(clips))
        return both[0]

    return make


def grid_sample_peer(videos: Tensor, pairs: ViewPairs) -> Tensor:
    """F.grid_sample over the whole batch: no antialias, the same fractional boxes."""
    both = []
    steps = [(torch.arange(size, device=DEVICE) + 0.5) / size for size in SIZE[1:]]
    for views in (pairs.first, pairs.second):
        frames = torch.stack([frames_of(videos, views, row) for row in range(len(videos))])
        x0, y0, x1, y1 = views.box.unbind(1)
        x = (x0[:, None] + steps[1] * (x1 - x0)[:, None]) * 2 / WIDTH - 1
        y = (y0[:, None] + steps[0] * (y1 - y0)[:, None]) * 2 / HEIGHT - 1
        x = torch.where(views.flip[:, None], x.flip(1), x)
        grid = torch.stack(
            [x[:, None, :].expand(-1, *SIZE[1:]), y[:, :, None].expand(-1, *SIZE[1:])], dim=-1
        )
        clips = F.grid_sample(
            frames.flatten(0, 1),
            grid.repeat_interleave(SIZE[0], dim=0),
            padding_mode="border",
            align_corners=False,
        )
        both.append(normalised(list(clips.unflatten(0, frames.shape[:2]))))
    return both[0]


def kornia_peer(videos: Tensor, pairs: ViewPairs) -> Tensor:
    """kornia's crop_and_resize, frame batches of one view at a time; no antialias."""
    from kornia.geometry.transform import crop_and_resize

    both = []
    for views in (pairs.first, pairs.second):
        clips = []
        for row in range(len(videos)):
            x0, y0, x1, y1 = views.box[row]
            corners = torch.stack(
                [torch.stack(point) for point in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]
            )
            clips.append(
                crop_and_resize(
                    frames_of(videos, views, row), corners.expand(SIZE[0], 4, 2), SIZE[1:]
                )
            )
        both.append(normalised(clips))
    return both[0]


def milliseconds(work: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Median and spread of a piece of work by CUDA events, after two rounds of warm-up."""
    times = []
    for number in range(rounds + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        if number >= 2:
            times.append(begin.elapsed_time(end))
    return {"median_ms": statistics.median(times), "min_ms": min(times), "max_ms": max(times)}


def copy_bandwidth() -> float:
    """Bytes per second, read and written, of a device-to-device copy of 1 GiB."""
    source = torch.zeros(2**30, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * 2**30 / (milliseconds(lambda: target.copy_(source), 20)["median_ms"] / 1e3)


def crop_bytes(pairs: ViewPairs) -> float:
    """Bytes that the standard job must move: each crop read once, each clip written once."""
    read = 0.0
    for views in (pairs.first, pairs.second):
        low, high = views.box[:, :2].floor(), views.box[:, 2:].ceil()
        read += float((high - low).prod(1).sum()) * 3 * SIZE[0]
    written = 2 * len(pairs.first) * 3 * SIZE[0] * SIZE[1] * SIZE[2] * 4
    return read + written


def benchmarks() -> dict[str, Any]:
    """Time the standard job, ours and the peers'; each peer's difference from ours is stated."""
    videos, pairs = standard_job()
    bandwidth = copy_bandwidth()
    result: dict[str, Any] = {"copy_gb_per_s": bandwidth / 1e9, "contenders": {}}
    contenders: dict[str, tuple[Callable[[Tensor, ViewPairs], Tensor], bool, int]] = {
        "stor_ops antialias": (ours(True), True, 20),
        "stor_ops": (ours(False), False, 20),
        "torchvision antialias": (torchvision_peer(True), True, 3),
        "torchvision": (torchvision_peer(False), False, 3),
        "F.grid_sample": (grid_sample_peer, False, 5),
        "kornia": (kornia_peer, False, 3),
    }
    for name, (make, antialias, rounds) in contenders.items():
        try:
            difference = (make(videos, pairs) - ours(antialias)(videos, pairs)).abs().mean().item()
        except (ImportError, torch.OutOfMemoryError) as error:
            result["contenders"][name] = {"not run": f"{type(error).__name__}: {error}"}
            continue
        entry: dict[str, Any] = milliseconds(lambda make=make: make(videos, pairs), rounds)  # type: ignore[misc]
        entry["mean_difference_from_ours"] = difference
        if name.startswith("stor_ops"):
            rate = crop_bytes(pairs) / (entry["median_ms"] / 1e3)
            entry["gb_per_s"] = rate / 1e9
            entry["share_of_copy_bandwidth"] = rate / bandwidth
        result["contenders"][name] = entry
    return result


def sanitizers() -> dict[str, Any]:
    """Run a small job under compute-sanitizer's tools, where it is installed."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        return {"not run": "compute-sanitizer is not installed"}
    small = [sys.executable, "-m", "benchmarks.gpu_check", "--small"]
    return {
        tool: run([program, "--tool", tool, "--error-exitcode", "9", *small])
        for tool in ("memcheck", "racecheck")
    }


def main() -> int:
    """Run everything and write the result."""
    if not torch.cuda.is_available():
        print("gpu-check: torch sees no GPU", file=sys.stderr)
        return 2
    if "--small" in sys.argv:
        videos, pairs = standard_job(2)
        ours(True)(videos, pairs)
        ours(False)(videos, pairs)
        torch.cuda.synchronize()
        return 0
    name = torch.cuda.get_device_name(0)
    tests = [sys.executable, "-m", "pytest", "-q", "tests/test_cuda_device.py"]
    result: dict[str, Any] = {
        "gpu": name,
        "gpus": torch.cuda.device_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "info": info.report(),
        "tests": run(tests, FAIL_WITHOUT_CUDA="1"),
        "sanitizers": sanitizers(),
        "benchmarks": benchmarks(),
    }
    folder = ROOT / "benchmarks" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"gpu-{name.lower().replace(' ', '-')}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["benchmarks"], indent=2))
    print(f"wrote {path.relative_to(ROOT)}")
    checks = [result["tests"], *result["sanitizers"].values()]
    failed = [check for check in checks if isinstance(check, dict) and check["status"] != 0]
    for check in failed:
        print(check["output"], file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
