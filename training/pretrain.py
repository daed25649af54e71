"""Pretrains a video backbone without labels: ``python -m training.pretrain tiny --data.videos DIR``.

One process on a CPU or a GPU, or many under torchrun. Exit status: 0 done; 2 nothing to train on, or
settings that cannot be used; 1 the loader stopped or the loss diverged; 130 interrupted. After 130
a checkpoint of the last step is there, after 1 at least the last periodic one.
"""

from __future__ import annotations

import math
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import torch

import stor_ops

from . import checkpoint, metrics, pictures
from .batch import Batch
from .config import PRESETS, Config, Optim, to_json, validate
from .console import Reporter
from .data import PairDataset
from .errors import CheckpointError, DataError, DivergedError, NoReadableVideoError, TrainingError
from .feed import Interruption, StopWaiting, halted, timed_batches
from .model import ROTATIONS, PairModel
from .objective import HEADS, JointObjective, Outcome
from .prefetch import DeviceFeed
from .ranks import Ranks, join_ranks
from .sampler import PairSampler
from .videos import fingerprint, list_videos


def lr_factor(step: int, steps_per_epoch: int, total_steps: int, optim: Optim) -> float:
    """Return the learning rate of a step over its peak: linear warm-up, then a cosine to zero."""
    warmup = optim.warmup_epochs * steps_per_epoch
    if step < warmup:
        return min((step + 1) / warmup, 1.0)
    progress = (step - warmup) / max(total_steps - warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


class Trainer:
    """The parts of a run, and what is done with them."""

    def __init__(self, config: Config, ranks: Ranks) -> None:
        data, optim = config.data, config.optim
        self.config, self.ranks = config, ranks
        self.folder = Path(config.run.out)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.videos = list_videos(data.videos)
        self.broken: dict[str, str] = {}
        sizes = (len(data.rates), len(data.rates), len(data.strides), ROTATIONS)
        self.classes = dict(zip(HEADS, sizes, strict=True))

        self.dataset = PairDataset(self.videos, data, config.run.seed)
        self.sampler = PairSampler(
            len(self.dataset),
            batch_size=data.batch_size,
            epochs=optim.epochs,
            seed=config.run.seed,
            rank=ranks.rank,
            world=ranks.world,
        )
        self.total = self.sampler.total_steps

        torch.manual_seed(config.run.seed)
        self.network = ranks.prepare(PairModel(config))
        self.model = ranks.wrap(self.network).train()
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=optim.lr,
            momentum=optim.momentum,
            weight_decay=optim.weight_decay,
        )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda step: lr_factor(step, self.sampler.steps_per_epoch, self.total, optim),
        )
        self.objective = JointObjective(config, ranks.group)
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=optim.precision == "float16")

    def _state(self) -> dict[str, Any]:
        return {
            "config": self.config,
            "model": self.network,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "scaler": self.scaler,
            "setting": {
                "videos": fingerprint(self.videos),
                "ranks": str(self.ranks.world),
            },
        }

    def restore(self) -> int:
        """Load the checkpoint, if there is one, and return the steps done.

        Raises:
            CheckpointError: it is not to be continued, or of another run.
            ConfigError: the ranks do not see the same videos or the same checkpoint.

        """
        path, done = self.folder / checkpoint.NAME, 0
        if path.exists():
            if not self.config.run.resume:
                raise CheckpointError(
                    f"{path} exists: continue it with --resume, or choose another --run.out"
                )
            done, self.broken = checkpoint.load(
                self.folder, **self._state(), device=self.ranks.device
            )
        self.ranks.agree("the set of videos", fingerprint(self.videos))
        self.ranks.agree("the steps of their checkpoints", done)
        self.sampler.first_step = done
        return done

    def save(self, done: int) -> None:
        """Write a checkpoint after ``done`` steps, on one rank."""
        if self.ranks.chief:
            checkpoint.save(self.folder, step=done, **self._state(), broken=self.broken)

    def step(self, batch: Batch) -> Outcome:
        """Crop on the device, where the batch lies, predict, and take one step against the gradient."""
        data, precision = self.config.data, self.config.optim.precision
        first, second, _ = stor_ops.crop_resize_pair(
            batch.videos,
            batch.pairs.first,
            batch.pairs.second,
            (data.clip_frames, data.size, data.size),
            mean=data.mean,
            std=data.std,
        )
        with torch.autocast(
            self.ranks.device.type, getattr(torch, precision), enabled=precision != "float32"
        ):
            predictions = self.model(first, second)
        outcome: Outcome = self.objective(predictions, batch.source)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(outcome.total).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        return outcome

    def note_broken(self, batch: Batch, reporter: Reporter, *, anywhere: bool) -> None:
        """Remember and name the videos that any rank could not read."""
        if not anywhere:
            return
        for found in self.ranks.gather(batch.broken):
            for name, reason in found:
                if name not in self.broken:
                    self.broken[name] = reason
                    reporter.say(f"skipped {name}: {reason}", style="yellow")

    def finish(self, reporter: Reporter) -> None:
        """Write backbone and curves, and say what was learned."""
        folder = self.folder
        backbone, curves = folder / "backbone.safetensors", folder / "curves.png"
        checkpoint.export_backbone(self.network.backbone, self.config, backbone)
        records = metrics.read_records(folder)
        pictures.draw_curves(records, self.classes, curves)
        names = (checkpoint.NAME, metrics.NAME, backbone.name, curves.name, pictures.SHEET)
        files = [folder / name for name in names if (folder / name).exists()]
        reporter.summary(records, self.broken, len(self.videos), files)


def train(config: Config, ranks: Ranks) -> bool:
    """Train until the end or until asked to stop; return whether the end was reached.

    Raises:
        TrainingError: whatever a person can mend; a checkpoint of the steps done is there.

    """
    run, trainer = config.run, Trainer(config, ranks)
    reporter = Reporter(trainer.classes, log_every=run.log_every, quiet=not ranks.chief)
    done, total = trainer.restore(), trainer.total
    per_epoch = trainer.sampler.steps_per_epoch
    reporter.say(
        f"{len(trainer.videos)} video(s), {len(trainer.dataset) * config.data.views // 2} pair(s) and "
        f"{per_epoch} step(s) an epoch, "
        f"{total} step(s) in all{f', {done} done' if done else ''}; {ranks.world} x {ranks.device}"
    )
    if ranks.chief:
        (trainer.folder / "config.json").write_text(to_json(config))
    writer = metrics.MetricsWriter(trainer.folder, done) if ranks.chief else None
    interruption = Interruption(alone=ranks.world == 1)
    saved = done
    reporter.start(done, total)
    last = time.perf_counter()
    batches = timed_batches(
        trainer.dataset, trainer.sampler, interruption, pin_memory=ranks.device.type == "cuda"
    )
    feed = DeviceFeed(batches, ranks.device)
    try:
        for batch, host in feed:
            sheet = trainer.folder / pictures.SHEET
            if ranks.chief and not sheet.exists():
                names = [video.name for video in trainer.videos]
                pictures.draw_contact_sheet(host, names, config, sheet)
            lr = float(trainer.scheduler.get_last_lr()[0])
            outcome = trainer.step(batch)
            feed.ahead()
            # One copy from the device a step, and with many ranks one reduction, tells everything.
            flags = torch.tensor([interruption.asked, len(batch.broken)], dtype=torch.float64)
            shown = metrics.statistics(outcome, trainer.classes)
            stop, broken, *values = ranks.sum(torch.cat([flags.to(shown.device), shown]))
            record = metrics.step_record(values, ranks.world, trainer.classes)
            if not math.isfinite(record["loss"]):
                raise DivergedError(f"the loss is not finite at step {done + 1}: lower --optim.lr")
            done += 1
            trainer.note_broken(batch, reporter, anywhere=broken > 0)

            seconds, last = time.perf_counter() - last, time.perf_counter()
            record |= {
                "step": done,
                "epoch": round(done / per_epoch, 4),
                "lr": lr,
                "samples_per_second": len(batch.videos) * ranks.world / seconds,
                "wait_share": feed.take_waited() / seconds,
                "decode_seconds": batch.decode_seconds,
            }
            if writer:
                writer.write(record)
            reporter.step(record, total)
            if done % run.checkpoint_every == 0:
                trainer.save(done)
                saved = done
            if stop:
                break
    except StopWaiting:
        pass
    except (DataError, NoReadableVideoError):
        trainer.save(done)  # it happened between two steps
        raise
    except RuntimeError as error:
        # A worker that dies interrupts even a step; the last periodic checkpoint is what remains.
        if "DataLoader worker" in str(error):
            raise halted(trainer.dataset, error) from error
        raise
    finally:
        batches.close()  # ends the workers
        reporter.stop()
        if writer:
            writer.close()
    if done > saved:
        trainer.save(done)
    if ranks.chief:
        trainer.finish(reporter)
    if done < total:
        reporter.say(f"interrupted after step {done} of {total}: continue with --resume")
    return done == total


def main() -> int:
    """Read the command line and train."""
    import tyro

    config = tyro.extras.overridable_config_cli(PRESETS, description=__doc__)
    ranks: Ranks | None = None
    try:
        validate(config)
        ranks = join_ranks(config.run.device)
        return 0 if train(config, ranks) else 130
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    finally:
        # A worker may hang inside a decoder, where no other signal reaches it.
        for worker in multiprocessing.active_children():
            worker.kill()
        if ranks:
            ranks.leave()


if __name__ == "__main__":
    sys.exit(main())
