"""The CUDA kernel of crop_resize, emulated, on torch tensors; and its comparison with the CPU op."""

from __future__ import annotations

from dataclasses import fields
from types import ModuleType

import emulated
import numpy as np
import torch
from torch import Tensor

import stor_ops
from stor_ops import Views

TOLERANCE = 1e-5
"""Of float32 clips of magnitude 1; what is rounded further may be off by that rounding, and this."""


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def to_array(tensor: Tensor) -> np.ndarray:
    """The same memory; bfloat16 as raw uint16."""
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def to_tensor(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).view(dtype)


def emulate(
    kernels: ModuleType,
    videos: list[Tensor],
    targets: list[Views],
    size: tuple[int, int, int],
    *,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    color: Tensor | None = None,
    temporal: str = "nearest",
    dtype: torch.dtype = torch.float32,
    **others: bool,
) -> tuple[list[Tensor], list[np.ndarray]]:
    """crop_resize of one target or crop_resize_pair of two, options as theirs."""
    clips, rates = emulated.crop_resize(
        kernels,
        [to_array(video) for video in videos],
        [
            emulated.views(**{f.name: getattr(views, f.name).numpy() for f in fields(Views)})
            for views in targets
        ],
        size,
        kind=name_of(videos[0].dtype),
        dtype=name_of(dtype),
        mean=mean or (),
        std=std or (),
        color=None if color is None else color.contiguous().numpy(),
        linear=temporal == "linear",
        **others,
    )
    return [to_tensor(clip, dtype) for clip in clips], rates


def assert_close(got: Tensor, exact: Tensor) -> None:
    """``exact`` before any rounding, in the [0, 1] units of the source even where got is uint8."""
    assert got.shape == exact.shape
    exact, tolerance = exact.double(), TOLERANCE * max(1.0, float(exact.abs().max()))
    rounding = torch.zeros(())
    if got.dtype == torch.uint8:
        exact, tolerance = (255 * exact).clamp(0, 255), 255 * tolerance
        rounding = (exact.round() - exact).abs()
    elif got.dtype != torch.float32:
        rounding = (exact.to(got.dtype).double() - exact).abs()
    error = ((got.double() - exact).abs() - rounding).nan_to_num(nan=np.inf)
    assert float(error.max()) <= tolerance


def check(
    kernels: ModuleType,
    videos: list[Tensor],
    views: Views,
    size: tuple[int, int, int],
    channels_last: bool = False,
    **options: object,
) -> None:
    """Emulate, and compare with the CPU op."""
    (clips,), _ = emulate(kernels, videos, [views], size, channels_last=channels_last, **options)
    exact = {name: value for name, value in options.items() if name != "dtype"}
    assert_close(clips, stor_ops.crop_resize(videos, views, size, **exact))
