"""`overlap_rate` and its kin in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from ..views import OverlapRate, Views


def overlap_rate(
    first: Views, second: Views, *, clip_frames: int, dtype: torch.dtype = torch.float64
) -> OverlapRate:
    """Measure what part of each first view its second view shares; see `stor_ops.overlap_rate`.

    The fields of the views broadcast against each other.
    """
    same_video = first.video == second.video
    box_a, box_b = first.box.to(dtype), second.box.to(dtype)
    shared = [
        _shared_part(box_a[..., axis], box_a[..., axis + 2], box_b[..., axis], box_b[..., axis + 2])
        for axis in (0, 1)
    ]
    spatial = torch.where(same_video, shared[0] * shared[1], 0.0)
    # Times are counted from the first view's start: rounding then cannot swallow a short clip.
    length_a, length_b = (clip_frames * view.stride.to(dtype) for view in (first, second))
    later = second.start.to(dtype) - first.start.to(dtype)
    shared_time = _shared_part(torch.zeros_like(length_a), length_a, later, later + length_b)
    temporal = torch.where(same_video, shared_time, 0.0)
    return OverlapRate(spatial, temporal, spatial * temporal)


def _shared_part(begin_a: Tensor, end_a: Tensor, begin_b: Tensor, end_b: Tensor) -> Tensor:
    """|a n b| / |a| of two intervals."""
    shared = torch.minimum(end_a, end_b) - torch.maximum(begin_a, begin_b)
    return shared.clamp(min=0) / (end_a - begin_a)


def pairwise_overlap_rate(
    first: Views, second: Views, *, clip_frames: int, dtype: torch.dtype = torch.float64
) -> OverlapRate:
    """Measure every first view against every second; see `stor_ops.pairwise_overlap_rate`."""
    column = first._map(lambda field: field.unsqueeze(1))
    row = second._map(lambda field: field.unsqueeze(0))
    return overlap_rate(column, row, clip_frames=clip_frames, dtype=dtype)


def overlap_positives(views: Views, *, clip_frames: int) -> tuple[Tensor, Tensor]:
    """List every other view of the same video with its joint overlap; see `stor_ops.overlap_positives`."""
    joint = pairwise_overlap_rate(views, views, clip_frames=clip_frames).joint
    video = views.video.tolist()
    others = [
        [j for j, other in enumerate(video) if other == own and j != i]
        for i, own in enumerate(video)
    ]
    width = max((len(row) for row in others), default=0)
    index = torch.tensor([row + [-1] * (width - len(row)) for row in others], dtype=torch.int64)
    index = index.reshape(len(video), width)
    weight = joint.gather(1, index.clamp(min=0)) if width else joint.new_zeros(index.shape)
    return index, torch.where(index >= 0, weight, 0.0)
