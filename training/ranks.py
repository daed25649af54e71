"""This process among the ranks that torchrun started, or alone."""

from __future__ import annotations

import os
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stor_ops.info import device_types

from .errors import ConfigError

Network = TypeVar("Network", bound=nn.Module)


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

    def prepare(self, network: Network) -> Network:
        """Move to the device; batch statistics are of all ranks, where there are others and torch can.

        Synchronised batch norm exists on GPUs alone: ranks on CPUs keep statistics of their own batches.
        """
        if self.world > 1 and self.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # in place but for the root
        return network.to(self.device)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Average gradients over the ranks, if there are any others."""
        return DistributedDataParallel(model) if self.world > 1 else model

    def sum(self, values: Tensor) -> list[float]:
        """Sum a vector over all ranks and copy it to the host."""
        if self.world > 1:
            dist.all_reduce(values, group=self.group)
        sums: list[float] = values.tolist()
        return sums

    def gather(self, value: Any) -> list[Any]:
        """Return what each rank has."""
        if self.world == 1:
            return [value]
        values = [None] * self.world
        dist.all_gather_object(values, value, group=self.group)
        return values

    def agree(self, what: str, value: Any) -> None:
        """Make sure that all ranks have the same.

        Raises:
            ConfigError: they have not.

        """
        values = self.gather(value)
        if any(other != values[0] for other in values):
            listed = ", ".join(f"rank {rank}: {other}" for rank, other in enumerate(values))
            raise ConfigError(f"the ranks differ in {what}: {listed}")

    def leave(self) -> None:
        """Dissolve the process group."""
        if self.world > 1:
            dist.destroy_process_group()


def join_ranks(device: str) -> Ranks:
    """Choose the device and join the process group that torchrun announces in the environment.

    Args:
        device: a torch device, or auto: a GPU where torch and the ops of this build can use one.

    Raises:
        ConfigError: torch or the ops cannot use the device.

    """
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() and "cuda" in device_types() else "cpu"
    kind = device.split(":")[0]
    if kind not in device_types():
        raise ConfigError(
            f"run.device: {device} cannot be used: the ops of this build run on "
            f"{', '.join(sorted(device_types()))} (see `python -m stor_ops.info`)"
        )
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"run.device: {device} cannot be used: torch {torch.__version__} sees no GPU"
        )
    if world == 1:
        return Ranks(0, 1, None, torch.device(device))
    if device == "cuda":
        torch.cuda.set_device(local)
        device = f"cuda:{local}"
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    return Ranks(dist.get_rank(), world, dist.group.WORLD, torch.device(device))
