"""Every frame that `training.decode` returns carries the number that was asked for."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av", reason="reading videos needs PyAV")

import av
import barcode
from barcode import read_numbers, write_barcode
from decode_cases import (
    COUNT,
    EDITS,
    EITHER,
    FIRST,
    HAS_DECORD,
    RIGHT,
    TICK,
    WRONG,
    Make,
    check_exact,
    needs_decord,
    packets_of,
)

from training.decode import open_video
from training.decode_scan import VideoError


@pytest.mark.parametrize("name", [*RIGHT, *EITHER, *WRONG])
def test_pyav_is_exact(make: Make, name: str) -> None:
    assert check_exact(make(name), [*range(COUNT)], "pyav") == "pyav"


@pytest.mark.parametrize("name", ["b.mp4", "open_hevc.mkv", "hmdb.avi", "vp9.webm"])
def test_pyav_is_exact_with_threads(make: Make, name: str) -> None:
    check_exact(make(name), [*range(COUNT)], "pyav", threads=2)


@needs_decord
@pytest.mark.parametrize("name", RIGHT)
def test_auto_picks_decord_where_it_is_exact(make: Make, name: str) -> None:
    assert check_exact(make(name), [*range(COUNT)]) == "decord"


@pytest.mark.parametrize("name", [*WRONG, *EITHER])
def test_auto_is_exact_where_decord_is_not(make: Make, name: str) -> None:
    backend = check_exact(make(name), [*range(COUNT)])
    assert backend == "pyav" or name in EITHER


@pytest.mark.parametrize("backend", ["auto", "pyav"])
@pytest.mark.parametrize("edit", EDITS)
def test_edit_lists(make: Make, tmp_path: Path, edit: str, backend: str) -> None:
    path = tmp_path / "edited.mp4"
    path.write_bytes(make("b.mp4").read_bytes())
    entries, truth = EDITS[edit]
    barcode.set_edit_list(path, entries)
    assert check_exact(path, truth, backend) == "pyav"


def test_edit_list_without_discarded_frames(tmp_path: Path) -> None:
    """Only key frames: no packet is marked as discarded, yet the order is another."""
    path = write_barcode(tmp_path / "intra.mp4", frames=COUNT, gop=1)
    barcode.set_edit_list(path, [(800, 20 * TICK), (800, 0)])
    assert check_exact(path, [*range(20, 40), *range(20)]) == "pyav"


def test_edit_list_that_cuts_nothing(make: Make, tmp_path: Path) -> None:
    """A delay before the first frame moves no frame, decord stays in use."""
    path = tmp_path / "delayed.mp4"
    path.write_bytes(make("b.mp4").read_bytes())
    barcode.set_edit_list(path, [(200, -1), (1600, FIRST)])
    assert check_exact(path, [*range(COUNT)]) == ("decord" if HAS_DECORD else "pyav")


@pytest.mark.parametrize("backend", ["auto", "pyav"])
@pytest.mark.parametrize("name", ["open_gop.mkv", "open_hevc.mkv", "open_gop.mp4", "b.mkv"])
def test_stream_copy_from_within(make: Make, tmp_path: Path, name: str, backend: str) -> None:
    """A cut without encoding anew leaves frames that refer to what is gone: they are no frames."""
    source = make(name)
    packets = packets_of(source)
    keys = [order for order, packet in enumerate(packets) if packet.is_keyframe]
    skip = 4 if name == "b.mkv" else keys[1]
    path = barcode.remux(source, tmp_path / f"cut{source.suffix}", skip=skip)
    assert check_exact(path, [*range(10, COUNT)], backend) == "pyav"


def test_hidden_vp8_frames(make: Make, tmp_path: Path) -> None:
    """VP8 packets without the "show" bit only update references and are no frames."""
    data = make("vp8.webm").read_bytes()
    packets = [bytes(packet) for packet in packets_of(make("vp8.webm"))]
    for order in (5, 17):
        hidden = bytes([packets[order][0] & ~16]) + packets[order][1:]
        assert data.count(packets[order]) == 1
        data = data.replace(packets[order], hidden)
    path = tmp_path / "hidden.webm"
    path.write_bytes(data)
    assert check_exact(path, [index for index in range(COUNT) if index not in (5, 17)]) == "pyav"


def test_several_video_tracks(make: Make, tmp_path: Path) -> None:
    """Libraries may differ in which of two tracks they take, so decord is not used."""
    path = tmp_path / "two.mkv"
    with av.open(str(make("b.mp4"))) as read, av.open(str(path), "w") as write:
        tracks = [write.add_stream_from_template(read.streams.video[0]) for _ in range(2)]
        packets = [packet for packet in read.demux(video=0) if packet.size]
        for packet in packets:
            for track in tracks:
                twin = av.Packet(bytes(packet))
                twin.pts, twin.dts, twin.time_base = packet.pts, packet.dts, packet.time_base
                twin.is_keyframe, twin.stream = packet.is_keyframe, track
                write.mux(twin)
    assert check_exact(path, [*range(COUNT)]) == "pyav"


@pytest.mark.parametrize("backend", ["auto", "pyav"])
@pytest.mark.parametrize(
    ("codec", "name"), [("libvpx", "r.webm"), ("libvpx-vp9", "r.webm"), ("libx264", "r.mkv")]
)
def test_frame_size_changes(tmp_path: Path, codec: str, name: str, backend: Any) -> None:
    """decord rescales such frames without a word, so it is not used."""
    path = write_barcode(tmp_path / name, codec=codec, frames=COUNT, resize_at=20)
    with open_video(path, backend) as reader:
        assert reader.backend == "pyav"
        assert read_numbers(reader.frames([3, 19])) == [3, 19]
        with pytest.raises(VideoError, match="size changes from 128x64 to 256x128"):
            reader.frames([3, 25])


@pytest.mark.parametrize("backend", ["auto", "pyav"])
def test_properties(make: Make, backend: Any) -> None:
    with open_video(str(make("plain.mp4")), backend) as reader:
        assert (reader.height, reader.width, reader.fps) == (64, 128, 25.0)
        assert reader.frames([]).shape == (0, 64, 128, 3)
        assert read_numbers(reader.frames(np.array([4, 1]))) == [4, 1]  # type: ignore[arg-type]
        for index in (-1, COUNT):
            with pytest.raises(IndexError, match=f"no frame {index}, it has {COUNT} frames"):
                reader.frames([0, index])
        with pytest.raises(TypeError):
            reader.frames([1.5])  # type: ignore[list-item]
        with pytest.raises(TypeError, match="open it in the worker"):
            pickle.dumps(reader)
    reader.close()
    with pytest.raises(VideoError, match="closed"):
        reader.frames([0])


def test_arguments_are_checked(make: Make) -> None:
    with pytest.raises(ValueError, match="backend must be auto, decord or pyav, got 'cv2'"):
        open_video(make("plain.mp4"), "cv2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        open_video(make("plain.mp4"), threads=0)
