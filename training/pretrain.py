"""Pretrains a video backbone without labels: ``python -m training.pretrain tiny --data.videos DIR``.

One process on a CPU or a GPU, or many under torchrun. Exit status: 0 done, 2 nothing to train on or
settings that cannot be used, 130 interrupted with a checkpoint written.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from torch import nn

import stor_ops

from . import checkpoint, pictures
from .config import PRESETS, Config, Optim, out_folder, to_json
from .console import Reporter
from .data import (
    Batch,
    NoReadableVideoError,
    PairDataset,
    PairSampler,
    collate,
    list_videos,
    make_loader,
)
from .metrics import MetricsWriter, read_records, step_record
from .model import ROTATIONS, PairModel
from .objective import HEADS, joint_objective
from .ranks import Ranks, join_ranks


def lr_factor(step: int, steps_per_epoch: int, total_steps: int, optim: Optim) -> float:
    """Return the learning rate of a step over its peak: linear warm-up, then a cosine to zero."""
    warmup = optim.warmup_epochs * steps_per_epoch
    if step < warmup:
        return min((step + 1) / warmup, 1.0)
    progress = (step - warmup) / max(total_steps - warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


class Interruption:
    """Turns Ctrl-C and SIGTERM into a flag; a second Ctrl-C ends the process at once."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True


def timed_batches(
    dataset: PairDataset, sampler: PairSampler, ranks: Ranks
) -> Iterator[tuple[Batch, float]]:
    """Yield the batches of the rest of the run, each with the seconds that it was waited for.

    Raises:
        NoReadableVideoError: a batch found no video that can be read.
        RuntimeError: a batch did not come in time; names the videos that the workers are at.

    """
    batches = iter(make_loader(dataset, sampler, pin_memory=ranks.device.type == "cuda"))
    try:
        while True:
            begin = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            if isinstance(batch, NoReadableVideoError):
                raise batch
            yield batch, time.perf_counter() - begin
    except RuntimeError as error:
        if "timed out" not in str(error):
            raise
        at = ", ".join(dataset.videos[i].name for i in dataset.current.tolist() if i >= 0)
        seconds = dataset.config.timeout
        raise RuntimeError(f"no batch within {seconds} s; the workers are at {at}") from error
    finally:
        del batches  # ends the workers now; a traceback may keep this frame alive


def train(config: Config, ranks: Ranks) -> bool:
    """Train until the end or until asked to stop; return whether the end was reached.

    Raises:
        NoReadableVideoError: there is no video that can be read.
        CheckpointError: the folder holds a checkpoint that is not to be continued.

    """
    data, optim, run, device = config.data, config.optim, config.run, ranks.device
    folder = out_folder(config)
    videos = list_videos(data.videos)
    classes = dict(
        zip(HEADS, (len(data.rates), len(data.rates), len(data.strides), ROTATIONS), strict=True)
    )
    reporter = Reporter(classes, log_every=run.log_every, quiet=not ranks.chief)

    torch.manual_seed(run.seed)
    network = PairModel(config)
    if ranks.world > 1 and device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    network = network.to(device)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay
    )
    dataset = PairDataset(videos, data, run.seed)
    sampler = PairSampler(
        len(dataset),
        batch_size=data.batch_size,
        epochs=optim.epochs,
        seed=run.seed,
        rank=ranks.rank,
        world=ranks.world,
    )
    total = sampler.total_steps
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_factor(step, sampler.steps_per_epoch, total, optim)
    )
    scaler = torch.amp.GradScaler(device.type, enabled=optim.precision == "float16")
    state: dict[str, Any] = {
        "config": config,
        "model": network,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "scaler": scaler,
    }

    done, broken = 0, dict[str, str]()
    if (folder / checkpoint.NAME).exists():
        if not run.resume:
            raise checkpoint.CheckpointError(
                f"{folder / checkpoint.NAME} exists: continue it with --run.resume, "
                "or choose another --run.out"
            )
        done, broken = checkpoint.load(folder, **state, device=device)
    sampler.first_step = done
    reporter.say(
        f"{len(videos)} video(s), {len(dataset)} pair(s) and {sampler.steps_per_epoch} step(s) an epoch, "
        f"{total} step(s) in all{f', {done} done' if done else ''}; {ranks.world} x {device}"
    )
    if ranks.chief:
        (folder / "config.json").write_text(to_json(config))

    model = ranks.wrap(network).train()
    autocast = torch.autocast(
        device.type, getattr(torch, optim.precision), enabled=optim.precision != "float32"
    )
    size = (data.clip_frames, data.size, data.size)
    interruption = Interruption()
    metrics = MetricsWriter(folder, done) if ranks.chief else None
    reporter.start(done, total)
    last = time.perf_counter()
    for batch, waited in timed_batches(dataset, sampler, ranks):
        for name, reason in batch.broken:
            if name not in broken:
                broken[name] = reason
                reporter.say(f"skipped {name}: {reason}", style="yellow")
        batch = batch.to(device)
        first, second, _ = stor_ops.crop_resize_pair(
            batch.videos, batch.pairs.first, batch.pairs.second, size, mean=data.mean, std=data.std
        )
        with autocast:
            predictions = model(first, second)
        outcome = joint_objective(
            predictions, batch.pairs, batch.video, config.objective, ranks.group
        )
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(outcome.total).backward()
        scaler.step(optimizer)
        scaler.update()
        lr = float(scheduler.get_last_lr()[0])
        scheduler.step()
        done += 1

        now = time.perf_counter()
        record = step_record(done, done / sampler.steps_per_epoch, lr, outcome)
        record["samples_per_second"] = len(batch.videos) * ranks.world / (now - last)
        record["wait_share"] = waited / (now - last)
        record["decode_seconds"] = batch.decode_seconds
        last = now
        if metrics:
            metrics.write(record)
        reporter.step(record, total)
        if ranks.any(not math.isfinite(record["loss"])):
            raise RuntimeError(f"the loss is not finite at step {done}: lower --optim.lr")
        stop = ranks.any(interruption.asked)
        if ranks.chief and (stop or done % run.checkpoint_every == 0 or done == total):
            checkpoint.save(folder, step=done, **state, broken=broken)
        if stop:
            break
    reporter.stop()
    if metrics:
        metrics.close()
    if ranks.chief:
        finish(config, network, dataset, classes, reporter, broken)
    if done < total:
        reporter.say(f"interrupted after step {done} of {total}: continue with --run.resume")
    return done == total


def finish(
    config: Config,
    network: PairModel,
    dataset: PairDataset,
    classes: dict[str, int],
    reporter: Reporter,
    broken: dict[str, str],
) -> None:
    """Write backbone and pictures, and say what was learned."""
    folder, data = out_folder(config), config.data
    names = ("backbone.safetensors", "curves.png", "pairs.png")
    backbone, curves, sheet = (folder / name for name in names)
    checkpoint.export_backbone(network.backbone, config, backbone)
    records = read_records(folder)
    pictures.draw_curves(records, classes, curves)
    files = [folder / checkpoint.NAME, folder / "metrics.jsonl", backbone, curves]
    some = range(min(config.run.sheet_pairs, len(dataset.videos)))
    batch = collate([dataset[0, number * data.draws] for number in some])
    if isinstance(batch, Batch):
        pictures.draw_contact_sheet(batch, [v.name for v in dataset.videos], config, sheet)
        files.append(sheet)
    reporter.summary(records, broken, len(dataset.videos), files)


def main() -> int:
    """Read the command line and train."""
    import tyro

    config = tyro.extras.overridable_config_cli(PRESETS, description=__doc__)
    ranks = join_ranks(config.run.device)
    try:
        return 0 if train(config, ranks) else 130
    except (NoReadableVideoError, checkpoint.CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        # A worker may hang inside a decoder, where no other signal reaches it.
        for worker in multiprocessing.active_children():
            worker.kill()
        ranks.leave()


if __name__ == "__main__":
    sys.exit(main())
