"""This process among the ranks that torchrun started, or alone."""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stor_ops._load import DEVICE_TYPES


class Ranks(NamedTuple):
    """Where this process stands."""

    rank: int
    world: int
    group: dist.ProcessGroup | None
    device: torch.device

    @property
    def chief(self) -> bool:
        """Whether this rank writes the files and talks."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """Average gradients over the ranks, if there are any others."""
        return DistributedDataParallel(model) if self.world > 1 else model

    def any(self, flag: bool) -> bool:
        """Whether any rank raises the flag, so that all leave a loop at one step."""
        if self.world == 1:
            return flag
        raised = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(raised, dist.ReduceOp.MAX, group=self.group)
        return bool(raised)

    def leave(self) -> None:
        """Dissolve the process group."""
        if self.world > 1:
            dist.destroy_process_group()


def join_ranks(device: str) -> Ranks:
    """Choose the device and join the process group that torchrun announces in the environment.

    Args:
        device: a torch device, or auto: a GPU where torch and the kernels of this build can use one.

    """
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() and "cuda" in DEVICE_TYPES else "cpu"
    if world == 1:
        return Ranks(0, 1, None, torch.device(device))
    if device == "cuda":
        torch.cuda.set_device(local)
        device = f"cuda:{local}"
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return Ranks(dist.get_rank(), world, dist.group.WORLD, torch.device(device))
