"""The faults of the public reference code that concern views: a check that catches each, and proof.

Every check passes for ours and fails for a sampler that has the fault.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from view_cases import Sampler, columns, inside_frame, uniform_p

from stor_ops import ViewPairs, Views, reference, sample_view_pairs

HEIGHT, WIDTH, FRAMES, CLIP = 240, 320, 300, 16
RATES = torch.tensor([1.0, 0.8, 0.6, 0.4, 0.2])
STRIDES = torch.tensor([1.0, 2.0, 4.0, 8.0])
ROWS = 2000


def measured(pairs: ViewPairs):
    return reference.overlap_rate(pairs.first, pairs.second, clip_frames=CLIP)


def check_temporal_label(sampler: Sampler) -> None:
    pairs = sampler(*columns(ROWS, FRAMES, HEIGHT, WIDTH))
    error = measured(pairs).temporal - RATES[pairs.temporal_class]
    assert float(error.abs().max()) <= 0.5 / CLIP


def check_spatial_label(sampler: Sampler) -> None:
    pairs = sampler(*columns(ROWS, FRAMES, HEIGHT, WIDTH))
    error = measured(pairs).spatial - RATES[pairs.spatial_class]
    assert float(error.abs().max()) <= 0.03


def check_boxes_inside(sampler: Sampler) -> None:
    pairs = sampler(*columns(ROWS, FRAMES, HEIGHT, WIDTH))
    assert inside_frame(pairs.first, HEIGHT, WIDTH)
    assert inside_frame(pairs.second, HEIGHT, WIDTH)


def check_uniform_classes(sampler: Sampler) -> None:
    pairs = sampler(*columns(ROWS, FRAMES, HEIGHT, WIDTH))
    assert uniform_p(pairs.spatial_class, len(RATES)) > 1e-4
    assert uniform_p(pairs.temporal_class, len(RATES)) > 1e-4


def shown_frames(views: Views, row: int) -> set[int]:
    return {int(views.start[row] + t * views.stride[row] + 0.5) for t in range(CLIP)}


def check_shared_frames(sampler: Sampler) -> None:
    pairs = sampler(*columns(ROWS // 4, FRAMES, HEIGHT, WIDTH))
    for row, label in enumerate(pairs.temporal_class):
        shared = shown_frames(pairs.first, row) & shown_frames(pairs.second, row)
        assert abs(len(shared) - float(RATES[label]) * CLIP) <= 0.5


def check_short_videos(sampler: Sampler) -> None:
    for frames in (1, CLIP - 1, CLIP, CLIP + 4):
        pairs = sampler(*columns(200, frames, HEIGHT, WIDTH))
        assert bool((pairs.temporal_class == -100).all())
        for views in (pairs.first, pairs.second):
            assert inside_frame(views, HEIGHT, WIDTH)
            assert float(views.start.min()) >= 0
            assert float(views.start.max()) <= max(frames - CLIP, 0)
    assert not torch.equal(pairs.first.start, pairs.second.start)


CHECKS = [
    check_temporal_label,
    check_spatial_label,
    check_boxes_inside,
    check_uniform_classes,
    check_shared_frames,
    check_short_videos,
]


@pytest.mark.parametrize("check", CHECKS)
def test_ours_is_free_of_it(check):
    check(sample_view_pairs)


def both_from_the_first_start(*videos: Tensor) -> ViewPairs:
    pairs = sample_view_pairs(*videos)
    return replace(pairs, second=replace(pairs.second, start=pairs.first.start))


def to_source(views: Views) -> Views:
    """Boxes that were drawn on frames already turned by ``views.rotation``, in source pixels."""
    u0, v0, u1, v1 = views.box.unbind(1)
    turned_back = [
        (u0, v0, u1, v1),
        (WIDTH - v1, u0, WIDTH - v0, u1),
        (WIDTH - u1, HEIGHT - v1, WIDTH - u0, HEIGHT - v0),
        (v0, HEIGHT - u1, v1, HEIGHT - u0),
    ]
    boxes = torch.stack([torch.stack(edges, 1) for edges in turned_back])
    return replace(views, box=boxes[views.rotation.long(), torch.arange(len(views))])


def rotated_before_the_boxes(
    frames: Tensor, heights: Tensor, widths: Tensor, keys: Tensor
) -> ViewPairs:
    """Both boxes are drawn on the first view's turned frame; the second is cut from its own."""
    turned = sample_view_pairs(frames, heights, widths, keys).first.rotation % 2 == 1
    pairs = sample_view_pairs(
        frames, torch.where(turned, widths, heights), torch.where(turned, heights, widths), keys
    )
    return replace(pairs, first=to_source(pairs.first), second=to_source(pairs.second))


def label_redrawn(*videos: Tensor) -> ViewPairs:
    """Draws class and box size together and keeps what fits into the frame, however often it takes."""
    pairs = sample_view_pairs(*videos)
    classes = pairs.spatial_class.clone()
    pending = torch.ones_like(classes, dtype=torch.bool)
    while pending.any():
        classes = torch.where(pending, torch.randint(0, len(RATES), classes.shape), classes)
        side = (0.2 + 0.8 * torch.rand(classes.shape)).sqrt()
        least = (2 - 1 / side).clamp(min=0).square()
        pending &= least > RATES[classes]
    return replace(pairs, spatial_class=classes)


def shift_truncated(*videos: Tensor) -> ViewPairs:
    """The shared part is cut to whole frames: int(0.8 * 32) = 25, so the clips are 7 apart, stride 2."""
    pairs = sample_view_pairs(*videos)
    duration = CLIP * pairs.first.stride
    shift = duration - (RATES[pairs.temporal_class] * duration).floor()
    return replace(pairs, second=replace(pairs.second, start=pairs.first.start + shift))


def short_identical(*videos: Tensor) -> ViewPairs:
    pairs = sample_view_pairs(*videos)
    start = torch.zeros_like(pairs.first.start)
    return replace(
        pairs, first=replace(pairs.first, start=start), second=replace(pairs.second, start=start)
    )


def short_labelled(*videos: Tensor) -> ViewPairs:
    pairs = sample_view_pairs(*videos)
    return replace(pairs, temporal_class=pairs.temporal_class.clamp(min=0))


def short_random_range(frames: Tensor, *others: Tensor) -> ViewPairs:
    """Start is drawn from range(frames - span), which has no element in a short video."""
    pairs = sample_view_pairs(frames, *others)
    room = int(frames[0]) - CLIP * int(pairs.first.stride[0])
    start = torch.randint(0, room, frames.shape).float()
    return replace(pairs, second=replace(pairs.second, start=start))


def short_negative(frames: Tensor, *others: Tensor) -> ViewPairs:
    pairs = sample_view_pairs(frames, *others)
    start = torch.rand(frames.shape) * (frames - CLIP)
    return replace(pairs, second=replace(pairs.second, start=start))


@pytest.mark.parametrize(
    ("check", "faulty"),
    [
        (check_temporal_label, both_from_the_first_start),
        (check_shared_frames, both_from_the_first_start),
        (check_spatial_label, rotated_before_the_boxes),
        (check_boxes_inside, rotated_before_the_boxes),
        (check_uniform_classes, label_redrawn),
        (check_shared_frames, shift_truncated),
        (check_short_videos, short_identical),
        (check_short_videos, short_labelled),
        (check_short_videos, short_random_range),
        (check_short_videos, short_negative),
    ],
)
def test_the_check_catches_the_fault(check, faulty):
    with pytest.raises((AssertionError, RuntimeError)):  # RuntimeError: the sampler itself gives up
        check(faulty)


def test_the_planted_faults_are_the_published_ones():
    videos = columns(ROWS, FRAMES, HEIGHT, WIDTH)
    turned = rotated_before_the_boxes(*videos)
    error = (measured(turned).spatial - RATES[turned.spatial_class]).abs()
    assert float((error < 0.1).double().mean()) < 0.6
    counts = torch.bincount(label_redrawn(*videos).spatial_class, minlength=5).double() / ROWS
    assert bool((counts.diff() < 0).all())  # the larger the overlap, the more often
    truncated = shift_truncated(*videos)
    rows = (truncated.temporal_class == 1) & (truncated.first.stride > 1)
    for row in rows.nonzero().flatten().tolist():
        assert not shown_frames(truncated.first, row) & shown_frames(truncated.second, row)
