"""`crop_resize` in plain torch: resampling as a product with a weight matrix along each axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..views import OverlapRate, Views
from .overlap import overlap_rate


def axis_matrix(
    begin: float,
    end: float,
    extent: int,
    size: int,
    *,
    antialias: bool,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Weights (size, extent) that resample [begin, end) of an axis of ``extent`` pixels to ``size``.

    Pixel j of the source has its centre at j + 0.5. Only pixels that the interval touches take part; of
    these, the ones outside the frame have the value of its nearest edge pixel.
    """
    low, high = math.floor(begin), math.ceil(end)
    scale = (end - begin) / size
    centre = begin + (torch.arange(size, dtype=torch.float64)[:, None] + 0.5) * scale
    if antialias:
        pixel = torch.arange(low, high)[None, :]
        support = max(scale, 1.0)
        weight = (1 - (pixel + 0.5 - centre).abs() / support).clamp(min=0)
        weight = weight / weight.sum(1, keepdim=True)
        column = pixel.expand(size, -1)
    else:
        below = torch.floor(centre - 0.5)
        part = centre - 0.5 - below
        weight = torch.cat([1 - part, part], dim=1)
        column = torch.cat([below, below + 1], dim=1).clamp(low, high - 1).long()
    matrix = torch.zeros(size, extent, dtype=torch.float64)
    return matrix.scatter_add_(1, column.clamp(0, extent - 1), weight).to(dtype)


def frame_matrix(
    start: float,
    stride: float,
    extent: int,
    size: int,
    *,
    temporal: str,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Weights (size, extent) that pick ``size`` frames at start + t * stride of ``extent`` frames."""
    position = start + torch.arange(size, dtype=torch.float64) * stride
    if temporal == "nearest":
        column, weight = (
            torch.floor(position + 0.5)[:, None],
            torch.ones(size, 1, dtype=torch.float64),
        )
    else:
        below = torch.floor(position)[:, None]
        part = position[:, None] - below
        column, weight = torch.cat([below, below + 1], dim=1), torch.cat([1 - part, part], dim=1)
    matrix = torch.zeros(size, extent, dtype=torch.float64)
    return matrix.scatter_add_(1, column.clamp(0, extent - 1).long(), weight).to(dtype)


def crop_resize(
    videos: Tensor | Sequence[Tensor],
    views: Views,
    size: Sequence[int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    color: Tensor | None = None,
    antialias: bool = True,
    temporal: str = "nearest",
    dtype: torch.dtype = torch.float64,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Make one clip of each view; see `stor_ops.crop_resize`. ``dtype`` may be float64."""
    compute = dtype if dtype in (torch.float32, torch.float64) else torch.float64
    clips = []
    for row in range(len(views)):
        video = videos[int(views.video[row])]
        turns = int(views.rotation[row])
        frames, height, width = size
        if turns % 2:
            height, width = width, height
        x0, y0, x1, y1 = views.box[row].double().tolist()
        start, stride = float(views.start[row]), float(views.stride[row])
        pick = frame_matrix(start, stride, video.shape[0], frames, temporal=temporal, dtype=compute)
        rows = axis_matrix(y0, y1, video.shape[1], height, antialias=antialias, dtype=compute)
        columns = axis_matrix(x0, x1, video.shape[2], width, antialias=antialias, dtype=compute)

        source = video.to(compute) / (255 if video.dtype == torch.uint8 else 1)
        clip = torch.einsum("ts,yh,xw,shwc->ctyx", pick, rows, columns, source)
        if views.flip[row]:
            clip = clip.flip(-1)
        clip = torch.rot90(clip, turns, dims=(-2, -1))
        if color is not None:
            matrix = color[row].to(compute)
            clip = (
                torch.einsum("oc,ctyx->otyx", matrix[:, :3], clip) + matrix[:, 3, None, None, None]
            )
        clips.append(clip)
    batch = torch.stack(clips)

    def per_channel(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=compute).view(-1, 1, 1, 1)

    if mean is not None:
        batch = batch - per_channel(mean)
    if std is not None:
        batch = batch / per_channel(std)
    if dtype == torch.uint8:
        batch = (batch * 255).round().clamp(0, 255)
    return batch.to(dtype).contiguous(memory_format=memory_format)


def crop_resize_pair(
    videos: Tensor | Sequence[Tensor],
    first: Views,
    second: Views,
    size: Sequence[int],
    **options: Any,
) -> tuple[Tensor, Tensor, OverlapRate]:
    """Make the clips of both views and measure their overlap; see `stor_ops.crop_resize_pair`."""
    color = options.pop("color", None)
    color_first, color_second = color if isinstance(color, tuple) else (color, color)
    return (
        crop_resize(videos, first, size, color=color_first, **options),
        crop_resize(videos, second, size, color=color_second, **options),
        overlap_rate(first, second, clip_frames=size[0]),
    )
