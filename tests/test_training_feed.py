"""The feed of a device: what overlaps with what, what waits for what, and what an error costs.

No GPU is needed: streams and events are fakes that keep a record of what is asked of them.
"""

import contextlib
import json
import signal
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from barcode import write_barcode
from device_fakes import FakeBatch, FakeStream, FakeStreams

from training import prefetch, pretrain
from training.batch import Batch
from training.checkpoint import NAME as CHECKPOINT
from training.config import Config, Data, Model, Optim, Run
from training.errors import DataError
from training.feed import Interruption, StopWaiting, timed_batches
from training.prefetch import DeviceFeed
from training.ranks import Ranks

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """A run takes Ctrl-C and SIGTERM; give them back."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def run_fake(monkeypatch: pytest.MonkeyPatch, steps: int = 5) -> list[Any]:
    """Train as `pretrain.train` does on fake batches; return the log."""
    streams = FakeStreams()
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    monkeypatch.setattr(prefetch, "streams_of", lambda _: streams)
    batches: Any = ((FakeBatch(number, streams, alive), 0.0) for number in range(steps))
    feed: Any = DeviceFeed(batches, CPU)
    trained = []
    for batch, host in feed:
        assert host.number == batch.number and host is not batch
        streams.log.append(("launch", "compute", batch.number))
        feed.ahead()
        streams.log.append(("synchronise", "host", batch.number))
        trained.append(batch.number)
    assert trained == list(range(steps)), "each once, in order"
    return streams.log


def find(log: list[Any], *entry: Any) -> int:
    """Where an entry stands that begins like this: the only one."""
    places = [i for i, found in enumerate(log) if found[: len(entry)] == entry]
    assert len(places) == 1, (entry, places)
    return places[0]


def check_order(log: list[Any], steps: int = 5) -> None:
    """What must hold for the copies to overlap, and for no byte to be read early or overwritten."""
    for number in range(steps):
        copy = find(log, "copy", "side", number)  # never on the computing stream
        launch = find(log, "launch", "compute", number)
        waited = [entry[2] for entry in log[:launch] if entry[:2] == ("wait", "compute")]
        assert len(waited) == number + 1, "one wait for each batch"
        assert log[waited[-1].after][:2] == ("record", "side")
        assert copy < waited[-1].after < launch, "the step waits for what follows the copy"
        assert copy + 1 == waited[-1].after, "and for no later copy"
        assert copy < find(log, "keep", "compute", number) < launch, "the buffers are recorded"
        if number == 0:
            continue
        before = find(log, "launch", "compute", number - 1)
        assert before < copy < find(log, "synchronise", "host", number - 1), "it overlaps"
        # On the device: the copy waits until the step before the present one has ended.
        guard = [entry[2] for entry in log[:copy] if entry[:2] == ("wait", "side")][-1]
        assert log[guard.after][:2] == ("record", "compute")
        assert guard.after < before, "but not for the present step"
        if number > 1:
            assert guard.after > find(log, "launch", "compute", number - 2)
    assert max(entry[3] for entry in log if entry[0] == "copy") == 2, "two batches on the device"


def test_copies_overlap_and_nothing_is_read_or_reused_too_early(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_order(run_fake(monkeypatch))


class _Keeping(DeviceFeed):
    """A planted fault: an old batch stays alive."""

    def __next__(self) -> Any:
        fed = super().__next__()
        self.kept, self.last = getattr(self, "last", None), fed
        return fed


def _copy_on_the_computing_stream(self: FakeStreams, stream: Any) -> Any:
    return contextlib.nullcontext()


FAULTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "no wait of the step for the copy": lambda patch: patch.setattr(
        FakeStream,
        "wait_event",
        lambda self, event: self.name == "side" and self.log.append(("wait", "side", event)),
    ),
    "no wait of the copy for the step before": lambda patch: patch.setattr(
        FakeStream,
        "wait_event",
        lambda self, event: self.name == "compute" and self.log.append(("wait", "compute", event)),
    ),
    "buffers are not recorded": lambda patch: patch.setattr(
        FakeBatch, "record_stream", lambda *_: None
    ),
    "copied on the computing stream": lambda patch: patch.setattr(
        FakeStreams, "use", _copy_on_the_computing_stream
    ),
    "not copied ahead": lambda patch: patch.setattr(DeviceFeed, "ahead", lambda _: None),
    "three batches alive": lambda patch: patch.setitem(globals(), "DeviceFeed", _Keeping),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_check_of_the_order_finds_faults(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    FAULTS[fault](monkeypatch)
    with pytest.raises((AssertionError, IndexError)):
        check_order(run_fake(monkeypatch, steps=5))


def test_on_a_cpu_nothing_is_in_between() -> None:
    read = []

    def batches() -> Iterator[Any]:
        for number in range(3):
            read.append(number)
            yield number, 0.5

    feed: Any = DeviceFeed(batches(), CPU)
    for number, (batch, host) in enumerate(feed):
        feed.ahead()
        assert batch is host and read == list(range(number + 1)), "nothing is read ahead"
        assert feed.take_waited() == 0.5
    assert feed.take_waited() == 0.0


@pytest.mark.parametrize(("finished", "idle"), [(False, 0.0), (True, 0.15)])
def test_waiting_counts_only_while_the_device_is_idle(
    monkeypatch: pytest.MonkeyPatch, finished: bool, idle: float
) -> None:
    """The fake device computes for 0.25 s; the batch comes 0.4 s after the step began."""
    streams = FakeStreams()
    streams.finished = finished
    now = [0.0]
    monkeypatch.setattr(prefetch.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(prefetch, "streams_of", lambda _: streams)
    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    def batches() -> Iterator[Any]:
        yield FakeBatch(0, streams, alive), 2.0
        now[0] += 0.4
        yield FakeBatch(1, streams, alive), 0.4

    feed: Any = DeviceFeed(batches(), CPU)
    next(feed)
    assert feed.take_waited() == 2.0, "nothing is computed while the first batch is waited for"
    feed.ahead()
    assert feed.take_waited() == pytest.approx(idle)


def test_what_goes_wrong_ahead_comes_up_with_the_next_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streams = FakeStreams()
    monkeypatch.setattr(prefetch, "streams_of", lambda _: streams)
    for error in (DataError("a worker died"), StopWaiting(), StopIteration()):

        def batches(error: Exception = error) -> Iterator[Any]:
            yield FakeBatch(0, streams, weakref.WeakSet()), 0.0
            if not isinstance(error, StopIteration):
                raise error

        feed: Any = DeviceFeed(batches(), CPU)
        next(feed)
        feed.ahead()  # says nothing: the step is under way
        for _ in range(2):
            with pytest.raises(type(error)):
                next(feed)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("feed") / "videos"
    folder.mkdir()
    for number in range(2):
        write_barcode(folder / f"{number}.mp4", frames=30, first=40 * number)
    return folder


def config_of(videos: Path, out: Path, *, resume: bool = False) -> Config:
    return Config(
        data=Data(
            videos=(str(videos),), clip_frames=4, size=16, strides=(1, 2), batch_size=2, workers=0
        ),
        model=Model(backbone="tiny", projection=16),
        optim=Optim(epochs=5, warmup_epochs=1, lr=0.02),
        run=Run(out=str(out), device="cpu", resume=resume, sheet_pairs=1),
    )


def fake_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU look like a device beside the host: copies are made, streams noted."""
    streams = FakeStreams()
    monkeypatch.setattr(prefetch, "streams_of", lambda _: streams)
    monkeypatch.setattr(Batch, "record_stream", lambda *_: None)


def train(config: Config) -> bool:
    return pretrain.train(config, Ranks(0, 1, None, CPU))


def end_of(out: Path) -> tuple[dict[str, Any], list[float]]:
    """The checkpoint, and the losses of all steps."""
    text = (out / "metrics.jsonl").read_text().splitlines()
    return torch.load(out / CHECKPOINT, weights_only=True), [json.loads(t)["loss"] for t in text]


def assert_same(left: Path, right: Path) -> None:
    (one, losses), (two, others) = end_of(left), end_of(right)
    assert losses == others and one["step"] == two["step"] == len(losses)
    for name, value in two["model"].items():
        assert torch.equal(one["model"][name], value), name


@pytest.fixture(scope="module")
def reference(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without any feed ahead."""
    out = tmp_path_factory.mktemp("feed-out")
    assert train(config_of(videos, out))
    return out


def test_a_run_that_copies_ahead_is_the_same_run(
    videos: Path, tmp_path: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_device(monkeypatch)
    assert train(config_of(videos, tmp_path))
    assert_same(tmp_path, reference)


@pytest.mark.parametrize("error", [StopWaiting, DataError])
def test_a_batch_that_was_only_copied_does_not_count(
    videos: Path,
    tmp_path: Path,
    reference: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
) -> None:
    """Stopped while the fourth batch is fetched, beside step 3: that step counts, no other."""

    def stopping(*args: Any, **options: Any) -> Iterator[Any]:
        batches = timed_batches(*args, **options)
        for _ in range(3):
            yield next(batches)
        raise error("in mid-run")

    fake_device(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "timed_batches", stopping)
        outcome = contextlib.nullcontext() if error is StopWaiting else pytest.raises(DataError)
        with outcome:
            assert not train(config_of(videos, tmp_path))
    state, losses = end_of(tmp_path)
    assert state["step"] == len(losses) == 3
    assert train(config_of(videos, tmp_path, resume=True))
    assert_same(tmp_path, reference)


def test_asked_to_stop_with_a_batch_ahead(
    videos: Path, tmp_path: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flag is seen at the end of step 2, when the third batch has been copied already."""

    class Asked(Interruption):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.asks = 0

        def __getattribute__(self, name: str) -> Any:
            if name == "asked":
                self.asks += 1
                return self.asks == 2
            return super().__getattribute__(name)

    fetched = []

    def noting(*args: Any, **options: Any) -> Iterator[Any]:
        for batch in timed_batches(*args, **options):
            fetched.append(batch)
            yield batch

    fake_device(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "Interruption", Asked)
        patch.setattr(pretrain, "timed_batches", noting)
        assert not train(config_of(videos, tmp_path))
    assert len(fetched) == 3, "the next one is fetched beside the step"
    state, losses = end_of(tmp_path)
    assert state["step"] == len(losses) == 2
    assert train(config_of(videos, tmp_path, resume=True))
    assert_same(tmp_path, reference)
