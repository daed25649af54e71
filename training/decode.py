"""Frame-exact reading of videos: frame i is the i-th picture that FFmpeg decodes from the file.

Two decoders stand behind one interface. PyAV was right on all files that were tried, and with two
views of a video the faster one (benchmarks/results/*/data_path.md); decord is what video training
commonly uses, but on many files it returns frames other than asked for, without an error. "auto" uses it
only where its frames are right:
  - h264, hevc, vp8, vp9 or av1 in mp4, mov, mkv, webm or flv;
  - no frame is cut or moved by an edit list;
  - every key frame starts afresh: no open GOP, no intra refresh, no start in mid-group;
  - no display rotation, no change of the frame size, no damage, one video track.
All of this is read from the packets in one pass, of which only the first frame is decoded (2 ms for
a clip of 10 s). PyAV reads all else, and every file where decord is not installed or fails.

Frames are returned as stored: a display matrix (videos of phones) is not applied. Where a container
has no table of its frames (all but mp4 and mov), a truncated file is a shorter video.
"""

from __future__ import annotations

import os
import warnings
from typing import Literal

from .decode_readers import DecordReader, PyAVReader, VideoReader
from .decode_scan import VideoError, scan_video

Backend = Literal["auto", "decord", "pyav"]


def open_video(
    path: str | os.PathLike[str], backend: Backend = "auto", threads: int = 1
) -> VideoReader:
    """Open a local video file; close the reader, or use it in a `with` statement.

    Open it in the process that reads it (in the DataLoader's worker, not before): no decoder
    survives a fork, so a reader refuses to be pickled and to be read in another process.

    backend: "auto" is exact. "decord" or "pyav" is used as told, with a warning where decord is
        known to return wrong frames on this file.
    threads: of the decoder; 1 by default, because loaders run many workers.
    Raises VideoError for a file that is missing, empty, damaged, of no video format, without video
    or without frames; also for decord on MPEG-TS, where it never returns. ImportError without
    PyAV, or without decord where it is told.
    """
    if backend not in ("auto", "decord", "pyav"):
        raise ValueError(f"open_video: backend must be auto, decord or pyav, got {backend!r}")
    if threads < 1:
        raise ValueError(f"open_video: threads must be at least 1, got {threads}")
    scan = scan_video(
        os.path.abspath(os.fspath(path))
    )  # absolute: a name like "a:b" is no protocol
    if backend == "decord":
        if scan.container == "mpegts":
            raise VideoError(scan.path, "decord never returns on MPEG-TS; use another backend")
        if scan.faults:
            text = f"{scan.path}: decord is known to return wrong frames here: {scan.faults}"
            warnings.warn(text, stacklevel=2)
        return DecordReader(scan, threads, fallback=False)
    if backend == "auto" and not scan.faults:
        try:
            return DecordReader(scan, threads, fallback=True)
        except (ImportError, VideoError):
            pass  # not installed, or a codec that its own FFmpeg lacks: PyAV reads it
    return PyAVReader(scan, threads)
