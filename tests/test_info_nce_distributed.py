"""multi_positive_info_nce over the ranks of a process group equals one process on the whole batch."""

import itertools
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stor_ops import _distributed, multi_positive_info_nce, reference

DIM = 4
SHARDS = {2: [(5, 3), (6, 0)], 3: [(4, 0, 3), (2, 5, 1)]}
KEY_SHARDS = {2: (2, 6), 3: (3, 4, 0)}


class Net(nn.Module):
    """A small backbone and a learned temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, DIM).double()
        self.log_temperature = nn.Parameter(torch.tensor(-1.0, dtype=torch.float64))

    def forward(self, query, key):
        key = None if key is None else self.layer(key)
        return self.layer(query), key, self.log_temperature.exp()


def make_batch(kind: str, rows: int, keys: int | None):
    query = torch.randn(rows, 6, dtype=torch.float64)
    key = None if keys is None else torch.randn(keys, 6, dtype=torch.float64)
    columns = rows if keys is None else keys
    if kind == "ids":
        ids, key_ids = torch.randint(-1, 3, (rows,)), torch.randint(3, (columns,))
        ids[:2] = key_ids[0] = 1
        return query, key, {"query_id": ids} | ({} if key is None else {"key_id": key_ids})
    index = torch.randint(-1, columns, (rows, 3))
    index[0] = -1
    options = {"positive_index": index}
    return (
        query,
        key,
        options if kind == "index" else options | {"positive_weight": torch.rand(rows, 3)},
    )


def shard(values, sizes, rank):
    return None if values is None else values.split(list(sizes))[rank].clone()


def shard_options(options, sizes, key_sizes, rank):
    return {k: shard(v, key_sizes if k == "key_id" else sizes, rank) for k, v in options.items()}


def close(actual, expected, what):
    torch.testing.assert_close(
        actual, expected, rtol=1e-10, atol=1e-10, msg=lambda text: f"{what}: {text}"
    )


def combine(loss):
    """A scalar of a loss of any reduction, in which every row counts differently."""
    return (loss * torch.arange(1.0, 1 + loss.numel()).view(loss.shape)).sum()


def compare_under_ddp(rank, world, sizes, kind, keyed, **choices):
    key_sizes = KEY_SHARDS[world] if keyed else sizes
    query, key, options = make_batch(kind, sum(sizes), sum(key_sizes) if keyed else None)
    whole = Net()
    net = DistributedDataParallel(Net())
    net.module.load_state_dict(whole.state_dict())

    q, k, temperature = whole(query, key)
    expected = reference.multi_positive_info_nce(
        q, k, temperature=temperature, **options, **choices
    )
    if choices["reduction"] == "none":  # the mean over ranks of what each makes of its rows
        parts = expected.split(list(sizes))
        (sum(combine(part) for part in parts) / world).backward()
        expected = parts[rank]
    else:
        expected.backward()

    q, k, temperature = net(shard(query, sizes, rank), shard(key, key_sizes, rank))
    local = shard_options(options, sizes, key_sizes, rank)
    group = dist.group.WORLD
    loss = multi_positive_info_nce(q, k, temperature=temperature, group=group, **local, **choices)
    combine(loss).backward()

    what = f"rank {rank} of {world}, shards {sizes}, {kind}, key {keyed}, {choices}"
    close(loss, expected, f"{what}: loss")
    for (name, mine), truth in zip(net.module.named_parameters(), whole.parameters(), strict=True):
        assert truth.grad.any(), f"{what}: {name} has no gradient"
        close(mine.grad, truth.grad, f"{what}: {name}")
    if choices["reduction"] != "none":
        values = [torch.empty_like(loss) for _ in range(world)]
        dist.all_gather(values, loss.detach())
        assert all(torch.equal(value, loss) for value in values), f"{what}: ranks disagree"


def compare_raw(rank, sizes, group, kind, reduction="mean"):
    """Without DDP nobody divides by the world size: gradients are those of the whole times it."""
    world = len(sizes)
    query, _, options = make_batch(kind, sum(sizes), None)
    whole, temperature = query.clone().requires_grad_(), torch.tensor(0.3, requires_grad=True)
    reference.multi_positive_info_nce(
        whole, **options, temperature=temperature, reduction=reduction
    ).backward()
    mine, own = shard(query, sizes, rank).requires_grad_(), torch.tensor(0.3, requires_grad=True)
    multi_positive_info_nce(
        mine,
        **shard_options(options, sizes, sizes, rank),
        temperature=own,
        reduction=reduction,
        group=group,
    ).backward()
    close(mine.grad, world * shard(whole.grad, sizes, rank), f"rank {rank}, {kind}: raw gradient")
    dist.all_reduce(own.grad, group=group)
    torch.testing.assert_close(own.grad, world * temperature.grad, rtol=1e-5, atol=1e-5)


def compare_edges(rank, world):
    """Nothing to learn, no rows at all, low precision."""
    group, options = dist.group.WORLD, {"group": dist.group.WORLD}
    for rows in ([2] * world, [0] * world):
        query = torch.randn(rows[rank], DIM, requires_grad=True)
        ids = torch.full((rows[rank],), -1)
        loss = multi_positive_info_nce(query, query_id=ids, **options)
        loss.backward()
        assert not loss.any()
        assert not query.grad.any()
    sizes = SHARDS[world][0]
    query, ids = torch.randn(sum(sizes), DIM).bfloat16(), torch.arange(sum(sizes)) // 2
    whole = multi_positive_info_nce(query, query_id=ids, normalize=True)
    loss = multi_positive_info_nce(
        shard(query, sizes, rank), query_id=shard(ids, sizes, rank), normalize=True, group=group
    )
    torch.testing.assert_close(loss, whole, rtol=1e-6, atol=1e-6)


def unscaled(total, count, reduction, group):
    """What a loss does that forgets DDP's division by the world size."""
    loss = _distributed_reduce(total, count, reduction, group)
    factor = dist.get_world_size(group)
    return loss.detach() + (loss - loss.detach()) / factor


_distributed_reduce = _distributed.reduce_loss


def run_rank(rank: int, world: int, rendezvous: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world)
    torch.manual_seed(world)  # every rank knows the whole batch
    for sizes, kind, keyed, form, reduction in itertools.product(
        SHARDS[world], ("ids", "index", "weights"), (False, True), ("out", "in"), ("mean", "sum", "none")
    ):  # fmt: skip
        normalize = form == "in"
        compare_under_ddp(
            rank, world, sizes, kind, keyed, form=form, reduction=reduction, normalize=normalize
        )
    for kind, reduction in (("ids", "mean"), ("weights", "sum")):
        compare_raw(rank, SHARDS[world][0], dist.group.WORLD, kind, reduction)
    compare_edges(rank, world)

    # The comparison itself has to notice a factor of the world size, ...
    choices = {"form": "out", "reduction": "mean"}
    with mock.patch.object(_distributed, "reduce_loss", unscaled):
        with pytest.raises(AssertionError, match="log_temperature: Scalars are not close"):
            compare_under_ddp(rank, world, SHARDS[world][1], "ids", False, **choices)
        with pytest.raises(AssertionError, match="raw gradient"):
            compare_raw(rank, [2] * world, dist.group.WORLD, "ids")
    # ... and a rank that takes itself for the first.
    wrong = mock.patch.object(_distributed, "first_row", return_value=0 if rank else 3)
    with wrong, pytest.raises(AssertionError):
        compare_under_ddp(rank, world, [3] * world, "ids", False, **choices)

    group = dist.new_group([world - 2, world - 1])
    batch = torch.random.get_rng_state()
    if rank >= world - 2:
        torch.random.set_rng_state(batch)
        compare_raw(rank - (world - 2), (3, 4), group, "ids")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
def test_equals_one_process(world, tmp_path):
    rendezvous = f"file://{tmp_path / 'rendezvous'}"
    torch.multiprocessing.spawn(run_rank, (world, rendezvous), nprocs=world)
