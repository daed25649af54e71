"""PyAV opens, seeks, decodes and converts no more than the frames that are asked for need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av", reason="reading videos needs PyAV")

from barcode import read_numbers
from decode_cases import COUNT, Make

from training import decode_readers, decode_scan
from training.decode import open_video


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The frames that PyAV gave out, whether stored or not; a None for each opening of the file."""
    seen: list[Any] = []
    original, opened = decode_readers.PyAVReader._decode, decode_readers.open_container

    def watched(self: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        for frame in original(self, *args, **kwargs):
            seen.append(frame)
            yield frame

    def counted(*args: Any) -> Any:
        seen.append(None)
        return opened(*args)

    monkeypatch.setattr(decode_readers.PyAVReader, "_decode", watched)
    for module in (decode_readers, decode_scan):
        monkeypatch.setattr(module, "open_container", counted)
    return seen


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv", "open_gop.mp4", "open_hevc.mkv", "vp9.webm"])
def test_seeking_reads_little(make: Make, decoded: list[Any], name: str) -> None:
    with open_video(make(name), "pyav") as reader:
        decoded.clear()
        cases = [([39], 12), ([1, 2, 2, 1], 4), ([1, 35], 12), ([12, 14, 17], 13)]
        # With an open GOP, 29 is decoded after the key frame 30: it needs the one before.
        for query, most in [*cases, ([29], 12)]:
            assert read_numbers(reader.frames(query)) == query
            assert None not in decoded, "opened anew"
            assert len(decoded) <= most, query
            decoded.clear()


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv", "hevc.mp4", "open_hevc.mkv", "open_gop.mp4"])
def test_frames_that_no_other_needs_are_skipped(
    make: Make, decoded: list[Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not decoding them changes no bit of the others."""
    queries = [[*range(0, COUNT, stride)] for stride in (3, 4, 7, 8)] + [[9, 17, 38], [39]]
    with open_video(make(name), "pyav") as reader:
        decoded.clear()
        some = [reader.frames(query) for query in queries]
        few, original = len(decoded), decode_readers.PyAVReader._decode
        assert None not in decoded, "opened anew"
        monkeypatch.setattr(
            decode_readers.PyAVReader, "_decode", lambda self, key, **_: original(self, key)
        )
        decoded.clear()
        for query, pictures in zip(queries, some, strict=True):
            np.testing.assert_array_equal(reader.frames(query), pictures)
        assert few < len(decoded), "none was skipped"


def test_distinct_frames_are_converted_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    stored: list[int] = []
    original = decode_readers.PyAVReader._store

    def store(self: Any, frame: Any, out: Any, row: int) -> None:
        stored.append(row)
        original(self, frame, out, row)

    monkeypatch.setattr(decode_readers.PyAVReader, "_store", store)
    for name in ("b.mp4", "hmdb.avi"):
        stored.clear()
        with open_video(make(name), "pyav") as reader:
            assert read_numbers(reader.frames([9, 3, 9, 30, 3])) == [9, 3, 9, 30, 3]
        assert sorted(stored) == [0, 1, 2]
