"""What a benchmark is made of: cases, contenders, and the suite that holds both."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

SUITES = ("info_nce", "crop_resize")

Outputs = Sequence[Tensor]
Work = Callable[[], Outputs]
Record = dict[str, Any]  # one contender in one case, as it is written to the result file


@dataclass(frozen=True)
class Case:
    """One job, the same for all its contenders.

    Attributes:
        name: unique within the suite.
        parameters: all that its inputs depend on, and what contenders have to know.
        contenders: names of those that take part, in the order of the tables.
        left_out: names of those that could take part and do not, each with the reason.

    """

    name: str
    parameters: Mapping[str, Any]
    contenders: tuple[str, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Contender:
    """One way to do a case.

    Attributes:
        name: as in the tables.
        build: from case and inputs to what is timed. Several entries are several ways of the same
            program to use the cores; each is tried and the fastest is timed, to be fair to it.
        allowed: how far its outputs may be from the float64 reference, by the suite's measures; one that is
            further off is not timed. None: it computes nothing comparable (a ceiling).
        differs: what it does differently from the reference's job, in words.
        modules: optional packages that it imports.
        memory: bytes that it needs, as far as known; a case beyond the machine is left out, not tried.
        compiles: its first call compiles for its sizes, so that memory is measured on the second.
        threads: how many threads it gets; all of the run's by default.

    """

    name: str
    build: Callable[[Case, Any], Mapping[str, Work]]
    allowed: Mapping[str, float] | None
    differs: str = "same job"
    modules: tuple[str, ...] = ()
    memory: Callable[[Case], float] = lambda case: 0.0
    compiles: bool = False
    threads: int | None = None

    def missing(self) -> list[str]:
        """Optional packages that are not installed."""
        return [name for name in self.modules if not _is_installed(name)]


@dataclass(frozen=True)
class Target:
    """What was aimed at, and what was reached; ``reached`` is None where it was not measured."""

    text: str
    reached: str
    passed: bool | None


@dataclass(frozen=True)
class Suite:
    """All of one op's benchmark.

    Attributes:
        name: also of its file, ``benchmarks/bench_<name>.py``.
        title: of its tables and plots.
        method: what is timed, as Markdown.
        ours: the contender that others are compared with.
        seconds: time for the timed rounds of one case.
        cases: all of them, of the quick run or of the full one.
        contenders: all of them.
        inputs: made of a case from a fixed seed, the same in every process.
        tiny: the smallest case of the same kind, for the warm-up call before memory is measured.
        oracle: from case and inputs to the right outputs in float64.
        differences: from case, outputs and the oracle's to error measures by name.
        work: what one call does, by unit ("output pixels", "bytes", "flop"), for the rates in the table.
        targets: from a lookup of records to what is aimed at.

    """

    name: str
    title: str
    method: str
    ours: str
    seconds: float
    cases: Callable[[bool], list[Case]]
    contenders: tuple[Contender, ...]
    inputs: Callable[[Case], Any]
    tiny: Callable[[Case], Case]
    oracle: Callable[[Case, Any], Outputs]
    differences: Callable[[Case, Outputs, Outputs], dict[str, float]]
    work: Callable[[Case, str], dict[str, float]]
    targets: Callable[[Lookup], list[Target]]

    def case(self, name: str) -> Case:
        """Find a case of either run by its name."""
        cases = [case for quick in (True, False) for case in self.cases(quick)]
        return next(case for case in cases if case.name == name)

    def contender(self, name: str) -> Contender:
        """Find a contender by its name."""
        return next(contender for contender in self.contenders if contender.name == name)


class Lookup:
    """Medians and memory of a result, for the targets."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = {(r["case"], r["contender"]): r for r in records if r["status"] == "ok"}

    def value(self, case: str, contender: str, figure: str = "median_s") -> float | None:
        """One figure, or None where it was not measured."""
        record = self._records.get((case, contender))
        return None if record is None else record[figure]

    def fastest(self, case: str, contenders: Sequence[str]) -> tuple[str, float] | None:
        """Name and median of the fastest of some contenders."""
        medians = {name: self.value(case, name) for name in contenders}
        measured = {name: median for name, median in medians.items() if median is not None}
        return min(measured.items(), key=lambda item: item[1]) if measured else None

    def ratio(
        self, text: str, case: str, slower: Sequence[str], faster: str, bound: float
    ) -> Target:
        """Aim at the fastest of ``slower`` taking at least ``bound`` times as long as ``faster``."""
        best, own = self.fastest(case, slower), self.value(case, faster)
        if best is None or own is None:
            return Target(text, "not measured", None)
        ratio = best[1] / own
        return Target(text, f"{ratio:.2f} x ({best[0]})", ratio >= bound)

    def within(self, text: str, case: str, contender: str, bound: float, ceiling: str) -> Target:
        """Aim at taking at most ``bound`` times as long as ``ceiling``."""
        own, floor = self.value(case, contender), self.value(case, ceiling)
        if own is None or floor is None:
            return Target(text, "not measured", None)
        return Target(text, f"{own / floor:.2f} x", own <= bound * floor)

    def at_most(self, text: str, case: str, contender: str, figure: str, bound: float) -> Target:
        """Aim at a figure in MiB of at most ``bound``."""
        value = self.value(case, contender, figure)
        if value is None:
            return Target(text, "not measured", None)
        return Target(text, f"{value:.1f} MiB", value <= bound)


def load_suite(name: str) -> Suite:
    """Return the suite of ``benchmarks/bench_<name>.py``."""
    suite: Suite = importlib.import_module(f"benchmarks.bench_{name}").SUITE
    return suite


def load(module: str) -> Any:
    """Import an optional package at its first use; untyped, so that mypy need not have it."""
    return importlib.import_module(module)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a parent package
        return False
