"""Batches, the time that is spent waiting for them, and the wish to stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Generator
from types import FrameType

from .batch import Batch
from .data import PairDataset, make_loader
from .errors import DataError, NoReadableVideoError, TrainingError
from .sampler import PairSampler


class StopWaiting(Exception):  # noqa: N818  # not an error: somebody asked for it
    """Somebody asked to stop while a batch was being waited for."""


class Interruption:
    """Turns Ctrl-C and SIGTERM into a flag; a second Ctrl-C ends the process at once."""

    def __init__(self, *, alone: bool) -> None:
        self.asked = False
        self.waiting = False  # for data: nothing is half done, so the wait may end at once
        self._alone = (
            alone  # other ranks would wait for this one: it leaves with them, after a step
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
        if self.waiting and self._alone:
            raise StopWaiting


def halted(dataset: PairDataset, error: Exception) -> DataError:
    """Name the videos that the workers are at."""
    at = ", ".join(dataset.videos[i].name for i in dataset.current.tolist() if i >= 0)
    return DataError(f"{error} (the workers are at {at})")


def timed_batches(
    dataset: PairDataset,
    sampler: PairSampler,
    interruption: Interruption,
    *,
    pin_memory: bool = False,
) -> Generator[tuple[Batch, float], None, None]:
    """Yield the batches of the rest of the run, each with the seconds that it was waited for.

    Raises:
        NoReadableVideoError: a batch found no video that can be read.
        DataError: a batch did not come in time, or a worker died; names the videos that they are at.
        StopWaiting: somebody asked to stop.

    """
    batches = iter(make_loader(dataset, sampler, pin_memory=pin_memory))
    try:
        while True:
            begin = time.perf_counter()
            interruption.waiting = True
            batch = next(batches, None)
            interruption.waiting = False
            if batch is None:
                return
            if isinstance(batch, NoReadableVideoError):
                raise batch
            yield batch, time.perf_counter() - begin
    except RuntimeError as error:
        if isinstance(error, TrainingError) or not interruption.waiting:
            raise
        raise halted(dataset, error) from error
    finally:
        interruption.waiting = False
        del batches  # ends the workers now; a traceback may keep this frame alive
