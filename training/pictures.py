"""Two pictures of a run: curves of losses and accuracies, and a contact sheet of view pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import stor_ops
from stor_ops import OverlapRate

from .batch import Batch
from .config import Config, Data
from .metrics import head_scores
from .objective import HEADS, TERMS

SHEET = "pairs.png"
_COLOURS = {"first": "#d62728", "second": "#1f77b4"}


def draw_curves(records: Sequence[dict[str, Any]], classes: dict[str, int], path: Path) -> None:
    """Draw each loss and each head's accuracy beside its chance level.

    Args:
        records: of all steps, as `metrics.step_record` makes them.
        classes: number of classes of each head.
        path: of the PNG to write.

    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    # At most about a hundred points: single steps are noise.
    width = max(len(records) // 100, 1)
    windows = [records[i : i + width] for i in range(0, len(records), width)]
    steps = [window[-1]["step"] for window in windows]
    for name in ("loss", *(f"loss_{term}" for term in TERMS)):
        values = [float(np.mean([record[name] for record in window])) for window in windows]
        label = "total (weighted)" if name == "loss" else name.removeprefix("loss_")
        left.plot(steps, values, label=label, color="black" if name == "loss" else None)
    left.set(xlabel="step", ylabel="loss", title="Losses")
    for number, head in enumerate(HEADS):
        scores = [head_scores(window, classes).get(head) for window in windows]
        accuracy = [score.accuracy if score else float("nan") for score in scores]
        right.plot(steps, accuracy, color=f"C{number + 1}", label=head)
        right.axhline(1 / classes[head], color=f"C{number + 1}", linestyle=":", linewidth=1)
    right.set(xlabel="step", ylabel="accuracy", ylim=(0, 1), title="Heads (dotted: chance)")
    for axes in (left, right):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def draw_contact_sheet(batch: Batch, names: Sequence[str], config: Config, path: Path) -> None:
    """Draw pairs: both boxes on the source frames, both clips, the four labels, the measured overlap.

    Of the frames there is only the region that both views lie in.

    Args:
        batch: on the CPU; of each video its first pair is drawn, as many as ``run.sheet_pairs``.
        names: of all videos.
        config: of the run.
        path: of the PNG to write.

    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    data = config.data
    seen = batch.video.tolist()
    chosen = [row for row, video in enumerate(seen) if video not in seen[:row]]
    chosen = chosen[: config.run.sheet_pairs]
    size = (data.clip_frames, data.size, data.size)
    first, second, overlap = stor_ops.crop_resize_pair(
        batch.videos, batch.pairs.first, batch.pairs.second, size, dtype=torch.uint8
    )
    figure = Figure(figsize=(14, 2.6 * len(chosen)), layout="constrained")
    parts = figure.subfigures(len(chosen), 1, squeeze=False)[:, 0]
    for row, part in zip(chosen, parts, strict=True):
        text = _labels(batch, overlap, row, data, names)
        part.suptitle(text, fontsize=9, x=0.01, ha="left", parse_math=False)  # names may hold a $
        columns = part.subplots(1, 4, width_ratios=[1, 1, 2, 2])
        for column, (view, clips) in enumerate((("first", first), ("second", second))):
            source, placed = getattr(batch.source, view), getattr(batch.pairs, view)
            video = batch.videos[row]
            frame = min(round(placed.start[row].item()), len(video) - 1)
            axes = columns[column]
            # imshow puts pixel centres at whole numbers, a box has its edges there.
            left, top = (source.box[row, :2] - placed.box[row, :2] - 0.5).tolist()
            height, width = video.shape[1:3]
            axes.imshow(video[frame].numpy(), extent=(left, left + width, top + height, top))
            for name, colour in _COLOURS.items():
                x0, y0, x1, y1 = getattr(batch.source, name).box[row].tolist()
                corner = (x0 - 0.5, y0 - 0.5)
                style = "-" if name == view else "--"
                box = Rectangle(corner, x1 - x0, y1 - y0, fill=False, color=colour, lw=2, ls=style)
                axes.add_patch(box)
            title = f"{view} view from frame {source.start[row].item():g}"
            axes.set_title(title, fontsize=8, color=_COLOURS[view])
            strip = columns[2 + column]
            strip.imshow(_strip(clips[row]))
            flipped = "flipped, " if source.flip[row] else ""
            turned = 90 * int(batch.pairs.rotation_class[row, column])
            strip.set_title(
                f"{view} clip, {flipped}turned by {turned}°", fontsize=8, color=_COLOURS[view]
            )
        for axes in columns:
            axes.set_axis_off()
    figure.savefig(path, dpi=100)


def _strip(clip: Tensor) -> np.ndarray[Any, Any]:
    """Four frames of a (3, T, H, W) clip, side by side with a white gap."""
    chosen = torch.linspace(0, clip.shape[1] - 1, 4).round().long()
    frames = torch.nn.functional.pad(clip[:, chosen], (0, 3), value=255)
    return frames.permute(2, 1, 3, 0).flatten(1, 2).numpy()


def _labels(batch: Batch, overlap: OverlapRate, row: int, data: Data, names: Sequence[str]) -> str:
    spatial = data.rates[int(batch.pairs.spatial_class[row])]
    temporal = int(batch.pairs.temporal_class[row])
    wanted = f"{data.rates[temporal]:g}" if temporal >= 0 else "ignored (video too short)"
    stride = data.strides[int(batch.pairs.playback_class[row])]
    return (
        f"{names[int(batch.video[row])]}   playback x{stride:g}   "
        f"spatial {spatial:g} (measured {overlap.spatial[row]:.3f})   "
        f"temporal {wanted} (measured {overlap.temporal[row]:.3f})"
    )
