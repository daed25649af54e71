"""sample_view_pairs: its random numbers, the reference, and the same bits everywhere."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from native.build import load
from view_cases import bits, columns, inside_frame, mixed_columns, same_bits

from stor_ops import ViewPairs, reference, sample_view_pairs

# Random123, kat_vectors: counter, key and output of Philox 4x32-10.
KNOWN_ANSWERS = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]

EXTREME_SHAPES = [
    # frames, height, width
    *((1, 1, 1), (16, 1, 1), (10**6, 1, 1), (300, 1, 10_000), (300, 10_000, 1)),
    *((300, 16_384, 16_384), (300, 16_385, 17), (300, 2**24, 1), (300, 2**24, 2**24)),
    *((2**24, 2, 3), (15, 240, 320), (16, 240, 320), (28, 240, 320), (29, 240, 320)),
]

SETTINGS = [
    {},
    {"clip_frames": 1},
    {"clip_frames": 33, "strides": (0.5, 3), "rates": (0.0,)},
    {"strides": (2.5, 1e-6, 1e6, 0.1), "rates": (1.0,)},
    {"rates": tuple(i / 31 for i in range(32)), "strides": tuple(range(1, 33))},
    {"rates": (0.5, 0.5, 0.1), "strides": (4,), "scale": (1.0, 1.0), "ratio": (1.0, 1.0)},
    {"scale": (1e-6, 1e-6), "ratio": (1e-6, 1e6), "rotate": False, "flip": 0.0},
    {"scale": (0.5, 0.9), "ratio": (3.0, 5.0), "flip": 1.0},
    {"seed": -1, "epoch": 2**32 - 1, "draw": 2**30 - 1},
    {"seed": -(2**63), "epoch": 7, "draw": 3},
    {"seed": 2**63 - 1, "clip_frames": 2**24},
]


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return load(tmp_path_factory.mktemp("native"))


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_known_answers(native, counter, key, expected):
    assert native.philox4x32_10(counter, key) == expected
    words = reference.philox4x32_10(
        [torch.tensor([word]) for word in counter], [torch.tensor([word]) for word in key]
    )
    assert [int(word) for word in words] == expected


def all_shapes() -> tuple[torch.Tensor, ...]:
    extremes = torch.tensor(EXTREME_SHAPES).repeat(8, 1)
    keys = torch.arange(len(extremes)) - len(extremes) // 2
    keys[:2] = torch.tensor([-(2**63), 2**63 - 1])
    return tuple(map(torch.cat, zip(mixed_columns(300), (*extremes.T, keys), strict=True)))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_bits_equal_the_reference(settings):
    videos = all_shapes()
    assert same_bits(
        sample_view_pairs(*videos, **settings), reference.sample_view_pairs(*videos, **settings)
    )


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_extreme_videos_and_settings_give_usable_views(settings):
    videos = all_shapes()
    frames, heights, widths, _ = videos
    pairs = sample_view_pairs(*videos, **settings)
    for views in (pairs.first, pairs.second):
        assert inside_frame(views, heights, widths)
        assert bool(((views.start >= 0) & (views.start < frames)).all())
        assert bool((views.stride > 0).all())
        assert bool(torch.isfinite(views.stride).all())


def test_struct_is_what_the_contract_says():
    pairs = sample_view_pairs(*columns(7))
    assert isinstance(pairs, ViewPairs)
    assert len(pairs) == 7
    for views, turns in zip((pairs.first, pairs.second), pairs.rotation_class.T, strict=True):
        assert torch.equal(views.video, torch.arange(7))
        assert torch.equal(views.rotation.long(), turns)
        assert [field.dtype for field in vars(views).values()] == [
            *(torch.int64, torch.float32, torch.float32),
            *(torch.float32, torch.bool, torch.uint8),
        ]
    for labels in (pairs.spatial_class, pairs.temporal_class, pairs.playback_class):
        assert labels.dtype == torch.int64
        assert labels.shape == (7,)
    assert pairs.rotation_class.dtype == torch.int64
    assert pairs.rotation_class.shape == (7, 2)


def test_rotate_and_flip_switch_off_and_on():
    still = sample_view_pairs(*columns(200), rotate=False, flip=0.0)
    assert not still.rotation_class.any()
    assert not (still.first.flip | still.second.flip).any()
    always = sample_view_pairs(*columns(200), flip=1.0)
    assert bool((always.first.flip & always.second.flip).all())


# One row each: box of both views, starts and stride as the bits of their float32, then flips, rotations,
# spatial, temporal and playback class. A change here breaks every experiment that is to be repeated.
GOLDEN = [
    (
        {},
        (300, 240, 320, 0),
        [1120018816, 1119516160, 1131266688, 1130472384, 1123481344, 1119254656, 1132730016,
         1130341632, 1127284736, 1123680256, 1082130432, 0, 1, 3, 1, 1, 4, 2],
    ),
    (
        {"seed": -7, "epoch": 12, "draw": 3},
        (120, 1080, 608, -123456789012345),
        [1126155072, 1142058080, 1140698976, 1148707840, 1126155072, 1142058080, 1140698976,
         1148707840, 1110704128, 1084227584, 1082130432, 0, 1, 3, 0, 0, 3, 2],
    ),
    (
        {
            "clip_frames": 8,
            "strides": (0.5, 3),
            "rates": (0.0, 0.3),
            "scale": (0.05, 0.5),
            "ratio": (0.2, 2.0),
            "flip": 0.9,
        },
        (13, 37, 20000, 1099511627776),
        [1137965824, 0, 1138407616, 1108606976, 1138407616, 0, 1138849408, 1108606976, 0,
         1077936128, 1056964608, 1, 1, 0, 3, 0, 1, 0],
    ),
    (
        {"rotate": False},
        (20, 1, 1, 5),
        [1033109504, 1041235968, 1058734080, 1060651008, 1047461888, 1031012352, 1061437440,
         1059291136, 1082130432, 1077936128, 1065353216, 0, 1, 0, 0, 2, -100, 0],
    ),
]  # fmt: skip


def golden_row(pairs: ViewPairs) -> list[int]:
    first, second = pairs.first, pairs.second
    floats = torch.cat([first.box[0], second.box[0], first.start, second.start, first.stride])
    integers = [first.flip, second.flip, *pairs.rotation_class.T]
    classes = [pairs.spatial_class, pairs.temporal_class, pairs.playback_class]
    return [*floats.view(torch.int32).tolist(), *(int(value) for value in (*integers, *classes))]


@pytest.mark.parametrize(("settings", "video", "expected"), GOLDEN)
def test_format_is_fixed(settings, video, expected):
    pairs = sample_view_pairs(*(torch.tensor([value]) for value in video), **settings)
    assert golden_row(pairs) == expected


def test_same_bits_in_any_order_and_batch():
    videos = mixed_columns(700)
    whole = sample_view_pairs(*videos)
    order = torch.randperm(700)
    shuffled = sample_view_pairs(*(column[order] for column in videos))
    expected = whole[order]
    for views in (shuffled.first, shuffled.second, expected.first, expected.second):
        views.video.zero_()  # the row in the batch, the one thing that may differ
    assert same_bits(shuffled, expected)

    parts = [sample_view_pairs(*(column[a:b] for column in videos)) for a, b in ((0, 1), (1, 700))]
    joined = ViewPairs.cat(parts)
    for views in (joined.first, joined.second, whole.first, whole.second):
        views.video.zero_()
    assert same_bits(joined, whole)


def test_columns_may_be_strided():
    videos = mixed_columns(40)
    padded = [torch.stack([column, column * 0], 1)[:, 0] for column in videos]
    assert not padded[0].is_contiguous()
    assert same_bits(sample_view_pairs(*padded), sample_view_pairs(*videos))
    same_size = columns(5)
    expanded = [column[:1].expand(5) for column in same_size[:3]]
    assert same_bits(sample_view_pairs(*expanded, same_size[3]), sample_view_pairs(*same_size))


def test_same_bits_for_any_number_of_threads():
    videos = mixed_columns(4000)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 4):
            torch.set_num_threads(count)
            results.append(sample_view_pairs(*videos))
    finally:
        torch.set_num_threads(threads)
    assert same_bits(*results)


DIGEST = """
import sys
sys.path.insert(0, {tests!r})
from test_sampling import digest
print(digest())
"""


def digest() -> str:
    pairs = sample_view_pairs(*mixed_columns(1000), seed=5, epoch=2, draw=1)
    return hashlib.sha256(b"".join(leaf.numpy().tobytes() for leaf in bits(pairs))).hexdigest()


def test_same_bits_in_another_process():
    code = DIGEST.format(tests=str(Path(__file__).parent))
    torch.rand(3)  # the global generator must not matter
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == digest()


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"seed": 2**32}, {"epoch": 1}, {"draw": 1}, {"key": 1}, {"key": 2**32}]
)
def test_every_part_of_the_seed_changes_the_draw(change):
    *sizes, keys = columns(50)
    change = dict(change)
    shifted = keys + 1000 * change.pop("key", 0)
    before = sample_view_pairs(*sizes, keys)
    after = sample_view_pairs(*sizes, shifted, **change)
    same = (before.first.box == after.first.box).all(1) | (before.first.start == after.first.start)
    assert int(same.sum()) <= 5
