"""A device beside the host that computes nothing: its streams and events note what they are asked."""

import contextlib
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import torch


class FakeEvent:
    def __init__(self, log: list[Any]) -> None:
        self.log, self.after, self.done = log, -1, True

    def record(self, stream: "FakeStream") -> None:
        self.after = len(self.log)  # whatever the stream was asked before this
        self.log.append(("record", stream.name, self))

    def query(self) -> bool:
        return self.done

    def elapsed_time(self, other: "FakeEvent") -> float:
        return 250.0  # ms


class FakeStream:
    def __init__(self, name: str, log: list[Any]) -> None:
        self.name, self.log = name, log

    def wait_event(self, event: FakeEvent) -> None:
        self.log.append(("wait", self.name, event))


class FakeStreams:
    """One device: the streams `compute` and `side`, and the log of what they are asked."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.default = self.current = FakeStream("compute", self.log)
        self.finished = True

    def compute(self) -> FakeStream:
        return self.current

    def side(self) -> FakeStream:
        return FakeStream("side", self.log)

    @contextlib.contextmanager
    def use(self, stream: FakeStream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def event(self) -> FakeEvent:
        event = FakeEvent(self.log)
        event.done = self.finished
        return event


class FakeBatch:
    """A batch that notes when it is copied and by which stream, and how many copies are alive."""

    def __init__(self, number: int, streams: FakeStreams, alive: "weakref.WeakSet[Any]") -> None:
        self.number, self.streams, self.alive = number, streams, alive

    def to(self, _: torch.device) -> "FakeBatch":
        copy = FakeBatch(self.number, self.streams, self.alive)
        self.alive.add(copy)
        gc.collect()
        at = self.streams.current.name
        self.streams.log.append(("copy", at, self.number, len(self.alive)))
        return copy

    def record_stream(self, stream: FakeStream) -> None:
        self.streams.log.append(("keep", stream.name, self.number))
