"""sample_view_pairs: every class is drawn uniformly and nothing else tells which one it is.

Chi-square tests of fixed draws: they pass or fail for good, and a p-value below 1e-4 is no bad luck.
"""

from __future__ import annotations

from itertools import combinations, product

import pytest
from view_cases import box_size, columns, independent_p, quantile_bins, uniform_p

from stor_ops import sample_view_pairs

ROWS = 20_000
LIMIT = 1e-4

# frames, height, width and what differs from the defaults, with the number of strides that fit.
CASES = {
    "usual": (300, 240, 320, {}, 4),
    "portrait": (120, 1920, 1080, {"seed": 9}, 3),
    "strip": (64, 40, 2000, {"rates": (1.0, 0.5, 0.0)}, 2),
    "large boxes": (300, 240, 320, {"scale": (0.9, 1.0), "rates": (0.9, 0.1), "epoch": 4}, 4),
    "one pixel": (10_000, 1, 1, {"strides": (1, 3, 0.5), "draw": 2}, 3),
    "many": (
        999,
        112,
        112,
        {"rates": tuple(i / 31 for i in range(32)), "strides": range(1, 33)},
        31,
    ),
}


def draw(case: str):
    frames, height, width, settings, strides = CASES[case]
    pairs = sample_view_pairs(*columns(ROWS, frames, height, width), **settings)
    rates = len(settings.get("rates", range(5)))
    labels = {
        "spatial": (pairs.spatial_class, rates),
        "temporal": (pairs.temporal_class, rates),
        "playback": (pairs.playback_class, strides),
        "first rotation": (pairs.rotation_class[:, 0], 4),
        "second rotation": (pairs.rotation_class[:, 1], 4),
        "first flip": (pairs.first.flip.long(), 2),
        "second flip": (pairs.second.flip.long(), 2),
    }
    return pairs, labels


@pytest.mark.parametrize("case", CASES)
def test_every_class_is_uniform(case):
    for name, (classes, count) in draw(case)[1].items():
        assert uniform_p(classes, count) > LIMIT, name


@pytest.mark.parametrize("case", ["usual", "strip", "large boxes"])
def test_classes_are_independent_of_each_other(case):
    for (a, (first, _)), (b, (second, _)) in combinations(draw(case)[1].items(), 2):
        assert independent_p(first, second) > LIMIT, (a, b)


@pytest.mark.parametrize("case", ["usual", "portrait", "strip", "large boxes", "many"])
def test_size_aspect_and_orientation_tell_nothing_of_the_overlap(case):
    pairs, labels = draw(case)
    width, height = box_size(pairs.first)
    seen = {
        "area": quantile_bins(width * height),
        "aspect": quantile_bins(width / height),
        "width": quantile_bins(width),
        "stride": pairs.playback_class,
    }
    for (name, values), label in product(seen.items(), ("spatial", "temporal")):
        assert independent_p(values, labels[label][0]) > LIMIT, (name, label)


def test_both_directions_and_all_positions_occur():
    pairs, _ = draw("usual")
    apart = pairs.spatial_class > 0
    for axis in (0, 1):
        difference = (pairs.second.box - pairs.first.box)[apart, axis]
        assert uniform_p((difference[difference != 0] > 0).long(), 2) > LIMIT
    later = (pairs.second.start - pairs.first.start)[pairs.temporal_class > 0]
    assert uniform_p((later > 0).long(), 2) > LIMIT
    # Equal boxes lie uniformly in the room that the frame leaves them, equal clips in the video.
    same = pairs[pairs.spatial_class == 0].first
    width, height = box_size(same)
    for edge, size, extent in ((0, width, 320), (1, height, 240)):
        position = same.box[:, edge].double() / (extent - size)
        assert uniform_p((position * 8).long().clamp(max=7), 8) > LIMIT
    still = pairs[(pairs.temporal_class == 0) & (pairs.playback_class == 0)].first
    assert uniform_p(still.start.long(), 300 - 16 + 1) > LIMIT


def test_flip_has_its_probability():
    pairs = sample_view_pairs(*columns(ROWS), flip=0.25)
    for views in (pairs.first, pairs.second):
        assert abs(float(views.flip.double().mean()) - 0.25) < 0.01


@pytest.mark.parametrize(
    "change", [{"draw": 1}, {"draw": 2}, {"epoch": 1}, {"seed": 1}, {"seed": -1}, {"key": 1}]
)
def test_draws_epochs_seeds_and_keys_are_independent(change):
    change = dict(change)
    before, after = (
        sample_view_pairs(*columns(ROWS, first_key=first_key), **settings)
        for first_key, settings in ((0, {}), (change.pop("key", 0), change))
    )
    observed = [
        (pairs.spatial_class, pairs.temporal_class, quantile_bins(pairs.first.box[:, 0]))
        for pairs in (before, after)
    ]
    for first, second in product(*observed):
        assert independent_p(first, second) > LIMIT
