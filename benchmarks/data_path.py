"""From files to clips: what decoding, the loader and more views of each video cost.

python -m benchmarks.data_path                       in full, on an otherwise idle machine (3 minutes)
python -m benchmarks.data_path --quick --out FOLDER  one small video: whether it works

Results go to benchmarks/results/<processor>-<cores>-cores/data_path.json, .csv, .md and .png. The videos
are made from the sample clips of training/sample_clips.py and kept in build/data_path.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any
from unittest import mock

from torch.utils.data import DataLoader, Dataset

import stor_ops
from training import data as training_data
from training.batch import Batch, Sample, collate
from training.config import Data
from training.data import PairDataset, make_loader
from training.decode import open_video
from training.sample_clips import fetch
from training.sampler import PairSampler
from training.videos import list_videos

from . import machine
from .data_path_report import BACKENDS, STAGES, Record, timing, write
from .run import RESULTS

CLIPS = ("bikes.mp4", "bigbuckbunny.mp4", "obama_speech.mp4")
SIZES = {240: 426, 360: 640, 720: 1280}
WORKERS, VIEWS = (0, 1, 2), (2, 4, 8)


def make_video(source: Path, folder: Path, height: int, seconds: int) -> Path:
    """Encode a clip anew, to and fro until it is long enough; return where it is."""
    import av

    folder.mkdir(parents=True, exist_ok=True)
    path, width, rate = folder / source.name, SIZES[height], 25
    if path.exists():
        return path
    count = round(seconds * rate)
    with av.open(str(source)) as container:
        pictures = []
        for frame in container.decode(video=0):
            pictures.append(frame.reformat(width, height, "yuv420p"))
            if len(pictures) == count:
                break
    unfinished = path.with_suffix(".part")
    with av.open(str(unfinished), "w", format="mp4") as container:
        stream: Any = container.add_stream(
            "libx264", rate=rate, options={"preset": "veryfast", "crf": "23"}
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number, picture in zip(
            range(count), cycle([*pictures, *pictures[-2:0:-1]]), strict=False
        ):
            frame = av.VideoFrame.from_ndarray(picture.to_ndarray(), format="yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    unfinished.rename(path)
    return path


def dataset_of(folder: Path, backend: str, views: int, workers: int = 0) -> PairDataset:
    """Return the dataset of a folder of videos; each is shown often enough for any measurement."""
    config = Data(views=views, workers=workers, draws=10_000, batch_size=2)
    config = replace(config, decoder=backend)  # type: ignore[arg-type]
    return PairDataset(list_videos([str(folder)]), config, seed=0)


def indices(dataset: PairDataset) -> Iterator[tuple[int, int]]:
    """Items of the dataset, its videos in turn."""
    for draw in range(dataset.config.draws):
        for video in range(len(dataset.videos)):
            yield 0, video * dataset.config.draws + draw


def timed_sample(dataset: PairDataset, index: tuple[int, int]) -> tuple[Sample, dict[str, float]]:
    """Return a sample, and the seconds of opening, decoding and the rest."""
    spent = {"open": 0.0, "decode": 0.0}

    def opened(*args: Any, **options: Any) -> Any:
        begin = time.perf_counter()
        reader: Any = open_video(*args, **options)
        spent["open"] = time.perf_counter() - begin
        read = reader.frames

        def frames(wanted: list[int]) -> Any:
            begin = time.perf_counter()
            pictures = read(wanted)
            spent["decode"] = time.perf_counter() - begin
            return pictures

        reader.frames = frames
        return reader

    with mock.patch.object(training_data, "open_video", opened):
        used, begin = time.process_time(), time.perf_counter()
        sample = dataset[index]
        whole, used = time.perf_counter() - begin, time.process_time() - used
    spent["sample"] = whole - sum(spent.values())
    return sample, {**spent, "CPU time": used}


def measure_stages(
    folder: Path, height: int, backend: str, views: int, seconds: float
) -> list[Record]:
    """Time the stages of single samples in this process."""
    dataset = dataset_of(folder, backend, views)
    size = (dataset.config.clip_frames, dataset.config.size, dataset.config.size)
    rounds: list[dict[str, float]] = []
    deadline, warm = time.monotonic() + seconds, len(dataset.videos)
    for index in indices(dataset):
        sample, spent = timed_sample(dataset, index)
        begin = time.perf_counter()
        batch = collate([sample])
        spent["collate"] = time.perf_counter() - begin
        assert isinstance(batch, Batch), batch
        begin = time.perf_counter()
        stor_ops.crop_resize_pair(
            batch.videos,
            batch.pairs.first,
            batch.pairs.second,
            size,
            mean=dataset.config.mean,
            std=dataset.config.std,
        )
        spent["crop"] = time.perf_counter() - begin
        spent["open + decode"] = spent["open"] + spent["decode"]
        spent["all"] = sum(spent[stage] for stage in STAGES)
        rounds.append(spent)
        if len(rounds) >= 3 * warm and time.monotonic() > deadline:
            break
    common = {"part": "stages", "height": height, "backend": backend, "views": views, "workers": 0}
    return [
        _record({**common, "stage": stage}, [spent[stage] for spent in rounds[warm:]])
        for stage in rounds[0]
    ]


class _AtHand(Dataset[Sample]):
    """A sample whose frames are decoded already."""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample

    def __getitem__(self, _: tuple[int, int]) -> Sample:
        return self.sample


def measure_loader(
    folder: Path,
    height: int,
    seconds: float,
    *,
    backend: str = "auto",
    views: int = 2,
    workers: int = 1,
    at_hand: bool = False,
) -> Record:
    """Time the training loader, or its transfer alone, from the first batch on."""
    dataset = dataset_of(folder, backend, views, workers)
    sampler = PairSampler(len(dataset), batch_size=dataset.config.batch_size, epochs=1, seed=0)
    loader = make_loader(dataset, sampler, pin_memory=False)
    if at_hand:
        ready = _AtHand(dataset[0, 0])
        loader = DataLoader(ready, batch_sampler=sampler, collate_fn=collate, num_workers=workers)
    batches = iter(loader)
    rounds: list[float] = []
    per_round = 2 * max(workers, 1)
    next(batches)
    deadline = time.monotonic() + seconds
    while len(rounds) < 3 or time.monotonic() < deadline:
        begin = time.perf_counter()
        for _ in range(per_round):
            next(batches)
        rounds.append((time.perf_counter() - begin) / (per_round * sampler.batch))
    common = {"part": "transfer" if at_hand else "loader", "height": height, "backend": backend}
    return _record({**common, "views": views, "workers": workers, "stage": "all"}, rounds)


def _record(common: Record, seconds: list[float]) -> Record:
    lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive")
    return {
        **common,
        "rounds": len(seconds),
        "median_s": median,
        "q1_s": lower,
        "q3_s": upper,
        "min_s": min(seconds),
        "max_s": max(seconds),
        "samples_per_s": 1 / median,
        "pairs_per_s": common["views"] / 2 / median,
        "seconds": seconds,
    }


def measure(folder: Path, seconds: float, *, quick: bool) -> list[Record]:
    """Make the videos, measure everything, and say what came out."""
    clips = {clip.name: clip for clip in fetch(machine.ROOT / "data" / "clips")}
    heights, names, length = ([240], CLIPS[:1], 1) if quick else (list(SIZES), CLIPS, 10)
    all_views, all_workers = (VIEWS[:2], WORKERS[:2]) if quick else (VIEWS, WORKERS)
    most = all_workers[-1]
    records: list[Record] = []
    for height in heights:
        at = folder / f"{height}p-{length}s"
        for name in names:
            make_video(clips[name], at, height, length)
        for backend in BACKENDS:
            for views in all_views:
                records += measure_stages(at, height, backend, views, seconds)
        records.append(measure_loader(at, height, seconds / 2, at_hand=True))
        for workers in all_workers:
            records.append(measure_loader(at, height, seconds, workers=workers))
        for views in all_views[1:]:
            records.append(measure_loader(at, height, seconds, views=views, workers=most))
        records.append(measure_loader(at, height, seconds, backend="pyav", workers=most))
        for record in records:
            if record["height"] == height and record["stage"] == "all":
                print(
                    f"{height}p {record['part']:8} {record['backend']:6} V={record['views']} "
                    f"workers={record['workers']}: {timing(record)} ms a sample, "
                    f"{record['pairs_per_s']:.1f} pairs/s",
                    flush=True,
                )
    return records


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data_path",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one small size, a few samples")
    parser.add_argument("--seconds", type=float, default=2.0, help="per measurement (default: 2)")
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--videos", type=Path, default=machine.ROOT / "build" / "data_path")
    options = parser.parse_args(arguments)
    if options.quick and options.out is None:
        parser.error("--quick: expected --out, so that it does not replace a real result")
    cpus = sorted(os.sched_getaffinity(0))
    begun, load = time.strftime("%Y-%m-%d %H:%M", time.gmtime()), f"{os.getloadavg()[0]:.2f}"
    disturbance, start = machine.Disturbance([]), os.times()
    seconds = 0.0 if options.quick else options.seconds
    records = measure(options.videos, seconds, quick=options.quick)
    end = os.times()
    # The loader's workers are no others; all have ended by now.
    workers = sum(end[2:4]) - sum(start[2:4])
    others = disturbance.share() - workers / (end.elapsed - start.elapsed) / (os.cpu_count() or 1)
    result = {
        "suite": "data_path",
        "quick": options.quick,
        "begun": begun,
        "load_average": load,
        "others_cpu_share": max(others, 0.0),
        "machine": machine.describe(cpus),
        "records": records,
    }
    for path in write(result, options.out or RESULTS / machine.slug(len(cpus))):
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
