"""The structs that the ops exchange: `Views`, `ViewPairs` and `OverlapRate`."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, SupportsIndex, TypeVar

import torch
from torch import Tensor

_Struct = TypeVar("_Struct", bound="_TensorStruct")


class _TensorStruct:
    """What a dataclass of tensors (or of such dataclasses) with one row each can do."""

    def to(self: _Struct, device: torch.device | str, *, non_blocking: bool = False) -> _Struct:
        """Return the same rows on ``device``."""
        return self._map(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self: _Struct) -> _Struct:
        """Return the same rows in page-locked host memory, from where copies can overlap compute."""
        return self._map(lambda value: value.pin_memory())

    def __getitem__(self: _Struct, index: int | slice | Tensor | Sequence[int]) -> _Struct:
        """Return a struct of the chosen rows; an integer gives a struct of one row."""
        if isinstance(index, Tensor):
            index = torch.atleast_1d(index)
        elif isinstance(index, tuple):
            index = list(index)
        elif isinstance(index, SupportsIndex) and getattr(index, "ndim", 0) == 0:
            index = operator.index(index)
            if not -len(self) <= index < len(self):
                raise IndexError(f"{type(self).__name__}: row {index} of {len(self)}")
            index = slice(index, index + 1 or None)
        return self._map(lambda value: value[index])

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(getattr(self, fields(self)[0].name))  # type: ignore[arg-type]

    def _map(self: _Struct, function: Any) -> _Struct:
        values = (getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]
        return type(self)(*(function(value) for value in values))

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        device: torch.device = getattr(self, fields(self)[0].name).device  # type: ignore[arg-type]
        return device

    @classmethod
    def cat(cls: type[_Struct], parts: Sequence[_Struct]) -> _Struct:
        """Concatenate the rows of ``parts``, at least one."""
        if not parts:
            raise ValueError(f"{cls.__name__}.cat: parts: expected at least 1, got none")
        columns = []
        for field in fields(parts[0]):  # type: ignore[arg-type]
            column = [getattr(part, field.name) for part in parts]
            join = torch.cat if isinstance(column[0], Tensor) else type(column[0]).cat
            columns.append(join(column))
        return cls(*columns)


@dataclass(frozen=True, eq=False)
class Views(_TensorStruct):
    """N views, each one clip of one video of a batch.

    Units are source pixels and frames: pixel i covers [i, i + 1), frames likewise. The operations
    apply in this order: pick frames, crop, resize, flip, rotate, colour.

    Attributes:
        video: int64 (N,), index into the batch.
        start: float32 (N,), the first frame.
        stride: float32 (N,), source frames per output frame, above 0.
        box: float32 (N, 4), edges x0, y0, x1, y1 (XYXY as in torchvision).
        flip: bool (N,), left-right.
        rotation: uint8 (N,), quarter turns counter-clockwise as in `torch.rot90`.

    """

    video: Tensor
    start: Tensor
    stride: Tensor
    box: Tensor
    flip: Tensor
    rotation: Tensor

    @classmethod
    def from_boxes(
        cls,
        box: Tensor,
        *,
        video: Tensor | None = None,
        start: Tensor | float = 0.0,
        stride: Tensor | float = 1.0,
        flip: Tensor | bool = False,
        rotation: Tensor | int = 0,
    ) -> Views:
        """Build views from boxes and defaults.

        Args:
            box: (N, 4), edges x0, y0, x1, y1 in source pixels.
            video: (N,) index into the batch; by default view i shows video i.
            start: first frame, one for all or (N,).
            stride: source frames per output frame, one for all or (N,).
            flip: left-right, one for all or (N,).
            rotation: quarter turns counter-clockwise, one for all or (N,).

        """
        rows, device = box.shape[0], box.device

        def column(value: Any, dtype: torch.dtype) -> Tensor:
            return torch.as_tensor(value, dtype=dtype, device=device).expand(rows).contiguous()

        return cls(
            column(torch.arange(rows, device=device) if video is None else video, torch.int64),
            column(start, torch.float32),
            column(stride, torch.float32),
            box.to(torch.float32),
            column(flip, torch.bool),
            column(rotation, torch.uint8),
        )


@dataclass(frozen=True, eq=False)
class ViewPairs(_TensorStruct):
    """Two views of each of B videos, and the classes that a network is to predict from them.

    Attributes:
        first: Views of B rows; row i shows video i.
        second: Views of B rows; same box size and stride as ``first``.
        spatial_class: int64 (B,), index into ``rates``.
        temporal_class: int64 (B,), index into ``rates``, or -100 where the video is too short.
        playback_class: int64 (B,), index into ``strides``.
        rotation_class: int64 (B, 2), quarter turns of the first and the second view.

    """

    first: Views
    second: Views
    spatial_class: Tensor
    temporal_class: Tensor
    playback_class: Tensor
    rotation_class: Tensor


class OverlapRate(NamedTuple):
    """Shared part of two views, measured over the first (CSTP, arXiv 2112.08913).

    Attributes:
        spatial: float32, area(A n B) / area(A) of the boxes.
        temporal: float32, |tA n tB| / |tA| of the time extents.
        joint: float32, their product.

    """

    spatial: Tensor
    temporal: Tensor
    joint: Tensor


for _struct in (Views, ViewPairs):
    torch.export.register_dataclass(_struct, serialized_type_name=f"stor_ops.{_struct.__name__}")
