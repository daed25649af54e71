"""Videos by name, with what decord makes of them, and the check that frames are exact."""

from __future__ import annotations

import importlib.util
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av", reason="reading videos needs PyAV")

import av
from barcode import read_numbers, write_barcode

from training.decode import open_video

HAS_DECORD = importlib.util.find_spec("decord") is not None
needs_decord = pytest.mark.skipif(not HAS_DECORD, reason="decord is not installed")
os.environ.setdefault("SVT_LOG", "0")  # SVT-AV1 would print its settings

COUNT = 40
CLOSED_HEVC = {"x265-params": "open-gop=0"}

# Kinds on which decord is exact, so "auto" must pick it.
RIGHT: dict[str, dict[str, Any]] = {
    "plain.mp4": {},
    "b.mp4": {"b_frames": 2},
    "b.mov": {"b_frames": 2},
    "b.mkv": {"b_frames": 2},
    "b.flv": {"b_frames": 2},
    "fragments.mp4": {
        "b_frames": 2,
        "container_options": {"movflags": "frag_keyframe+empty_moov"},
    },
    "faststart.mp4": {"b_frames": 2, "container_options": {"movflags": "faststart"}},
    "sound.mp4": {"b_frames": 2, "audio": True},
    "variable.mp4": {"b_frames": 2, "variable_rate": True},
    "variable.mkv": {"b_frames": 2, "variable_rate": True},
    "one_group.mp4": {"gop": 250},
    "hevc.mp4": {"codec": "libx265", "b_frames": 2, "options": CLOSED_HEVC},
    "hevc.mkv": {"codec": "libx265", "b_frames": 2, "options": CLOSED_HEVC},
    "vp8.webm": {"codec": "libvpx"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "vp9.mp4": {"codec": "libvpx-vp9"},
}
# decord 0.6 cannot decode AV1 at all, decord2 can: either backend may serve it.
EITHER: dict[str, dict[str, Any]] = {
    "av1.mp4": {"codec": "libsvtav1"},
    "av1.webm": {"codec": "libsvtav1"},
}
# Kinds on which decord is wrong, or not known to be right: "auto" must not pick it.
WRONG: dict[str, dict[str, Any]] = {
    "hmdb.avi": {"codec": "mpeg4", "b_frames": 2},  # as the HMDB51 data set
    "mpeg4.avi": {"codec": "mpeg4"},
    "h264.avi": {},
    "h264_b.avi": {"b_frames": 2},
    "mpeg4_b.mp4": {"codec": "mpeg4", "b_frames": 2},
    "mpeg4_b.mkv": {"codec": "mpeg4", "b_frames": 2},
    "mpeg2.mkv": {"codec": "mpeg2video", "b_frames": 2},
    "mpeg2.mpg": {"codec": "mpeg2video", "b_frames": 2, "container": "vob"},
    "mpeg1.mpg": {"codec": "mpeg1video", "b_frames": 2, "container": "mpeg"},
    "h264.ts": {"b_frames": 2},
    "mpeg2.ts": {"codec": "mpeg2video", "b_frames": 2},
    "flv1.flv": {"codec": "flv"},
    "open_gop.mp4": {"b_frames": 3, "open_gop": True},
    "open_gop.mkv": {"b_frames": 3, "open_gop": True},
    "open_hevc.mp4": {"codec": "libx265", "b_frames": 3, "open_gop": True},
    "open_hevc.mkv": {"codec": "libx265", "b_frames": 3, "open_gop": True},
    "intra_refresh.mp4": {"options": {"x264-params": "intra-refresh=1"}},
    "turned_90.mp4": {"rotation": 90},
    "turned_180.mp4": {"rotation": 180},
    "turned_90.mkv": {"rotation": 90},
}
# Edit lists on b.mp4 (512 ticks a frame, the first shown at 1024; 40 ms a frame) and what is shown.
TICK, FIRST = 512, 1024
EDITS: dict[str, tuple[list[tuple[int, int]], list[int]]] = {
    "trimmed": ([(1000, FIRST + 13 * TICK)], [*range(13, 38)]),
    "tail_cut": ([(1200, FIRST)], [*range(30)]),
    "two_parts": ([(400, FIRST), (400, FIRST + 25 * TICK)], [*range(10), *range(25, 35)]),
    "reordered": ([(800, FIRST + 20 * TICK), (800, FIRST)], [*range(20, 40), *range(20)]),
    "repeated": ([(800, FIRST), (800, FIRST)], [*range(20), *range(20)]),
}

Make = Callable[[str], Path]


def writer(folder: Path) -> Make:
    """Return what writes the video of a name in the tables above into ``folder``, once."""

    def write(name: str) -> Path:
        path = folder / name
        if path.exists():
            return path
        settings = {**RIGHT, **EITHER, **WRONG}[name]
        codec = settings.get("codec", "libx264")
        try:
            av.codec.Codec(codec, "w")
        except ValueError:
            pytest.skip(f"this PyAV has no encoder {codec}")
        return write_barcode(path, frames=COUNT, **settings)

    return write


def packets_of(path: Path) -> list[Any]:
    """The video packets of a file in the order of decoding."""
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def check_exact(path: Path, truth: list[int], backend: str = "auto", threads: int = 1) -> str:
    """Frames by every way of asking equal `truth`; returns the backend that served them."""
    draw = random.Random(0)
    count = len(truth)
    with open_video(path, backend, threads) as reader:  # type: ignore[arg-type]
        assert reader.num_frames == count
        queries = [[*range(count)], [*range(count)][::-1], [count - 1], [0], [5, 5, 2, 5]]
        queries += [sorted(draw.sample(range(count), 4)) for _ in range(8)]
        queries += [draw.choices(range(count), k=6) for _ in range(4)]
        queries += [[index] for index in draw.sample(range(count), 8)]
        for query in queries:
            frames = reader.frames(query)
            assert frames.dtype == np.uint8
            assert frames.shape == (len(query), reader.height, reader.width, 3)
            assert read_numbers(frames) == [truth[index] for index in query], query
        return reader.backend
