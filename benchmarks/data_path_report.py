"""Result files of `data_path.py`: JSON (everything), CSV (a line per figure), Markdown, a plot."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .report import QUIET

BACKENDS = ("decord", "pyav")
STAGES = ("open", "decode", "sample", "collate", "crop")
COLUMNS = (
    *("part", "height", "backend", "views", "workers", "stage", "rounds"),
    *("median_s", "q1_s", "q3_s", "min_s", "max_s", "samples_per_s", "pairs_per_s"),
)
METHOD = """\
Videos of 10 s at 25 frames/s, 426x240, 640x360 and 1280x720: sample clips, played to and fro where they
are shorter, stretched to the size, encoded anew by x264 (veryfast, crf 23, its own choice of key and
B-frames). A sample is what `training.data.PairDataset` makes of a video with the settings of the preset
cstp (16 frames, strides 1 to 8): V / 2 pairs of views. Stages are timed in one process: *open* reads all
packets and opens the decoder, *decode* is the call that returns the frames, *sample* all else that the
dataset does, *collate* makes a batch of one sample, *crop* is `crop_resize_pair` to float32 at 112x112
with all threads. CPU time counts all threads of the process. *Transfer* is the loader with one worker
whose dataset has the decoded frames at hand. Loader rates are of batches of two videos, each round two
batches per worker, after the first batch has come. A time is the median over samples, or rounds, [lower
to upper quartile]; a rate is one over the median."""

Record = dict[str, Any]


def timing(record: Record) -> str:
    """Return the milliseconds of a record: median [lower to upper quartile]."""
    median, lower, upper = (1e3 * record[key] for key in ("median_s", "q1_s", "q3_s"))
    return f"{median:.3g} [{lower:.3g} to {upper:.3g}]"


def _where(records: Sequence[Record], **wanted: Any) -> list[Record]:
    return [r for r in records if all(r[key] == value for key, value in wanted.items())]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *rows)] + [""]


def markdown(result: Record) -> str:
    """Return the report: rates, stages, the gain of more views, how and on what it was measured."""
    records: list[Record] = result["records"]
    lines = ["# From video files to clips", ""]
    if result["quick"]:
        lines += ["**Quick run: it shows that the benchmark works, no speed.**", ""]
    lines += ["![where the time goes](data_path.png)", "", "## One process: ms a sample", ""]
    heads = ["Video", "Decoder", "V", *STAGES, "open + decode", "its CPU time", "samples/s decoded"]
    rows = []
    for record in _where(records, part="stages", stage="open + decode"):
        key = {name: record[name] for name in ("part", "height", "backend", "views")}
        stages = [
            _where(records, **key, stage=s)[0] for s in (*STAGES, record["stage"], "CPU time")
        ]
        whole = _where(records, **key, stage="all")[0]
        row = [
            f"{record['height']}p",
            record["backend"],
            str(record["views"]),
            *map(timing, stages),
        ]
        rows.append([*row, f"{record['samples_per_s']:.1f}", f"{whole['samples_per_s']:.1f}"])
    lines += _table([*heads, "and cropped"], rows)
    lines += ["## The training loader", ""]
    rows = []
    for record in [r for r in records if r["part"] != "stages"]:
        key = {name: record[name] for name in ("part", "height", "backend", "workers")}
        same = _where(records, **key, views=2)
        gain = record["pairs_per_s"] / same[0]["pairs_per_s"]
        rate = [f"{record['samples_per_s']:.1f}", f"{record['pairs_per_s']:.1f}", f"{gain:.2f}"]
        what = "transfer alone" if record["part"] == "transfer" else "loader"
        row = [f"{record['height']}p", what, record["backend"]]
        rows.append([*row, *(str(record[n]) for n in ("workers", "views")), timing(record), *rate])
    heads = ["Video", "What", "Decoder", "Workers", "V", "ms a sample", "samples/s", "pairs/s"]
    lines += _table([*heads, "pairs/s over V = 2"], rows)
    busy = result["others_cpu_share"]
    quiet = "" if busy <= QUIET else "**Not a quiet machine.** "
    lines += [f"{quiet}Other programs used {100 * busy:.1f} % of the processors.", ""]
    lines += ["## How it was measured", "", METHOD, "", "## On what", ""]
    facts = [[name.replace("_", " "), str(value)] for name, value in result["machine"].items()]
    facts.append(["begun", f"{result['begun']} UTC, load average {result['load_average']}"])
    return "\n".join([*lines, *_table(["", ""], facts)])


def plot(records: Sequence[Record], path: Path) -> None:
    """Draw stages by size and decoder, samples/s over workers, pairs/s over views."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    heights = list(dict.fromkeys(record["height"] for record in records))
    bars = [(height, backend) for height in heights for backend in BACKENDS]
    names, below = [f"{height}p\n{backend}" for height, backend in bars], [0.0] * len(bars)
    for stage in STAGES:
        key = {"part": "stages", "views": 2, "stage": stage}
        own = [_where(records, **key, height=h, backend=b)[0]["median_s"] for h, b in bars]
        left.bar(names, [1e3 * value for value in own], bottom=below, label=stage)
        below = [low + 1e3 * value for low, value in zip(below, own, strict=True)]
    left.set(title="One sample, V = 2", ylabel="ms, sum of medians")
    most = max(record["workers"] for record in records)
    for height in heights:
        loader = _where(records, part="loader", backend="auto", height=height)
        for axes, over, rate, label, rows in (
            (middle, "workers", "samples", f"{height}p", _where(loader, views=2)),
            (right, "views", "pairs", f"{height}p", _where(loader, workers=most)),
        ):
            of = [1 if rate == "samples" else row["views"] / 2 for row in rows]
            rates = [row[f"{rate}_per_s"] for row in rows]
            low = [r - n / row["q3_s"] for r, n, row in zip(rates, of, rows, strict=True)]
            high = [n / row["q1_s"] - r for r, n, row in zip(rates, of, rows, strict=True)]
            places = [row[over] for row in rows]
            axes.errorbar(places, rates, yerr=[low, high], marker="o", capsize=2, label=label)
            axes.set(xticks=places, xlabel=over, ylabel=f"{rate}/s, median and quartiles")
    middle.set(title="Loader, V = 2", yscale="log")
    right.set(title=f"Loader, {most} worker(s)", yscale="log")
    for axes in (middle, right):
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.tick_params(axis="y", which="minor", labelsize=8)
    for axes in (left, middle, right):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def write(result: Record, folder: Path) -> list[Path]:
    """Write all files of a result; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"data_path.{ending}" for ending in ("json", "csv", "md", "png")]
    paths[0].write_text(json.dumps(result, indent=1) + "\n")
    with paths[1].open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(result["records"])
    paths[2].write_text(markdown(result))
    plot(result["records"], paths[3])
    return paths
