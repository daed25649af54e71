"""multi_positive_info_nce over the ranks of a process group equals one process on the whole batch."""

import datetime
import itertools
import multiprocessing
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stor_ops import _info_nce_ring, multi_positive_info_nce, reference

DIM = 4
SHARDS = {2: [(5, 3), (6, 0)], 3: [(4, 0, 3), (2, 5, 1)], 4: [(0, 3, 2, 4)]}
KEY_SHARDS = {2: (2, 6), 3: (3, 4, 0), 4: (3, 0, 1, 5)}
KINDS, FORMS, REDUCTIONS = ("ids", "index", "weights"), ("out", "in"), ("mean", "sum", "none")


def start_ranks(function, world, rendezvous, *, seconds=60):
    """Start ``function(rank, world)`` on ranks that are joined in a gloo group of that timeout."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(["torch", "stor_ops"])
    return torch.multiprocessing.start_processes(
        run_rank,
        (world, function, f"file://{rendezvous}", seconds),
        nprocs=world,
        join=False,
        start_method="forkserver",  # imports torch once, not once per rank
    )


def run_ranks(function, world, rendezvous):
    context = start_ranks(function, world, rendezvous)
    while not context.join():
        pass


def run_rank(rank, world, function, rendezvous, seconds):
    torch.set_num_threads(1)
    timeout = datetime.timedelta(seconds=seconds)
    dist.init_process_group("gloo", rendezvous, timeout, rank=rank, world_size=world)
    torch.manual_seed(world)  # every rank knows the whole batch
    function(rank, world)
    dist.barrier()
    dist.destroy_process_group()


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


def compare_raw(rank, sizes, key_sizes, group, kind, reduction="mean"):
    """Without DDP nobody divides by the world size: gradients are those of the whole times it."""
    world, keyed = len(sizes), key_sizes is not None
    query, key, options = make_batch(kind, sum(sizes), sum(key_sizes) if keyed else None)
    temperature = torch.tensor(0.3, dtype=torch.float64)

    def run(function, query, key, options, **more):
        leaves = [
            None if leaf is None else leaf.clone().requires_grad_()
            for leaf in (query, key, temperature)
        ]
        loss = function(*leaves[:2], **options, temperature=leaves[2], reduction=reduction, **more)
        loss.backward()
        return loss, [None if leaf is None else leaf.grad for leaf in leaves]

    expected, truth = run(reference.multi_positive_info_nce, query, key, options)
    key_sizes = key_sizes or sizes
    loss, mine = run(
        multi_positive_info_nce,
        shard(query, sizes, rank),
        shard(key, key_sizes, rank),
        shard_options(options, sizes, key_sizes, rank),
        group=group,
    )
    what = f"rank {rank}, {kind}, key {keyed}: raw"
    close(loss, expected, f"{what} loss")
    close(mine[0], world * shard(truth[0], sizes, rank), f"{what} gradient of query")
    if keyed:
        close(mine[1], world * shard(truth[1], key_sizes, rank), f"{what} gradient of key")
    dist.all_reduce(mine[2], group=group)
    close(mine[2], world * truth[2], f"{what} gradient of temperature")


def compare_all(rank, world):
    choices = itertools.product(SHARDS[world], KINDS, (False, True), FORMS, REDUCTIONS)
    for sizes, kind, keyed, form, reduction in choices:
        normalize = form == "in"
        compare_under_ddp(
            rank, world, sizes, kind, keyed, form=form, reduction=reduction, normalize=normalize
        )
    for kind, reduction in (("ids", "mean"), ("weights", "sum")):
        for key_sizes in (None, KEY_SHARDS[world]):
            compare_raw(rank, SHARDS[world][0], key_sizes, dist.group.WORLD, kind, reduction)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_equals_one_process(world, tmp_path):
    run_ranks(compare_all, world, tmp_path / "rendezvous")


def differ_in_need(rank, world):
    """One rank's keys require a gradient, the others' do not: it still gets all of it."""
    torch.manual_seed(0)
    query, key = torch.randn(6, 4).double(), torch.randn(9, 4).double()
    ids, key_ids = torch.arange(6) % 2, torch.arange(9) % 2
    whole_query, whole_key = query.clone().requires_grad_(), key.clone().requires_grad_()
    loss = reference.multi_positive_info_nce(
        whole_query, whole_key, query_id=ids, key_id=key_ids, reduction="sum"
    )
    loss.backward()
    mine = shard(query, [2] * world, rank).requires_grad_()
    own = shard(key, [3] * world, rank).requires_grad_(rank == 1)
    multi_positive_info_nce(
        mine,
        own,
        query_id=shard(ids, [2] * world, rank),
        key_id=shard(key_ids, [3] * world, rank),
        reduction="sum",
        group=dist.group.WORLD,
    ).backward()
    close(mine.grad, world * shard(whole_query.grad, [2] * world, rank), "query")
    if rank == 1:
        close(own.grad, world * shard(whole_key.grad, [3] * world, rank), "key")
    else:
        assert own.grad is None


def be_precise(rank, world):
    """bfloat16 over ranks is as close to the truth as bfloat16 in one process; autocast is no matter."""
    torch.manual_seed(0)
    sizes, group = [16] * world, dist.group.WORLD
    query, ids = torch.randn(16 * world, 32).bfloat16(), torch.arange(16 * world) % 8

    def run(query, ids, **more):
        query = query.clone().requires_grad_()
        loss = multi_positive_info_nce(query, query_id=ids, temperature=0.5, **more)
        loss.backward()
        return loss.detach(), query.grad

    truth, exact = run(query.double(), ids)
    _, alone = run(query, ids)
    mine, own_ids = shard(query, sizes, rank), shard(ids, sizes, rank)
    loss, gradient = run(mine, own_ids, group=group)
    assert loss.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(loss, truth.float(), rtol=1e-5, atol=1e-5)
    exact, alone = (shard(x, sizes, rank) for x in (exact, alone.double()))
    error = (gradient.double() / world - exact).abs().max()
    assert error <= 2 * (alone - exact).abs().max() + 1e-6
    with torch.autocast("cpu", torch.bfloat16):
        cast, cast_gradient = run(mine.float(), own_ids, group=group)
    plain, plain_gradient = run(mine.float(), own_ids, group=group)
    assert cast.dtype == torch.float32
    assert torch.equal(cast, plain)
    assert torch.equal(cast_gradient, plain_gradient)


@pytest.mark.parametrize(("function", "world"), [(differ_in_need, 3), (be_precise, 4)])
def test_gradients(function, world, tmp_path):
    run_ranks(function, world, tmp_path / "rendezvous")


def compare_in_subgroup(rank, world):
    group = dist.new_group([1, 3])  # whose ranks are not those of the world
    if group != dist.GroupMember.NON_GROUP_MEMBER:
        compare_raw(rank // 2, (3, 4), None, group, "ids")
        compare_raw(rank // 2, (3, 4), (5, 2), group, "weights")
    else:
        with pytest.raises(ValueError, match="group: expected one that this process is in"):
            compare_raw(rank // 2, (3, 4), None, group, "ids")


def test_subgroup(tmp_path):
    run_ranks(compare_in_subgroup, 4, tmp_path / "rendezvous")


def unscaled(total, count, reduction, group, reduce_loss=_info_nce_ring.reduce_loss):
    """What a loss does that forgets DDP's division by the world size."""
    loss = reduce_loss(total, count, reduction, group)
    factor = dist.get_world_size(group)
    return loss.detach() + (loss - loss.detach()) / factor


def kept(ring, rows, step):
    """What a rank does that keeps the gradients of others' keys for its own."""
    return _info_nce_ring._Transfer([], [rows])


def notice_faults(rank, world):
    """The comparisons above notice a factor of the world size and gradients and rows gone astray."""
    sizes, group = [3] * world, dist.group.WORLD
    choices = {"form": "out", "reduction": "mean"}
    with mock.patch.object(_info_nce_ring, "reduce_loss", unscaled):
        with pytest.raises(AssertionError, match="log_temperature: Scalars are not close"):
            compare_under_ddp(rank, world, SHARDS[world][1], "ids", False, **choices)
        with pytest.raises(AssertionError, match="raw gradient"):
            compare_raw(rank, sizes, None, group, "ids")
    ring = _info_nce_ring._Ring
    with mock.patch.object(ring, "exchange_gradient", kept):
        for key_sizes, name in ((None, "query"), (sizes, "key")):
            with pytest.raises(AssertionError, match=f"raw gradient of {name}"):
                compare_raw(rank, sizes, key_sizes, group, "ids")
        with pytest.raises(AssertionError, match=r"layer.weight: Tensor-likes are not close"):
            compare_under_ddp(rank, world, sizes, "ids", False, **choices)
    with (
        mock.patch.object(ring, "first_row", lambda ring, owner: 3 * ring.rank),
        pytest.raises(AssertionError, match="raw loss"),
    ):
        compare_raw(rank, sizes, None, group, "index")


def test_faults_are_noticed(tmp_path):
    run_ranks(notice_faults, 3, tmp_path / "rendezvous")
