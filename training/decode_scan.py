"""What one pass over a video's packets tells: its frames, and why decord would get them wrong."""

from __future__ import annotations

import os
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

_MOV = "mov,mp4,m4a,3gp,3g2,mj2"  # FFmpeg's names of the demuxers
_SEEKABLE = {_MOV, "matroska,webm"}  # by PyAV: elsewhere time stamps do not tell the frame
_EXACT_CODECS = {"h264", "hevc", "vp8", "vp9", "av1"}


class VideoError(RuntimeError):
    """A video, or the part of it that was asked for, cannot be read.

    `path` names the file, `reason` says why; the library's own error is the cause.
    """

    # The default lets a DataLoader raise the error of a worker anew from its text alone.
    def __init__(self, path: str, reason: str = "") -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.reason else self.path


def open_container(path: str, threads: int) -> tuple[Any, Any]:
    """PyAV's container and its video stream. PyAV is silent by default: no log level to set."""
    try:
        import av
    except ImportError as error:
        raise ImportError("reading videos needs PyAV: pip install av") from error
    if not os.path.isfile(path):
        raise VideoError(path, "a directory" if os.path.isdir(path) else "no such file")
    if os.path.getsize(path) == 0:
        raise VideoError(path, "the file is empty")
    try:
        # A playlist that poses as a video must not make FFmpeg fetch anything.
        options = {"protocol_whitelist": "file"}
        container = av.open(path, options=options, metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        raise VideoError(path, "not a video that FFmpeg can read") from error
    stream: Any = container.streams.best("video")
    reason = ""
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
        reason = "no video track"
    elif stream.codec_context is None or container.format.name == "tty":
        # FFmpeg renders plain text as a film of a terminal, "tty".
        reason = f"no video, or no decoder for it ({container.format.name})"
    if reason:
        container.close()
        raise VideoError(path, reason)
    stream.codec_context.thread_count = threads
    stream.codec_context.thread_type = "AUTO"
    return container, stream


@dataclass(frozen=True)
class Scan:
    """What one pass over the packets tells. A packet's order is its place in the file."""

    path: str
    container: str
    height: int
    width: int
    fps: float
    rotation: int  # degrees
    shown: list[tuple[int, int]]  # (pts, order) of each frame that is shown, by time
    keys: list[tuple[int, int]]  # (order, pts) of key frames, by order
    num_frames: int  # that the packets, or the index of an mp4, promise
    readable: int  # of these, up to where a truncated mp4 ends
    seeks: bool  # PyAV finds frames by time stamp; else only by decoding from the start
    faults: str  # why decord is not exact here; empty where it is


def scan_video(path: str) -> Scan:
    """Read all packets, decode only until the first frame."""
    container, stream = open_container(path, 1)
    import av

    try:
        kind: str = container.format.name
        codec: str = stream.codec_context.codec.canonical_name
        extradata: bytes = stream.codec_context.extradata or b""
        frame: Any = None
        stamps: list[int | None] = []
        shown: list[tuple[int, int]] = []
        keys: list[tuple[int, int]] = []
        layouts: set[bytes] = set()
        fresh, edited, damaged = True, False, False
        last_dts = last_pos = -1
        for packet in container.demux(stream):
            if frame is None:
                frame = next(iter(packet.decode()), None)
            if not packet.size:
                continue  # the end, where the decoder gives out what it holds
            order, stamp = len(stamps), len(stamps) if packet.pts is None else packet.pts
            stamps.append(packet.pts)
            if packet.is_keyframe:
                keys.append((order, stamp))
                alone, layout = _key_frame(codec, bytes(packet), extradata)
                fresh = fresh and alone
                layouts.add(layout)
            # A frame shown before its key frame may need the group before that one: an open GOP.
            fresh = fresh and bool(keys) and stamp >= keys[-1][1]
            cut = packet.is_discard or (codec == "vp8" and not memoryview(packet)[0] & 16)
            if not cut:  # neither by an edit list nor, in VP8, a mere reference for others
                shown.append((stamp, order))
            edited = edited or cut or (kind == _MOV and packet.pos <= last_pos)
            damaged = damaged or packet.is_corrupt
            last_pos = packet.pos
            last_dts = last_dts if packet.dts is None else packet.dts
        if frame is None or not shown:
            raise VideoError(path, "no frames")
        shown.sort()
        promised = sum(not entry.is_discard for entry in stream.index_entries)
        num_frames = readable = len(shown)
        if kind == _MOV and promised > num_frames:
            # Truncated. A packet that is missing is shown no earlier than it would be decoded, so
            # up to the last time of decoding no frame is missing in between.
            num_frames, readable = promised, bisect_right(shown, (last_dts, len(stamps)))
        timed = None not in stamps and len(set(stamps)) == len(stamps)
        faults = {
            f"{codec} in {kind}": kind not in {*_SEEKABLE, "flv"} or codec not in _EXACT_CODECS,
            "frames cut or moved by an edit list": edited,
            "missing or repeated time stamps": not timed,
            "open GOP, intra refresh or a start in mid-group": not fresh,
            "rotated for display": frame.rotation != 0,
            "the frame size changes": len(layouts) > 1,
            "truncated or damaged": damaged or readable < num_frames,
            "several video tracks": len(container.streams.video) > 1,
        }
        # From a start in mid-group not every packet gives a frame.
        whole = bool(keys) and keys[0][0] == 0 and keys[0][1] <= shown[0][0]
        return Scan(
            path=path,
            container=kind,
            height=frame.height,
            width=frame.width,
            fps=float(stream.average_rate or stream.guessed_rate or 0),
            rotation=frame.rotation,
            shown=shown,
            keys=keys,
            num_frames=num_frames,
            readable=readable,
            seeks=kind in _SEEKABLE and codec in _EXACT_CODECS and timed and whole,
            faults=", ".join(fault for fault, holds in faults.items() if holds),
        )
    except av.FFmpegError as error:
        raise VideoError(path, "damaged, no frame can be decoded") from error
    finally:
        container.close()


def _key_frame(codec: str, data: bytes, extradata: bytes) -> tuple[bool, bytes]:
    """Of a key frame's packet: does decoding start afresh here, and what fixes the frame size."""
    if codec == "vp8":
        return True, data[3:10]  # start code, width, height
    if codec == "vp9":
        return True, data[1:9]  # sync code, colour, width, height
    if codec == "av1":
        return True, data[: 2 + data[1]] if data[0] == 0x0A else b""  # the sequence header
    at = {"h264": 4, "hevc": 21}.get(codec, len(extradata))
    if at >= len(extradata) or extradata[0] != 1:
        return False, b""  # another codec, or no length-prefixed NAL units
    prefix, start, fresh, layout = (extradata[at] & 3) + 1, 0, False, b""
    while start + prefix < len(data):
        begin = start + prefix
        start = begin + int.from_bytes(data[start:begin], "big")
        kind = data[begin] & 31 if codec == "h264" else data[begin] >> 1 & 63
        # An IDR picture; in HEVC any random access point, its leading pictures are seen by time.
        fresh = fresh or (kind == 5 if codec == "h264" else 16 <= kind <= 21)
        # A sequence parameter set other than the one in the header may change the size.
        if kind == (7 if codec == "h264" else 33) and data[begin:start] not in extradata:
            layout += data[begin:start]
    return fresh, layout
