"""The jobs of the crop_resize benchmark: videos, views, and what comes out in float64."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from stor_ops import Views
from stor_ops.reference.crop_resize import axis_matrix

from .suite import Case, Outputs

MEAN, STD = (0.43, 0.39, 0.38), (0.23, 0.22, 0.22)


class Job(NamedTuple):
    """Ragged uint8 videos (T, H, W, 3), and views whose boxes have edges on pixels."""

    videos: list[Tensor]
    views: Views
    size: tuple[int, int, int]
    antialias: bool


class Clip(NamedTuple):
    """One view, as other libraries take it: cropped frames, a strided uint8 (T, h, w, 3), and the flip."""

    frames: Tensor
    flip: bool


def make_job(case: Case) -> Job:
    """Make videos of random pixels, and their views."""
    p = case.parameters
    generator = torch.Generator().manual_seed(21)
    videos = [
        torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=generator)
        for shape in p["videos"]
    ]
    return Job(videos, make_views(case), p["size"], p["antialias"])


def make_views(case: Case) -> Views:
    """Draw crops of 20 to 100 % of the area at stride 1, 2 or 4, every second one flipped.

    Every video has as many views; the rows of all first views come before those of all second ones.
    """
    p = case.parameters
    generator = torch.Generator().manual_seed(22)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    rows = p["views"] * len(p["videos"])
    boxes, starts, strides = [], [], []
    for row in range(rows):
        frames, height, width = p["videos"][row % len(p["videos"])]
        area, ratio = uniform(0.2, 1.0), uniform(3 / 4, 4 / 3)
        w = min(round((area * height * width * ratio) ** 0.5), width)
        h = min(round(area * height * width / w), height)
        x0, y0 = round(uniform(0, width - w)), round(uniform(0, height - h))
        boxes.append([x0, y0, x0 + w, y0 + h])
        fitting = [stride for stride in (1, 2, 4) if (p["size"][0] - 1) * stride < frames]
        strides.append(fitting[row // 2 % len(fitting)])
        starts.append(int(uniform(0, frames - (p["size"][0] - 1) * strides[-1])))
    return Views.from_boxes(
        torch.tensor(boxes, dtype=torch.float32),
        video=torch.arange(rows) % len(p["videos"]),
        start=torch.tensor(starts),
        stride=torch.tensor(strides),
        flip=torch.arange(rows) % 2 == 0,
    )


def clips_of(job: Job) -> list[Clip]:
    """Views of the videos' memory, nothing copied: what a user's slicing gives."""
    columns = (job.views.video, job.views.start, job.views.stride, job.views.box, job.views.flip)
    clips = []
    for video, start, stride, box, flip in zip(*(c.tolist() for c in columns), strict=True):
        x0, y0, x1, y1 = (int(edge) for edge in box)
        stop = int(start) + (job.size[0] - 1) * int(stride) + 1
        clips.append(
            Clip(job.videos[video][int(start) : stop : int(stride), y0:y1, x0:x1], bool(flip))
        )
    return clips


def oracle(case: Case, job: Job) -> Outputs:
    """Normalised clips (N, C, T, H, W) in float64, by the reference's weight matrices.

    `reference.crop_resize` itself forms a product of all three matrices, which at these sizes does not fit
    into memory; its matrices are applied one after another here, and a test holds both together.
    """
    mean, std = (
        torch.tensor(values, dtype=torch.float64).view(3, 1, 1, 1) for values in (MEAN, STD)
    )
    batch = []
    for frames, flip in clips_of(job):
        height, width = frames.shape[1:3]
        rows = axis_matrix(0, height, height, job.size[1], antialias=job.antialias)
        columns = axis_matrix(0, width, width, job.size[2], antialias=job.antialias)
        source = frames.permute(3, 0, 1, 2).double() / 255
        clip = rows @ source @ columns.t()
        clip = clip.flip(-1) if flip else clip
        batch.append((clip - mean) / std)
    return [torch.stack(batch)]


def differences(case: Case, outputs: Outputs, expected: Outputs) -> dict[str, float]:
    """Differences in levels of 255 of the source's pixels; several outputs are one batch."""
    clips = torch.cat(list(outputs)).double()
    mean, std = (
        torch.tensor(values, dtype=torch.float64).view(3, 1, 1, 1) for values in (MEAN, STD)
    )
    if outputs[0].dtype == torch.uint8:
        clips = (clips / 255 - mean) / std
    levels = (clips - expected[0]).abs().mul_(std * 255)
    return {"largest_levels": levels.max().item(), "mean_levels": levels.mean().item()}


def source_bytes(case: Case) -> float:
    """Bytes of all crops, each read once."""
    box = make_views(case).box
    area = (box[:, 2:] - box[:, :2]).prod(dim=1)
    return float(area.sum()) * 3 * int(case.parameters["size"][0])
