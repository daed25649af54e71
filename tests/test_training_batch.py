"""Batches: regions of frames, in one piece of memory that is shared, pinned and copied as a whole."""

from pathlib import Path

import pytest
import torch
from barcode import write_barcode

from training.batch import Batch, Region, Sample, collate
from training.config import Data
from training.data import PairDataset
from training.videos import list_videos


@pytest.mark.parametrize(
    ("box", "region"),
    [
        ((3.0, 4, 11, 9), (3, 4, 11, 9)),  # whole pixels, whole words
        ((3.2, 4.9, 10.1, 8.01), (3, 4, 11, 9)),  # pixels of which a part is shown
        ((3.0, 4, 12, 9), (3, 4, 15, 9)),  # 9 columns become 12, to the right
        ((55.0, 4, 61, 50), (54, 4, 62, 50)),  # and to the left at the end of the frame
        ((0.0, 0, 62, 50), (0, 0, 62, 50)),  # no frame is too narrow
        ((-0.5, -2, 62.5, 51), (0, 0, 62, 50)),
    ],
)
def test_regions_are_whole_words_within_the_frame(
    box: tuple[float, ...], region: tuple[int, ...]
) -> None:
    assert Region.around(torch.tensor([box]), 50, 62) == region


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    for number in range(3):
        write_barcode(tmp_path / f"{number}.mp4", frames=30, first=40 * number)
    config = Data(clip_frames=4, size=32, views=4, batch_size=3, workers=0, strides=(1, 2))
    dataset = PairDataset(list_videos([str(tmp_path)]), config, seed=1)
    return [dataset[0, item] for item in range(3)]


@pytest.fixture
def batch(samples: list[Sample]) -> Batch:
    batch = collate(samples)
    assert isinstance(batch, Batch)
    return batch


def test_the_videos_of_a_batch_lie_in_one_piece(batch: Batch) -> None:
    assert len(batch.videos) == 6
    base = batch.frames.data_ptr()
    ends = [0]
    for video in batch.videos:
        begin = video.data_ptr() - base
        assert begin % 64 == 0
        assert ends[-1] <= begin < ends[-1] + 64
        ends.append(begin + video.numel())
    assert ends[-1] <= batch.frames.numel() < ends[-1] + 64


def test_workers_collate_into_shared_memory(
    samples: list[Sample], batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not batch.frames.is_shared()
    monkeypatch.setattr("training.batch.get_worker_info", object)
    shared = collate(samples)
    assert isinstance(shared, Batch)
    assert shared.frames.is_shared()
    assert all(torch.equal(a, b) for a, b in zip(shared.videos, batch.videos, strict=True))


def test_all_of_a_batch_is_pinned_and_kept_for_its_stream(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, _: kept.append(self.data_ptr()))
    pinned = batch.pin_memory()
    addresses = [
        {tensor.data_ptr() for tensor in (one.frames, *_tensors(one.pairs), *_tensors(one.source))}
        for one in (batch, pinned)
    ]
    assert not addresses[0] & addresses[1], "all is copied"
    assert all(torch.equal(a, b) for a, b in zip(batch.videos, pinned.videos, strict=True))
    pinned.record_stream(torch.Stream(device="cpu"))
    assert set(kept) == addresses[1]


def _tensors(struct: object) -> list[torch.Tensor]:
    if isinstance(struct, torch.Tensor):
        return [struct]
    return [tensor for value in vars(struct).values() for tensor in _tensors(value)]
