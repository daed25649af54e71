"""One contender in one case, in a process of its own: started by `ring.py`, timed by pytest-benchmark.

The parent sends "check", then "time", then one "turn" at a time, so that the processes of all contenders
take turns (A B C A B C ...) although each has its own memory, imports and thread pools. Whoever has no
turn sleeps on its pipe.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from .suite import Case, Contender, Outputs, Suite, Work

VARIABLE = "STOR_OPS_BENCHMARK"
TRIALS = 4  # at most, of each way, to choose one and to plan the rounds
BRIEF = 0.5  # seconds; calls shorter than this are preceded by an untimed one in every turn


class WrongResultError(Exception):
    """The contender's outputs are further from the reference than it may be."""


def test_contender(benchmark: BenchmarkFixture) -> None:
    """Check, measure and time what the parent asked for."""
    if VARIABLE not in os.environ:
        pytest.skip("started by python -m benchmarks.run")
    orders = json.loads(os.environ[VARIABLE])
    os.sched_setaffinity(0, orders["cpus"])  # before torch is imported and counts its cores
    with _reporting(Connection(orders["pipe"])) as parent:
        _take_part(parent, benchmark, orders)


@contextmanager
def _reporting(parent: Connection) -> Iterator[Connection]:
    """Send any error to the parent, which has others to go on with."""
    try:
        yield parent
    except WrongResultError as error:
        parent.send({"status": "wrong", "why": str(error)})
    except Exception as error:
        parent.send({"status": "failed", "why": f"{type(error).__name__}: {error}"[:500]})
    finally:
        parent.close()


def _take_part(parent: Connection, benchmark: BenchmarkFixture, orders: dict[str, Any]) -> None:
    import torch

    from .suite import load_suite

    torch.set_num_threads(len(orders["cpus"]))
    suite = load_suite(orders["suite"])
    case, contender = suite.case(orders["case"]), suite.contender(orders["contender"])
    ways = contender.build(case, suite.inputs(case))
    tiny = suite.tiny(case)
    first = ways if contender.compiles else contender.build(tiny, suite.inputs(tiny))
    for work in first.values():
        work()  # imports, compilers, thread pools and libraries' own buffers are not the call's memory
    parent.send({"status": "ready"})

    _expect(parent, "check")
    checked = {way: _check(suite, case, contender, work, orders) for way, work in ways.items()}
    way = min(checked, key=lambda name: checked[name]["trial_s"])
    parent.send({"status": "checked", "way": way, **checked[way]})

    plan = _expect(parent, "time")
    seconds = _time(parent, benchmark, ways[way], plan, brief=checked[way]["trial_s"] < BRIEF)
    parent.send({"status": "ok", "seconds": seconds})


def _expect(parent: Connection, what: str) -> dict[str, Any]:
    message: dict[str, Any] = parent.recv()
    assert message["do"] == what, message
    return message


def _check(
    suite: Suite, case: Case, contender: Contender, work: Work, orders: Mapping[str, Any]
) -> dict[str, Any]:
    """Memory and correctness of a call at full size, and a trial of the speed."""
    import torch

    from .memory import PeakGrowth

    growth = PeakGrowth()
    begin = time.perf_counter()
    outputs = work()
    trials = [time.perf_counter() - begin]
    peak = growth.mib()
    found = check_outputs(suite, case, contender, outputs, torch.load(orders["oracle"]))
    del outputs
    while len(trials) < TRIALS and sum(trials) < 2 * BRIEF:
        begin = time.perf_counter()
        work()
        trials.append(time.perf_counter() - begin)
    return {"trial_s": min(trials), "peak_growth_mib": peak, "differences": found}


def check_outputs(
    suite: Suite, case: Case, contender: Contender, outputs: Outputs, oracle: Outputs
) -> dict[str, float]:
    """Return the differences from the oracle; raise if one is larger than the contender's may be."""
    if contender.allowed is None:
        return {}
    found = suite.differences(case, outputs, oracle)
    for name, allowed in contender.allowed.items():
        if not found[name] <= allowed:  # NaN is wrong, too
            raise WrongResultError(f"{name} {found[name]:.3g}, allowed {allowed:.3g}")
    return found


def _time(
    parent: Connection,
    benchmark: BenchmarkFixture,
    work: Work,
    plan: Mapping[str, Any],
    *,
    brief: bool,
) -> list[float]:
    """Time ``turns`` x ``calls`` rounds; the pipe decides when a turn begins."""
    calls: int = plan["calls"]
    done = 0

    def before() -> None:
        if done % calls == 0:
            _expect(parent, "turn")
            if brief:
                work()  # wakes the threads and fetches what others have displaced from the caches

    def after() -> None:
        nonlocal done
        done += 1
        if done % calls == 0:
            parent.send({"status": "turn"})

    rounds = plan["turns"] * calls
    benchmark.pedantic(work, setup=before, teardown=after, rounds=rounds)  # type: ignore[no-untyped-call]
    assert benchmark.stats is not None
    return [float(second) for second in benchmark.stats.stats.data]
