"""Synthetic videos whose frames carry their own number, so that a test can tell which frame it got.

A frame is a grid of 16 x 16 pixel blocks. The upper half of the blocks holds the bits of the frame
number (white is 1, most significant first), the lower half their complement. Blocks this large
survive every lossy codec, and a frame that is rotated, mixed from two others or concealed breaks
the complement, which `read_number` reports.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 16
SIZE = (128, 64)
"""Default width and height in pixels: 16 bits, large enough for every encoder; decord2 3.4 also
refuses widths that are no multiple of 64."""


def draw_number(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """uint8 (H, W, 3) RGB frame carrying `number`; `size` is (W, H), multiples of 16 and 32."""
    columns, rows = size[0] // BLOCK, size[1] // BLOCK
    width = columns * (rows // 2)
    if not 0 <= number < 2**width:
        raise ValueError(f"draw_number: {number} does not fit {width} bits of a {size} frame")
    bits = np.array([number >> (width - 1 - i) & 1 for i in range(width)], np.uint8)
    grid = np.concatenate([bits, 1 - bits]).reshape(rows, columns)
    # 32 and 224 rather than 0 and 255: away from the clipping of limited-range YUV.
    luma = np.kron(grid * 192 + 32, np.ones((BLOCK, BLOCK), np.uint8))
    return np.repeat(luma[:, :, None], 3, axis=2)


def read_number(frame: np.ndarray) -> int:
    """The number in a uint8 (H, W, 3) frame, or -1 where the blocks are no barcode."""
    rows, columns = frame.shape[0] // BLOCK, frame.shape[1] // BLOCK
    cropped = frame[: rows * BLOCK, : columns * BLOCK].mean(axis=2)
    blocks = cropped.reshape(rows, BLOCK, columns, BLOCK).mean(axis=(1, 3)).reshape(-1)
    half = blocks.size // 2
    bits, complement = blocks[:half] > 128, blocks[half : 2 * half] > 128
    if np.any(np.abs(blocks - 128) < 32) or np.any(bits == complement):
        return -1
    return int("".join("1" if bit else "0" for bit in bits), 2)


def read_numbers(frames: np.ndarray) -> list[int]:
    """`read_number` of every frame of a uint8 (T, H, W, 3) array."""
    return [read_number(frame) for frame in frames]


# One thread each: the encoders would otherwise start one per core for a thumbnail-sized frame.
_FAST: dict[str, dict[str, str]] = {
    "libx264": {"preset": "ultrafast", "x264-params": "scenecut=0:threads=1"},
    "libx265": {"preset": "ultrafast", "x265-params": "scenecut=0:pools=none:log-level=none"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    # Faster presets of SVT-AV1 mix neighbouring frames.
    "libsvtav1": {"preset": "8", "crf": "10", "svtav1-params": "lp=1:enable-tf=0"},
}


def _merged(codec: str, extra: dict[str, str] | None) -> dict[str, str]:
    """The fast options of a codec with `extra` added; `x264-params` and the like are joined."""
    options = dict(_FAST.get(codec, {}))
    for key, value in (extra or {}).items():
        options[key] = f"{options[key]}:{value}" if key.endswith("-params") else value
    return options


def write_barcode(
    path: Path | str,
    *,
    codec: str = "libx264",
    container: str | None = None,
    frames: int = 40,
    first: int = 0,
    size: tuple[int, int] = SIZE,
    fps: int = 25,
    gop: int = 10,
    b_frames: int = 0,
    open_gop: bool = False,
    variable_rate: bool = False,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    rotation: int = 0,
    audio: bool = False,
    resize_at: int | None = None,
) -> Path:
    """Write frames `first .. first + frames - 1` and return the path.

    container: an FFmpeg muxer name; by default it follows from the file name.
    variable_rate: intervals of 1, 2 and 4 ticks of 1 / (4 fps) seconds instead of 4.
    open_gop: x264 or x265 only; the frames before a key frame may refer to the previous group.
    rotation: degrees for the display matrix; the pixels are stored as they are.
    audio: add a silent AAC track, so that the packets of two streams interleave.
    resize_at: from this frame on a second encoder writes frames of twice the width and height
        into the same stream, as video calls do.
    """
    import av

    name = {"libx264": "x264-params", "libx265": "x265-params"}.get(codec)
    settings = dict(options or {})
    if open_gop:
        extra = settings.get(str(name))
        settings[str(name)] = "open-gop=1" + (f":{extra}" if extra else "")
    settings = _merged(codec, settings)
    with av.open(
        str(path), "w", format=container, container_options=container_options or {}
    ) as output:

        def add_video(width: int, height: int, to: Any) -> Any:
            stream: Any = to.add_stream(codec, rate=fps, options=settings)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.gop_size, stream.max_b_frames = gop, b_frames
            stream.codec_context.thread_count = 1
            if variable_rate:
                stream.codec_context.time_base = _fraction(1, 4 * fps)
            return stream

        video = add_video(*size, output)
        if rotation:
            video.set_display_rotation(rotation)
        sound: Any = output.add_stream("aac", rate=16000) if audio else None
        tick = 0
        encoder, scale = video, 1
        for index in range(frames):
            if index == resize_at:
                output.mux(encoder.encode())
                spare = av.open("/dev/null", "w", format="null")
                encoder, scale = add_video(2 * size[0], 2 * size[1], spare), 2
            image = np.kron(draw_number(first + index, size), np.ones((scale, scale, 1), np.uint8))
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = tick if variable_rate else index
            frame.time_base = _fraction(1, 4 * fps if variable_rate else fps)
            tick += (1, 2, 4)[index % 3]
            output.mux(_on(video, encoder.encode(frame)))
            if sound is not None:
                output.mux(sound.encode(_silence(index, fps)))
        output.mux(_on(video, encoder.encode()))
        if sound is not None:
            output.mux(sound.encode())
    return Path(path)


def _fraction(numerator: int, denominator: int) -> Any:
    from fractions import Fraction

    return Fraction(numerator, denominator)


def _on(stream: Any, packets: Sequence[Any]) -> list[Any]:
    """The packets, given to `stream` whichever encoder made them."""
    for packet in packets:
        packet.stream = stream
    return list(packets)


def _silence(index: int, fps: int) -> Any:
    """Audio frame number `index`: as many samples as one video frame lasts."""
    import av

    samples = 16000 // fps
    sound = av.AudioFrame.from_ndarray(
        np.zeros((1, samples), np.float32), format="fltp", layout="mono"
    )
    sound.sample_rate, sound.pts = 16000, index * samples
    return sound


def write_audio(path: Path | str, *, seconds: float = 0.5) -> Path:
    """A file with an AAC track and no video."""
    import av

    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("aac", rate=16000)
        for index in range(int(seconds * 25)):
            output.mux(stream.encode(_silence(index, 25)))
        output.mux(stream.encode())
    return Path(path)


def remux(
    source: Path | str, target: Path | str, *, skip: int = 0, container: str | None = None
) -> Path:
    """Copy the video packets but the first `skip`, without encoding anew (a stream copy)."""
    import av

    with av.open(str(source)) as read, av.open(str(target), "w", format=container) as write:
        origin = read.streams.video[0]
        stream = write.add_stream_from_template(origin)
        for number, packet in enumerate(read.demux(origin)):
            if packet.dts is not None and number >= skip:
                packet.stream = stream
                write.mux(packet)
    return Path(target)


# Boxes of an mp4 file: 4 bytes of size, 4 of name, then the content.


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[str, int, int]]:
    """(name, begin, end) of the boxes in data[start:end]; no 64-bit sizes, as tests need none."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        (size,) = struct.unpack_from(">I", data, start)
        yield data[start + 4 : start + 8].decode("latin-1"), start, start + size
        start += size


def set_edit_list(path: Path | str, entries: Sequence[tuple[int, int]]) -> Path:
    """Give the first track of an mp4 file (moov last) an edit list; returns the path.

    entries: (duration in the movie's time scale, start in the track's time scale; -1 is an empty
    edit). The mp4 writer of FFmpeg counts 1000 ticks a second in the movie.
    """
    data = Path(path).read_bytes()
    _, moov, moov_end = next(box for box in boxes(data) if box[0] == "moov")
    if moov_end != len(data):
        raise ValueError(f"set_edit_list: moov is not the last box of {path}")
    _, trak, trak_end = next(box for box in boxes(data, moov + 8, moov_end) if box[0] == "trak")
    kept = b"".join(
        data[begin:end] for name, begin, end in boxes(data, trak + 8, trak_end) if name != "edts"
    )
    table = b"".join(struct.pack(">IiI", length, begin, 0x10000) for length, begin in entries)
    elst = struct.pack(">II", 0, len(entries)) + table
    track = _box("trak", _box("edts", _box("elst", elst)) + kept)
    content = data[moov + 8 : trak] + track + data[trak_end:moov_end]
    Path(path).write_bytes(data[:moov] + _box("moov", content))
    return Path(path)


def _box(name: str, content: bytes) -> bytes:
    return struct.pack(">I", len(content) + 8) + name.encode() + content
