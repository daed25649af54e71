"""Checkpoints that survive a kill at any moment, and continue to the same bits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .config import Config, differences, to_json

NAME = "checkpoint.pt"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used."""


def save(
    folder: Path,
    *,
    step: int,
    config: Config,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    scaler: torch.amp.GradScaler,
    broken: dict[str, str],
) -> None:
    """Write the state after ``step`` steps; a kill leaves either the old checkpoint or the new one.

    The sampler needs no state of its own: what it yields is a function of seed and step.
    """
    state = {
        "step": step,
        "config": to_json(config),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "scaler": scaler.state_dict(),
        "rng": torch.get_rng_state(),
        "broken": broken,
    }
    temporary = folder / f"{NAME}.{os.getpid()}.tmp"
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / NAME)


def load(
    folder: Path,
    *,
    config: Config,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    scaler: torch.amp.GradScaler,
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
    if changed := differences(state["config"], config):
        raise CheckpointError(f"{path}: made with other settings:\n  " + "\n  ".join(changed))
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    scaler.load_state_dict(state["scaler"])
    torch.set_rng_state(state["rng"].cpu())
    return state["step"], state["broken"]


def export_backbone(backbone: nn.Module, config: Config, path: Path) -> None:
    """Write the backbone's weights alone, as safetensors, with the settings as metadata."""
    from safetensors.torch import save_file

    weights = {name: value.cpu().contiguous() for name, value in backbone.state_dict().items()}
    temporary = path.with_name(path.name + ".tmp")
    save_file(weights, temporary, metadata={"config": to_json(config)})
    temporary.replace(path)
