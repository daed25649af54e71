"""The two decoders behind `decode.open_video`."""

from __future__ import annotations

import operator
import os
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Container, Iterator, Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from .decode_scan import Scan, VideoError, open_container

Frames = npt.NDArray[np.uint8]

# Packets: decoding on over so few is no dearer than seeking (240p to 720p, strides 1 to 8).
_NEAR = 4


class VideoReader(ABC):
    """An open video: the checks, and each distinct frame read once.

    Attributes:
        num_frames: frames that the file promises.
        height: rows of a frame, as stored.
        width: columns of a frame, as stored.
        fps: mean frames per second, 0.0 if unknown.
        backend: name of the decoder that reads it.

    """

    backend: str

    def __init__(self, scan: Scan, num_frames: int) -> None:
        self._path, self._pid, self._closed = scan.path, os.getpid(), False
        self.num_frames, self.fps = num_frames, scan.fps
        self.height, self.width = scan.height, scan.width

    def frames(self, indices: Sequence[int]) -> Frames:
        """Return uint8 (len(indices), height, width, 3) RGB, in the order asked for.

        Repeats are allowed and each distinct frame is decoded once. Ask for all frames of a clip
        in one call: every call seeks anew. Raises IndexError for an index outside
        [0, num_frames), VideoError for frames that are damaged, missing or of another size.
        """
        if self._closed:
            raise VideoError(self._path, "the reader is closed")
        if os.getpid() != self._pid:
            raise VideoError(self._path, "opened in another process; open it in the worker")
        asked = [operator.index(index) for index in indices]
        for index in asked:
            if not 0 <= index < self.num_frames:
                raise IndexError(f"{self._path}: no frame {index}, it has {self.num_frames} frames")
        distinct = sorted(set(asked))
        if not distinct:
            return np.empty((0, self.height, self.width, 3), np.uint8)
        pictures = self._read(distinct)
        if asked == distinct:
            return pictures
        row = {index: number for number, index in enumerate(distinct)}
        return pictures[[row[index] for index in asked]]

    @abstractmethod
    def _read(self, wanted: list[int]) -> Frames:
        """The frames of these rising indices."""

    @abstractmethod
    def _release(self) -> None: ...

    def close(self) -> None:
        """Free the decoder; further reads are errors."""
        if not self._closed:
            self._closed = True
            self._release()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a reader of {self._path} cannot be pickled; open it in the worker")


class PyAVReader(VideoReader):
    """Seeks where the time stamps are known to tell the frame, else decodes from the start."""

    backend = "pyav"

    def __init__(self, scan: Scan, threads: int) -> None:
        super().__init__(scan, scan.num_frames)
        self._threads, self._readable, self._seeks = threads, scan.readable, scan.seeks
        self._keys = scan.keys
        self._pts = [pts for pts, _ in scan.shown]
        self._order = [order for _, order in scan.shown]
        self._container, self._stream = open_container(scan.path, threads)
        if not self._seeks:
            self._count()

    def _count(self) -> None:
        """Number the frames as FFmpeg does: those that come out, with damaged packets skipped."""
        number, sound = 0, True
        for frame in self._decode(None, skip_damaged=True):
            sound = sound and frame is not None and not frame.is_corrupt
            number += frame is not None
            if sound:
                self._readable = number
        self.num_frames = number
        if not number:
            self.close()
            raise VideoError(self._path, "no frames")

    def _read(self, wanted: list[int]) -> Frames:
        if wanted[-1] >= self._readable:
            reason = f"truncated or damaged from frame {self._readable} of {self.num_frames} on"
            raise VideoError(self._path, reason)
        out = np.empty((len(wanted), self.height, self.width, 3), np.uint8)
        if not self._seeks:
            row = 0
            pictures = (frame for frame in self._decode(None, skip_damaged=True) if frame)
            for number, frame in enumerate(pictures):
                if number == wanted[row]:
                    self._store(frame, out, row)
                    row += 1
                    if row == len(wanted):
                        return out
            raise VideoError(self._path, f"frame {wanted[row]} cannot be decoded")
        left = {self._pts[index]: row for row, index in enumerate(wanted)}
        while left:
            target, index = next(iter(left)), wanted[-len(left)]
            self._collect(self._key_before(index), left, wanted, out)
            if target in left:  # the seek point was none
                self._collect(None, left, wanted, out)
            if target in left:
                raise VideoError(self._path, f"frame {index} cannot be decoded")
        return out

    def _key_before(self, index: int) -> int:
        """The last key frame that is both decoded and shown before a frame: its place in _keys.

        A key frame decoded before but shown after it is of no use, the frame then refers to the
        group before (open GOP).
        """
        key = bisect_right(self._keys, self._order[index], key=operator.itemgetter(0)) - 1
        while key > 0 and self._keys[key][1] > self._pts[index]:
            key -= 1
        return key

    def _collect(
        self, key: int | None, left: dict[int, int], wanted: list[int], out: Frames
    ) -> None:
        """Decode from a key frame (None: the start) and move the frames left to read into out.

        Returns early where seeking again is cheaper, or a frame that should have come did not.
        """
        # From the start, all are decoded: that is how it goes where anything was unusual.
        for frame in self._decode(key, needed=None if key is None else left):
            if frame.pts in left:
                if frame.is_corrupt:
                    raise VideoError(self._path, f"damaged at time stamp {frame.pts}")
                self._store(frame, out, left.pop(frame.pts))
                if not left:
                    return
                ahead = self._key_before(wanted[-len(left)])
                here = bisect_right(self._pts, frame.pts) - 1
                if key is not None and self._keys[ahead][0] > self._order[here] + _NEAR:
                    return
            elif key is not None and frame.pts is not None and frame.pts > next(iter(left)):
                return

    def _decode(
        self, key: int | None, skip_damaged: bool = False, needed: Container[int] | None = None
    ) -> Iterator[Any]:
        """Frames from a key frame on; nothing if the file does not lead there; None for damage.

        Of frames that no other refers to, only those whose time stamps are `needed` are decoded
        (None: all of them).
        """
        import av

        try:
            if key is None:
                # Opening anew: seeking to the start of a program stream may miss its first frames.
                self._container.close()
                self._container, self._stream = open_container(self._path, self._threads)
            else:
                self._container.seek(self._keys[key][1], stream=self._stream)
            for number, packet in enumerate(self._container.demux(self._stream)):
                if number == 0 and key is not None and packet.pts != self._keys[key][1]:
                    return
                if needed is not None:
                    skip = "DEFAULT" if packet.pts in needed else "NONREF"
                    self._stream.codec_context.skip_frame = skip
                try:
                    yield from packet.decode()
                except av.FFmpegError:
                    if not skip_damaged:
                        raise
                    yield None
        except av.FFmpegError as error:
            raise VideoError(self._path, f"damaged: {error}") from error

    def _store(self, frame: Any, out: Frames, row: int) -> None:
        if (frame.height, frame.width) != (self.height, self.width):
            sizes = f"{self.width}x{self.height} to {frame.width}x{frame.height}"
            raise VideoError(self._path, f"the frame size changes from {sizes}")
        out[row] = frame.to_ndarray(format="rgb24")

    def _release(self) -> None:
        self._container.close()


class DecordReader(VideoReader):
    """decord 0.6, or decord2, which installs the same module."""

    backend = "decord"

    def __init__(self, scan: Scan, threads: int, fallback: bool) -> None:
        try:
            import decord
        except ImportError as error:
            raise ImportError("backend 'decord' needs: pip install decord") from error
        # Its own FFmpeg's level; nothing else in the process logs through it.
        decord.logging.set_level(decord.logging.ERROR)
        try:
            self._handle = decord.VideoReader(scan.path, ctx=decord.cpu(0), num_threads=threads)
            super().__init__(scan, len(self._handle))
            if scan.rotation:  # decord turns the frames, so their size may be the other way round
                self.height, self.width = self._handle[0].shape[:2]
        except Exception as error:  # DECORDError, RuntimeError or AssertionError
            raise VideoError(scan.path, "decord cannot open it") from error
        self._scan, self._threads, self._fallback = scan, threads, fallback
        self._other: PyAVReader | None = None
        if fallback and self.num_frames != len(scan.shown):
            raise VideoError(scan.path, "decord counts other frames than the file holds")

    def _read(self, wanted: list[int]) -> Frames:
        if self._other is None:
            try:
                batch = self._handle.get_batch(wanted)
                # A tensor instead of decord's array if someone has set decord's bridge.
                pictures: Frames = batch.asnumpy() if hasattr(batch, "asnumpy") else batch.numpy()
                if pictures.shape == (len(wanted), self.height, self.width, 3):
                    return pictures
                raise VideoError(self._path, f"decord returned the shape {pictures.shape}")
            except Exception as error:
                if not self._fallback:
                    raise VideoError(self._path, "decord cannot decode the frames") from error
            # decord2 refuses some frame widths; a damaged file gets its error from PyAV.
            self._other = PyAVReader(self._scan, self._threads)
            self.backend = self._other.backend
        return self._other._read(wanted)

    def _release(self) -> None:
        self._handle = None
        if self._other is not None:
            self._other.close()
