"""What a run is made of: typed settings, their presets, and their copy on disk."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from .errors import ConfigError


@dataclass(frozen=True)
class Data:
    """Videos, and how views of each are drawn."""

    videos: tuple[str, ...] = ()
    """Folders (searched recursively), video files, or .txt lists of one path per line."""
    clip_frames: int = 16
    """Frames of a clip."""
    size: int = 112
    """Height and width of a clip in pixels."""
    strides: tuple[int, ...] = (1, 2, 4, 8)
    """Playback rates, in source frames per clip frame: the playback classes."""
    rates: tuple[float, ...] = (1.0, 0.8, 0.6, 0.4, 0.2)
    """Overlap rates: the spatial and the temporal classes."""
    scale: tuple[float, float] = (0.2, 1.0)
    """Least and greatest area of a crop over that of the frame."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and greatest width over height of a crop."""
    rotate: bool = True
    """Whether views are turned by a random quarter turn: the rotation classes."""
    flip: float = 0.5
    """Probability that a view is flipped left-right."""
    views: Annotated[int, tyro.conf.arg(aliases=["--views"])] = 2
    """Views of a video in a step: independent pairs, decoded together and all contrasted."""
    draws: int = 1
    """Times that each video is shown per epoch, with new views each time."""
    batch_size: int = 32
    """Videos per step and rank, each with its views."""
    workers: int = 4
    """Decoding processes per rank; 0 decodes in the training process."""
    decoder: Literal["auto", "decord", "pyav"] = "auto"
    """Video decoder; auto takes decord where it is exact and PyAV elsewhere."""
    timeout: float = 120.0
    """Seconds after which a batch that does not come is an error."""
    mean: tuple[float, float, float] = (0.43, 0.39, 0.38)
    """Subtracted from the channels in [0, 1]."""
    std: tuple[float, float, float] = (0.23, 0.22, 0.22)
    """Divides the channels after that."""


@dataclass(frozen=True)
class Model:
    """Backbone and heads."""

    backbone: Literal["tiny", "r2plus1d_10", "r2plus1d_18", "r3d_18", "s3d"] = "r2plus1d_10"
    """tiny learns on two CPU cores; r2plus1d_10 has one block per stage, as CSTP's experiments."""
    projection: int = 128
    """Width of the features that are contrasted."""


@dataclass(frozen=True)
class Objective:
    """Weights of the terms; playback and rotation are summed over both views of a pair."""

    contrastive: float = 0.1
    spatial: float = 1.0
    temporal: float = 1.0
    playback: float = 1.0
    rotation: float = 1.0
    temperature: float = 0.1
    """Of the contrastive term."""
    form: Literal["out", "in"] = "out"
    """Whether the sum over positives stands outside or inside of the logarithm."""
    positives: Literal["hard", "overlap"] = "hard"
    """Whether views of one video attract each other all alike, or as far as they overlap."""


@dataclass(frozen=True)
class Optim:
    """SGD with a linear warm-up, then a cosine to zero."""

    epochs: int = 300
    warmup_epochs: float = 30.0
    lr: float = 0.03
    """Peak learning rate."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the backbone's arithmetic (autocast); sums and losses stay in float32."""


@dataclass(frozen=True)
class Run:
    """Where it runs and what it leaves behind."""

    out: str = "runs/pretrain"
    """Folder for checkpoints, metrics and pictures."""
    resume: Annotated[bool, tyro.conf.arg(aliases=["--resume"])] = False
    """Continue from the checkpoint in `out`, or start if there is none."""
    seed: int = 0
    device: str = "auto"
    """auto takes a GPU if the kernels of this build can use one, else the CPU."""
    checkpoint_every: int = 200
    """Steps between checkpoints; one is also written at the end and on Ctrl-C."""
    log_every: int = 10
    """Steps between lines of the log."""
    sheet_pairs: int = 6
    """Pairs on the contact sheet."""


@dataclass(frozen=True)
class Config:
    """A whole run."""

    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    objective: Objective = field(default_factory=Objective)
    optim: Optim = field(default_factory=Optim)
    run: Run = field(default_factory=Run)


PRESETS: dict[str, tuple[str, Config]] = {
    "cstp": (
        "R(2+1)D with one block per stage, 16 x 112 x 112 clips, 300 epochs (arXiv 2112.08913).",
        Config(),
    ),
    "r2plus1d-18": (
        "R(2+1)D-18 of torchvision, otherwise as cstp.",
        Config(model=Model(backbone="r2plus1d_18")),
    ),
    "tiny": (
        "Small clips and a small backbone: learns in minutes on two CPU cores.",
        Config(
            data=Data(clip_frames=8, size=64, draws=16, batch_size=16, workers=2),
            model=Model(backbone="tiny", projection=64),
            optim=Optim(epochs=40, warmup_epochs=2.0, lr=0.02),
            run=Run(out="runs/tiny", checkpoint_every=50),
        ),
    ),
}


def to_json(config: Config) -> str:
    """Return all settings as JSON, for the record."""
    return json.dumps(dataclasses.asdict(config), indent=2)


# Settings that change where or how fast a run goes, but not one bit of what it computes. The videos are
# compared by their names, not by how they were found.
_FREE = {"data": {"videos", "workers", "timeout"}}


def differences(recorded: str, config: Config) -> list[str]:
    """Name the settings of the computation in which ``config`` differs from a record.

    Args:
        recorded: JSON as `to_json` writes it.
        config: the settings of now.

    """
    old: dict[str, Any] = json.loads(recorded)
    new: dict[str, Any] = json.loads(to_json(config))
    named = []
    for section in ("data", "model", "objective", "optim", "run"):
        before, after = old.get(section, {}), new[section]
        names = {"seed"} if section == "run" else {*before, *after} - _FREE.get(section, set())
        for name in sorted(names):
            if before.get(name) != after.get(name):
                named.append(
                    f"{section}.{name}: {before.get(name)} in the checkpoint, {after.get(name)} now"
                )
    return named


def validate(config: Config) -> None:
    """Check every setting that would otherwise fail late or with no name.

    Raises:
        ConfigError: names each setting that is out of range.

    """
    data, optim, run = config.data, config.optim, config.run
    checks = {
        "data.videos: expected at least one folder, file or list": len(data.videos) > 0,
        f"data.clip-frames: expected at least 1, got {data.clip_frames}": data.clip_frames >= 1,
        f"data.size: expected at least 16, got {data.size}": data.size >= 16,
        f"data.strides: expected numbers above 0, got {data.strides}": (
            len(data.strides) > 0 and min(data.strides) > 0
        ),
        f"data.rates: expected numbers in [0, 1], got {data.rates}": (
            len(data.rates) > 0 and min(data.rates) >= 0 and max(data.rates) <= 1
        ),
        f"data.scale: expected 0 < low <= high <= 1, got {data.scale}": (
            0 < data.scale[0] <= data.scale[1] <= 1
        ),
        f"data.ratio: expected 0 < low <= high, got {data.ratio}": 0
        < data.ratio[0]
        <= data.ratio[1],
        f"data.flip: expected a probability, got {data.flip}": 0 <= data.flip <= 1,
        f"data.views: expected an even number, at least 2, got {data.views}": (
            data.views >= 2 and data.views % 2 == 0
        ),
        f"data.draws: expected at least 1, got {data.draws}": data.draws >= 1,
        f"data.batch-size: expected at least 2, got {data.batch_size}": data.batch_size >= 2,
        f"data.workers: expected at least 0, got {data.workers}": data.workers >= 0,
        f"data.timeout: expected above 0, got {data.timeout}": data.timeout > 0,
        f"data.std: expected numbers above 0, got {data.std}": min(data.std) > 0,
        f"objective.temperature: expected above 0, got {config.objective.temperature}": (
            config.objective.temperature > 0
        ),
        f"optim.epochs: expected at least 1, got {optim.epochs}": optim.epochs >= 1,
        f"optim.warmup-epochs: expected at least 0, got {optim.warmup_epochs}": (
            optim.warmup_epochs >= 0
        ),
        f"optim.lr: expected above 0, got {optim.lr}": optim.lr > 0,
        f"run.checkpoint-every: expected at least 1, got {run.checkpoint_every}": (
            run.checkpoint_every >= 1
        ),
        f"run.log-every: expected at least 1, got {run.log_every}": run.log_every >= 1,
        f"run.sheet-pairs: expected at least 1, got {run.sheet_pairs}": run.sheet_pairs >= 1,
    }
    if wrong := [text for text, holds in checks.items() if not holds]:
        raise ConfigError("\n".join(wrong))
