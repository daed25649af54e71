"""What is measured while training: a JSON line and TensorBoard scalars a step, and a summary."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from .objective import HEADS, TERMS, Outcome

NAME = "metrics.jsonl"


def step_record(step: int, epoch: float, lr: float, outcome: Outcome) -> dict[str, Any]:
    """Return what one step showed: losses, and per head how many labels, hits and of which class."""
    record: dict[str, Any] = {"step": step, "epoch": round(epoch, 4), "lr": lr}
    record["loss"] = outcome.total.item()
    record.update({f"loss_{term}": outcome.terms[term].item() for term in TERMS})
    for head in HEADS:
        guess, label = outcome.guesses[head]
        counted = label >= 0
        record[f"hits_{head}"] = int((guess[counted] == label[counted]).sum())
        record[f"labels_{head}"] = Counter(map(str, label[counted].tolist()))
    return record


class HeadScore(NamedTuple):
    """How a head did over some steps."""

    accuracy: float
    chance: float  # one over the number of classes
    commonest: float  # what always naming the commonest class would have scored


def head_scores(records: Iterable[dict[str, Any]], classes: dict[str, int]) -> dict[str, HeadScore]:
    """Sum the hits and labels of ``records`` per head; heads without a label are left out.

    Args:
        records: as `step_record` makes them.
        classes: number of classes of each head.

    """
    hits: Counter[str] = Counter()
    labels: dict[str, Counter[str]] = {head: Counter() for head in HEADS}
    for record in records:
        for head in HEADS:
            hits[head] += record[f"hits_{head}"]
            labels[head].update(record[f"labels_{head}"])
    scores = {}
    for head in HEADS:
        if total := labels[head].total():
            commonest = max(labels[head].values()) / total
            scores[head] = HeadScore(hits[head] / total, 1 / classes[head], commonest)
    return scores


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a run so far; a line cut short by a kill is left out."""
    path = folder / NAME
    if not path.exists():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


class MetricsWriter:
    """Appends records to the JSON lines of a run and to TensorBoard."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Continue after ``first_step`` steps: later records are of a run that was cut off."""
        from torch.utils.tensorboard import SummaryWriter

        kept = [record for record in read_records(folder) if record["step"] <= first_step]
        self._file = (folder / NAME).open("w")
        for record in kept:
            self._file.write(json.dumps(record) + "\n")
        self._board = SummaryWriter(
            str(folder / "tensorboard"), purge_step=first_step + 1 if first_step else None
        )

    def write(self, record: dict[str, Any]) -> None:
        """Append one record."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        step = record["step"]
        for name, value in record.items():
            if isinstance(value, (int, float)) and not name.startswith("hits_") and name != "step":
                self._board.add_scalar(name.replace("_", "/", 1), value, step)
        for head in HEADS:
            if total := sum(record[f"labels_{head}"].values()):
                self._board.add_scalar(f"accuracy/{head}", record[f"hits_{head}"] / total, step)

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        self._board.close()
