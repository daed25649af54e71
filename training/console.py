"""What a run tells the person who watches it: a progress bar, a line now and then, a summary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .metrics import head_scores
from .objective import HEADS, TERMS


class Reporter:
    """Speaks for one rank; the others are silent."""

    def __init__(self, classes: dict[str, int], *, log_every: int, quiet: bool) -> None:
        self.classes = classes
        self.log_every = log_every
        self.console = Console(highlight=False, soft_wrap=True, quiet=quiet)
        self._recent: list[dict[str, Any]] = []
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=None)

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line."""
        self.console.print(text, style=style, markup=False)

    def start(self, done: int, total: int) -> None:
        """Show the progress bar, ``done`` of ``total`` steps in."""
        self._bar.update(self._task, completed=done, total=total)
        self._bar.start()

    def stop(self) -> None:
        """Take the progress bar away."""
        self._bar.stop()

    def step(self, record: dict[str, Any], total: int) -> None:
        """Count a step; print a line about the last ones when it is time."""
        self._recent.append(record)
        self._bar.update(self._task, completed=record["step"])
        if record["step"] % self.log_every and record["step"] != total:
            return

        def mean(name: str) -> float:
            return float(np.mean([entry[name] for entry in self._recent]))

        terms = " ".join(f"{term} {mean('loss_' + term):.3f}" for term in TERMS)
        heads = " ".join(
            f"{head} {score.accuracy:.0%}/{score.chance:.0%}"
            for head, score in head_scores(self._recent, self.classes).items()
        )
        self.say(
            f"step {record['step']:>{len(str(total))}}/{total}  loss {mean('loss'):.3f} ({terms})  "
            f"accuracy/chance {heads}  {mean('samples_per_second'):.1f} pairs/s, "
            f"{mean('wait_share'):.0%} of it waiting for data"
        )
        self._recent.clear()

    def summary(
        self,
        records: Sequence[dict[str, Any]],
        broken: dict[str, str],
        videos: int,
        files: Sequence[Path],
    ) -> None:
        """Print what was learned, what was skipped and where everything is.

        Args:
            records: of all steps.
            broken: skipped videos and the reasons.
            videos: how many there are in all.
            files: what the run leaves behind.

        """
        if records:
            part = max(len(records) // 10, 1)
            first, last = records[:part], records[-part:]
            self.say(
                f"\nWhat was learned, on pairs drawn afresh from {videos} video(s), in the first and last "
                f"{part} step(s):"
            )
            table = Table()
            table.add_column("", no_wrap=True)
            for name in ("first", "last", "chance", "commonest class"):
                table.add_column(name, justify="right", no_wrap=True)
            for name in ("loss", *(f"loss_{term}" for term in TERMS)):
                before, after = (float(np.mean([r[name] for r in part])) for part in (first, last))
                label = "loss" if name == "loss" else f"loss, {name.removeprefix('loss_')}"
                table.add_row(label, f"{before:.3f}", f"{after:.3f}", "", "")
            before_scores = head_scores(first, self.classes)
            for head, score in head_scores(last, self.classes).items():
                before = before_scores[head].accuracy if head in before_scores else float("nan")
                table.add_row(
                    f"accuracy, {head}",
                    f"{before:.1%}",
                    f"{score.accuracy:.1%}",
                    f"{score.chance:.1%}",
                    f"{score.commonest:.1%}",
                )
            self.console.print(table)
        unlabelled = [head for head in HEADS if not any(sum(r[f"labels_{head}"]) for r in records)]
        if records and unlabelled:
            self.say(f"No label at all for: {', '.join(unlabelled)} (every video is too short).")
        self.say(f"skipped {len(broken)} of {videos} video(s)" + (":" if broken else ""))
        for name, reason in sorted(broken.items()):
            self.say(f"  {name}: {reason}", style="yellow")
        for path in files:
            self.say(f"wrote {path}")
