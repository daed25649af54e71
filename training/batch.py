"""What workers send: pairs of views and the frames that they show, ragged, in one piece of memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from stor_ops import ViewPairs, Views

from .errors import NoReadableVideoError

_ALIGNMENT = 64  # bytes, of each video in a batch


class Region(NamedTuple):
    """Whole pixels of a frame."""

    x0: int
    y0: int
    x1: int
    y1: int

    @staticmethod
    def around(boxes: Tensor, height: int, width: int) -> Region:
        """Return the smallest region of a frame that holds all boxes (N, 4), inside the frame.

        It is some columns wider where that makes the rows of 8-bit RGB whole 32-bit words: the CUDA kernel
        loads others in two parts.
        """
        x0, y0 = boxes[:, :2].amin(dim=0).floor().long().tolist()
        x1, y1 = boxes[:, 2:].amax(dim=0).ceil().long().tolist()
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        columns = min((x1 - x0 + 3) // 4 * 4, width)
        x0 = min(x0, width - columns)
        return Region(x0, y0, x0 + columns, y1)

    def of(self, frames: Tensor) -> Tensor:
        """Return this part of frames (T, H, W, 3), nothing copied."""
        return frames[:, self.y0 : self.y1, self.x0 : self.x1]


class Excerpt(NamedTuple):
    """The frames of one pair, not yet copied out of the decoder's."""

    decoded: Tensor  # uint8 (D, h, w, 3), strided
    rows: list[int]  # which of the D, in order

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the frames, (T, h, w, 3)."""
        _, height, width, channels = self.decoded.shape
        return len(self.rows), height, width, channels

    def copy_to(self, place: Tensor) -> None:
        """Copy the frames into uint8 (T, h, w, 3)."""
        for frame, row in zip(place, self.rows, strict=True):
            frame.copy_(self.decoded[row])


@dataclass(frozen=True)
class Sample:
    """One video's frames and P pairs of views, or only the reasons why no video could be read."""

    excerpts: Sequence[Excerpt]  # P times: what both clips of a pair need
    pairs: ViewPairs | None  # of P rows, each in units of its excerpt
    source: ViewPairs | None  # the same views, in units of the video
    video: int  # index into the list of videos
    broken: list[tuple[str, str]]  # name and reason of each video that was skipped on the way
    decode_seconds: float


@dataclass(frozen=True)
class Batch:
    """N pairs of views and their ragged frames; the pairs of one video follow each other.

    All frames lie in one tensor, so that one message takes them out of a worker, one copy to a device.
    """

    frames: Tensor  # uint8, flat
    shapes: list[tuple[int, int, int, int]]  # N times (T_i, h_i, w_i, 3)
    pairs: ViewPairs  # of N rows, on `videos`
    source: ViewPairs  # the same, in units of whole videos; `video` indexes the list of videos
    broken: list[tuple[str, str]] = field(default_factory=list)
    decode_seconds: float = 0.0

    @property
    def videos(self) -> list[Tensor]:
        """The frames of each pair, N times uint8 (T_i, h_i, w_i, 3)."""
        begins, _ = _layout(self.shapes)
        return [
            self.frames[begin : begin + _bytes_of(shape)].view(shape)
            for begin, shape in zip(begins, self.shapes, strict=True)
        ]

    @property
    def video(self) -> Tensor:
        """Index into the list of videos, int64 (N,)."""
        return self.source.first.video

    def to(self, device: torch.device) -> Batch:
        """Copy frames and views to ``device``, without waiting where the memory is pinned."""
        return replace(
            self,
            frames=self.frames.to(device, non_blocking=True),
            pairs=self.pairs.to(device, non_blocking=True),
            source=self.source.to(device, non_blocking=True),
        )

    def record_stream(self, stream: torch.Stream) -> None:
        """Once the batch is let go, keep its memory until ``stream`` has done all queued by then."""
        for value in (self.frames, *_tensors(self.pairs), *_tensors(self.source)):
            value.record_stream(stream)

    def pin_memory(self) -> Batch:
        """Move what is copied to a device into page-locked memory; DataLoader calls this."""
        return replace(
            self,
            frames=self.frames.pin_memory(),
            pairs=self.pairs.pin_memory(),
            source=self.source.pin_memory(),
        )


def _tensors(struct: ViewPairs | Views) -> Iterator[Tensor]:
    for value in vars(struct).values():
        if isinstance(value, Tensor):
            yield value
        else:
            yield from _tensors(value)


def _bytes_of(shape: Sequence[int]) -> int:
    return int(torch.Size(shape).numel())


def _layout(shapes: Sequence[Sequence[int]]) -> tuple[list[int], int]:
    """Return where each video begins, and the bytes of all."""
    begins, end = [], 0
    for shape in shapes:
        begins.append(end)
        end += -(-_bytes_of(shape) // _ALIGNMENT) * _ALIGNMENT
    return begins, end


def _new_frames(size: int) -> Tensor:
    """Return uint8 (size,): in a worker, in memory that the training process will share, not copy."""
    if get_worker_info() is None:
        return torch.empty(size, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(size)  # as torch's own collate function does
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def _showing(pairs: ViewPairs, video: Tensor) -> ViewPairs:
    return replace(
        pairs,
        first=replace(pairs.first, video=video),
        second=replace(pairs.second, video=video),
    )


def collate(samples: Sequence[Sample]) -> Batch | NoReadableVideoError:
    """Join samples into a ragged batch, or say that one of them found no readable video at all.

    The error is returned, not raised: on its way out of a worker, DataLoader would bury it in a traceback.
    """
    excerpts: list[Excerpt] = []
    pairs, sources = [], []
    for sample in samples:
        if sample.pairs is None or sample.source is None:
            reasons = "\n".join(f"  {name}: {reason}" for name, reason in sample.broken)
            return NoReadableVideoError(f"data.videos: not one video could be read:\n{reasons}")
        excerpts += sample.excerpts
        pairs.append(sample.pairs)
        sources.append(_showing(sample.source, torch.full((len(sample.excerpts),), sample.video)))
    shapes = [excerpt.shape for excerpt in excerpts]
    batch = Batch(
        _new_frames(_layout(shapes)[1]),
        shapes,
        _showing(ViewPairs.cat(pairs), torch.arange(len(excerpts))),
        ViewPairs.cat(sources),
        [entry for sample in samples for entry in sample.broken],
        sum(sample.decode_seconds for sample in samples),
    )
    for excerpt, place in zip(excerpts, batch.videos, strict=True):
        excerpt.copy_to(place)
    return batch
