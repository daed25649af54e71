"""Rows sharded over the ranks of a process group, for losses that contrast all of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup


def shard_sizes(rows: Tensor, group: ProcessGroup) -> list[int]:
    """Return how many rows each rank holds; one collective and one look at its result."""
    sizes = torch.zeros(dist.get_world_size(group), dtype=torch.int64, device=rows.device)
    sizes[dist.get_rank(group)] = rows.shape[0]
    dist.all_reduce(sizes, group=group)
    return [int(size) for size in sizes.tolist()]


def first_row(sizes: list[int], group: ProcessGroup) -> int:
    """Position of this rank's first row among the rows of all ranks, in rank order."""
    return sum(sizes[: dist.get_rank(group)])


class _GatherRows(torch.autograd.Function):
    """All ranks' rows, in rank order; the gradient of a row is summed over ranks at its owner."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int], group: ProcessGroup) -> Tensor:
        # Collectives want one shape: shards are padded to the largest and cut again.
        padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
        padded[: rows.shape[0]] = rows
        shards = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(shards, padded, group=group)
        ctx.group, ctx.sizes = group, sizes
        return torch.cat([shard[:size] for shard, size in zip(shards, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        grad = grad.contiguous()
        dist.all_reduce(grad, group=ctx.group)
        return grad.split(ctx.sizes)[dist.get_rank(ctx.group)], None, None


def gather_rows(rows: Tensor, sizes: list[int], group: ProcessGroup) -> Tensor:
    """Return the rows of all ranks in rank order, with gradient to their owners.

    Args:
        rows: (n, ...), n may differ from rank to rank.
        sizes: n of every rank, from `shard_sizes`.
        group: the ranks that take part; all must call.

    """
    gathered: Tensor = _GatherRows.apply(rows, sizes, group)
    return gathered


def reduce_loss(total: Tensor, count: Tensor, reduction: str, group: ProcessGroup) -> Tensor:
    """Reduce each rank's sum of losses and number of rows to the loss of all ranks together.

    The value is the same on every rank. DDP divides summed gradients by the world size, so the local
    part is scaled by it: averaged, the gradients are those of the whole.
    """
    value, count = total.detach().clone(), count.clone()
    dist.all_reduce(value, group=group)
    local = total * dist.get_world_size(group)
    if reduction == "mean":
        dist.all_reduce(count, group=group)
        count = count.clamp(min=1)
        value, local = value / count, local / count
    return value + (local - local.detach())  # the value to the last bit, the gradient of local
