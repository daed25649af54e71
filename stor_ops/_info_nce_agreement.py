"""What the ranks tell each other before keys go round, so that all go on or all raise."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

OP = "multi_positive_info_nce"
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, None)  # None: no key


class Announcement(NamedTuple):
    """What each rank tells all others before any keys travel, as integers."""

    rows: int  # of its shard of keys
    columns: int
    query_dtype: int  # place in DTYPES
    key_dtype: int
    by_id: int
    inside: int
    differentiable: int
    needs_key_gradient: int
    lowest_index: int
    highest_index: int
    refused: int  # an argument of this rank has a bad value


# What has to be alike on all ranks, for otherwise one waits for what another never sends: the name that
# errors give it and what its integers stand for.
_ALIKE: dict[str, tuple[str, Callable[[int], object]]] = {
    "columns": ("query.shape[1]", int),
    "query_dtype": ("dtype of query", DTYPES.__getitem__),
    "key_dtype": ("dtype of key", DTYPES.__getitem__),
    "by_id": ("positives", ("by positive_index", "by query_id").__getitem__),
    "inside": ("form", ('"out"', '"in"').__getitem__),
    "differentiable": ("gradient", ("not required", "required").__getitem__),
}


def rank_in(group: ProcessGroup, device: torch.device) -> int:
    """Rank of this process in ``group``, which has to be one that can pass tensors round."""
    if not dist.is_available() or not dist.is_initialized():
        raise ValueError(
            f"{OP}: group: expected an initialised process group, got {group!r} while "
            "torch.distributed is not initialised"
        )
    try:
        rank = dist.get_rank(group)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{OP}: group: expected an initialised process group, got {group!r}"
        ) from error
    if rank < 0:
        raise ValueError(f"{OP}: group: expected one that this process is in, got one of others")
    if device.type != "cpu" and f"{device.type}:gloo" in dist.get_backend_config(group):
        raise ValueError(
            f"{OP}: group: expected a backend that sends {device.type} tensors from rank to rank, "
            "got gloo (use nccl)"
        )
    return rank


def refusal_of(temperature: Tensor, positive_weight: Tensor | None) -> ValueError | None:
    """Return what the op would raise on this rank, once the others wait for its keys."""
    if temperature.device.type == "cpu" and not 0 < temperature.item() < torch.inf:
        return ValueError(
            f"{OP}: temperature: expected a finite number above 0, got {temperature.item()}"
        )
    if positive_weight is not None and positive_weight.device.type == "cpu":
        bad = ~((positive_weight >= 0) & (positive_weight < torch.inf))
        if bad.any():
            row, place = bad.nonzero()[0].tolist()
            return ValueError(
                f"{OP}: positive_weight row {row}: expected finite and not negative, "
                f"got {positive_weight[row, place].item()}"
            )
    return None


def index_range(index: Tensor | None) -> tuple[int, int]:
    """Lowest and highest of the indices; elsewhere than on the CPU they are not looked at."""
    if index is None or index.device.type != "cpu" or index.numel() == 0:
        return -1, -1
    lowest, highest = index.aminmax()
    return int(lowest), int(highest)


def announce(
    announcement: Announcement, device: torch.device, group: ProcessGroup
) -> list[Announcement]:
    """Return what each rank announces; one collective and one look at its result."""
    mine = torch.tensor(announcement, dtype=torch.int64, device=device)
    everyone = mine.new_empty(dist.get_world_size(group), len(announcement))
    dist.all_gather(list(everyone), mine, group=group)
    return [Announcement(*each) for each in everyone.tolist()]


def check(announced: list[Announcement], rank: int, positive_index: Tensor | None) -> None:
    """Raise on all ranks if one of them cannot go on, on that one with the reason."""
    total = sum(each.rows for each in announced)
    outside = [each.lowest_index < -1 or each.highest_index >= total for each in announced]
    if outside[rank]:
        assert positive_index is not None
        bad = (positive_index < -1) | (positive_index >= total)
        row, place = bad.nonzero()[0].tolist()
        raise ValueError(
            f"{OP}: positive_index row {row}: expected -1 to {total - 1}, "
            f"got {positive_index[row, place].item()}"
        )
    for other, each in enumerate(announced):
        if each.refused or outside[other]:
            raise ValueError(f"{OP}: rank {other} refused its arguments; its own error says why")
    for field, (name, meaning) in _ALIKE.items():
        values = [getattr(each, field) for each in announced]
        for other, value in enumerate(values):
            if value != values[0]:
                raise ValueError(
                    f"{OP}: {name}: expected the same on all ranks of group, "
                    f"got {meaning(values[0])} on rank 0 and {meaning(value)} on rank {other}"
                )
