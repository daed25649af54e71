"""What a run is made of: typed settings, their presets, and their copy on disk."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Data:
    """Videos, and how two views of each are drawn."""

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
    draws: int = 1
    """Pairs drawn from each video per epoch."""
    batch_size: int = 32
    """Pairs per step and rank."""
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
    """Weights of the terms; playback and rotation are summed over both views."""

    contrastive: float = 0.1
    spatial: float = 1.0
    temporal: float = 1.0
    playback: float = 1.0
    rotation: float = 1.0
    temperature: float = 0.1
    """Of the contrastive term."""
    form: Literal["out", "in"] = "out"
    """Whether the sum over positives stands outside or inside of the logarithm."""


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
    resume: bool = False
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


def differences(recorded: str, config: Config) -> list[str]:
    """Name the settings, other than those of `Run`, in which ``config`` differs from a record.

    Args:
        recorded: JSON as `to_json` writes it.
        config: the settings of now.

    """
    old: dict[str, Any] = json.loads(recorded)
    new: dict[str, Any] = json.loads(to_json(config))
    named = []
    for section in ("data", "model", "objective", "optim"):
        for name in {**old.get(section, {}), **new[section]}:
            before, after = old.get(section, {}).get(name), new[section].get(name)
            if before != after:
                named.append(f"{section}.{name}: {before} in the checkpoint, {after} now")
    if old.get("run", {}).get("seed") != config.run.seed:
        named.append(
            f"run.seed: {old.get('run', {}).get('seed')} in the checkpoint, {config.run.seed} now"
        )
    return named


def out_folder(config: Config) -> Path:
    """Return the run's folder, made if need be."""
    folder = Path(config.run.out)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
