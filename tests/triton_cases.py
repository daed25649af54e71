"""What the tests of info_nce's Triton kernels share: the process with the interpreter, problems, the check.

The interpreter must be switched on before Triton is imported. So a file of such tests runs itself once more
in a process of its own; what is marked ``interpreted`` exists there only.
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
from stor_ops._triton import info_nce as kernels

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
FORMS, KINDS = ("out", "in"), ("ids", "index", "weights")
GUARD = 64  # elements before and after every tensor
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="there is no triton")
# The interpreter is numpy, which warns of the infinities that the kernels select away.
quiet = pytest.mark.filterwarnings("ignore::RuntimeWarning")


# ---- The process with the interpreter


def interpreted(test):
    """Keep a test for the process that has the interpreter."""
    return quiet(test) if INTERPRETED else None


def compiled(test):
    """Keep a test out of it."""
    return None if INTERPRETED else test


def run_under_the_interpreter(file):
    """Run the tests of a file that are marked ``interpreted``."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert "skipped" not in run.stdout.splitlines()[-1]


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
