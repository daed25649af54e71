"""The Triton kernels of info_nce under the interpreter: broken lists, extreme values, large offsets."""

import pytest
import torch
from triton_cases import (
    INTERPRETED,
    KINDS,
    compiled,
    guarded,
    interpreted,
    make_problem,
    needs_triton,
    outputs,  # noqa: F401
    run,
    run_under_the_interpreter,
)

from stor_ops import _info_nce_chunked as chunked
from stor_ops._triton import info_nce as kernels

INT64 = torch.iinfo(torch.int64)

if INTERPRETED:
    import triton
    import triton.language as tl

    from stor_ops._triton import dense

    @triton.jit
    def copy_tile(matrix, tile, first_row, num_rows, dim):
        """Sixteen rows of a matrix, as the dense kernels read them."""
        values = dense._load_tile(matrix, first_row, num_rows, 0, dim, 16, 1024)
        tl.store(tile + tl.arange(0, 16)[:, None] * 1024 + tl.arange(0, 1024)[None, :], values)


@compiled
@needs_triton
def test_under_the_interpreter():
    run_under_the_interpreter(__file__)


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
