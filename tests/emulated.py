"""The CUDA kernels, run on the CPU by tests/emulator, with NumPy arrays in and out.

No torch: sanitized processes import this too. Outputs are allocated exactly and filled with NaN, or 0xFF.
"""

from __future__ import annotations

from typing import Any

import numpy as np

KINDS = {"uint8": 0, "float32": 1, "float16": 2, "bfloat16": 3}
STORED = {"uint8": np.uint8, "float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}
FIELDS = ("video", "start", "stride", "box", "flip", "rotation")
TYPES = (np.int64, np.float32, np.float32, np.float32, np.bool_, np.uint8)

Array = Any


def poisoned(shape: tuple[int, ...], dtype: Any) -> Array:
    """An array of 0xFF bytes: NaN in every floating-point format."""
    count = int(np.prod(shape))
    raw = np.full(count * np.dtype(dtype).itemsize, 0xFF, np.uint8)
    return raw.view(dtype).reshape(shape)


def views(**fields: Any) -> dict[str, Array]:
    """Views of as many rows as there are boxes; what is not given is that of an upright first frame."""
    box = np.ascontiguousarray(fields.pop("box"), np.float32).reshape(-1, 4)
    rows = len(box)
    filled = {"video": 0, "start": 0.0, "stride": 1.0, "flip": False, "rotation": 0, **fields}
    columns = {
        name: np.ascontiguousarray(np.broadcast_to(np.asarray(value, kind), rows))
        for name, kind in zip(FIELDS, TYPES, strict=True)
        if name != "box"
        for value in [filled[name]]
    }
    columns["box"] = box
    return {name: columns[name] for name in FIELDS}


def addresses(fields: dict[str, Array]) -> list[int]:
    return [fields[name].ctypes.data for name in FIELDS]


def empty_views(rows: int) -> dict[str, Array]:
    shapes = {name: (rows, 4) if name == "box" else (rows,) for name in FIELDS}
    return {name: poisoned(shapes[name], kind) for name, kind in zip(FIELDS, TYPES, strict=True)}


def sample_view_pairs(kernels: Any, videos: list[Array], **options: Any) -> list[Array]:
    """All sixteen columns, in the order of the op."""
    rows = len(videos[0])
    first, second = empty_views(rows), empty_views(rows)
    classes = [poisoned((rows,), np.int64) for _ in range(3)] + [poisoned((rows, 2), np.int64)]
    settings = {
        "clip_frames": 16,
        "seed": 0,
        "epoch": 0,
        "draw": 0,
        "scale": (0.2, 1.0),
        "ratio": (3 / 4, 4 / 3),
        "strides": (1, 2, 4, 8),
        "rates": (1.0, 0.8, 0.6, 0.4, 0.2),
        "rotate": True,
        "flip": 0.5,
        **options,
    }
    kernels.sample_view_pairs(
        [column.ctypes.data for column in videos],
        rows,
        addresses(first),
        addresses(second),
        [column.ctypes.data for column in classes],
        *settings.values(),
    )
    return [*first.values(), *second.values(), *classes]


def overlap_rate(
    kernels: Any,
    first: dict[str, Array],
    second: dict[str, Array],
    clip_frames: int,
    pairwise: bool = False,
) -> list[Array]:
    """Spatial, temporal and joint rate."""
    rows, columns = len(first["video"]), len(second["video"])
    shape = (rows, columns) if pairwise else (rows,)
    rates = [poisoned(shape, np.float32) for _ in range(3)]
    kernels.overlap_rate(
        addresses(first),
        rows,
        addresses(second),
        columns,
        pairwise,
        clip_frames,
        [rate.ctypes.data for rate in rates],
    )
    return rates


def crop_resize(
    kernels: Any,
    videos: list[Array],
    targets: list[dict[str, Array]],
    size: tuple[int, int, int],
    *,
    kind: str = "uint8",
    dtype: str = "float32",
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    color: Array | None = None,
    antialias: bool = True,
    linear: bool = False,
    channels_last: bool = False,
) -> tuple[list[Array], list[Array]]:
    """The clips (N, C, T, H, W) of one target or two, bfloat16 as raw uint16, and the overlap of two."""
    rows, channels = len(targets[0]["video"]), videos[0].shape[3]
    shape = (rows, *size, channels) if channels_last else (rows, channels, *size)
    clips = [poisoned(shape, STORED[dtype]) for _ in targets]
    rates = [poisoned((rows,), np.float32) for _ in range(3)] if len(targets) == 2 else []
    table = [
        [video.ctypes.data, *video.shape[:3], *(s // video.itemsize for s in video.strides)]
        for video in videos
    ]
    matrix = 0 if color is None else color.ctypes.data
    kernels.crop_resize(
        table,
        [
            kernels.Target(addresses(fields), matrix, out.ctypes.data)
            for fields, out in zip(targets, clips, strict=True)
        ],
        rows,
        size,
        channels,
        KINDS[kind],
        KINDS[dtype],
        mean,
        std,
        antialias,
        linear,
        channels_last,
        [rate.ctypes.data for rate in rates] if rates else None,
    )
    if channels_last:
        clips = [np.moveaxis(out, -1, 1) for out in clips]
    return clips, rates
