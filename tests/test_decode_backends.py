"""decord where it is forced, wrong, failing or missing, and how the two backends agree."""

from __future__ import annotations

import random
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av", reason="reading videos needs PyAV")

import av
from barcode import read_numbers
from decode_cases import COUNT, Make, check_exact, needs_decord

from training import decode_scan
from training.decode import open_video
from training.decode_scan import VideoError


@needs_decord
@pytest.mark.parametrize("name", ["hmdb.avi", "h264.avi", "open_gop.mp4", "open_hevc.mkv"])
def test_forced_decord_warns_and_is_wrong(make: Make, name: str) -> None:
    path = make(name)
    with pytest.warns(UserWarning, match="known to return wrong frames") as caught:
        reader = open_video(path, "decord")
    assert len(caught) == 1 and caught[0].filename == __file__
    draw, wrong = random.Random(0), 0
    with reader:
        assert reader.backend == "decord"
        for _ in range(10):
            indices = sorted(draw.sample(range(COUNT), 4))
            wrong += read_numbers(reader.frames(indices)) != indices
    # If this fails, decord has been mended and the rule in training/decode.py can be widened.
    assert wrong > 0


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("hmdb.avi", "mpeg4 in avi"),
        ("h264.avi", "h264 in avi"),
        ("mpeg4_b.mp4", "mpeg4 in mov,mp4"),
        ("open_gop.mp4", "open GOP"),
        ("turned_90.mkv", "rotated"),
    ],
)
def test_warning_names_the_fault(make: Make, name: str, fault: str) -> None:
    assert fault in decode_scan.scan_video(str(make(name))).faults


@needs_decord
def test_forced_decord_is_silent_where_exact(make: Make) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_exact(make("b.mp4"), [*range(COUNT)], "decord") == "decord"


@needs_decord
def test_forced_decord_on_a_rotated_video(make: Make) -> None:
    """decord turns the frames: the size that is reported is the size that comes."""
    with pytest.warns(UserWarning, match="rotated for display"):
        reader = open_video(make("turned_90.mp4"), "decord")
    with reader:
        assert (reader.height, reader.width) == (128, 64)
        assert reader.frames([3, 0]).shape == (2, 128, 64, 3)


@needs_decord
def test_decord_never_gets_mpeg_ts(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import decord

    def never(*args: Any, **kwargs: Any) -> None:
        pytest.fail("decord was given an MPEG-TS file")  # before it hangs

    monkeypatch.setattr(decord, "VideoReader", never)
    with pytest.raises(VideoError, match="never returns on MPEG-TS"):
        open_video(make("h264.ts"), "decord")


@needs_decord
def test_decord_that_fails_is_replaced(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import decord

    def fail(*args: Any) -> None:
        raise decord.DECORDError("no")

    monkeypatch.setattr(decord.VideoReader, "get_batch", fail)
    with open_video(make("b.mp4")) as reader:
        assert read_numbers(reader.frames([7, 3])) == [7, 3]
        assert reader.backend == "pyav"
    with open_video(make("b.mp4"), "decord") as reader, pytest.raises(VideoError, match="decord"):
        reader.frames([7])


def test_without_decord(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    assert check_exact(make("b.mp4"), [*range(COUNT)]) == "pyav"
    with pytest.raises(ImportError, match="pip install decord"):
        open_video(make("b.mp4"), "decord")


def test_without_pyav(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make("b.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match="pip install av"):
        open_video(path)


@needs_decord
def test_backends_agree_on_colours(tmp_path: Path) -> None:
    path = tmp_path / "colour.mp4"
    x, y = np.meshgrid(np.linspace(0, 255, 128), np.linspace(0, 255, 64))
    image = np.stack([x, y, 255 - x], axis=2).astype(np.uint8)
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("libx264", rate=25, options={"qp": "5"})
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        for index in range(3):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = index
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    with open_video(path, "decord") as one, open_video(path, "pyav") as two:
        first, second = one.frames([1])[0].astype(int), two.frames([1])[0].astype(int)
    assert np.abs(second - image).mean() < 4  # RGB, not BGR
    assert np.abs(first - second).mean() < 2
