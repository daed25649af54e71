"""What is measured while training: a JSON line and TensorBoard scalars a step, and a summary."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .objective import HEADS, TERMS, Outcome

NAME = "metrics.jsonl"


def statistics(outcome: Outcome, classes: dict[str, int]) -> Tensor:
    """Return what one step showed as one float64 vector, to be summed over ranks and copied once.

    Args:
        outcome: of the step.
        classes: number of classes of each head.

    Returns:
        The total loss, its terms, then for each head the hits and how often each class was the label.

    """
    parts = [torch.stack([outcome.total.detach(), *(outcome.terms[term] for term in TERMS)])]
    for head in HEADS:
        guess, label = outcome.guesses[head]
        parts.append((guess == label).sum()[None])  # an ignored label, -100, is never guessed
        parts.append((label[:, None] == torch.arange(classes[head], device=label.device)).sum(0))
    return torch.cat([part.double() for part in parts])


def step_record(values: list[float], ranks: int, classes: dict[str, int]) -> dict[str, Any]:
    """Return the losses, and per head the hits and the labels, of one step.

    Args:
        values: `statistics`, summed over ranks.
        ranks: number of them.
        classes: number of classes of each head.

    """
    queue = iter(values)
    record: dict[str, Any] = {"loss": next(queue) / ranks}
    record.update({f"loss_{term}": next(queue) / ranks for term in TERMS})
    for head in HEADS:
        record[f"hits_{head}"] = int(next(queue))
        record[f"labels_{head}"] = [int(next(queue)) for _ in range(classes[head])]
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
    labels = {head: [0] * classes[head] for head in HEADS}
    for record in records:
        for head in HEADS:
            hits[head] += record[f"hits_{head}"]
            labels[head] = [
                a + b for a, b in zip(labels[head], record[f"labels_{head}"], strict=True)
            ]
    scores = {}
    for head in HEADS:
        if total := sum(labels[head]):
            commonest = max(labels[head]) / total
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
        temporary = folder / f"{NAME}.tmp"
        temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))
        temporary.replace(folder / NAME)
        self._file = (folder / NAME).open("a")
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
            if total := sum(record[f"labels_{head}"]):
                self._board.add_scalar(f"accuracy/{head}", record[f"hits_{head}"] / total, step)

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        self._board.close()
