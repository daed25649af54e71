"""overlap_rate, pairwise_overlap_rate and overlap_positives: the numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from view_cases import make_views

from stor_ops import (
    Views,
    multi_positive_info_nce,
    overlap_positives,
    overlap_rate,
    pairwise_overlap_rate,
    reference,
)

INF, NAN = float("inf"), float("nan")


def view(box=(0, 0, 10, 10), **fields) -> Views:
    video = torch.tensor([fields.pop("video", 0)])
    return Views.from_boxes(torch.tensor([box], dtype=torch.float32), video=video, **fields)


HAND_COMPUTED = {
    # first, second, spatial, temporal for clips of 8 frames
    "itself": (view(), view(), 1, 1),
    "half": (view(), view((5, 0, 15, 10)), 0.5, 1),
    "quarter": (view(), view((-5, 5, 5, 15)), 0.25, 1),
    "touching": (view(), view((10, 0, 20, 10)), 0, 1),
    "apart": (view(), view((20, 20, 30, 30)), 0, 1),
    "inside": (view(), view((2, 2, 4, 7)), 0.1, 1),
    "around": (view((2, 2, 4, 7)), view(), 1, 1),
    "later": (view(start=3.0), view(start=5.0), 1, 0.75),
    "earlier": (view(start=5.0), view(start=3.0), 1, 0.75),
    "right after": (view(start=0.0), view(start=8.0), 1, 0),
    "faster": (view(stride=2.0), view(start=4.0), 1, 0.5),
    "slower": (view(start=4.0), view(stride=2.0), 1, 1),
    "fractions": (view(stride=0.5), view(start=1.5, stride=0.25), 1, 0.5),
    "both": (view(), view((5, 0, 15, 10), start=2.0), 0.5, 0.75),
    "another video": (view(), view(video=1), 0, 0),
    "turned": (view(), view(flip=True, rotation=3), 1, 1),
    "huge boxes": (view((-1e30, -1e30, 1e30, 1e30)), view((0, -1e30, 1e30, 3e38)), 0.5, 1),
    "huge against small": (view((-3e38, -3e38, 3e38, 3e38)), view(), 0, 1),
    "small against huge": (view(), view((-3e38, -3e38, 3e38, 3e38)), 1, 1),
    "tiny boxes": (view((0, 0, 1e-45, 1e-45)), view((0, 0, 1e-45, 1e-45)), 1, 1),
    "huge start": (view(start=1e30), view(start=1e30), 1, 1),
    "huge starts": (view(start=1e30), view(start=-3e38), 1, 0),
    "huge stride": (view(stride=1e38), view(start=4e38 / 2, stride=3e38), 1, 0.75),
    "tiny stride": (view(start=5.0, stride=1e-45), view(start=5.0, stride=1e-45), 1, 1),
}


@pytest.mark.parametrize("case", HAND_COMPUTED)
def test_hand_computed(case):
    first, second, spatial, temporal = HAND_COMPUTED[case]
    expected = torch.tensor([spatial, temporal, spatial * temporal], dtype=torch.float32)
    got = overlap_rate(first, second, clip_frames=8)
    torch.testing.assert_close(torch.cat(got), expected, rtol=1e-6, atol=1e-7)
    pairwise = pairwise_overlap_rate(first, second, clip_frames=8)
    assert torch.equal(torch.cat(pairwise).flatten(), torch.cat(got))
    oracle = reference.overlap_rate(first, second, clip_frames=8)
    torch.testing.assert_close(torch.cat(oracle).float(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("rows", [0, 1, 5, 700])
def test_reference(rows):
    first, second = make_views(rows, seed=1), make_views(rows, seed=2)
    got = overlap_rate(first, second, clip_frames=16)
    expected = reference.overlap_rate(first, second, clip_frames=16)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == torch.float32
        assert ours.shape == (rows,)
        assert torch.equal(ours, theirs.float())
    if rows == 700:
        assert float(got.joint.min()) == 0
        assert 0.1 < float(got.joint.max()) <= 1


@pytest.mark.parametrize(("rows", "others"), [(0, 0), (0, 3), (3, 0), (1, 1), (40, 7), (7, 300)])
def test_pairwise_reference(rows, others):
    first, second = make_views(rows, seed=1), make_views(others, seed=2)
    got = pairwise_overlap_rate(first, second, clip_frames=16)
    expected = reference.pairwise_overlap_rate(first, second, clip_frames=16)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == torch.float32
        assert ours.shape == (rows, others)
        assert torch.equal(ours, theirs.float())


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40)
def test_rates_are_rates_and_symmetric_for_equal_sizes(seed):
    first, second = make_views(16, videos=1, seed=seed), make_views(16, videos=1, seed=seed + 1)
    for rate in pairwise_overlap_rate(first, second, clip_frames=4):
        assert bool(((rate >= 0) & (rate <= 1)).all())
    # Sizes that float32 adds without rounding: the same for both views, whatever the corners are.
    corner_a, corner_b = (views.box[:, :2].round() for views in (first, second))
    size = first.box[:, 2:].round() - corner_a + 100
    first = replace(first, box=torch.cat([corner_a, corner_a + size], 1))
    second = replace(second, box=torch.cat([corner_b, corner_b + size], 1), stride=first.stride)
    there = overlap_rate(first, second, clip_frames=4)
    back = overlap_rate(second, first, clip_frames=4)
    torch.testing.assert_close(there, back)


def test_different_sizes_are_measured_over_the_first():
    small, large = view((0, 0, 5, 10), stride=1.0), view((0, 0, 10, 10), stride=2.0)
    assert [float(rate) for rate in overlap_rate(small, large, clip_frames=4)] == [1, 1, 1]
    assert [float(rate) for rate in overlap_rate(large, small, clip_frames=4)] == [0.5, 0.5, 0.25]


def test_fields_need_not_be_contiguous():
    first, second = make_views(60, seed=1), make_views(60, seed=2)
    apart = Views(*(torch.stack([f, f], dim=-1)[..., 0] for f in vars(first).values()))
    assert not apart.box.is_contiguous()
    assert not apart.video.is_contiguous()
    for op in (overlap_rate, pairwise_overlap_rate):
        expected = op(first, second, clip_frames=3)
        torch.testing.assert_close(op(apart, second, clip_frames=3), expected, rtol=0, atol=0)
    backwards = replace(first, box=first.box.T.contiguous().T)
    expected = overlap_rate(second, first, clip_frames=3)
    torch.testing.assert_close(
        overlap_rate(second, backwards, clip_frames=3), expected, rtol=0, atol=0
    )
    torch.testing.assert_close(
        overlap_positives(apart, clip_frames=3), overlap_positives(first, clip_frames=3)
    )


BAD_ROWS = {
    "video negative": ({"video": -1}, "video"),
    "start NaN": ({"start": NAN}, "start"),
    "start infinite": ({"start": -INF}, "start"),
    "stride NaN": ({"stride": NAN}, "stride"),
    "stride infinite": ({"stride": INF}, "stride"),
    "stride zero": ({"stride": 0.0}, "stride"),
    "stride negative": ({"stride": -1.0}, "stride"),
    "box NaN": ({"box": torch.tensor([0, NAN, 1, 1])}, "box"),
    "box infinite": ({"box": torch.tensor([0, 0, INF, 1])}, "box"),
    "box empty": ({"box": torch.tensor([1.0, 0, 1, 1])}, "box"),
    "box inverted": ({"box": torch.tensor([0.0, 2, 1, 1])}, "box"),
    "rotation 4": ({"rotation": 4}, "rotation"),
    "rotation 255": ({"rotation": 255}, "rotation"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows_are_named(case):
    change, field = BAD_ROWS[case]
    good, bad = make_views(8), make_views(8)
    for name, value in change.items():
        getattr(bad, name)[5] = value
    for op in (overlap_rate, pairwise_overlap_rate):
        with pytest.raises(ValueError, match=rf"^{op.__name__}: first row 5: {field}: "):
            op(bad, good, clip_frames=4)
        with pytest.raises(ValueError, match=rf"^{op.__name__}: second row 5: {field}: "):
            op(good, bad, clip_frames=4)
    for limit in (None, 0, 3):
        with pytest.raises(ValueError, match=rf"^overlap_positives: views row 5: {field}: "):
            overlap_positives(bad, clip_frames=4, max_positives=limit)


def grouped_views(sizes: list[int]) -> Views:
    """Views in random order, ``sizes[v]`` of each video v."""
    views = make_views(sum(sizes))
    video = torch.repeat_interleave(
        torch.arange(len(sizes)), torch.tensor(sizes, dtype=torch.int64)
    )
    return replace(views, video=video[torch.randperm(len(views))] * 10)


@pytest.mark.parametrize("sizes", [[], [1], [1, 1, 1], [2, 2], [5, 1, 3, 2, 4], [7]])
def test_positives_reference(sizes):
    views = grouped_views(sizes)
    index, weight = overlap_positives(views, clip_frames=16)
    expected_index, expected_weight = reference.overlap_positives(views, clip_frames=16)
    assert index.dtype == torch.int64
    assert weight.dtype == torch.float32
    assert torch.equal(index, expected_index)
    assert torch.equal(weight, expected_weight.float())


@pytest.mark.parametrize("limit", [0, 1, 2, 4, 9, 100])
def test_positives_limit(limit):
    views = grouped_views([5, 1, 3, 2, 4])
    full_index, full_weight = overlap_positives(views, clip_frames=16)
    index, weight = overlap_positives(views, clip_frames=16, max_positives=limit)
    assert index.shape == weight.shape == (15, limit)
    shared = min(limit, 4)
    assert torch.equal(index[:, :shared], full_index[:, :shared])
    assert torch.equal(weight[:, :shared], full_weight[:, :shared])
    assert bool((index[:, shared:] == -1).all())
    assert not weight[:, shared:].any()


def test_positives_feed_the_loss():
    views = grouped_views([5, 1, 3, 2, 4])
    index, weight = overlap_positives(views, clip_frames=16)
    query = torch.randn(15, 8, requires_grad=True)
    loss = multi_positive_info_nce(query, positive_index=index, positive_weight=weight)
    scores = (query @ query.T / 0.1).double()
    scores.fill_diagonal_(-INF)
    log_p = scores - scores.logsumexp(1, keepdim=True)
    joint = reference.pairwise_overlap_rate(views, views, clip_frames=16).joint.fill_diagonal_(0)
    per_row = -(joint * log_p.masked_fill(joint == 0, 0)).sum(1)[joint.sum(1) > 0]
    expected = (per_row / joint.sum(1)[joint.sum(1) > 0]).mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    loss.backward()
    assert bool(torch.isfinite(query.grad).all())
