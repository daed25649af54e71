"""Checkpoints that survive a kill at any moment, and continue to the same bits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .config import Config, differences, to_json
from .errors import CheckpointError

NAME = "checkpoint.pt"


def save(
    folder: Path,
    *,
    step: int,
    config: Config,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    scaler: torch.amp.GradScaler,
    setting: dict[str, str],
    broken: dict[str, str],
) -> None:
    """Write the state after ``step`` steps; a kill leaves either the old checkpoint or the new one.

    The sampler needs no state of its own: what it yields is a function of seed and step. Nor do random
    generators: nothing draws from them after the weights are initialised.

    Args:
        folder: of the run.
        step: steps done.
        config: of the run.
        model: without DDP's wrapper.
        optimizer: of the run.
        scheduler: of the run.
        scaler: of the run.
        setting: what else a run must have in common to be the same, such as the set of videos.
        broken: name and reason of each video that could not be read.

    """
    state = {
        "step": step,
        "config": to_json(config),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "scaler": scaler.state_dict(),
        "setting": setting,
        "broken": broken,
    }
    temporary = folder / f"{NAME}.tmp"
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / NAME)
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)  # the new name, too, must outlive a power cut
    finally:
        os.close(directory)


def load(
    folder: Path,
    *,
    config: Config,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    scaler: torch.amp.GradScaler,
    setting: dict[str, str],
    device: torch.device,
) -> tuple[int, dict[str, str]]:
    """Restore everything that `save` wrote.

    Returns:
        Steps done, and the videos found broken so far with their reasons.

    Raises:
        CheckpointError: the file is no checkpoint, or was made with other settings.

    """
    path = folder / NAME
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: not a readable checkpoint: {error}") from error
    changed = differences(state["config"], config)
    for name, value in setting.items():
        if state["setting"].get(name) != value:
            changed.append(f"{name}: {state['setting'].get(name)} in the checkpoint, {value} now")
    if changed:
        raise CheckpointError(f"{path}: made with other settings:\n  " + "\n  ".join(changed))
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    scaler.load_state_dict(state["scaler"])
    return state["step"], state["broken"]


def export_backbone(backbone: nn.Module, config: Config, path: Path) -> None:
    """Write the backbone's weights alone, as safetensors, with the settings as metadata."""
    from safetensors.torch import save_file

    weights = {name: value.cpu().contiguous() for name, value in backbone.state_dict().items()}
    temporary = path.with_name(path.name + ".tmp")
    save_file(weights, temporary, metadata={"config": to_json(config)})
    temporary.replace(path)
