"""From files to batches: listing, compacting, broken videos, the order of samples."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from barcode import read_number, write_audio, write_barcode

import stor_ops
from training.batch import Batch, Region, collate
from training.config import Data
from training.data import PairDataset, compact, make_loader
from training.decode import open_video
from training.errors import ConfigError, DataError, NoReadableVideoError
from training.feed import Interruption, timed_batches
from training.sampler import PairSampler
from training.videos import VideoFile, fingerprint, list_videos

SMALL = Data(clip_frames=4, size=32, batch_size=4, workers=0, draws=2, strides=(1, 2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    (root / "deep").mkdir()
    for number, name in enumerate(("a.mp4", "b.mkv", "deep/c.mp4")):
        write_barcode(root / name, frames=30, first=40 * number)
    return root


def test_folder_lists_videos_by_name_with_stable_keys(folder: Path) -> None:
    (folder / "notes.md").write_text("not a video")
    videos = list_videos([str(folder)])
    names = [video.name.split("/", 1)[1] for video in videos]
    assert names == ["a.mp4", "b.mkv", "deep/c.mp4"]
    assert len({video.key for video in videos}) == 3
    assert all(-(2**63) <= video.key < 2**63 for video in videos)


def test_keys_do_not_depend_on_where_the_folder_lies(tmp_path: Path) -> None:
    keys = []
    for place in ("here", "there"):
        (tmp_path / place / "set").mkdir(parents=True)
        (tmp_path / place / "set" / "x.mp4").touch()
        keys.append(list_videos([str(tmp_path / place / "set")])[0].key)
    assert keys[0] == keys[1] == 2775987196389563591


def test_list_file_names_paths_beside_it(folder: Path) -> None:
    (folder / "list.txt").write_text("deep/c.mp4\n\na.mp4\nvanished.mp4\n")
    videos = list_videos([str(folder / "list.txt")])
    assert [video.name for video in videos] == ["a.mp4", "deep/c.mp4", "vanished.mp4"]
    assert Path(videos[1].path).exists()


@pytest.mark.parametrize("sources", [["/nowhere/at/all"], []])
def test_nothing_to_read_is_an_error(sources: list[str]) -> None:
    with pytest.raises(NoReadableVideoError, match=r"data\.videos"):
        list_videos(sources)


class Whole(NamedTuple):
    """What `compact` asks of an open video."""

    num_frames: int
    height: int = 50
    width: int = 62


def _pair(video: Whole, clip: int, key: int) -> stor_ops.ViewPairs:
    return stor_ops.sample_view_pairs(
        *(torch.tensor([number]) for number in (*video, key)),
        clip_frames=clip,
        strides=(1, 2, 3),
    )


@pytest.mark.parametrize("num_frames", [1, 3, 8, 15, 40, 200])
def test_what_compact_keeps_gives_the_clips_of_the_whole_video(num_frames: int) -> None:
    whole = Whole(num_frames)
    video = torch.randint(0, 256, (*whole, 3), dtype=torch.uint8)
    for key in range(30):
        pair = _pair(whole, 8, key)
        indices, region, compacted = compact(pair, whole, 8)  # type: ignore[arg-type]
        assert len(set(indices)) == len(indices), "a frame would be decoded twice"
        part = region.of(video[indices])
        for whole_view, part_view in (
            (pair.first, compacted.first),
            (pair.second, compacted.second),
        ):
            expected = stor_ops.crop_resize(video[None], whole_view, (8, 16, 16))
            got = stor_ops.crop_resize(part[None], part_view, (8, 16, 16))
            assert torch.equal(got, expected)
        for before, after in zip(
            stor_ops.overlap_rate(pair.first, pair.second, clip_frames=8),
            stor_ops.overlap_rate(compacted.first, compacted.second, clip_frames=8),
            strict=True,
        ):
            torch.testing.assert_close(after, before)


def test_compact_keeps_nothing_that_no_clip_shows() -> None:
    whole = Whole(200)
    for key in range(30):
        pair = _pair(whole, 8, key)
        indices, region, _ = compact(pair, whole, 8)  # type: ignore[arg-type]
        views = (pair.first, pair.second)
        assert set(indices) == {int(v.start + t * v.stride) for v in views for t in range(8)}
        boxes = torch.cat([v.box for v in views])
        assert region.y0 == int(boxes[:, 1].min())
        assert region.y1 == -int(-boxes[:, 3].max() // 1)
        columns = -int(-boxes[:, 2].max() // 1) - int(boxes[:, 0].min())
        assert region.x1 - region.x0 - columns <= 3


def test_samples_hold_what_the_views_show(folder: Path) -> None:
    videos = list_videos([str(folder)])
    dataset = PairDataset(videos, SMALL, seed=3)
    for item in range(len(dataset)):
        sample = dataset[5, item]
        assert sample.pairs is not None
        assert sample.source is not None
        batch = collate([sample])
        assert isinstance(batch, Batch)
        (frames,) = batch.videos
        assert frames.shape[2] % 4 == 0
        with open_video(videos[item // SMALL.draws].path) as reader:
            whole = reader.frames(range(reader.num_frames))
        assert read_number(whole[7]) == 40 * (item // SMALL.draws) + 7
        for placed, source in (
            (sample.pairs.first, sample.source.first),
            (sample.pairs.second, sample.source.second),
        ):
            corner = (source.box - placed.box).long()[0, :2].tolist()
            assert torch.equal(placed.box, source.box - torch.tensor(corner * 2))
            region = Region(*corner, *(corner[i] + frames.shape[2 - i] for i in range(2)))
            for t in range(SMALL.clip_frames):
                at = int(source.start + t * source.stride)
                expected = region.of(torch.from_numpy(whole[at : at + 1]))[0]
                assert torch.equal(frames[int(placed.start) + t], expected)


def test_draws_and_epochs_give_other_pairs_and_repeat(folder: Path) -> None:
    dataset = PairDataset(list_videos([str(folder)]), SMALL, seed=3)
    boxes = [dataset[index].pairs.first.box for index in ((0, 0), (0, 1), (1, 0), (0, 0))]  # type: ignore[union-attr]
    assert torch.equal(boxes[0], boxes[3])
    assert not torch.equal(boxes[0], boxes[1])
    assert not torch.equal(boxes[0], boxes[2])


@pytest.fixture
def mostly_broken(folder: Path, tmp_path: Path) -> list[VideoFile]:
    good = tmp_path / "v" / "good.mp4"
    good.parent.mkdir()
    good.write_bytes((folder / "a.mp4").read_bytes())
    (good.parent / "empty.mp4").touch()
    (good.parent / "text.mp4").write_text("this is not a video")
    (good.parent / "cut.mp4").write_bytes(good.read_bytes()[:700])
    write_audio(good.parent / "sound.mp4")
    gone = VideoFile(str(good.parent / "gone.mp4"), "v/gone.mp4", 7)
    return sorted([*list_videos([str(good.parent)]), gone], key=lambda video: video.name)


def test_broken_videos_are_replaced_and_named(mostly_broken: list[VideoFile]) -> None:
    dataset = PairDataset(mostly_broken, replace(SMALL, draws=1), seed=0)
    batch = collate([dataset[0, item] for item in range(len(dataset))])
    assert isinstance(batch, Batch)
    assert len(batch.videos) == len(mostly_broken), "batches keep their size"
    named = dict(batch.broken)
    assert {name.removeprefix("v/") for name in named} == {
        *("cut.mp4", "empty.mp4", "gone.mp4", "sound.mp4", "text.mp4")
    }
    assert all(named.values()), "each with a reason"
    assert batch.video.unique().tolist() == [3], "all from the one that can be read"
    boxes = batch.pairs.first.box
    assert len(boxes.unique(dim=0)) == len(boxes), "never the same pair twice"

    dataset = PairDataset(mostly_broken, replace(SMALL, views=6), seed=0)
    batch = collate([dataset[0, item] for item in range(len(dataset))])
    assert isinstance(batch, Batch)
    assert len(batch.videos) == 3 * 2 * len(mostly_broken)
    boxes = batch.pairs.first.box
    assert len(boxes.unique(dim=0)) == len(boxes), "nor among more views"


def test_all_broken_is_an_error_that_names_them(mostly_broken: list[VideoFile]) -> None:
    broken = [video for video in mostly_broken if "good" not in video.name]
    dataset = PairDataset(broken, SMALL, seed=0)
    error = collate([dataset[0, 0]])
    assert isinstance(error, NoReadableVideoError)
    assert "v/empty.mp4: the file is empty" in str(error)
    assert "v/gone.mp4: " in str(error)


def test_workers_do_not_change_the_batches(folder: Path) -> None:
    videos = list_videos([str(folder)])
    batches = []
    for workers in (0, 2):
        dataset = PairDataset(videos, replace(SMALL, workers=workers), seed=1)
        sampler = PairSampler(len(dataset), batch_size=3, epochs=2, seed=1)
        batches.append(list(make_loader(dataset, sampler, pin_memory=False)))
    assert len(batches[0]) == len(batches[1]) == 4
    for alone, helped in zip(*batches, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(alone.videos, helped.videos, strict=True))
        assert torch.equal(alone.pairs.first.box, helped.pairs.first.box)
        assert alone.pairs.first.video.tolist() == [0, 1, 2]


def test_sampler_shows_every_item_once_an_epoch_and_ranks_share_them() -> None:
    def steps(rank: int, world: int, first_step: int = 0) -> list[list[tuple[int, int]]]:
        return list(
            PairSampler(
                24, batch_size=4, epochs=3, seed=9, rank=rank, world=world, first_step=first_step
            )
        )

    alone = steps(0, 1)
    for epoch in range(3):
        part = [index for batch in alone[6 * epoch : 6 * epoch + 6] for index in batch]
        assert {item for _, item in part} == set(range(24))
        assert {at for at, _ in part} == {epoch}
    orders = [[i for batch in alone[6 * e : 6 * e + 6] for _, i in batch] for e in range(3)]
    assert orders[0] != orders[1] != orders[2]
    assert steps(0, 1, first_step=7) == alone[7:], "a resumed run goes on where it was"
    two = [first + second for first, second in zip(steps(0, 2), steps(1, 2), strict=True)]
    assert two == [a + b for a, b in zip(alone[::2], alone[1::2], strict=True)]


@pytest.mark.parametrize(("items", "batch", "world"), [(1, 8, 1), (3, 8, 2), (1, 4, 4), (10, 4, 1)])
def test_sampler_of_a_small_set_still_fills_every_rank(items: int, batch: int, world: int) -> None:
    for rank in range(world):
        batches = list(
            PairSampler(items, batch_size=batch, epochs=2, seed=0, rank=rank, world=world)
        )
        assert len(batches) == 2 * max(items // (min(batch, max(items // world, 1)) * world), 1)
        assert all(len(part) == min(batch, max(items // world, 1)) for part in batches)


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        (
            lambda *_, **__: time.sleep(8),
            r"timed out after 1(\.0)? seconds \(the workers are at .*a\.mp4\)",
        ),
        (
            lambda *_, **__: os.kill(os.getpid(), 9),
            r"exited unexpectedly \(the workers are at .*a\.mp4\)",
        ),
    ],
)
def test_a_decoder_that_hangs_or_crashes_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, trouble: object, message: str
) -> None:
    monkeypatch.setattr("training.data.open_video", trouble)
    config = replace(SMALL, workers=1, timeout=1.0)
    dataset = PairDataset(list_videos([str(folder)])[:1], config, seed=0)
    sampler = PairSampler(len(dataset), batch_size=1, epochs=1, seed=0)
    with pytest.raises(DataError, match=message):
        next(timed_batches(dataset, sampler, Interruption(alone=True)))


def test_whatever_a_decoder_raises_only_breaks_the_video(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trouble(*_: object, **__: object) -> None:
        raise IndexError("a strange packet")

    monkeypatch.setattr("training.data.open_video", trouble)
    dataset = PairDataset(list_videos([str(folder)])[:1], SMALL, seed=0)
    assert dataset[0, 0].broken[0][1] == "IndexError: a strange packet"


def test_two_videos_of_one_name_are_refused(tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "park.mp4").touch()
    twice = [str(tmp_path / "a" / "park.mp4")] * 2
    assert len(list_videos(twice)) == 1
    with pytest.raises(ConfigError, match=r"a/park\.mp4 and .*b/park\.mp4"):
        list_videos([twice[0], str(tmp_path / "b" / "park.mp4")])


def test_fingerprint_changes_with_the_set_of_videos(folder: Path) -> None:
    videos = list_videos([str(folder)])
    assert fingerprint(videos) == fingerprint([replace(video, path="moved") for video in videos])
    assert fingerprint(videos) != fingerprint(videos[:-1])
