"""`multi_positive_info_nce` over the ranks of a process group: keys travel round a ring of ranks.

Each rank keeps its queries and sees the keys of all ranks one shard at a time: while it computes on one,
it sends that one to the next rank and receives another from the rank before. So it never holds more than
its own shard, the one it computes on and the one that arrives, however many ranks there are. The backward
goes round again; a shard's gradient follows it, one step behind, until it is back with its owner.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ._info_nce_agreement import (
    DTYPES,
    OP,
    Announcement,
    announce,
    check,
    index_range,
    rank_in,
    refusal_of,
)
from ._info_nce_arguments import Arguments, accumulator

if TYPE_CHECKING:
    from typing import Unpack

    from torch.distributed import ProcessGroup, Work


class _Transfer(NamedTuple):
    """Tensors on their way."""

    works: list[Work]
    incoming: Sequence[Tensor]

    def wait(self) -> Sequence[Tensor]:
        """Return what has arrived, once what was sent may be overwritten."""
        for work in self.works:
            work.wait()
        return self.incoming


@dataclass(frozen=True)
class _Ring:
    """A rank's place among all: it receives from the rank before it and sends to the one after."""

    group: ProcessGroup
    rank: int
    sizes: list[int]  # rows of each rank's shard of keys
    returns_gradient: bool  # some rank's keys require a gradient

    def owner(self, step: int) -> int:
        """Rank whose shard is here after ``step`` steps."""
        return (self.rank - step) % len(self.sizes)

    def first_row(self, owner: int) -> int:
        """Position of a rank's first row among the rows of all ranks, in rank order."""
        return sum(self.sizes[:owner])

    def local_index(self, index: Tensor | None, step: int) -> Tensor | None:
        """Turn rows of all shards into rows of the shard that is here; -1 for those of others."""
        if index is None:
            return None
        owner = self.owner(step)
        local = index - self.first_row(owner)
        return local.masked_fill_((local < 0) | (local >= self.sizes[owner]), -1)

    def exchange(self, outgoing: Sequence[Tensor], incoming: Sequence[Tensor]) -> _Transfer:
        """Start to send to the rank after this one and to receive from the one before."""
        after, before = self.owner(-1), self.owner(1)
        sends = [(dist.isend, rows, after) for rows in outgoing]
        receives = [(dist.irecv, rows, before) for rows in incoming]
        messages = [
            dist.P2POp(direction, rows, group=self.group, group_peer=peer)
            for direction, rows, peer in sends + receives
            if rows.numel() > 0  # both ends know the sizes: nothing is sent of an empty shard
        ]
        return _Transfer(dist.batch_isend_irecv(messages) if messages else [], incoming)

    def exchange_gradient(self, rows: Tensor, step: int) -> _Transfer:
        """Start to pass on the gradient of a shard and to receive that of the shard of ``step``."""
        return self.exchange([rows], [rows.new_empty(self.sizes[self.owner(step)], rows.shape[1])])

    def shards(self, own: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
        """Yield the own shard, then each other rank's, with the next one on its way meanwhile.

        What is yielded is overwritten by the shard after the next.
        """
        world = len(self.sizes)
        buffers = [
            [rows.new_empty((max(self.sizes), *rows.shape[1:])) for rows in own]
            for _ in range(min(2, world - 1))
        ]
        here = own
        for step in range(1, world):
            size = self.sizes[self.owner(step)]
            incoming = [buffer[:size] for buffer in buffers[step % len(buffers)]]
            transfer = self.exchange(here, incoming)
            yield here
            here = transfer.wait()
        yield here


def info_nce(given: Arguments, group: ProcessGroup) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the op ``info_nce`` does, of this rank's queries over the keys of all ranks.

    All ranks of ``group`` call it together, forward and backward. The gradient of a key is summed over
    the ranks at its owner.

    Raises:
        ValueError: on all ranks if an argument of one has a bad value, or differs where all must be alike;
            on this rank alone if ``group`` is no process group that it is in.

    """
    if torch.compiler.is_compiling():  # compiled code breaks here, once, for the whole ring
        eager: tuple[Tensor, Tensor, Tensor] = torch.compiler.disable(info_nce)(given, group)
        return eager
    query, key, keys = given.query, given.key, given.keys
    rank = rank_in(group, query.device)
    if dist.get_world_size(group) == 1:
        alone: tuple[Tensor, Tensor, Tensor] = torch.ops.stor_ops.info_nce(*given)
        return alone

    refusal = refusal_of(given.temperature, given.positive_weight)
    graph = torch.is_grad_enabled()
    lowest, highest = index_range(given.positive_index)
    announced = announce(
        Announcement(
            rows=keys.shape[0],
            columns=query.shape[1],
            query_dtype=DTYPES.index(query.dtype),
            key_dtype=DTYPES.index(None if key is None else key.dtype),
            by_id=given.query_id is not None,
            inside=given.inside,
            differentiable=graph and any(x.requires_grad for x in (query, keys, given.temperature)),
            needs_key_gradient=graph and keys.requires_grad,
            lowest_index=lowest,
            highest_index=highest,
            refused=refusal is not None,
        ),
        query.device,
        group,
    )
    if refusal is not None:
        raise refusal
    check(announced, rank, given.positive_index)

    sizes = [each.rows for each in announced]
    ring = _Ring(group, rank, sizes, any(each.needs_key_gradient for each in announced))
    statistics: tuple[Tensor, Tensor, Tensor] = _Statistics.apply(ring, *given)
    return statistics


def reduce_loss(total: Tensor, count: Tensor, reduction: str, group: ProcessGroup) -> Tensor:
    """Reduce each rank's sum of losses and number of rows to the loss of all ranks together.

    The value is the same on every rank. DDP divides summed gradients by the world size, so the local
    part is scaled by it: averaged, the gradients are those of the whole.
    """
    sums = torch.stack((total.detach().double(), count.double()))
    dist.all_reduce(sums, group=group)
    rows = sums[1].clamp(min=1) if reduction == "mean" else torch.ones_like(sums[1])
    value = (sums[0] / rows).to(total.dtype)
    local = total * (dist.get_world_size(group) / rows).to(total.dtype)
    return value + (local - local.detach())  # the value to the last bit, the gradient of local


class _Statistics(torch.autograd.Function):
    """The op ``info_nce`` over all shards of keys."""

    @staticmethod
    def forward(
        ctx: Any, ring: _Ring, *arguments: Unpack[Arguments]
    ) -> tuple[Tensor, Tensor, Tensor]:
        lse, positive, weight = _merged(ring, Arguments(*arguments))
        *tensors, ctx.inside = arguments
        ctx.ring = ring
        ctx.save_for_backward(lse, positive, *tensors)
        ctx.mark_non_differentiable(weight)
        return lse, positive, weight

    @staticmethod
    def backward(
        ctx: Any, grad_lse: Tensor, grad_positive: Tensor, _: Tensor
    ) -> tuple[Tensor | None, ...]:
        gradients = _Gradients.apply(
            ctx.ring, grad_lse, grad_positive, *ctx.saved_tensors, ctx.inside
        )
        others = (None,) * 5
        return None, *gradients, *others


class _Gradients(torch.autograd.Function):
    """The op ``info_nce_backward`` over all shards of keys; has no derivative of its own."""

    @staticmethod
    def forward(ctx: Any, ring: _Ring, *arguments: Any) -> tuple[Tensor | None, ...]:
        return _added_gradients(ring, arguments[:4], Arguments(*arguments[4:]))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> None:
        raise NotImplementedError(f"{OP}: gradients of gradients are not available")


def _calls(ring: _Ring, given: Arguments) -> Iterator[Arguments]:
    """Yield the op's arguments for the own shard of keys, then for each other."""
    own = [rows.contiguous() for rows in (given.keys, given.key_ids) if rows is not None]
    for step, (shard, *ids) in enumerate(ring.shards(own)):
        call = given._replace(positive_index=ring.local_index(given.positive_index, step))
        if given.key is not None or step > 0:  # only among its own keys a query leaves itself out
            call = call._replace(key=shard, key_id=ids[0] if ids else None)
        yield call


def _merged(ring: _Ring, given: Arguments) -> tuple[Tensor, Tensor, Tensor]:
    """Merge the statistics over the shards; shards that are -inf change nothing, NaN stays NaN."""
    calls = _calls(ring, given)
    lse, positive, weight = torch.ops.stor_ops.info_nce(*next(calls))
    for call in calls:
        part = torch.ops.stor_ops.info_nce(*call)
        lse = torch.logaddexp(lse, part[0])
        positive = torch.logaddexp(positive, part[1]) if given.inside else positive + part[1]
        weight = weight + part[2]
    return lse, positive, weight


def _added_gradients(
    ring: _Ring,
    statistics: tuple[Tensor, ...],  # with their gradients, as the op takes them
    given: Arguments,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Add the gradients over the shards, those of keys at their owner, in the dtype of the sums."""
    query, key, temperature = given[:3]
    dtype = accumulator(query, key)
    grad_query = torch.zeros(query.shape, dtype=dtype, device=query.device)
    grad_temperature = torch.zeros((), dtype=dtype, device=temperature.device)
    grad_own = grad_query  # of the own shard of keys
    visiting: Tensor | None = None  # sum for the visiting shard, of the ranks where it has been
    for step, call in enumerate(_calls(ring, given)):
        arriving = None if visiting is None else ring.exchange_gradient(visiting, step)
        part_query, part_key, part_temperature = torch.ops.stor_ops.info_nce_backward(
            *statistics, *call, ring.returns_gradient
        )
        grad_query += part_query
        grad_temperature += part_temperature
        if ring.returns_gradient and step > 0:
            visiting = part_key.to(dtype) if arriving is None else arriving.wait()[0].add_(part_key)
        elif ring.returns_gradient and key is not None:
            grad_own = part_key.to(dtype)
        del part_query, part_key  # lest they stay while the op makes the next ones
    if visiting is not None:
        grad_own += ring.exchange_gradient(visiting, len(ring.sizes)).wait()[0]
    return (
        grad_query.to(query.dtype),
        None if key is None or not ring.returns_gradient else grad_own.to(key.dtype),
        grad_temperature.to(temperature.dtype),
    )
