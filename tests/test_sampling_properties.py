"""sample_view_pairs: what holds for every video and every setting."""

from __future__ import annotations

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from view_cases import box_size, columns, inside_frame

from stor_ops import ViewPairs, reference, sample_view_pairs

GRID = 1 / 1024  # of positions, for frames up to 16384 pixels

sides = st.one_of(
    st.integers(1, 5), st.integers(16, 500), st.sampled_from([1080, 1920, 4096, 16_384])
)
rates = st.lists(st.floats(0, 1), min_size=1, max_size=32)
# Multiples of 1/8, which float32 adds without rounding.
strides = st.lists(st.integers(1, 80).map(lambda n: n / 8), min_size=1, max_size=32)
scales = st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted)
ratios = st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)).map(sorted)
seeds = st.integers(-(2**63), 2**63 - 1)
ROWS = 24


def both(pairs: ViewPairs):
    return pairs.first, pairs.second


@given(height=sides, width=sides, rates=rates, scale=scales, ratio=ratios, seed=seeds)
@settings(max_examples=120)
def test_boxes(height, width, rates, scale, ratio, seed):
    pairs = sample_view_pairs(
        *columns(ROWS, 100, height, width), rates=rates, scale=scale, ratio=ratio, seed=seed
    )
    assert all(inside_frame(views, height, width) for views in both(pairs))
    w, h = box_size(pairs.first)
    assert [side.tolist() for side in box_size(pairs.second)] == [w.tolist(), h.tolist()]

    # Positions are rounded to the grid: the whole error of the rate.
    wanted = torch.tensor(rates, dtype=torch.float64)[pairs.spatial_class]
    error = (reference.overlap_rate(*both(pairs), clip_frames=16).spatial - wanted).abs()
    assert bool((error <= GRID / 2 * (1 / w + 1 / h) + 1e-9).all())
    assert bool((error[(w > 1) & (h > 1)] <= 0.03).all())

    # Sides are rounded down to the grid.
    assert bool(((w + GRID) / h >= ratio[0]).all())
    assert bool((w / (h + GRID) <= ratio[1]).all())
    assert bool((w * h <= scale[1] * width * height * (1 + 1e-9)).all())
    too_small = (w + GRID) * (h + GRID) < scale[0] * width * height
    larger_w, larger_h = (w + GRID) * 1.001, (h + GRID) * 1.001
    least = apart(larger_w, width) * apart(larger_h, height)
    feasible = (least <= min(rates)) & (larger_w <= width) & (larger_h <= height)
    assert not bool((too_small & feasible).any())


def apart(side: torch.Tensor, extent: int) -> torch.Tensor:
    """Least shared part of two intervals of this length inside the extent."""
    return (1 - (extent - side) / side).clamp(min=0)


@given(
    frames=st.integers(1, 3000),
    clip=st.integers(1, 64),
    rates=rates,
    strides=strides,
    seed=seeds,
)
@settings(max_examples=150)
def test_times(frames, clip, rates, strides, seed):
    pairs = sample_view_pairs(
        *columns(ROWS, frames), clip_frames=clip, rates=rates, strides=strides, seed=seed
    )
    stride = torch.tensor(strides, dtype=torch.float64)[pairs.playback_class]
    starts = [views.start.double() for views in both(pairs)]
    early, late = torch.minimum(*starts), torch.maximum(*starts)
    for views in both(pairs):
        assert torch.equal(views.stride.double(), stride)
    assert bool((early >= 0).all())
    assert not bool(((late - early) / stride % 1).any())

    longest_shift = (1 - min(rates)) * clip
    assume(abs(longest_shift % 1 - 0.5) > 1e-9)  # round() has its own way with ties
    steps = clip + round(longest_shift)
    fits = any(steps * s <= frames for s in strides)
    labelled = pairs.temporal_class >= 0
    assert bool((labelled == fits).all())
    if fits:
        assert bool((late + clip * stride <= frames).all())
        assert bool((steps * stride <= frames).all())
        wanted = torch.tensor(rates, dtype=torch.float64)[pairs.temporal_class]
        measured = reference.overlap_rate(*both(pairs), clip_frames=clip).temporal
        assert bool(((measured - wanted).abs() <= 0.5 / clip + 1e-9).all())
        return
    assert bool((pairs.temporal_class == -100).all())
    if any(clip * s <= frames for s in strides):
        assert bool((late + clip * stride <= frames).all())
    else:
        assert bool((stride == min(strides)).all())
        assert bool((late == 0).all())


@given(frames=st.integers(1, 400), clip=st.integers(1, 32), stride=st.integers(1, 9))
@settings(max_examples=60)
def test_sampled_frames_lie_in_the_video_and_are_shared_as_labelled(frames, clip, stride):
    rates = (1.0, 0.8, 0.6, 0.4, 0.2)
    pairs = sample_view_pairs(
        *columns(ROWS, frames), clip_frames=clip, strides=(stride,), rates=rates
    )
    for row in range(ROWS):
        shown = [
            {int(views.start[row] + t * views.stride[row] + 0.5) for t in range(clip)}
            for views in both(pairs)
        ]
        if clip * stride <= frames:
            assert max(shown[0] | shown[1]) < frames
        if (label := int(pairs.temporal_class[row])) >= 0:
            assert abs(len(shown[0] & shown[1]) - rates[label] * clip) <= 0.5


def test_short_videos_still_differ_in_time_where_they_can():
    pairs = sample_view_pairs(*columns(400, 20))
    assert bool((pairs.temporal_class == -100).all())
    shifts = (pairs.first.start - pairs.second.start).abs()
    assert set(shifts.tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}


def test_class_grid_borders():
    # 16 frames, shifted by up to 13: 29 frames at stride 1, 58 at stride 2.
    for frames, strides, labelled in (
        (28, {0}, False),
        (29, {0}, True),
        (57, {0}, True),
        (58, {0, 1}, True),
    ):
        pairs = sample_view_pairs(*columns(200, frames))
        assert set(pairs.playback_class.tolist()) == strides
        assert bool((pairs.temporal_class >= 0).all()) == labelled
