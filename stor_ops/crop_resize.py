"""`crop_resize` and `crop_resize_pair`: batched spatio-temporal crop-and-resize of video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from . import _checks
from ._load import register_fake, require
from .views import OverlapRate, Views

_SOURCE_DTYPES = (torch.uint8, torch.float32, torch.float16, torch.bfloat16)
_CLIP_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.uint8)


def crop_resize(
    videos: Tensor | Sequence[Tensor],
    views: Views,
    size: Sequence[int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    color: Tensor | None = None,
    antialias: bool = True,
    temporal: Literal["nearest", "linear"] = "nearest",
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Make one clip of each view: pick frames, crop, resize, flip, rotate, colour, normalise, cast.

    Resizing is bilinear with pixel centres at + 0.5 and does not look outside the box: for boxes on
    pixel edges the result is that of torchvision's crop followed by resize. Frames past either end and
    pixels outside the frame repeat the edge.

    Args:
        videos: uint8 or floating point (B, T, H, W, C), or a list of (T_i, H_i, W_i, C) of different
            sizes; C is 1 to 4. Any strides are read in place, so a permuted TCHW tensor is fine. uint8 is
            scaled to [0, 1], floating point is taken as it is.
        views: N views; ``views.video`` indexes ``videos``.
        size: (T, H, W) of the clips. A view turned by a quarter is resized to (W, H) before the turn.
        mean: one number per channel, subtracted after the colour matrix.
        std: one number per channel, by which the difference is divided.
        color: float32 (N, 3, 4), for videos of 3 channels: the affine map of each view's colours in
            [0, 1] units, ``color[:, :3] @ rgb + color[:, 3]``. Not clamped, but for uint8 clips.
        antialias: widen the filter when shrinking, as torchvision's ``antialias=True``.
        temporal: output frame t shows source time start + t * stride: the nearest frame,
            floor(x + 0.5), or the two around it blended.
        dtype: float32, float16, bfloat16, or uint8 (scaled to 255, rounded, clamped; no mean or std).
        memory_format: torch.contiguous_format or torch.channels_last_3d.

    Returns:
        Tensor (N, C, T, H, W) of ``dtype``. On the CPU, from 4 to 256 MiB, in memory that is kept for the
        next call once it is freed (``STOR_OPS_KEEP_MEMORY=0``: not).

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: an argument has another shape or device, is out of range or requires a gradient; on
            the CPU also a view that no clip can be made of, named by its row (on CUDA its clip is NaN, 0
            for uint8).

    """
    op = "crop_resize"
    video_list, device = _check_videos(op, videos)
    fields = _checks.views(op, "views", views, device=device)
    options = _check_options(
        op, video_list[0].shape[-1], size, mean, std, temporal, dtype, memory_format
    )
    _check_color(op, "color", color, len(views), video_list[0])
    require(op, device)
    clips: Tensor = torch.ops.stor_ops.crop_resize(
        video_list,
        fields,
        options.size,
        options.mean,
        options.std,
        color,
        bool(antialias),
        temporal == "linear",
        dtype,
        memory_format == torch.channels_last_3d,
    )
    return clips


def crop_resize_pair(
    videos: Tensor | Sequence[Tensor],
    first: Views,
    second: Views,
    size: Sequence[int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    color: Tensor | tuple[Tensor | None, Tensor | None] | None = None,
    antialias: bool = True,
    temporal: Literal["nearest", "linear"] = "nearest",
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> tuple[Tensor, Tensor, OverlapRate]:
    """Make the clips of both views of each pair and measure their overlap, in one launch.

    Args:
        videos: as for `crop_resize`.
        first: N views.
        second: N views.
        size: as for `crop_resize`; its T is also the clip length of the overlap.
        mean: as for `crop_resize`.
        std: as for `crop_resize`.
        color: one tensor for both views of each pair, or a tuple of one for each.
        antialias: as for `crop_resize`.
        temporal: as for `crop_resize`.
        dtype: as for `crop_resize`.
        memory_format: as for `crop_resize`.

    Returns:
        Clips of the first views and of the second, (N, C, T, H, W) each, and the `OverlapRate` of the
        pairs as `overlap_rate` measures it.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: as for `crop_resize`.

    """
    op = "crop_resize_pair"
    video_list, device = _check_videos(op, videos)
    first_fields = _checks.views(op, "first", first, device=device)
    second_fields = _checks.views(op, "second", second, size=len(first), device=device)
    options = _check_options(
        op, video_list[0].shape[-1], size, mean, std, temporal, dtype, memory_format
    )
    if isinstance(color, tuple):
        if len(color) != 2:
            raise ValueError(f"{op}: color: expected a tensor or a tuple of 2, got {len(color)}")
        color_first, color_second = color
    else:
        color_first = color_second = color
    _check_color(op, "color", color_first, len(first), video_list[0])
    _check_color(op, "color", color_second, len(first), video_list[0])
    require(op, device)
    clips_first, clips_second, *rates = torch.ops.stor_ops.crop_resize_pair(
        video_list,
        first_fields,
        second_fields,
        options.size,
        options.mean,
        options.std,
        color_first,
        color_second,
        bool(antialias),
        temporal == "linear",
        dtype,
        memory_format == torch.channels_last_3d,
    )
    return clips_first, clips_second, OverlapRate(*rates)


class _Options(NamedTuple):
    """Checked options in the form that the ops take."""

    size: list[int]
    mean: list[float] | None
    std: list[float] | None


def _check_videos(op: str, videos: object) -> tuple[list[Tensor], torch.device]:
    if isinstance(videos, Tensor):
        _checks.tensor(op, "videos", videos, dtypes=_SOURCE_DTYPES, shape=(None,) * 5)
        video_list = [videos]
    elif isinstance(videos, (list, tuple)):
        video_list = list(videos)
        if not video_list:
            raise ValueError(f"{op}: videos: expected at least one video, got an empty list")
        for index, video in enumerate(video_list):
            head = video_list[0]
            _checks.tensor(
                op,
                f"videos[{index}]",
                video,
                dtypes=_SOURCE_DTYPES if index == 0 else [head.dtype],
                shape=(None, None, None, None if index == 0 else head.shape[3]),
                device=head.device if index else None,
            )
    else:
        raise TypeError(
            f"{op}: videos: expected a tensor (B, T, H, W, C) or a list of tensors (T, H, W, C), "
            f"got {type(videos).__name__}"
        )
    for index, video in enumerate(video_list):
        _checks.no_gradient(op, "videos" if video is videos else f"videos[{index}]", video)
        frames, height, width, channels = video.shape[-4:]
        if not 1 <= channels <= 4:
            raise ValueError(
                f"{op}: videos: expected 1 to 4 channels last, got {tuple(video.shape)}"
            )
        if frames < 1 or height < 1 or width < 1:
            raise ValueError(
                f"{op}: videos: expected at least one frame, row and column, got {tuple(video.shape)}"
            )
    return video_list, video_list[0].device


def _check_options(
    op: str,
    channels: int,
    size: Sequence[int],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    temporal: str,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
) -> _Options:
    if not isinstance(size, (tuple, list)) or len(size) != 3:
        raise ValueError(f"{op}: size: expected (T, H, W), got {size}")
    sizes = [_checks.integer(op, f"size[{i}]", value, 1) for i, value in enumerate(size)]
    if dtype not in _CLIP_DTYPES:
        names = ", ".join(str(name) for name in _CLIP_DTYPES)
        raise TypeError(f"{op}: dtype: expected one of {names}, got {dtype}")
    if dtype == torch.uint8 and (mean is not None or std is not None):
        raise ValueError(
            f"{op}: dtype: expected a floating point dtype with mean or std, got {dtype}"
        )
    means, stds = None, None
    float32 = torch.finfo(torch.float32)  # what the kernels compute in
    if mean is not None:
        means = _checks.numbers(
            op, "mean", mean, count=channels, low=-float32.max, high=float32.max
        )
    if std is not None:
        stds = _checks.numbers(op, "std", std, count=channels, low=float32.tiny, high=float32.max)
    if temporal not in ("nearest", "linear"):
        raise ValueError(f'{op}: temporal: expected "nearest" or "linear", got {temporal!r}')
    if memory_format not in (torch.contiguous_format, torch.channels_last_3d):
        raise ValueError(
            f"{op}: memory_format: expected torch.contiguous_format or torch.channels_last_3d, "
            f"got {memory_format}"
        )
    return _Options(sizes, means, stds)


def _check_color(op: str, name: str, color: Tensor | None, rows: int, video: Tensor) -> None:
    if color is None:
        return
    if video.shape[-1] != 3:
        raise ValueError(f"{op}: {name}: expected videos of 3 channels, got {video.shape[-1]}")
    _checks.tensor(op, name, color, dtypes=[torch.float32], shape=(rows, 3, 4), device=video.device)
    _checks.no_gradient(op, name, color)


def _empty_clips(
    video: Tensor, rows: int, size: Sequence[int], dtype: torch.dtype, channels_last: bool
) -> Tensor:
    return torch.empty(
        (rows, video.shape[-1], *size),
        dtype=dtype,
        device=video.device,
        memory_format=torch.channels_last_3d if channels_last else torch.contiguous_format,
    )


def _check_op_options(
    op: str,
    videos: list[Tensor],
    size: list[int],
    mean: list[float] | None,
    std: list[float] | None,
    dtype: torch.dtype,
) -> None:
    _check_videos(op, videos[0] if len(videos) == 1 and videos[0].dim() == 5 else videos)
    channels = videos[0].shape[-1]
    _check_options(op, channels, list(size), mean, std, "nearest", dtype, torch.contiguous_format)


@register_fake("crop_resize")
def _crop_resize_fake(
    videos: list[Tensor],
    views: list[Tensor],
    size: list[int],
    mean: list[float] | None,
    std: list[float] | None,
    color: Tensor | None,
    antialias: bool,
    linear_time: bool,
    dtype: torch.dtype,
    channels_last: bool,
) -> Tensor:
    op = "crop_resize"
    _check_op_options(op, videos, size, mean, std, dtype)
    _checks.views(op, "views", Views(*views), device=videos[0].device)
    _check_color(op, "color", color, views[0].shape[0], videos[0])
    return _empty_clips(videos[0], views[0].shape[0], size, dtype, channels_last)


@register_fake("crop_resize_pair")
def _crop_resize_pair_fake(
    videos: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    size: list[int],
    mean: list[float] | None,
    std: list[float] | None,
    color_first: Tensor | None,
    color_second: Tensor | None,
    antialias: bool,
    linear_time: bool,
    dtype: torch.dtype,
    channels_last: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    op = "crop_resize_pair"
    rows = first[0].shape[0]
    _check_op_options(op, videos, size, mean, std, dtype)
    _checks.views(op, "first", Views(*first), device=videos[0].device)
    _checks.views(op, "second", Views(*second), size=rows, device=videos[0].device)
    _check_color(op, "color", color_first, rows, videos[0])
    _check_color(op, "color", color_second, rows, videos[0])

    def clips() -> Tensor:
        return _empty_clips(videos[0], rows, size, dtype, channels_last)

    def rate() -> Tensor:
        return videos[0].new_empty(rows, dtype=torch.float32)

    return clips(), clips(), rate(), rate(), rate()
