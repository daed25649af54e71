"""sample_view_pairs: registration, compilation, shapes without data, and every refusal."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils import _pytree as pytree
from view_cases import columns, mixed_columns, same_bits

from stor_ops import ViewPairs, reference, sample_view_pairs

OP = torch.ops.stor_ops.sample_view_pairs.default
# clip_frames, seed, epoch, draw, scale, ratio, strides, rates, rotate, flip
ARGUMENTS = (16, 0, 0, 0, [0.2, 1.0], [0.75, 1.25], [1.0, 2.0], [1.0, 0.5], True, 0.5)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_opcheck(rows):
    torch.library.opcheck(OP, (*columns(rows), *ARGUMENTS))
    strided = torch.stack([columns(rows)[0]] * 2, 1)[:, 0]
    torch.library.opcheck(OP, (strided, *columns(rows)[1:], *ARGUMENTS))


def test_empty_batch():
    pairs = sample_view_pairs(*columns(0))
    assert len(pairs) == 0
    assert pairs.first.box.shape == (0, 4)
    assert pairs.rotation_class.shape == (0, 2)
    assert same_bits(pairs, reference.sample_view_pairs(*columns(0)))


@pytest.mark.parametrize("rows", [0, 6])
def test_meta_gives_the_shapes(rows):
    real = sample_view_pairs(*columns(rows))
    meta = sample_view_pairs(*(column.to("meta") for column in columns(rows)))
    assert isinstance(meta, ViewPairs)
    for ours, theirs in zip(pytree.tree_leaves(meta), pytree.tree_leaves(real), strict=True):
        assert ours.device.type == "meta"
        assert (ours.shape, ours.dtype, ours.stride()) == (
            theirs.shape,
            theirs.dtype,
            theirs.stride(),
        )


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_equals_eager(backend):
    def sample(*videos):
        pairs = sample_view_pairs(*videos, seed=3, rates=(1.0, 0.5), draw=1)
        return pairs, pairs.first.box[:, 2] - pairs.first.box[:, 0]

    compiled = torch.compile(sample, fullgraph=True, backend=backend)
    for rows in (3, 5, 8):  # the second one makes the batch size dynamic
        videos = mixed_columns(rows)
        assert same_bits(compiled(*videos), sample(*videos))


def test_an_epoch_is_no_reason_to_compile_anew():
    videos = mixed_columns(3)

    def sample(epoch: int, draw: int):
        return sample_view_pairs(*videos, epoch=epoch, draw=draw)

    compiled = torch.compile(sample, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(recompile_limit=3):
        for epoch in range(3, 15):
            assert same_bits(compiled(epoch, 2 * epoch), sample(epoch, 2 * epoch))


def with_column(name: str, value: object):
    names = ("num_frames", "heights", "widths", "keys")
    return {name: value, "column": names.index(name)}


INT = torch.full((3,), 20)
LONG = 2**64
BAD_COLUMNS = [
    *((name, bad, error, rf"{name}: {text}")
      for name in ("num_frames", "heights", "widths", "keys")
      for bad, error, text in (
          ([1, 2, 3], TypeError, "expected a tensor, got list"),
          (INT.int(), TypeError, "expected torch.int64, got torch.int32"),
          (INT.float(), TypeError, "expected torch.int64, got torch.float32"),
          (INT[:, None], ValueError, r"expected shape \(.*\), got \(3, 1\)"),
          (INT[0], ValueError, r"expected shape \(.*\), got \(\)"),
      )),
    *((name, INT[:2], ValueError, rf"{name}: expected shape \(3\), got \(2,\)")
      for name in ("heights", "widths", "keys")),
    *((name, INT.to("meta"), ValueError, rf"{name}: expected a tensor on cpu, got meta")
      for name in ("heights", "widths", "keys")),
    *((name, torch.tensor([20, 20, value]), ValueError, rf"row 2: .*num_frames, height.* {value}")
      for name in ("num_frames", "heights", "widths")
      for value in (0, -1, 2**24 + 1, 2**63 - 1, -(2**63))),
]  # fmt: skip

NAN, INF = math.nan, math.inf
RANGE = "expected a finite number in"
COUNT = r"expected .* number\(s\), got"
BAD_OPTIONS = [
    *((name, bad, TypeError, rf"{name}: expected an integer, got {kind}")
      for name in ("clip_frames", "seed", "epoch", "draw")
      for bad, kind in ((1.0, "float"), ("1", "str"), (None, "NoneType"), (True, "bool"))),
    *(("clip_frames", bad, ValueError, rf"clip_frames: expected 1 to 16777216, got {bad}")
      for bad in (0, -1, 2**24 + 1, 2**63, LONG)),
    *(("seed", bad, ValueError, rf"seed: expected .*, got {bad}") for bad in (2**63, -(2**63) - 1)),
    *(("epoch", bad, ValueError, rf"epoch: expected 0 to .*, got {bad}") for bad in (-1, 2**32)),
    *(("draw", bad, ValueError, rf"draw: expected 0 to .*, got {bad}") for bad in (-1, 2**30)),
    *((name, bad, TypeError, rf"{name}: expected a sequence")
      for name in ("scale", "ratio", "strides", "rates") for bad in (0.5, "0.5", None, torch.ones(2))),
    *((name, bad, TypeError, rf"{name}\[1\]: expected a number")
      for name in ("scale", "ratio", "strides", "rates") for bad in ((1.0, "1"), (1.0, None))),
    *((name, (1.0, bad), ValueError, rf"{name}\[1\]: {RANGE}")
      for name in ("scale", "ratio", "strides", "rates") for bad in (NAN, INF, -INF, -0.5)),
    *((name, (), ValueError, rf"{name}: {COUNT} 0") for name in ("scale", "ratio", "strides", "rates")),
    *((name, (0.5,), ValueError, rf"{name}: {COUNT} 1") for name in ("scale", "ratio")),
    *((name, (0.5,) * 3, ValueError, rf"{name}: {COUNT} 3") for name in ("scale", "ratio")),
    *((name, (1.0, 0.5), ValueError, rf"{name}: expected \(low, high\) in order, got")
      for name in ("scale", "ratio")),
    *((name, (0.5,) * 33, ValueError, rf"{name}: expected at most 32, got 33")
      for name in ("strides", "rates")),
    ("scale", (0.0, 1.0), ValueError, rf"scale\[0\]: {RANGE}"),
    ("scale", (0.5, 1.1), ValueError, rf"scale\[1\]: {RANGE}"),
    ("ratio", (0.0, 1.0), ValueError, rf"ratio\[0\]: {RANGE}"),
    ("strides", (0.0,), ValueError, rf"strides\[0\]: {RANGE}"),
    ("strides", (1e7,), ValueError, rf"strides\[0\]: {RANGE}"),
    ("rates", (1.1,), ValueError, rf"rates\[0\]: {RANGE}"),
    *(("flip", bad, ValueError, rf"flip: {RANGE}") for bad in (-0.1, 1.1, NAN, INF)),
    *(("flip", bad, TypeError, "flip: expected a number") for bad in (True, "0.5", None)),
    *(("rotate", bad, TypeError, "rotate: expected a bool") for bad in (1, "yes", None)),
]  # fmt: skip


@pytest.mark.parametrize(("argument", "bad", "error", "text"), BAD_COLUMNS)
def test_bad_columns(argument, bad, error, text):
    videos = dict.fromkeys(("num_frames", "heights", "widths", "keys"), INT) | {argument: bad}
    with pytest.raises(error, match=rf"^sample_view_pairs: {text}"):
        sample_view_pairs(**videos)


@pytest.mark.parametrize(("argument", "bad", "error", "text"), BAD_OPTIONS)
def test_bad_options(argument, bad, error, text):
    with pytest.raises(error, match=rf"^sample_view_pairs: {text}"):
        sample_view_pairs(*columns(3), **{argument: bad})


def test_devices_of_all_columns_must_agree():
    with pytest.raises(ValueError, match=r"^sample_view_pairs: heights: .*on meta, got cpu"):
        sample_view_pairs(INT.to("meta"), INT, INT, INT)


@pytest.mark.parametrize(
    ("position", "bad", "name"),
    [
        (0, 0, "clip_frames"),
        (0, 2**63 - 1, "clip_frames"),
        (2, -1, "epoch"),
        (3, 2**30, "draw"),
        (4, [0.5, NAN], "scale"),
        (4, [0.5], "scale"),
        (5, [2.0, 1.0], "ratio"),
        (5, [0.0, 1.0], "ratio"),
        (6, [], "strides"),
        (6, [-1.0], "strides"),
        (6, [1.0] * 33, "strides"),
        (7, [], "rates"),
        (7, [INF], "rates"),
        (9, NAN, "flip"),
    ],
)
def test_the_bare_op_refuses_as_well(position, bad, name):
    arguments = [*ARGUMENTS]
    arguments[position] = bad
    with pytest.raises(ValueError, match=rf"sample_view_pairs: {name}: "):
        OP(*columns(3), *arguments)


def test_the_bare_op_refuses_bad_columns():
    for bad in (INT.int(), INT[:2], INT[:, None]):
        with pytest.raises(ValueError, match="sample_view_pairs: keys: "):
            OP(INT, INT, INT, bad, *ARGUMENTS)
