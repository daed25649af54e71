"""`overlap_rate`, `pairwise_overlap_rate` and `overlap_positives`: how much views share."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _checks
from ._load import register_fake, require
from .views import OverlapRate, Views

_MAX_INT64 = 2**63 - 1


def overlap_rate(first: Views, second: Views, *, clip_frames: int) -> OverlapRate:
    """Measure what part of each first view its second view shares, in source coordinates.

    The spatial rate is area(A n B) / area(A) of the boxes, the temporal one |tA n tB| / |tA| of the time
    extents [start, start + clip_frames * stride); views of different videos share nothing. Flip and
    rotation do not matter.

    Args:
        first: N views.
        second: N views on the same device.
        clip_frames: frames of a clip, at least 1.

    Returns:
        OverlapRate of float32 (N,) tensors.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: an argument has another shape or device or is out of range; on the CPU also a view
            that no clip can be made of, named by its row (on CUDA its rates are NaN).

    Source: CSTP (arXiv 2112.08913), section 3.

    """
    op = "overlap_rate"
    first_fields = _checks.views(op, "first", first)
    second_fields = _checks.views(op, "second", second, size=len(first), device=first.device)
    _checks.integer(op, "clip_frames", clip_frames, 1, _MAX_INT64)
    require(op, first.device)
    return OverlapRate(*torch.ops.stor_ops.overlap_rate(first_fields, second_fields, clip_frames))


def pairwise_overlap_rate(first: Views, second: Views, *, clip_frames: int) -> OverlapRate:
    """Measure `overlap_rate` of every first view with every second view.

    Args:
        first: N views.
        second: M views on the same device.
        clip_frames: frames of a clip, at least 1.

    Returns:
        OverlapRate of float32 (N, M) tensors, measured over the N first views.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: as for `overlap_rate`.

    """
    op = "pairwise_overlap_rate"
    first_fields = _checks.views(op, "first", first)
    second_fields = _checks.views(op, "second", second, device=first.device)
    _checks.integer(op, "clip_frames", clip_frames, 1, _MAX_INT64)
    require(op, first.device)
    return OverlapRate(
        *torch.ops.stor_ops.pairwise_overlap_rate(first_fields, second_fields, clip_frames)
    )


def overlap_positives(
    views: Views, *, clip_frames: int, max_positives: int | None = None
) -> tuple[Tensor, Tensor]:
    """List every other view of the same video as a soft positive, weighted by the joint overlap rate.

    The result feeds `multi_positive_info_nce`; a weight of 0 is no positive there. Memory is
    O(N * max_positives), never N x N.

    Args:
        views: N views, in any order.
        clip_frames: frames of a clip, at least 1.
        max_positives: P, at least the largest number of views of one video less one; views beyond it
            are left out. By default it is counted, which on a device costs a synchronisation and cannot
            be traced by torch.compile.

    Returns:
        positive_index int64 (N, P), rows of ``views`` padded with -1, and positive_weight float32
        (N, P), gamma_s * gamma_t measured over the row's own view, 0 where padded.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: as for `overlap_rate`.

    """
    op = "overlap_positives"
    _checks.views(op, "views", views)
    _checks.integer(op, "clip_frames", clip_frames, 1, _MAX_INT64)
    require(op, views.device)
    _refuse_faulty_rows(op, views, clip_frames)
    rows = len(views)
    if max_positives is None:
        counts = torch.unique(views.video, return_counts=True)[1]
        max_positives = int(counts.max()) - 1 if rows else 0
    _checks.integer(op, "max_positives", max_positives, 0, 2**31 - 1)

    # Sorted by video, the views of one video are neighbours: the candidates of a view are those of its
    # group, in order, with the view itself left out.
    video = views.video.contiguous()
    order = torch.argsort(video, stable=True)
    sorted_video = video[order]
    group_begin = torch.searchsorted(sorted_video, video)
    group_end = torch.searchsorted(sorted_video, video, right=True)
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(rows, device=order.device))
    slot = group_begin[:, None] + torch.arange(max_positives, device=order.device)
    slot = slot + (slot >= rank[:, None])
    present = slot < group_end[:, None]
    index = torch.where(present, order[slot.clamp(max=max(rows - 1, 0))], -1)

    own = torch.arange(rows, device=order.device)[:, None].expand_as(index)
    other = torch.where(present, index, own)
    joint = overlap_rate(
        views[own.reshape(-1)], views[other.reshape(-1)], clip_frames=clip_frames
    ).joint.reshape(index.shape)
    return index, torch.where(present, joint, 0.0)


def _refuse_faulty_rows(op: str, views: Views, clip_frames: int) -> None:
    """Name a bad view by its own row, where the kernel would name the row of a pair."""
    if views.device.type != "cpu":  # elsewhere a bad view gives NaN, and no launch should be wasted
        return
    try:
        overlap_rate(views, views, clip_frames=clip_frames)
    except ValueError as error:
        raise ValueError(str(error).replace("overlap_rate: first", f"{op}: views", 1)) from None


@register_fake("overlap_rate")
def _overlap_fake(
    first: list[Tensor], second: list[Tensor], clip_frames: int
) -> tuple[Tensor, Tensor, Tensor]:
    _checks.views("overlap_rate", "first", Views(*first))
    _checks.views("overlap_rate", "second", Views(*second), size=first[0].shape[0])
    start = first[1]
    return torch.empty_like(start), torch.empty_like(start), torch.empty_like(start)


@register_fake("pairwise_overlap_rate")
def _pairwise_fake(
    first: list[Tensor], second: list[Tensor], clip_frames: int
) -> tuple[Tensor, Tensor, Tensor]:
    _checks.views("pairwise_overlap_rate", "first", Views(*first))
    _checks.views("pairwise_overlap_rate", "second", Views(*second))
    shape = (first[0].shape[0], second[0].shape[0])
    start = first[1]
    return start.new_empty(shape), start.new_empty(shape), start.new_empty(shape)
