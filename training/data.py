"""From video files to samples: sampled views, and of each video what they show.

Workers sample the views, decode only the frames that the clips need, once each, and send the region of
them that both views lie in; cropping, resizing and normalising happen later, on the training device.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

import stor_ops
from stor_ops import ViewPairs, Views

from .batch import Excerpt, Region, Sample, collate
from .config import Data
from .decode import open_video
from .decode_readers import VideoReader
from .sampler import PairSampler
from .videos import VideoFile


class Needed(NamedTuple):
    """What both clips of a pair need of their video."""

    indices: list[int]  # frames, rising, without the repeats past the video's end
    region: Region
    pair: ViewPairs  # in units of these frames and this region


def compact(pair: ViewPairs, reader: VideoReader, clip_frames: int) -> Needed:
    """Find the frames and the region of them that both clips of one video need.

    Both views have one stride and are whole strides apart, so the frames form one regular grid. Boxes move
    by whole pixels, which float32 holds exactly.

    Args:
        pair: one row, as `stor_ops.sample_view_pairs` gives it.
        reader: tells the number of frames and their size.
        clip_frames: frames of a clip.

    Returns:
        What to decode and to keep, and the pair on that.

    """
    starts = torch.stack([pair.first.start, pair.second.start]).double()
    stride = pair.first.stride.double()
    begin = starts.min()
    steps = clip_frames + int(((starts.max() - begin) / stride).round())
    position = begin + torch.arange(steps, dtype=torch.float64) * stride
    indices = (position + 0.5).floor().clamp(0, reader.num_frames - 1).long().tolist()
    while len(indices) > 1 and indices[-1] == indices[-2]:
        indices.pop()
    region = Region.around(
        torch.cat([pair.first.box, pair.second.box]), reader.height, reader.width
    )
    corner = torch.tensor([region.x0, region.y0] * 2)

    def shift(view: Views) -> Views:
        start = ((view.start.double() - begin) / stride).float()
        return replace(
            view, start=start, stride=torch.ones_like(view.stride), box=view.box - corner
        )

    moved = replace(pair, first=shift(pair.first), second=shift(pair.second))
    return Needed(indices, region, moved)


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
            needed = [compact(pair, reader, config.clip_frames) for pair in pairs]
            # One call for all pairs: a frame that several of them need is decoded once.
            indices = sorted({index for need in needed for index in need.indices})
            frames = torch.from_numpy(reader.frames(indices))
        rows = {index: row for row, index in enumerate(indices)}
        return Sample(
            [
                Excerpt(need.region.of(frames), [rows[index] for index in need.indices])
                for need in needed
            ],
            ViewPairs.cat([need.pair for need in needed]),
            ViewPairs.cat(pairs),
            at,
            [],
            0.0,
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
