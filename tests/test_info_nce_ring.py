"""The ring of multi_positive_info_nce: what it sends and holds, and what happens when a rank fails."""

import ctypes
import os
import re
import signal
import time
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from test_info_nce_distributed import run_ranks, start_ranks

from stor_ops import _info_nce_ring, multi_positive_info_nce
from stor_ops._info_nce_ring import _Ring

HWM = re.compile(r"VmHWM:\s+(\d+) kB")


@pytest.fixture
def rendezvous(tmp_path):
    return tmp_path / "rendezvous"


@contextmanager
def watched():
    """List what happens in order: an exchange as the dtypes sent, "op" and "wait"."""
    events, ops = [], torch.ops.stor_ops
    exchange, wait = _Ring.exchange, _info_nce_ring._Transfer.wait

    def watch(event, function):
        def watching(*arguments):
            events.append(event)
            return function(*arguments)

        return watching

    def send(ring, outgoing, incoming):
        events.append([rows.dtype for rows in outgoing])
        # What is computed on is what is sent: nothing else may arrive there.
        assert not {x.data_ptr() for x in outgoing} & {x.data_ptr() for x in incoming}
        return exchange(ring, outgoing, incoming)

    with (
        mock.patch.object(_Ring, "exchange", send),
        mock.patch.object(_info_nce_ring._Transfer, "wait", watch("wait", wait)),
        mock.patch.object(ops, "info_nce", watch("op", ops.info_nce)),
        mock.patch.object(ops, "info_nce_backward", watch("op", ops.info_nce_backward)),
    ):
        yield events


def make_shard(rank, rows=3, dtype=torch.float32, **choices):
    generator = torch.Generator().manual_seed(rank)
    query = torch.randn(rows, 4, generator=generator).to(dtype).requires_grad_()
    return {"query": query, "query_id": torch.arange(rows) % 2, "group": dist.group.WORLD} | choices


def pass_on_while_computing(rank, world):
    """The next keys are on their way while the op runs; gradients follow them one step behind."""
    keys, gradient = [torch.bfloat16, torch.int64], [torch.float32]
    with watched() as events:
        loss = multi_positive_info_nce(**make_shard(rank, dtype=torch.bfloat16))
    assert events == [keys, "op", "wait", keys, "op", "wait", "op"]
    with watched() as events:
        loss.backward()
    home = [gradient, "wait"]
    assert events == [keys, "op", "wait", keys, "op", "wait", gradient, "op", "wait", *home]

    queue = {"key": torch.randn(2, 4).bfloat16(), "key_id": torch.arange(2)}
    loss = multi_positive_info_nce(**make_shard(rank, dtype=torch.bfloat16, **queue))
    with watched() as events:
        loss.backward()
    assert events == [keys, "op", "wait", keys, "op", "wait", "op"]  # no gradient of a queue


def test_order(rendezvous):
    run_ranks(pass_on_while_computing, 3, rendezvous)


def meet_extremes(rank, world):
    """Empty shards and ones without a positive add nothing, NaN reaches all, nothing overflows."""
    query, query_id = torch.ones(2, 4, requires_grad=True), torch.tensor([5, 6])

    def run(key, form):
        choices = {"reduction": "none", "form": form, "group": dist.group.WORLD}
        ids = {"query_id": query_id, "key_id": torch.full((len(key),), 5)}
        return multi_positive_info_nce(query, key, **ids, **choices)

    for form in ("out", "in"):
        for rows in ([0] * world, [0, 1, *[0] * (world - 2)]):  # no key at all, one on rank 1
            loss = run(torch.ones(rows[rank], 4), form)
            (gradient,) = torch.autograd.grad(loss.sum(), query)
            assert torch.equal(loss, torch.zeros(2)), (form, rows)
            assert torch.equal(gradient, torch.zeros(2, 4)), (form, rows)
        loss = run(torch.full((1, 4), torch.nan if rank == 0 else 1.0), form)
        assert loss[0].isnan()
        assert loss[1] == 0
        # Logits of 10, 10,010 and 20,010: the last alone counts, and e to it is no float.
        loss = run(torch.full((1, 4), 0.25 + 250 * rank), form)
        expected = {"out": 10000.0, "in": 0.0}[form]
        torch.testing.assert_close(loss, torch.tensor([expected, 0.0]), rtol=1e-5, atol=1e-2)


def refuse_second_derivative(rank, world):
    arguments = make_shard(rank)
    loss = multi_positive_info_nce(**arguments)
    (gradient,) = torch.autograd.grad(loss, arguments["query"], create_graph=True)
    with pytest.raises(NotImplementedError, match="gradients of gradients are not available"):
        gradient.sum().backward()


def compile_with_breaks(rank, world):
    def scaled(query, **more):
        return 3 * multi_positive_info_nce(2 * query, **more)

    arguments = make_shard(rank)
    expected = scaled(**arguments)
    (truth,) = torch.autograd.grad(expected, arguments["query"])
    from torch._dynamo.testing import CompileCounterWithBackend  # slow, and for this alone

    backend = CompileCounterWithBackend("aot_eager")
    loss = torch.compile(scaled, backend=backend)(**arguments)
    assert backend.graphs
    assert not any("stor_ops" in str(graph.graph) for graph in backend.graphs)  # the ring is eager
    (gradient,) = torch.autograd.grad(loss, arguments["query"])
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, truth)


@pytest.mark.parametrize(
    ("function", "world"),
    [
        (meet_extremes, 3),
        (refuse_second_derivative, 2),
        (compile_with_breaks, 2),
    ],
)
def test_behaviour(function, world, rendezvous):
    run_ranks(function, world, rendezvous)


def test_one_rank_talks_to_nobody(rendezvous):
    run_ranks(be_alone, 1, rendezvous)


def be_alone(rank, world):
    arguments = make_shard(rank)
    with (
        mock.patch.object(dist, "batch_isend_irecv", side_effect=AssertionError),
        mock.patch.object(dist, "all_gather", side_effect=AssertionError),
    ):
        loss = multi_positive_info_nce(**arguments)
        loss.backward()
    assert torch.equal(loss, multi_positive_info_nce(**arguments | {"group": None}))


INDEX = {"query_id": None, "positive_index": torch.tensor([[0], [1], [2]])}
# What one rank does otherwise, what it raises itself and, if that is not the same, what the others do.
FAULTS = [
    (
        INDEX | {"positive_index": torch.tensor([[0], [9], [-1]])},
        "positive_index row 1: expected -1 to 8, got 9",
        "rank 1 refused its arguments",
    ),
    (
        INDEX | {"positive_index": torch.tensor([[0], [-2], [-1]])},
        "positive_index row 1: expected -1 to 8, got -2",
        "rank 1 refused its arguments",
    ),
    (
        INDEX | {"positive_weight": torch.tensor([[0.0], [1.0], [-1.0]])},
        "positive_weight row 2: expected finite and not negative, got -1.0",
        "rank 1 refused its arguments",
    ),
    (
        INDEX | {"positive_weight": torch.tensor([[torch.nan], [1.0], [1.0]])},
        "positive_weight row 0: expected finite and not negative, got nan",
        "rank 1 refused its arguments",
    ),
    (
        {"temperature": torch.tensor(0.0)},
        "temperature: expected a finite number above 0, got 0.0",
        "rank 1 refused its arguments",
    ),
    (
        {"query": torch.randn(3, 5, requires_grad=True)},
        "query.shape[1]: expected the same on all ranks of group, got 4 on rank 0 and 5 on rank 1",
        None,
    ),
    (
        {"query": torch.randn(3, 4, requires_grad=True, dtype=torch.float64)},
        "dtype of query: expected the same on all ranks of group, got torch.float32 on rank 0 "
        "and torch.float64 on rank 1",
        None,
    ),
    (
        {"key": torch.randn(3, 4), "key_id": torch.arange(3)},
        "dtype of key: expected the same on all ranks of group, got None on rank 0 "
        "and torch.float32 on rank 1",
        None,
    ),
    (INDEX, "positives: expected the same on all ranks of group, got by query_id on rank 0", None),
    (
        {"form": "in"},
        'form: expected the same on all ranks of group, got "out" on rank 0 and "in" on rank 1',
        None,
    ),
    (
        {"query": torch.randn(3, 4)},
        "gradient: expected the same on all ranks of group, got required on rank 0 "
        "and not required on rank 1",
        None,
    ),
]


def fail_together(rank, world):
    """What is wrong on rank 1 raises on all ranks, none of which waits, and the group lives on."""
    for fault, own, others in FAULTS:
        alike = INDEX if others and "query_id" in fault else {}
        arguments = make_shard(rank) | alike | (fault if rank == 1 else {})
        expected = own if rank == 1 or others is None else others
        with pytest.raises(ValueError, match=re.escape(f"multi_positive_info_nce: {expected}")):
            multi_positive_info_nce(**arguments)
    assert multi_positive_info_nce(**make_shard(rank)) > 0
    # A group is looked at before anything is sent.
    with pytest.raises(ValueError, match="group: expected an initialised process group, got 'all'"):
        multi_positive_info_nce(**make_shard(rank, group="all"))


def test_a_rank_with_bad_arguments(rendezvous):
    run_ranks(fail_together, 3, rendezvous)


def test_no_process_group():
    with pytest.raises(ValueError, match="group: expected an initialised process group, got"):
        multi_positive_info_nce(torch.ones(2, 4), query_id=torch.ones(2).long(), group=object())


def lose_a_rank(rank, world, lose, within):
    """Rank 2 is lost while it computes on the first keys that reach it; the others raise in time."""
    arguments = make_shard(rank)
    multi_positive_info_nce(**arguments)
    calls, forward = [], torch.ops.stor_ops.info_nce

    def compute(*of_op):
        calls.append(of_op)
        if rank == 2 and len(calls) == 2:
            lose()
        return forward(*of_op)

    start = time.monotonic()
    with (
        mock.patch.object(torch.ops.stor_ops, "info_nce", compute),
        pytest.raises(RuntimeError),
    ):
        multi_positive_info_nce(**arguments)
    assert time.monotonic() - start < within
    os._exit(0)  # there is no group left to leave


def kill(rank, world):
    lose_a_rank(rank, world, lambda: os.kill(os.getpid(), signal.SIGKILL), within=10)


def stop(rank, world):
    lose_a_rank(rank, world, lambda: time.sleep(30), within=10)


@pytest.mark.parametrize(("function", "seconds"), [(kill, 60), (stop, 2)])
def test_a_rank_is_lost(function, seconds, rendezvous):
    processes = start_ranks(function, 3, rendezvous, seconds=seconds).processes
    try:
        for process in processes[:2]:
            process.join(30)
        assert [process.exitcode for process in processes[:2]] == [0, 0]
    finally:
        processes[2].kill()
        processes[2].join()
    assert processes[2].exitcode == -signal.SIGKILL


def peak_growth(call):
    """Bytes by which the memory of this process grows at most during ``call``."""
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, 2**20)  # M_MMAP_THRESHOLD: blocks of a MiB are given back when they are freed
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what there is
    status = Path("/proc/self/status")
    before = int(HWM.search(status.read_text())[1])
    call()
    return 1024 * (int(HWM.search(status.read_text())[1]) - before)


def stay_small(rank, world):
    """A rank holds its own keys and two blocks of others', not those of all six."""
    rows = 2**16
    key, block = torch.randn(rows, 32), rows * 32 * 4
    ids = {"query_id": torch.arange(2), "group": dist.group.WORLD}

    def run(key):
        query = torch.randn(2, 32, requires_grad=True)
        multi_positive_info_nce(query, key, key_id=torch.arange(len(key)), **ids).backward()

    run(key[:2])  # what is set up once
    growth = peak_growth(lambda: run(key))
    assert growth < 4 * block, f"{growth / block} blocks; five others have one each"
    key.requires_grad_()
    growth = peak_growth(lambda: run(key))  # four of gradients: own, sent, received, and the op's
    assert growth < 9 * block, f"{growth / block} blocks; five keys and six gradients are 11"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no /proc/self/clear_refs")
def test_memory_does_not_grow_with_the_ranks(rendezvous):
    run_ranks(stay_small, 6, rendezvous)
