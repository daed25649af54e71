"""The Triton kernels of info_nce under the interpreter: rounding, float16, dtypes that differ."""

import pytest
import torch
from triton_cases import (
    compiled,
    exact,
    interpreted,
    make_problem,
    needs_triton,
    outputs,  # noqa: F401
    run,
    run_under_the_interpreter,
)

from stor_ops import _info_nce_chunked as chunked
from stor_ops._triton import info_nce as kernels


@compiled
@needs_triton
def test_under_the_interpreter():
    run_under_the_interpreter(__file__)


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
