"""`sample_view_pairs`: two views of a video whose overlap rates are exactly the classes drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import _checks
from ._load import register_fake, require
from .views import ViewPairs, Views

_OP = "sample_view_pairs"
_MAX_CLASSES = 32  # kMaxClasses in csrc/views/sampling.h
_MAX_EXTENT = 2**24  # kMaxExtent in csrc/views/sampling.h


def sample_view_pairs(
    num_frames: Tensor,
    heights: Tensor,
    widths: Tensor,
    keys: Tensor,
    *,
    clip_frames: int = 16,
    seed: int = 0,
    epoch: int = 0,
    scale: Sequence[float] = (0.2, 1.0),
    ratio: Sequence[float] = (3 / 4, 4 / 3),
    strides: Sequence[float] = (1, 2, 4, 8),
    rates: Sequence[float] = (1.0, 0.8, 0.6, 0.4, 0.2),
    rotate: bool = True,
    flip: float = 0.5,
    draw: int = 0,
) -> ViewPairs:
    """Draw two views of each video and the classes of their overlap, playback rate and rotation.

    Each class is drawn uniformly and kept. Box size, aspect ratio and stride are drawn first, from the
    range in which every class is feasible, so they tell nothing about the spatial or temporal class.
    Both boxes have one size, lie inside the frame and overlap by ``rates[spatial_class]``. The views
    are a whole number of strides apart, ``round((1 - rate) * clip_frames)``, so frames that they share
    are the same frames. A video too short for every class at any stride has temporal_class -100 and
    still yields two valid views. The result is a function of (seed, epoch, key, draw) and the video's
    size alone: the same bits on every device, in any batch, worker or rank.

    Args:
        num_frames: int64 (B,), frames of each video, 1 to 2**24.
        heights: int64 (B,), in pixels, 1 to 2**24.
        widths: int64 (B,), in pixels, 1 to 2**24.
        keys: int64 (B,), a stable id of each video.
        clip_frames: frames of a clip, 1 to 2**24.
        seed: any 64-bit integer.
        epoch: 0 to 2**32 - 1.
        scale: least and greatest area of a box over that of the frame; where a part of the range is not
            feasible, the rest of it; where none is, the largest feasible area.
        ratio: least and greatest width / height of a box in pixels, drawn log-uniformly.
        strides: playback rates in source frames per clip frame, at most 32; those whose every temporal
            class fits into the video are drawn from uniformly.
        rates: overlap rates in [0, 1] of the classes, at most 32.
        rotate: whether views are turned; if not, every rotation class is 0.
        flip: probability that a view is flipped left-right, independently of the other view.
        draw: 0 to 2**30 - 1, counts further independent pairs of the same video.

    Returns:
        ViewPairs of B rows on the device of ``num_frames``.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: an argument has another shape or device or is out of range; on the CPU also the
            size of a video, named by its row (on CUDA its views hold NaN).

    Source: CSTP (arXiv 2112.08913), section 3; the random numbers are Philox 4x32-10.

    """
    _check_columns(num_frames, heights, widths, keys)
    _checks.integer(_OP, "clip_frames", clip_frames, 1, _MAX_EXTENT)
    _checks.integer(_OP, "seed", seed, -(2**63), 2**63 - 1)
    _checks.integer(_OP, "epoch", epoch, 0, 2**32 - 1)
    _checks.integer(_OP, "draw", draw, 0, 2**30 - 1)
    scales = _range("scale", scale, high=1.0)
    ratios = _range("ratio", ratio, high=1e6)
    stride_list = _checks.numbers(_OP, "strides", strides, low=1e-6, high=1e6)
    rate_list = _checks.numbers(_OP, "rates", rates, low=0.0, high=1.0)
    for name, classes in (("strides", stride_list), ("rates", rate_list)):
        if len(classes) > _MAX_CLASSES:
            raise ValueError(f"{_OP}: {name}: expected at most {_MAX_CLASSES}, got {len(classes)}")
    if not isinstance(rotate, bool):
        raise TypeError(f"{_OP}: rotate: expected a bool, got {type(rotate).__name__}")
    flip = _checks.number(_OP, "flip", flip, 0.0, 1.0)
    require(_OP, num_frames.device)

    fields = torch.ops.stor_ops.sample_view_pairs(
        num_frames,
        heights,
        widths,
        keys,
        clip_frames,
        seed,
        epoch,
        draw,
        scales,
        ratios,
        stride_list,
        rate_list,
        rotate,
        flip,
    )
    return ViewPairs(Views(*fields[:6]), Views(*fields[6:12]), *fields[12:])


def _check_columns(num_frames: Tensor, heights: Tensor, widths: Tensor, keys: Tensor) -> None:
    _checks.tensor(_OP, "num_frames", num_frames, dtypes=[torch.int64], shape=(None,))
    columns = (("heights", heights), ("widths", widths), ("keys", keys))
    for name, column in columns:
        _checks.tensor(
            _OP,
            name,
            column,
            dtypes=[torch.int64],
            shape=num_frames.shape,
            device=num_frames.device,
        )


def _range(name: str, bounds: Sequence[float], high: float) -> list[float]:
    low_high = _checks.numbers(_OP, name, bounds, count=2, low=1e-6, high=high)
    if low_high[0] > low_high[1]:
        raise ValueError(f"{_OP}: {name}: expected (low, high) in order, got {tuple(bounds)}")
    return low_high


@register_fake(_OP)
def _fake(
    num_frames: Tensor, heights: Tensor, widths: Tensor, keys: Tensor, *_: object
) -> list[Tensor]:
    _check_columns(num_frames, heights, widths, keys)
    rows = num_frames.shape[0]

    def views() -> list[Tensor]:
        return [
            num_frames.new_empty((rows, *([4] if dim == 2 else [])), dtype=dtype)
            for _, dtype, dim in _checks.VIEW_FIELDS
        ]

    labels = [num_frames.new_empty(rows) for _ in range(3)]
    return [*views(), *views(), *labels, num_frames.new_empty((rows, 2))]
