"""The Triton kernels of info_nce, run by Triton's interpreter on CPU tensors: values, gradients, bounds.

The interpreter must be switched on before Triton is imported. So this file runs itself once more in a
process of its own; what is marked ``interpreted`` exists there only.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from stor_ops import _info_nce_chunked as chunked
from stor_ops import reference
from stor_ops._triton import configs
from stor_ops._triton import info_nce as kernels
from stor_ops.info_nce import _row_losses

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
FORMS, KINDS = ("out", "in"), ("ids", "index", "weights")
# The interpreter is numpy, which warns of the infinities that the kernels select away.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
INT64 = torch.iinfo(torch.int64)
GUARD = 64  # elements before and after every tensor


def interpreted(test):
    """Keep a test for the process that has the interpreter."""
    return test if INTERPRETED else None


def compiled(test):
    """Keep a test out of it."""
    return None if INTERPRETED else test


# ---- The process with the interpreter


@compiled
@pytest.mark.skipif(find_spec("triton") is None, reason="there is no triton")
def test_under_the_interpreter():
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert "skipped" not in run.stdout.splitlines()[-1]


if INTERPRETED:
    import triton
    import triton.language as tl

    from stor_ops._triton import dense

    @triton.jit
    def copy_tile(matrix, tile, first_row, num_rows, dim):
        """Sixteen rows of a matrix, as the dense kernels read them."""
        values = dense._load_tile(matrix, first_row, num_rows, 0, dim, 16, 1024)
        tl.store(tile + tl.arange(0, 16)[:, None] * 1024 + tl.arange(0, 1024)[None, :], values)


# ---- Tensors with guards around them


def guarded(values):
    """Copy into a larger buffer, whose other elements would be seen in a result.

    NaN in floating point; for ids one that matches, for an index one that is in range.
    """
    if values is None or values.dim() == 0:
        return values
    rest = torch.nan if values.is_floating_point() else 1
    buffer = values.new_full((values.numel() + 2 * GUARD,), rest)
    inner = buffer[GUARD : GUARD + values.numel()].view(values.shape)
    return inner.copy_(values)


@pytest.fixture(autouse=True)
def outputs(monkeypatch):
    """Give the launchers outputs full of NaN between guards, which no kernel may touch."""
    buffers, plain = [], torch.Tensor.new_empty

    def new_empty(like, *shape, dtype=None, device=None):
        if device is not None:
            return plain(like, *shape, dtype=dtype, device=device)  # the interpreter's own
        shape = torch.Size(shape[0] if isinstance(shape[0], (tuple, torch.Size)) else shape)
        buffer = torch.full(
            (shape.numel() + 2 * GUARD,), torch.nan, dtype=dtype or like.dtype, device=like.device
        )
        buffers.append((buffer, shape.numel()))
        return buffer[GUARD : GUARD + shape.numel()].view(shape)

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "new_empty", new_empty)
        yield
    for buffer, length in buffers:
        assert buffer[:GUARD].isnan().all()
        assert buffer[GUARD + length :].isnan().all()


# ---- Problems


def make_lists(kind, rows, keys, positives=3):
    """Ids, or index and weights; rows without positives, duplicates and a query's own row included."""
    columns = rows if keys is None else keys
    if kind == "ids":
        query_id = torch.randint(-2, max(rows // 3, 2), (rows,))
        key_id = None if keys is None else torch.randint(-2, max(rows // 3, 2), (keys,))
        return query_id, key_id, None, None
    index = torch.randint(-1, columns, (rows, positives))
    index[1::7, 0] = torch.arange(rows)[1::7].clamp(max=columns - 1)
    index[::4] = -1
    weight = None
    if kind == "weights":
        weight = torch.rand(rows, positives) * (torch.rand(rows, positives) < 0.7)
        weight[1::5] = 0
    return None, None, index, weight


def make_problem(kind, rows, keys, dim, dtype=torch.float32):
    query = torch.randn(rows, dim).to(dtype)
    key = None if keys is None else torch.randn(keys, dim).to(dtype)
    return query, key, make_lists(kind, rows, keys)


def exact(values):
    return values.double() if values is not None and values.is_floating_point() else values


def run(function, grads, query, key, temperature, lists, inside, statistics=None):
    """Statistics and gradients by one of the two implementations, in a tuple."""
    forward, backward = function.forward, function.backward
    found = forward(query, key, temperature, *lists, inside)
    lse, positive = statistics or found[:2]
    outer, inner = grads
    inner = torch.where(found[2] > 0, inner, 0.0)  # what autograd would hand on
    arguments = (query, key, temperature, *lists, inside)
    return (*found, *backward(outer, inner, lse, positive, *arguments, key is not None))


def check(query, key, lists, inside, temperature=0.4, tolerance=2e-5, grads=None):
    """Compare statistics and gradients with those of the torch version in float64."""
    rows = len(query)
    if grads is None:
        grads = (torch.randn(rows), torch.randn(rows))
        grads[0][1::5], grads[1][::6] = 0, 0
    temperature = torch.tensor(temperature)
    arguments = (query, key, temperature, *lists)
    query_, key_, temperature_, *lists_ = map(exact, arguments)
    expected = run(chunked, tuple(map(exact, grads)), query_, key_, temperature_, lists_, inside)
    query_, key_, temperature_, *lists_ = map(guarded, arguments)
    actual = run(kernels, tuple(map(guarded, grads)), query_, key_, temperature_, lists_, inside)
    names = ("lse", "positive", "weight", "grad_query", "grad_key", "grad_temperature")
    for name, value, truth in zip(names, actual, expected, strict=True):
        assert value.shape == truth.shape, name
        scale = truth[truth.isfinite()].abs().max().item() if truth.isfinite().any() else 1.0
        torch.testing.assert_close(
            value.double(), truth, rtol=tolerance, atol=tolerance * max(scale, 1.0), msg=name
        )
    return actual


# ---- Values and gradients


@interpreted
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keys", [None, 7, 45])
def test_equals_torch(kind, keys, inside):
    check(*make_problem(kind, 37, keys, 5), inside)


@interpreted
@pytest.mark.parametrize(
    ("dim", "kind", "keys", "inside"),
    [
        (1, "ids", None, True),
        (1, "weights", 20, False),
        (48, "index", None, False),
        (48, "ids", 33, True),
        (130, "weights", None, True),
        (130, "ids", 70, False),
        (300, "ids", None, False),
        (300, "index", 50, True),
        (1024, "ids", 17, False),
    ],
)
def test_any_width(dim, kind, keys, inside):
    query, key, lists = make_problem(kind, 35 if dim < 300 else 18, keys, dim)
    check(query / dim**0.25, None if key is None else key / dim**0.25, lists, inside)


@interpreted
@pytest.mark.parametrize("rows", [1, 2, 32, 33])
@pytest.mark.parametrize("keys", [None, 1, 32])
def test_any_number_of_rows(rows, keys):
    for kind in ("ids", "weights"):
        query, key, lists = make_problem(kind, rows, keys, 3)
        outer = torch.randn(rows) * (rows > 1 or keys is not None)  # else there is no key at all
        check(query, key, lists, kind == "ids", grads=(outer, torch.randn(rows)))


@interpreted
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keys", [None, 30])
def test_loss_equals_reference(kind, form, keys):
    """The whole loss by the float64 reference, of which the torch version knows nothing."""
    query, key, lists = make_problem(kind, 26, keys, 6)
    if kind != "ids":
        lists[2][:, 1] = torch.where(lists[2][:, 0] == lists[2][:, 1], -1, lists[2][:, 1])
    leaves = [value.double().requires_grad_() for value in (query, key) if value is not None]
    leaves.append(torch.tensor(0.3, dtype=torch.float64, requires_grad=True))
    names = ("query_id", "key_id", "positive_index", "positive_weight")
    other = None if key is None else leaves[1]
    truth = reference.multi_positive_info_nce(
        leaves[0],
        other,
        **dict(zip(names, lists, strict=True)),
        temperature=leaves[-1],
        form=form,
    )
    truths = (truth, *torch.autograd.grad(truth, leaves))

    inside, temperature = form == "in", torch.tensor(0.3)
    lse, positive, weight = kernels.forward(query, key, temperature, *lists, inside)
    sums = (lse.requires_grad_(), positive.requires_grad_())
    rows, present = _row_losses(*sums, weight, inside)
    loss = rows.sum() / present.sum()
    grads = torch.autograd.grad(loss, sums)
    found = kernels.backward(
        *grads, lse.detach(), positive.detach(), query, key, temperature, *lists, inside, True
    )
    actual = (loss, *(value for value in found if value.shape != (0,)))
    for value, expected in zip(actual, truths, strict=True):
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)


@interpreted
@pytest.mark.parametrize(
    ("architecture", "dim", "dtype"),
    [*((a, 24, torch.float16) for a in configs.TABLE), (90, 300, torch.float16)],
)
def test_tiles_of_the_table(architecture, dim, dtype, monkeypatch):
    monkeypatch.setattr(configs, "architecture", lambda _: architecture)
    query, _, lists = make_problem("ids", 70, None, dim)
    check((query / dim**0.5).to(dtype), None, lists, True, tolerance=3e-3)


@interpreted
@pytest.mark.parametrize("kind", ["ids", "weights"])
@pytest.mark.parametrize("keys", [None, 100])
@pytest.mark.parametrize("inside", [False, True])
def test_splits_do_not_show(kind, keys, inside, monkeypatch):
    monkeypatch.setattr(configs, "multiprocessors", lambda _: 9)
    check(*make_problem(kind, 39, keys, 40), inside)


@interpreted
@pytest.mark.parametrize("kind", ["ids", "index"])
def test_shards_of_keys_make_a_whole(kind):
    """The gradient takes the statistics of more keys than it is given."""
    query, key, lists = make_problem(kind, 20, 50, 4)
    grads = (torch.randn(20), torch.randn(20))
    temperature = torch.tensor(0.5)
    whole = run(kernels, grads, query, key, temperature, lists, True)
    query_id, key_id, index, weight = lists
    total, of_key, slope = 0.0, [], 0.0
    for first, end in ((0, 18), (18, 50)):
        local = None if index is None else torch.where(index < first, -1, index - first)
        part = (query_id, None if key_id is None else key_id[first:end], local, weight)
        backward = kernels.backward(
            grads[0],
            torch.where(whole[2] > 0, grads[1], 0.0),
            *(whole[0], whole[1], query, key[first:end], temperature, *part, True, True),
        )
        total, slope = total + backward[0], slope + backward[2]
        of_key.append(backward[1])
    for value, truth in zip((total, torch.cat(of_key), slope), whole[3:], strict=True):
        torch.testing.assert_close(value, truth, rtol=1e-4, atol=1e-4)


# ---- Precision and dtypes


@interpreted
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("keys", [None, 64])
@pytest.mark.parametrize(
    ("dtype", "floor"), [(torch.float32, 1e-6), (torch.float16, 2e-4), (torch.bfloat16, 1e-3)]
)
def test_no_worse_than_torch(dtype, floor, keys, inside):
    query, key, lists = make_problem("ids", 48, keys, 32, dtype)
    # A gradient of the mean over some 10,000 rows: float16 cannot hold it, what is made of it can.
    small = 1e-4 if dtype == torch.float16 else 1.0
    grads = (torch.rand(48) * small, -torch.rand(48) * small)
    temperature = torch.tensor(0.5)

    def plain():
        leaves = [value.clone().requires_grad_() for value in (query, key) if value is not None]
        logits = leaves[0] @ leaves[-1].t() / temperature.to(dtype)
        ids = lists[0][:, None], (lists[0] if key is None else lists[1])[None]
        match = (ids[0] == ids[1]) & (ids[0] >= 0)
        if key is None:
            logits = logits.masked_fill(torch.eye(48, dtype=torch.bool), -torch.inf)
            match = match & ~torch.eye(48, dtype=torch.bool)
        matched = logits.masked_fill(~match, -torch.inf)
        positive = matched.logsumexp(1) if inside else (logits.masked_fill(~match, 0)).sum(1)
        inner = torch.where(match.any(1), grads[1], 0.0)
        total = (grads[0] * logits.logsumexp(1)).sum()
        total = total + (inner * positive.masked_fill(inner == 0, 0.0)).sum()
        return torch.autograd.grad(total, leaves)

    arguments = (query, key, temperature, *lists)
    query_, key_, temperature_, *lists_ = map(exact, arguments)
    truth = run(chunked, tuple(map(exact, grads)), query_, key_, temperature_, lists_, inside)
    ours = run(kernels, grads, query, key, temperature, lists, inside)
    assert [value.dtype for value in ours] == [torch.float32] * 3 + [dtype] * 2 + [torch.float32]
    for mine, theirs, right in zip(ours[3:5], plain(), truth[3:5], strict=False):
        scale = right.abs().max()
        error, allowed = (mine - right).abs().max(), (theirs - right).abs().max()
        assert error <= 2 * allowed + floor * scale
    slope = truth[5]
    assert (ours[5] - slope).abs() <= 20 * floor * small * 48  # sums of 48 rows that may cancel
    torch.testing.assert_close(ours[0].double(), truth[0], rtol=1e-5, atol=1e-5)


@interpreted
def test_float16_gradients_do_not_vanish():
    """Gradients of logits that float16 rounds to 0 make gradients of queries that it can hold."""
    query, key, lists = make_problem("ids", 20, 30, 8, torch.float16)
    query, key, temperature = query / 1000, key * 300, torch.tensor(0.3)
    grads = (torch.rand(20) * 5e-8, torch.zeros(20))
    found = run(kernels, grads, query, key, temperature, lists, False)
    wide = run(kernels, grads, query.float(), key.float(), temperature, lists, False)
    assert (found[3] - wide[3]).norm() <= 1e-2 * wide[3].norm()
    # What float16 cannot hold either is still seen by the temperature, and no size overflows.
    for size in (1e-30, 1e-9, 1e4, 1e30):
        grads = (torch.rand(20) * size, torch.zeros(20))
        found = run(kernels, grads, query, key, temperature, lists, False)
        wide = run(kernels, grads, query.float(), key.float(), temperature, lists, False)
        torch.testing.assert_close(found[5], wide[5], rtol=2e-3, atol=2e-3 * size)


@interpreted
def test_dtypes_may_differ_and_inputs_be_strided():
    query = torch.randn(12, 40).to(torch.bfloat16)[:, ::4]
    key = torch.randn(10, 25).t()[:15].repeat(2, 1)[::2, :].to(torch.float32)
    _, _, lists = make_problem("weights", 12, len(key), 3)
    index, weight = lists[2].t().contiguous().t(), lists[3].t().contiguous().t()
    temperature = torch.tensor(0.5, dtype=torch.float16)
    grads = (torch.ones(1).expand(12), torch.randn(12))
    assert not (query.is_contiguous() or index.is_contiguous() or grads[0].is_contiguous())
    lists = (None, None, index, weight)
    found = run(kernels, grads, query, key, temperature, lists, True)
    arguments = map(exact, (query, key, temperature, *lists))
    query_, key_, temperature_, *lists_ = arguments
    truth = run(chunked, tuple(map(exact, grads)), query_, key_, temperature_, lists_, True)
    assert [value.dtype for value in found[3:]] == [torch.bfloat16, torch.float32, torch.float16]
    for value, right, tolerance in zip(found, truth, [1e-5] * 3 + [1e-2, 1e-5, 1e-2], strict=True):
        torch.testing.assert_close(value.double(), right, rtol=tolerance, atol=tolerance)


@interpreted
def test_key_gradient_only_where_it_is_required():
    query, key, lists = make_problem("index", 9, 11, 4)
    statistics = kernels.forward(query, key, torch.tensor(0.5), *lists, False)
    arguments = (*statistics[:2], query, key, torch.tensor(0.5), *lists, False)
    with_key = kernels.backward(torch.ones(9), torch.ones(9), *arguments, True)
    without = kernels.backward(torch.ones(9), torch.ones(9), *arguments, False)
    assert without[1].shape == (0,) and with_key[1].shape == key.shape
    assert torch.equal(with_key[0], without[0]) and torch.equal(with_key[2], without[2])


@interpreted
@pytest.mark.parametrize("kind", ["ids", "weights"])
@pytest.mark.parametrize("keys", [None, 21])
def test_runs_give_the_same_bits(kind, keys):
    query, key, lists = make_problem(kind, 40, keys, 20)
    if kind == "weights":
        lists[2][::2] = 5  # a key that half of the queries list
    grads = (torch.randn(40), torch.randn(40))
    results = [run(kernels, grads, query, key, torch.tensor(0.3), lists, True) for _ in range(2)]
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))


# ---- Hostile values


@interpreted
@pytest.mark.parametrize("keys", [None, 6])
@pytest.mark.parametrize("inside", [False, True])
def test_an_index_out_of_range_is_no_positive(keys, inside):
    query, key, lists = make_problem("weights", 8, keys, 5)
    columns = 8 if keys is None else keys
    index = torch.arange(24).view(8, 3) % columns
    hostile, clean = index.clone(), index.clone()
    wrong = [-2, columns, columns + 1, 2**31, 2**62, INT64.min, INT64.max]
    for place, value in enumerate(wrong):
        hostile[place, place % 3], clean[place, place % 3] = value, -1
    grads = (torch.randn(8), torch.randn(8))
    results = [
        run(
            kernels,
            grads,
            guarded(query),
            guarded(key),
            torch.tensor(0.5),
            (None, None, chosen, lists[3]),
            inside,
        )
        for chosen in (hostile, clean)
    ]
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))


@interpreted
def test_a_weight_of_zero_reads_nothing():
    query, key, _ = make_problem("ids", 6, 4, 5)
    index = torch.tensor([[0, 3]] * 6)
    weight = torch.tensor([[0.5, 0.0]] * 6)
    broken = key.clone()
    broken[3] = torch.nan
    temperature = torch.tensor(0.5)
    for inside in (False, True):
        _, positive, total = kernels.forward(
            query, broken, temperature, None, None, index, weight, inside
        )
        assert positive.isfinite().all() and torch.equal(total, torch.full((6,), 0.5))


@interpreted
def test_broken_weights_stay_in_their_rows():
    query, key, lists = make_problem("weights", 9, 7, 5)
    weight = lists[3].clone()
    weight[2], weight[3] = torch.nan, -torch.inf
    lists[2][2:4] = torch.arange(6).view(2, 3)
    grads = (torch.ones(9), torch.ones(9))
    for inside in (False, True):
        good = kernels.forward(query, key, torch.tensor(0.5), *lists, inside)
        bad = run(kernels, grads, query, key, torch.tensor(0.5), (*lists[:3], weight), inside)
        others = torch.ones(9, dtype=torch.bool).index_fill(0, torch.tensor([2, 3]), False)
        assert all(torch.equal(x[others], y[others]) for x, y in zip(good, bad[:3], strict=True))
        assert not bad[1][2].isfinite()
        assert bad[3][others].isfinite().all()


@interpreted
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keys", [None, 12])
@pytest.mark.parametrize("inside", [False, True])
def test_rows_without_gradient_add_nothing(kind, keys, inside):
    query, key, lists = make_problem(kind, 20, keys, 5)
    temperature = torch.tensor(0.5)
    lse, positive, _ = kernels.forward(query, key, temperature, *lists, inside)
    outer, inner = torch.randn(20), torch.where(positive.isfinite(), torch.randn(20), 0.0)
    outer[3:6], inner[3:9] = 0, 0
    results = []
    for value in (0.0, -torch.inf, torch.nan):
        lse[3:6], positive[3:9] = value, value
        arguments = (query, key, temperature, *lists, inside, True)
        results.append(kernels.backward(outer, inner, lse, positive, *arguments))
    for result in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], result, strict=True))
        assert all(value.isfinite().all() for value in result)


@interpreted
def test_extreme_logits():
    for size in (1e4, 1e15):
        query, _, lists = make_problem("ids", 30, None, 8)
        query = query * size**0.5
        for inside in (False, True):
            found = kernels.forward(query, None, torch.tensor(1.0), *lists, inside)
            truth = chunked.forward(
                query.double(), None, torch.tensor(1.0).double(), *lists, inside
            )
            for value, right in zip(found, truth, strict=True):
                torch.testing.assert_close(value.double(), right, rtol=1e-5, atol=1e-5)


@interpreted
def test_offsets_beyond_32_bits():
    """A key matrix of more than 2^31 elements, of which only the rows that are read are in memory."""
    rows, dim = 2**21 + 3, 1024
    key = torch.empty(rows, dim, dtype=torch.float16)
    key[-1] = torch.randn(dim)
    query = torch.randn(2, dim).half()
    index = torch.tensor([[rows - 1], [-1]])
    problem = kernels._prepare(query, key, torch.tensor(2.0), None, None, index, None, False)
    positive, weight = kernels._listed_positives(problem)
    torch.testing.assert_close(positive[0], query[0].float() @ key[-1].float() / 2)
    assert weight.tolist() == [1, 0]

    last = torch.empty(16, dim, dtype=torch.float16)
    copy_tile[(1,)](key, last, rows - 1, rows, dim)
    assert torch.equal(last[0], key[-1]) and not last[1:].any()


# ---- What the kernels leave to the torch version


@interpreted
@pytest.mark.parametrize(
    ("rows", "keys", "dim", "dtype"),
    [
        (5, None, 4, torch.float64),
        (5, 6, 1025, torch.float32),
        (5, 6, 0, torch.float32),
        (0, None, 4, torch.float32),
        (0, 3, 4, torch.float32),
        (5, 0, 4, torch.float32),
    ],
)
@pytest.mark.parametrize("kind", ["ids", "index"])
def test_what_is_left_to_torch(rows, keys, dim, dtype, kind):
    columns = rows if keys is None else keys
    query, key = torch.randn(rows, dim, dtype=dtype), None
    if keys is not None:
        key = torch.randn(keys, dim, dtype=dtype)
    lists = (None, None, torch.full((rows, 2), min(1, columns - 1)), None)
    if kind == "ids":
        lists = (
            torch.arange(rows) % 2,
            None if key is None else torch.arange(keys) % 2,
            None,
            None,
        )
    grads = (torch.zeros(rows, dtype=dtype), torch.ones(rows, dtype=dtype))
    temperature = torch.tensor(0.5, dtype=dtype)
    results = [
        run(function, grads, query, key, temperature, lists, False)
        for function in (kernels, chunked)
    ]
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


@interpreted
def test_an_empty_list_has_no_positive():
    query, key, _ = make_problem("ids", 5, 4, 3)
    lists = (None, None, torch.zeros(5, 0, dtype=torch.int64), None)
    check(query, key, lists, False)
    check(query, None, lists, True)


# ---- Tables, tuning, registration


@compiled
def test_tiles_cover_every_width():
    for architecture in (0, *configs.TABLE):
        for precision in ("half", "tf32", "ieee"):
            for dim in range(1, configs.MAX_DIM + 1):
                forward = configs.tiles(architecture, precision, dim, backward=False)
                backward = configs.tiles(architecture, precision, dim, backward=True)
                for chosen in (forward, backward):
                    sizes = (chosen.rows, chosen.columns, chosen.depth)
                    assert all(size >= 16 and size & (size - 1) == 0 for size in sizes)
                    assert not chosen.whole or dim <= chosen.depth < 2 * max(dim, 16)
                assert forward.width == 0 and backward.width & (backward.width - 1) == 0
                assert backward.width < 2 * max(dim, 16)
                assert not backward.whole or backward.width == backward.depth


@compiled
def test_tuning_is_asked_for(monkeypatch):
    monkeypatch.setattr(configs, "_tuned", {})
    static = configs.tiles(90, "half", 128, backward=True)
    tried = []

    def milliseconds(candidate, launch):
        launch(candidate)
        return float(candidate.columns)

    monkeypatch.setattr(configs, "_milliseconds", milliseconds)
    monkeypatch.delenv("STOR_OPS_AUTOTUNE", raising=False)
    assert configs.choose(("case",), static, tried.append) == static
    assert tried == []
    monkeypatch.setenv("STOR_OPS_AUTOTUNE", "1")
    for _ in range(2):
        chosen = configs.choose(("case",), static, tried.append)
        assert chosen == static._replace(columns=static.columns // 2)
    assert tried[0] == static and len(tried) == 5  # once per case


@compiled
@pytest.mark.skipif(find_spec("triton") is None, reason="there is no triton")
def test_cuda_has_these_kernels():
    code = """
import sys, torch
registered, register = {}, torch.library.register_kernel
def record(op, device_types, func, **options):
    registered[op, device_types] = f"{func.__module__}.{func.__name__}"
    return register(op, device_types, func, **options)
torch.library.register_kernel = record
import stor_ops
has = torch._C._dispatch_has_kernel_for_dispatch_key
for op in ("stor_ops::info_nce", "stor_ops::info_nce_backward"):
    print(registered.get((op, "cuda")), has(op, "CUDA"))
assert "triton" not in sys.modules
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [
        "stor_ops._triton.info_nce.forward True",
        "stor_ops._triton.info_nce.backward True",
    ]
