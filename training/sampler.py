"""The order in which videos are shown."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class PairSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, item) from any step to the last: every rank and every resumed run agrees.

    Args:
        items: of an epoch, as `data.PairDataset` counts them.
        batch_size: items per step and rank; fewer where an epoch has fewer.
        epochs: of the whole run.
        seed: of the order.
        first_step: where to begin, counted from the start of the run.
        rank: of this process.
        world: number of processes.

    """

    def __init__(
        self,
        items: int,
        *,
        batch_size: int,
        epochs: int,
        seed: int,
        first_step: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.items, self.seed, self.rank, self.world = items, seed, rank, world
        self.batch = min(batch_size, max(items // world, 1))
        self.steps_per_epoch = max(items // (self.batch * world), 1)
        self.total_steps = epochs * self.steps_per_epoch
        self.first_step = first_step

    def __len__(self) -> int:
        """Return the number of steps that are left."""
        return self.total_steps - self.first_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the batches of this rank."""
        order: list[int] = []
        ordered_epoch = -1
        for step in range(self.first_step, self.total_steps):
            epoch, in_epoch = divmod(step, self.steps_per_epoch)
            if epoch != ordered_epoch:
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                order = torch.randperm(self.items, generator=generator).tolist()
                ordered_epoch = epoch
            begin = (in_epoch * self.world + self.rank) * self.batch
            # Fewer items than ranks: they are dealt out again.
            yield [(epoch, order[(begin + i) % self.items]) for i in range(self.batch)]
