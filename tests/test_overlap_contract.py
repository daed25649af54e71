"""The overlap ops: registration, compilation, shapes without data, and every refusal."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from view_cases import make_views, same_bits

from stor_ops import OverlapRate, Views, overlap_positives, overlap_rate, pairwise_overlap_rate

OPS = {"overlap_rate": overlap_rate, "pairwise_overlap_rate": pairwise_overlap_rate}


def fields(views: Views) -> list[torch.Tensor]:
    return list(vars(views).values())


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("rows", [0, 1, 6])
def test_opcheck(name, rows):
    op = getattr(torch.ops.stor_ops, name).default
    first, second = make_views(rows, seed=1), make_views(rows, seed=2)
    torch.library.opcheck(op, (fields(first), fields(second), 16))
    if name == "pairwise_overlap_rate":
        torch.library.opcheck(op, (fields(first), fields(make_views(4)), 16))
    strided = Views(*(torch.stack([f, f], -1)[..., 0] for f in fields(first)))
    torch.library.opcheck(op, (fields(strided), fields(second), 16))
    expanded = make_views(1)._map(lambda f: f.expand(rows, *f.shape[1:]))
    torch.library.opcheck(op, (fields(expanded), fields(second), 16))


def test_compiled_equals_eager():
    def measure(first: Views, second: Views):
        each = overlap_rate(first, second, clip_frames=8)
        all_pairs = pairwise_overlap_rate(first, second, clip_frames=8)
        positives = overlap_positives(first, clip_frames=8, max_positives=5)
        return each, all_pairs, positives, each.joint * 2

    compiled = torch.compile(measure, fullgraph=True, backend="aot_eager")
    for rows in (3, 5, 9):
        views = make_views(rows, seed=1), make_views(rows, seed=2)
        assert same_bits(compiled(*views), measure(*views))


def test_compiled_by_inductor():
    def doubled(first: Views, second: Views) -> torch.Tensor:
        return overlap_rate(first, second, clip_frames=8).joint * 2

    views = make_views(5, seed=1), make_views(5, seed=2)
    compiled = torch.compile(doubled, fullgraph=True)
    assert torch.equal(compiled(*views), doubled(*views))


@pytest.mark.parametrize("rows", [0, 6])
def test_meta_gives_the_shapes(rows):
    first = make_views(rows).to("meta")
    second = make_views(3).to("meta")
    for rates, shape in (
        (overlap_rate(first, first, clip_frames=2), (rows,)),
        (pairwise_overlap_rate(first, second, clip_frames=2), (rows, 3)),
    ):
        assert isinstance(rates, OverlapRate)
        for rate in rates:
            assert (rate.device.type, rate.shape, rate.dtype) == ("meta", shape, torch.float32)
    index, weight = overlap_positives(first, clip_frames=2, max_positives=4)
    assert (index.shape, index.dtype) == ((rows, 4), torch.int64)
    assert (weight.shape, weight.dtype) == ((rows, 4), torch.float32)


def test_empty():
    index, weight = overlap_positives(make_views(0), clip_frames=2)
    assert index.shape == weight.shape == (0, 0)
    index, weight = overlap_positives(make_views(0), clip_frames=2, max_positives=3)
    assert index.shape == weight.shape == (0, 3)


def changed(**fields_of_views) -> Views:
    return replace(make_views(4), **fields_of_views)


BAD_VIEWS = {
    "no Views": (torch.zeros(4, 4), TypeError, ": expected stor_ops.Views, got Tensor"),
    "None": (None, TypeError, ": expected stor_ops.Views, got NoneType"),
    "list": (changed(start=[0] * 4), TypeError, r"\.start: expected a tensor, got list"),
    "video dtype": (changed(video=torch.zeros(4).int()), TypeError, r"\.video: .*int64.*int32"),
    "start dtype": (changed(start=torch.zeros(4).double()), TypeError, r"\.start: .*float64"),
    "stride dtype": (changed(stride=torch.ones(4).long()), TypeError, r"\.stride: .*got torch.int64"),
    "box dtype": (changed(box=torch.zeros(4, 4).half()), TypeError, r"\.box: .*float16"),
    "flip dtype": (changed(flip=torch.zeros(4).byte()), TypeError, r"\.flip: .*uint8"),
    "rotation dtype": (changed(rotation=torch.zeros(4).long()), TypeError, r"\.rotation: .*int64"),
    "video shape": (changed(video=torch.zeros(4, 1).long()), ValueError, r"\.video: expected shape"),
    "video scalar": (changed(video=torch.tensor(0)), ValueError, r"\.video: expected shape"),
    "start shape": (changed(start=torch.zeros(5)), ValueError, r"\.start: .*\(4\), got \(5,\)"),
    "stride shape": (changed(stride=torch.ones(4, 1)), ValueError, r"\.stride: .*got \(4, 1\)"),
    "box shape": (changed(box=torch.zeros(4, 5)), ValueError, r"\.box: .*\(4, 4\), got \(4, 5\)"),
    "box flat": (changed(box=torch.zeros(4)), ValueError, r"\.box: .*\(4, 4\), got \(4,\)"),
    "flip shape": (changed(flip=torch.zeros(0).bool()), ValueError, r"\.flip: .*got \(0,\)"),
    "rotation shape": (changed(rotation=torch.zeros(3).byte()), ValueError, r"\.rotation: .*\(3,\)"),
    "mixed device": (changed(box=torch.zeros(4, 4, device="meta")), ValueError, r"\.box: .*cpu, got meta"),
    "no tensor": (changed(video=[0, 1, 2, 3]), TypeError, r"\.video: expected a tensor, got list"),
    "gradient": (changed(box=torch.zeros(4, 4, requires_grad=True)), ValueError, r"\.box: .*gradient"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_VIEWS)
def test_bad_views(case):
    bad, error, text = BAD_VIEWS[case]
    good = make_views(4)
    for name, op in OPS.items():
        with pytest.raises(error, match=rf"^{name}: first{text}"):
            op(bad, good, clip_frames=4)
        with pytest.raises(error, match=rf"^{name}: second{text}"):
            op(good, bad, clip_frames=4)
    with pytest.raises(error, match=rf"^overlap_positives: views{text}"):
        overlap_positives(bad, clip_frames=4)


def test_bad_pairs_of_views():
    good, meta = make_views(4), make_views(4).to("meta")
    with pytest.raises(ValueError, match=r"^overlap_rate: second: expected 4 views, got 3"):
        overlap_rate(good, make_views(3), clip_frames=4)
    for name, op in OPS.items():
        with pytest.raises(ValueError, match=rf"^{name}: second\.video: .* on cpu, got meta"):
            op(good, meta, clip_frames=4)
        with pytest.raises(ValueError, match=rf"^{name}: second\.video: .* on meta, got cpu"):
            op(meta, good, clip_frames=4)


@pytest.mark.parametrize(
    ("bad", "error", "text"),
    [
        (0, ValueError, "expected .*, got 0"),
        (-1, ValueError, "expected .*, got -1"),
        (2**63, ValueError, "expected .*, got 9223372036854775808"),
        (16.0, TypeError, "expected an integer, got float"),
        (True, TypeError, "expected an integer, got bool"),
        (None, TypeError, "expected an integer, got NoneType"),
    ],
)
def test_bad_clip_frames(bad, error, text):
    views = make_views(4)
    for name, op in OPS.items():
        with pytest.raises(error, match=rf"^{name}: clip_frames: {text}"):
            op(views, views, clip_frames=bad)
    with pytest.raises(error, match=rf"^overlap_positives: clip_frames: {text}"):
        overlap_positives(views, clip_frames=bad)


@pytest.mark.parametrize(
    ("bad", "error"), [(-1, ValueError), (2**64, ValueError), (1.5, TypeError)]
)
def test_bad_max_positives(bad, error):
    with pytest.raises(error, match=r"^overlap_positives: max_positives: expected"):
        overlap_positives(make_views(4), clip_frames=4, max_positives=bad)


@pytest.mark.parametrize("name", OPS)
def test_the_bare_op_refuses_as_well(name):
    op = getattr(torch.ops.stor_ops, name).default
    good = fields(make_views(4))
    with pytest.raises(ValueError, match=rf"{name}: clip_frames: expected at least 1, got 0"):
        op(good, good, 0)
    with pytest.raises(ValueError, match=rf"{name}: first: expected 6 tensors, got 5"):
        op(good[:5], good, 4)
    with pytest.raises(ValueError, match=rf"{name}: second\.start: unexpected dtype"):
        op(good, [good[0], good[1].double(), *good[2:]], 4)
    with pytest.raises(ValueError, match=rf"{name}: second\.box: .*\(4, 4\), got \(4, 3\)"):
        op(good, [*good[:3], good[3][:, :3], *good[4:]], 4)
    with pytest.raises(ValueError, match=rf"{name}: first\.flip: .*4 row"):
        op([*good[:4], good[4][:2], good[5]], good, 4)
    if name == "overlap_rate":
        with pytest.raises(ValueError, match=rf"{name}: second: expected 4 views"):
            op(good, fields(make_views(3)), 4)
