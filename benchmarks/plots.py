"""Plots of a result: curves over N where cases have one, else bars for each case."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .suite import Record, Suite, load_suite

MIB_FLOOR = 1.0  # growth below this is drawn as this: the axis is logarithmic


def plot(result: dict[str, Any], folder: Path) -> list[Path]:
    """Write the plots of a result; return their paths."""
    import matplotlib

    matplotlib.use("Agg")
    suite = load_suite(result["suite"])
    done = [record for record in result["records"] if record["status"] == "ok"]
    if not done:
        return []
    if all("N" in record["parameters"] for record in done):
        return [_curves(suite, done, folder / f"{suite.name}.png")]
    return [_bars(suite, done, folder / f"{suite.name}.png")]


def _colors(suite: Suite) -> dict[str, Any]:
    """One colour for each contender in all plots; ours is black."""
    from matplotlib import colormaps

    others = [c.name for c in suite.contenders if not c.name.startswith(suite.ours)]
    colors = {name: colormaps["tab20"](i % 20) for i, name in enumerate(others)}
    own = [c.name for c in suite.contenders if c.name.startswith(suite.ours)]
    return colors | {name: str(0.6 * i / max(len(own), 1)) for i, name in enumerate(own)}


def _curves(suite: Suite, records: Sequence[Record], path: Path) -> Path:
    """Time and peak growth over N, a column for each D."""
    from matplotlib import pyplot

    dims = sorted({record["parameters"]["D"] for record in records})
    figure, axes = pyplot.subplots(
        2, len(dims), figsize=(6.5 * len(dims), 9), squeeze=False, sharex=True, sharey="row"
    )
    colors = _colors(suite)
    for column, dim in enumerate(dims):
        for contender in dict.fromkeys(record["contender"] for record in records):
            own = [
                r for r in records if r["contender"] == contender and r["parameters"]["D"] == dim
            ]
            rows = [r["parameters"]["N"] for r in own]
            style = {"color": colors[contender], "marker": "o", "markersize": 4}
            style |= {"label": contender, "linewidth": 2.5 if contender == suite.ours else 1.2}
            time, memory = axes[:, column]
            spread = [
                [r["median_s"] - r["q1_s"] for r in own],
                [r["q3_s"] - r["median_s"] for r in own],
            ]
            time.errorbar(rows, [r["median_s"] for r in own], yerr=spread, capsize=2, **style)
            growth = [r["peak_growth_mib"] for r in own]
            if None not in growth:
                memory.plot(rows, [max(mib, MIB_FLOOR) for mib in growth], **style)
        axes[0, column].set_title(f"D = {dim}")
        axes[1, column].set_xlabel("N")
    for row, label in enumerate(("seconds, median and quartiles", "peak growth, MiB")):
        axes[row, 0].set_ylabel(label)
        for axis in axes[row]:
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8)
    return _save(suite, figure, path)


def _bars(suite: Suite, records: Sequence[Record], path: Path) -> Path:
    """Time of each contender, a panel for each case; fastest on top."""
    from matplotlib import pyplot

    records = [record for record in records if record["allowed"]]  # ceilings do another job
    names = list(dict.fromkeys(record["case"] for record in records))
    panels = [sorted((r for r in records if r["case"] == n), key=_median) for n in names]
    columns = min(2, len(names))
    rows = math.ceil(len(names) / columns)
    heights = [
        max(len(panel) for panel in panels[row * columns : (row + 1) * columns]) + 2
        for row in range(rows)
    ]
    figure, axes = pyplot.subplots(
        rows,
        columns,
        figsize=(7 * columns, 0.32 * sum(heights) + 1),
        squeeze=False,
        height_ratios=heights,
    )
    colors = _colors(suite)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis, name, panel in zip(axes.flat, names, panels, strict=False):
        labels = [record["contender"] for record in panel]
        medians = [1e3 * record["median_s"] for record in panel]
        spread = [
            [1e3 * (r["median_s"] - r["q1_s"]) for r in panel],
            [1e3 * (r["q3_s"] - r["median_s"]) for r in panel],
        ]
        bars = axis.barh(labels, medians, xerr=spread, color=[colors[label] for label in labels])
        axis.bar_label(bars, [f"{median:.3g}" for median in medians], padding=4, fontsize=8)
        axis.set_xlim(0, max(record["q3_s"] for record in panel) * 1.15e3)
        axis.invert_yaxis()
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("milliseconds, median and quartiles", fontsize=8)
        axis.tick_params(labelsize=8)
    return _save(suite, figure, path)


def _median(record: Record) -> float:
    median: float = record["median_s"]
    return median


def _save(suite: Suite, figure: Any, path: Path) -> Path:
    from matplotlib import pyplot

    figure.suptitle(textwrap.fill(suite.title, 90))
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
