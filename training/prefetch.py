"""Batches on the training device: the next one is copied while the present one is computed on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import torch

from .batch import Batch


class Streams(Protocol):
    """What is asked of a device that runs beside the host: its streams and events, as in torch.cuda."""

    def compute(self) -> Any:
        """Return the stream that computes: the current one."""

    def side(self) -> Any:
        """Return a new stream, for copies."""

    def use(self, stream: Any) -> AbstractContextManager[Any]:
        """Make a stream the current one for a while."""

    def event(self) -> Any:
        """Return a new event that can tell the time."""


class CudaStreams:
    """Those of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def compute(self) -> Any:  # noqa: D102  # as the protocol says
        return torch.cuda.current_stream(self.device)

    def side(self) -> Any:  # noqa: D102
        return torch.cuda.Stream(self.device)

    def use(self, stream: Any) -> AbstractContextManager[Any]:  # noqa: D102
        context: AbstractContextManager[Any] = torch.cuda.stream(stream)
        return context

    def event(self) -> Any:  # noqa: D102
        return torch.cuda.Event(enable_timing=True)


def streams_of(device: torch.device) -> Streams | None:
    """Return the streams of a device, or None where there is nothing to overlap."""
    return CudaStreams(device) if device.type == "cuda" else None


class Fed(NamedTuple):
    """A batch to train on."""

    batch: Batch  # on the device
    host: Batch  # the same on the host; on a CPU it is the same object


class _Copied(NamedTuple):
    fed: Fed
    done: Any  # event: the copy has arrived


class DeviceFeed:
    """Yields batches on the device; `ahead` starts the copy of the next one.

    Call `ahead` once a step is launched and before anything waits for its result. At most two batches are
    on the device: the one being computed on and the one being copied. Without streams (on a CPU) batches
    pass through as they are and `ahead` does nothing.

    Whatever goes wrong or is asked for in `ahead` comes up with the next batch: by then the step that was
    launched before it is complete, so a checkpoint may be written.
    """

    def __init__(self, batches: Iterator[tuple[Batch, float]], device: torch.device) -> None:
        self._batches, self._device = batches, device
        self._streams = streams_of(device)
        self._copied: _Copied | None = None
        self._ended: Exception | None = None
        self._waited = 0.0
        if self._streams is not None:
            self._side = self._streams.side()
            # Recorded when a batch is handed out: all before it is the work of earlier steps.
            self._started = self._streams.event()
            self._handed_out = 0.0

    def __iter__(self) -> DeviceFeed:
        """Return itself: the batches of the rest of the run."""
        return self

    def __next__(self) -> Fed:
        """Return the next batch; the compute stream waits for its copy, the host does not."""
        if self._streams is None:
            host, waited = next(self._batches)
            self._waited += waited
            return Fed(host, host)
        compute = self._streams.compute()
        if self._ended is None and self._copied is None:  # the first one
            self._started.record(compute)
            host, waited = next(self._batches)
            self._waited += waited
            self._copied = self._copy(host)
        if self._copied is None:
            assert self._ended is not None
            raise self._ended
        (fed, done), self._copied = self._copied, None  # the caller alone keeps it alive
        self._started = self._streams.event()
        self._started.record(compute)
        self._handed_out = time.perf_counter()
        compute.wait_event(done)
        # Its memory belongs to the side stream, which may reuse it as soon as the host has let go of the
        # batch: not before the compute stream has come to the point that it is at then.
        fed.batch.record_stream(compute)
        return fed

    def ahead(self) -> None:
        """Fetch the next batch from the loader and begin to copy it, beside the step under way."""
        if self._streams is None or self._copied is not None or self._ended is not None:
            return
        finished = self._streams.event()
        finished.record(self._streams.compute())
        try:
            host, waited = next(self._batches)
            self._waited += self._idle(finished, waited)
            self._copied = self._copy(host)
        except Exception as error:  # also the wish to stop, and the end: the step comes first
            self._ended = error

    def take_waited(self) -> float:
        """Return the seconds since the last call for which data was waited for, and nothing computed."""
        waited, self._waited = self._waited, 0.0
        return waited

    def _copy(self, host: Batch) -> _Copied:
        assert self._streams is not None
        # The batch before the present one is done with: its memory is free, no third one is in flight.
        self._side.wait_event(self._started)
        done = self._streams.event()
        with self._streams.use(self._side):
            batch = host.to(self._device)
            done.record(self._side)
        return _Copied(Fed(batch, host), done)

    def _idle(self, finished: Any, waited: float) -> float:
        """Return how much of the wait for a batch, which ends now, the device was out of work.

        Reckoned from when the step's batch was handed out to a device that had done all before. Where it
        had not, the result is too large, but never more than the wait.
        """
        if not finished.query():
            return 0.0
        computed: float = self._started.elapsed_time(finished) / 1e3
        return min(waited, max(time.perf_counter() - self._handed_out - computed, 0.0))
