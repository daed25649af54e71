"""Files that hold no video, or half of one: errors with a reason, and nothing left open."""

from __future__ import annotations

import gc
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av", reason="reading videos needs PyAV")

import av
import barcode
from barcode import read_numbers
from decode_cases import (
    COUNT,
    HAS_DECORD,
    Make,
    packets_of,
)

from training.decode import open_video
from training.decode_scan import VideoError


def broken_files(folder: Path, make: Make) -> dict[str, Path]:
    """Files that hold no readable video, by what is wrong with them."""
    mp4 = make("b.mp4").read_bytes()
    moov = next(begin for name, begin, _ in barcode.boxes(mp4) if name == "moov")
    noise = np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes()
    contents = {
        "empty.mp4": b"",
        "noise.mp4": noise,
        "text.mp4": b"This is no video.\n" * 50,
        "text.txt": b"This is no video.\n" * 50,
        "no_moov.mp4": mp4[:moov],
        "no_frames.mkv": make("b.mkv").read_bytes()[:600],
        "head.avi": make("hmdb.avi").read_bytes()[:5000],
        "noise_inside.mp4": mp4[:48] + noise[: moov - 48] + mp4[moov:],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    paths = {name: folder / name for name in contents}
    paths["sound.mp4"] = barcode.write_audio(folder / "sound.mp4")
    paths["folder.mp4"] = folder / "folder.mp4"
    paths["folder.mp4"].mkdir()
    paths["missing.mp4"] = folder / "missing.mp4"
    return paths


def test_broken_files(make: Make, tmp_path: Path) -> None:
    reasons = {"empty": "empty", "sound": "no video track", "missing": "no such file"}
    for name, path in broken_files(tmp_path, make).items():
        for backend in ("auto", "pyav", *(["decord"] if HAS_DECORD else [])):
            with pytest.raises(VideoError) as caught:
                open_video(path, backend)  # type: ignore[arg-type]
            error = caught.value
            assert error.path == str(path) and str(path) in str(error), name
            assert reasons.get(path.stem, "") in error.reason and error.reason, name
            if name in ("noise.mp4", "no_moov.mp4", "text.mp4", "noise_inside.mp4"):
                assert isinstance(error.__cause__, av.FFmpegError), name


@pytest.mark.parametrize("backend", ["auto", "pyav"])
def test_truncated_mp4(make: Make, tmp_path: Path, backend: Any) -> None:
    """What is there is exact, what is not there is an error and not a shorter video."""
    source = make("faststart.mp4")
    packets = packets_of(source)
    path = tmp_path / "truncated.mp4"
    path.write_bytes(source.read_bytes()[: packets[25].pos + 3])
    with open_video(path, backend) as reader:
        assert (reader.num_frames, reader.backend) == (COUNT, "pyav")
        assert read_numbers(reader.frames([18, 3, 12])) == [18, 3, 12]
        for index in (25, COUNT - 1):
            with pytest.raises(VideoError, match="truncated or damaged"):
                reader.frames([0, index])
        readable = 0
        for index in range(COUNT):
            try:
                assert read_numbers(reader.frames([index])) == [index]
                readable += 1
            except VideoError:
                break
        assert 20 <= readable <= 25


def test_damage_inside(make: Make, tmp_path: Path) -> None:
    """Frames before the damage are exact, frames after it an error rather than concealed."""
    packets = packets_of(make("h264.avi"))
    data = bytearray(make("h264.avi").read_bytes())
    begin = packets[20].pos + 8
    data[begin : begin + packets[20].size] = b"\xff" * packets[20].size
    path = tmp_path / "damaged.avi"
    path.write_bytes(data)
    with open_video(path) as reader:
        assert read_numbers(reader.frames([10, 15])) == [10, 15]
        with pytest.raises(VideoError, match="damaged from frame"):
            reader.frames([10, 25])


def test_video_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(VideoError("/a.mp4", "gone")))
    assert (error.path, error.reason, str(error)) == ("/a.mp4", "gone", "/a.mp4: gone")
    assert str(VideoError("text alone")) == "text alone"
    assert isinstance(error, RuntimeError)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts files in /proc")
def test_no_open_files_are_left(make: Make, tmp_path: Path) -> None:
    good = [make(name) for name in ("b.mp4", "hmdb.avi", "h264.ts", "open_gop.mkv")]
    bad = [*broken_files(tmp_path, make).values()]

    def once() -> None:
        for path in good:
            for backend in ("auto", "pyav"):
                with open_video(path, backend) as reader:
                    reader.frames([3, 30])
        for path in bad:
            with pytest.raises(VideoError):
                open_video(path)

    once()
    gc.collect()
    gc.disable()  # files must be closed by close(), not when the collector comes by
    try:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(15):
            once()
        assert len(os.listdir("/proc/self/fd")) <= before
    finally:
        gc.enable()


class Clips:
    """A data set: item i is the numbers of four frames from i on."""

    def __init__(self, paths: list[Path], reader: Any = None) -> None:
        self.paths, self.reader = paths, reader

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> list[int]:
        if self.reader is not None:
            return read_numbers(self.reader.frames([index]))
        with open_video(self.paths[index % len(self.paths)]) as reader:
            return read_numbers(reader.frames([index, index + 9, index + 20, index]))


def test_in_data_loader_workers(make: Make, tmp_path: Path) -> None:
    data = pytest.importorskip("torch.utils.data")

    def load(clips: Clips) -> list[Any]:
        loader = data.DataLoader(clips, num_workers=2, timeout=30, batch_size=None)
        return [[int(number) for number in item] for item in loader]

    paths = [make("b.mp4"), make("hmdb.avi")]
    assert load(Clips(paths)) == [[i, i + 9, i + 20, i] for i in range(8)]
    with pytest.raises(VideoError, match=r"gone\.mp4: no such file"):
        load(Clips([tmp_path / "gone.mp4"]))
    with open_video(paths[0]) as reader, pytest.raises(VideoError, match="open it in the worker"):
        load(Clips(paths, reader))
