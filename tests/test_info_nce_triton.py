"""The Triton kernels of info_nce, run by Triton's interpreter on CPU tensors: values and gradients."""

import pytest
import torch
from triton_cases import (
    FORMS,
    KINDS,
    check,
    compiled,
    interpreted,
    make_problem,
    needs_triton,
    outputs,  # noqa: F401
    run,
    run_under_the_interpreter,
)

from stor_ops import _info_nce_chunked as chunked
from stor_ops import reference
from stor_ops._triton import configs
from stor_ops._triton import info_nce as kernels
from stor_ops.info_nce import _row_losses


@compiled
@needs_triton
def test_under_the_interpreter():
    run_under_the_interpreter(__file__)


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
