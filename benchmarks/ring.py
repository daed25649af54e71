"""Runs one case: a process for each contender, all alive at once, timed in turns.

Interleaving makes whatever changes over the minutes of a run (clock, neighbours, temperature) fall on all
contenders alike; own processes keep their memory, thread pools and imports apart. The order within a round
is shuffled, so that nobody always follows the same neighbour.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from .machine import ROOT, Disturbance
from .suite import Case, Contender, Record, Suite
from .worker import VARIABLE

PAUSE = 0.02  # seconds between turns: threads of the last one stop spinning for work
PATIENCE = 600.0  # seconds for any one answer
TURNS = (3, 12)  # at least and at most, each with up to CALLS calls
CALLS = 5
TURN_SECONDS = 0.3


class _Racer:
    """The parent's end of one contender's process."""

    def __init__(
        self, suite: Suite, case: Case, contender: Contender, cpus: Sequence[int], oracle: Path
    ) -> None:
        self.contender = contender
        self.cpus = list(cpus)[: contender.threads]
        self.facts: dict[str, Any] = {}
        self.error: dict[str, str] | None = None
        self._pipe, child = Pipe()
        orders = {
            "suite": suite.name,
            "case": case.name,
            "contender": contender.name,
            "cpus": self.cpus,
            "oracle": str(oracle),
            "pipe": child.fileno(),
        }
        threads = str(len(self.cpus))
        environment = {
            **os.environ,
            VARIABLE: json.dumps(orders),
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            # Others' pytest plugins take seconds to import, and xdist's would turn benchmarks off.
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        for name in [name for name in environment if name.startswith("PYTEST_XDIST")]:
            del environment[name]
        options = "-q -p pytest_benchmark.plugin -p no:cacheprovider"
        options += " --benchmark-only --benchmark-disable-gc"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (end() closes it)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *options.split(), "-c", os.devnull,
             "--rootdir", str(ROOT), str(ROOT / "benchmarks" / "worker.py")],
            cwd=ROOT, env=environment, pass_fds=[child.fileno()], stdin=subprocess.DEVNULL,
            stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        child.close()
        self.pid = self._process.pid

    def send(self, do: str, **details: Any) -> None:
        """Ask for something, unless the process is out."""
        if self.error is None:
            try:
                self._pipe.send({"do": do, **details})
            except OSError:
                self._give_up("failed", self._last_words())

    def answer(self) -> None:
        """Wait for the next answer; an error or a timeout ends this contender's part."""
        if self.error is not None:
            return
        try:
            if not self._pipe.poll(PATIENCE):
                self._give_up("failed", f"no answer within {PATIENCE:.0f} s")
                return
            message: dict[str, Any] = self._pipe.recv()
        except (EOFError, OSError):  # killed, for example for its memory
            self._give_up("failed", self._last_words())
            return
        if "why" in message:
            self._give_up(message["status"], message["why"])
        else:
            self.facts.update(message)

    def end(self) -> None:
        """See the process off."""
        self._pipe.close()
        try:
            self._process.wait(timeout=0 if self.error else 30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _give_up(self, status: str, why: str) -> None:
        self.error = {"status": status, "why": why}
        self._process.kill()

    def _last_words(self) -> str:
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            code = None
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"ended with status {code}: {' | '.join(lines[-3:])}"[:500]

    def record(self) -> Record:
        """All that is known of this contender."""
        if self.error is not None:
            return dict(self.error)
        facts = {**self.facts, "threads": len(self.cpus)}
        return {**facts, **spread(facts["seconds"])}


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and extremes; inclusive, so that quartiles lie within what was measured."""
    several = seconds if len(seconds) > 1 else [*seconds, *seconds]
    lower, median, upper = statistics.quantiles(several, n=4, method="inclusive")
    return {
        "median_s": median,
        "q1_s": lower,
        "q3_s": upper,
        "min_s": min(seconds),
        "max_s": max(seconds),
    }


def run_case(
    suite: Suite, case: Case, contenders: Sequence[Contender], cpus: Sequence[int], *, quick: bool
) -> list[Record]:
    """Check, measure and time contenders of a case; return a record for each, in the same order."""
    absent = {c.name: why for c in contenders if (why := _why_absent(case, c))}
    with tempfile.TemporaryDirectory() as folder:
        oracle = Path(folder) / "oracle.pt"
        command = [sys.executable, "-m", "benchmarks.oracle", suite.name, case.name, str(oracle)]
        subprocess.run(command, cwd=ROOT, check=True)
        racers = [_Racer(suite, case, c, cpus, oracle) for c in contenders if c.name not in absent]
        try:
            for racer in racers:  # they import and make their inputs all at once
                racer.answer()
            for racer in racers:
                racer.send("check")
                racer.answer()
            fit = [racer for racer in racers if racer.error is None]
            others = Disturbance([racer.pid for racer in fit])
            _take_turns(fit, 0.0 if quick else suite.seconds)
            disturbance = others.share()
        finally:
            for racer in racers:
                racer.end()
    found = {racer.contender.name: racer.record() for racer in racers}
    return [
        {
            "suite": suite.name,
            "case": case.name,
            "parameters": dict(case.parameters),
            "contender": c.name,
            "differs": c.differs,
            "allowed": dict(c.allowed or {}),
            **(absent.get(c.name) or found[c.name]),
            "work": suite.work(case, c.name),
            "others_cpu_share": disturbance,
        }
        for c in contenders
    ]


def _why_absent(case: Case, contender: Contender) -> Record | None:
    if missing := contender.missing():
        return {"status": "not installed", "why": f"needs {', '.join(missing)}"}
    if reason := case.left_out.get(contender.name):
        return {"status": "left out", "why": reason}
    needed = contender.memory(case)
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    if needed > 0.8 * available:
        why = f"would need about {needed / 2**30:.0f} GiB of memory"
        return {"status": "left out", "why": why}
    return None


def _take_turns(racers: Sequence[_Racer], seconds: float) -> None:
    """As many rounds as fit into ``seconds``, within TURNS; one of a single call each for 0."""
    trials = {racer: racer.facts["trial_s"] for racer in racers}
    calls = {r: min(max(int(TURN_SECONDS / trials[r]), 1), CALLS) for r in racers}
    round_seconds = sum(calls[r] * trials[r] + PAUSE for r in racers)
    turns = min(max(int(seconds / max(round_seconds, 1e-9)), TURNS[0]), TURNS[1])
    if seconds == 0.0:
        turns, calls = 2, dict.fromkeys(racers, 1)
    for racer in racers:
        racer.send("time", turns=turns, calls=calls[racer])
    order = list(racers)
    for turn in range(turns):
        random.Random(turn).shuffle(order)
        for racer in order:
            racer.send("turn")
            racer.answer()
            time.sleep(PAUSE)
    for racer in racers:
        racer.answer()
