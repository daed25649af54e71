"""From video files to ragged batches of uint8 frames with pairs of views.

Workers sample the views, decode only the frames that both clips need, once each, and send them as they
are; cropping, resizing and normalising happen later, on the training device.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

import stor_ops
from stor_ops import ViewPairs, Views

from .config import Data
from .decode import open_video
from .errors import NoReadableVideoError
from .sampler import PairSampler
from .videos import VideoFile


@dataclass(frozen=True)
class Sample:
    """One video's frames and P pairs of views, or only the reasons why no video could be read."""

    frames: Sequence[Tensor]  # P times uint8 (T, H, W, 3): what both clips of a pair need
    pairs: ViewPairs | None  # of P rows, each in units of its `frames`
    source: ViewPairs | None  # the same views, in units of the video
    video: int  # index into the list of videos
    broken: list[tuple[str, str]]  # name and reason of each video that was skipped on the way
    decode_seconds: float


@dataclass(frozen=True)
class Batch:
    """N pairs of views and their ragged frames; the pairs of one video follow each other."""

    videos: list[Tensor]  # N times uint8 (T_i, H_i, W_i, 3)
    pairs: ViewPairs  # of N rows, on `videos`
    source: ViewPairs  # the same, in units of whole videos; `video` indexes the list of videos
    broken: list[tuple[str, str]] = field(default_factory=list)
    decode_seconds: float = 0.0

    @property
    def video(self) -> Tensor:
        """Index into the list of videos, int64 (N,)."""
        return self.source.first.video

    def to(self, device: torch.device) -> Batch:
        """Copy frames and views to ``device``, without waiting where the memory is pinned."""
        return replace(
            self,
            videos=[video.to(device, non_blocking=True) for video in self.videos],
            pairs=self.pairs.to(device, non_blocking=True),
            source=self.source.to(device, non_blocking=True),
        )

    def record_stream(self, stream: torch.Stream) -> None:
        """Once the batch is let go, keep its memory until ``stream`` has done all queued by then."""
        for value in (*self.videos, *_tensors(self.pairs), *_tensors(self.source)):
            value.record_stream(stream)

    def pin_memory(self) -> Batch:
        """Move what is copied to a device into page-locked memory; DataLoader calls this."""
        return replace(
            self,
            videos=[video.pin_memory() for video in self.videos],
            pairs=self.pairs.pin_memory(),
            source=self.source.pin_memory(),
        )


def _tensors(struct: ViewPairs | Views) -> Iterator[Tensor]:
    for value in vars(struct).values():
        if isinstance(value, Tensor):
            yield value
        else:
            yield from _tensors(value)


def compact(pair: ViewPairs, num_frames: int, clip_frames: int) -> tuple[list[int], ViewPairs]:
    """Find the frames that both clips of one video need, and the views in units of those frames.

    Both views have one stride and are whole strides apart, so the frames form one regular grid.

    Args:
        pair: one row, as `stor_ops.sample_view_pairs` gives it.
        num_frames: frames of the video.
        clip_frames: frames of a clip.

    Returns:
        The indices to decode, without the repeats past the video's end, and the pair on them.

    """
    starts = torch.stack([pair.first.start, pair.second.start]).double()
    stride = pair.first.stride.double()
    begin = starts.min()
    steps = clip_frames + int(((starts.max() - begin) / stride).round())
    position = begin + torch.arange(steps, dtype=torch.float64) * stride
    indices = (position + 0.5).floor().clamp(0, num_frames - 1).long().tolist()
    while len(indices) > 1 and indices[-1] == indices[-2]:
        indices.pop()

    def shift(view: Views) -> Views:
        start = ((view.start.double() - begin) / stride).float()
        return replace(view, start=start, stride=torch.ones_like(view.stride))

    return indices, replace(pair, first=shift(pair.first), second=shift(pair.second))


class PairDataset(Dataset[Sample]):
    """Samples and decodes the views of one video; an index is (epoch, item).

    An item is one of ``draws`` times that a video is shown in an epoch, with ``views`` / 2 pairs.
    """

    def __init__(self, videos: Sequence[VideoFile], config: Data, seed: int) -> None:
        self.videos = list(videos)
        self.config = config
        self.seed = seed
        # Which video each worker is at, for the message if it never comes back.
        self.current = torch.full((max(config.workers, 1),), -1).share_memory_()

    def __len__(self) -> int:
        """Return the number of items of an epoch."""
        return len(self.videos) * self.config.draws

    def __getitem__(self, index: tuple[int, int]) -> Sample:
        """Return the views of the indexed video or, if it cannot be read, of the next that can.

        The replacement takes draws of its own, so it never repeats a pair of the epoch. It depends on
        the index alone: batches keep their size, and a resumed run sees the same.
        """
        epoch, item = index
        number, draw = divmod(item, self.config.draws)
        broken = []
        begin = time.perf_counter()
        for attempt in range(len(self.videos)):
            at = (number + attempt) % len(self.videos)
            worker = get_worker_info()
            self.current[worker.id if worker else 0] = at
            try:
                sample = self._read(at, epoch, draw + attempt * self.config.draws)
            except Exception as error:  # whatever a decoder makes of a bad file, the run goes on
                reason = getattr(error, "reason", f"{type(error).__name__}: {error}")
                broken.append((self.videos[at].name, reason))
                continue
            seconds = time.perf_counter() - begin
            return replace(sample, broken=broken, decode_seconds=seconds)
        return Sample((), None, None, -1, broken, time.perf_counter() - begin)

    def _read(self, at: int, epoch: int, draw: int) -> Sample:
        config, video = self.config, self.videos[at]
        count = config.views // 2
        with open_video(video.path, backend=config.decoder) as reader:
            pairs = [
                stor_ops.sample_view_pairs(
                    torch.tensor([reader.num_frames]),
                    torch.tensor([reader.height]),
                    torch.tensor([reader.width]),
                    torch.tensor([video.key]),
                    clip_frames=config.clip_frames,
                    seed=self.seed,
                    epoch=epoch,
                    draw=draw * count + number,
                    scale=config.scale,
                    ratio=config.ratio,
                    strides=config.strides,
                    rates=config.rates,
                    rotate=config.rotate,
                    flip=config.flip,
                )
                for number in range(count)
            ]
            parts = [compact(pair, reader.num_frames, config.clip_frames) for pair in pairs]
            # One call for all pairs: a frame that several of them need is decoded once.
            frames = torch.from_numpy(reader.frames([i for indices, _ in parts for i in indices]))
        return Sample(
            frames.split([len(indices) for indices, _ in parts]),
            ViewPairs.cat([compacted for _, compacted in parts]),
            ViewPairs.cat(pairs),
            at,
            [],
            0.0,
        )


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
    videos: list[Tensor] = []
    pairs, sources = [], []
    for sample in samples:
        if sample.pairs is None or sample.source is None:
            reasons = "\n".join(f"  {name}: {reason}" for name, reason in sample.broken)
            return NoReadableVideoError(f"data.videos: not one video could be read:\n{reasons}")
        videos += sample.frames
        pairs.append(sample.pairs)
        sources.append(_showing(sample.source, torch.full((len(sample.frames),), sample.video)))
    return Batch(
        videos,
        _showing(ViewPairs.cat(pairs), torch.arange(len(videos))),
        ViewPairs.cat(sources),
        [entry for sample in samples for entry in sample.broken],
        sum(sample.decode_seconds for sample in samples),
    )


def _init_worker(_: int) -> None:
    # Ctrl-C and a scheduler's SIGTERM reach every process of the group; the training process alone decides
    # what to do about them, and ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def make_loader(
    dataset: PairDataset, sampler: PairSampler, *, pin_memory: bool
) -> DataLoader[Sample]:
    """Return the loader of a whole run: its workers live until the end and read ahead across epochs."""
    config = dataset.config
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=config.workers,
        timeout=config.timeout if config.workers else 0,
        worker_init_fn=_init_worker,
        pin_memory=pin_memory,
    )
