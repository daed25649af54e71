"""crop_resize against torchvision and against the float64 reference."""

import itertools

import pytest
import torch
from crops import SOURCES, make_video, make_views, poisoned_outputs  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st

import stor_ops
from stor_ops import Views, crop_resize, crop_resize_pair, reference

EXACT = 1e-6
"""Largest error of a float32 clip in [0, 1] against float64; measured: 5e-7 from 1080p, 2e-7 else."""


def worst(videos, views: Views, size, **options) -> float:
    expected = reference.crop_resize(videos, views, size, **options)
    actual = crop_resize(videos, views, size, **options)
    assert actual.shape == expected.shape
    assert actual.dtype == options.get("dtype", torch.float32)
    error = (actual.double() - expected).abs().max().item()
    assert error == error, "an output element is NaN"
    return error


# --- torchvision ---------------------------------------------------------------------------------


def torchvision_error(extent, box, size, antialias, dtype=torch.float32) -> float:
    functional = pytest.importorskip(
        "torchvision.transforms.v2.functional", reason="torchvision is the oracle here"
    )
    video = make_video(2, *extent, 3, dtype=torch.float32)
    x0, y0, x1, y1 = box
    worst_error = 0.0
    for flip, turns in itertools.product((False, True), range(4)):
        views = Views.from_boxes(torch.tensor([box]).float(), flip=flip, rotation=turns)
        clip = crop_resize([video], views, (2, *size), antialias=antialias)[0]
        image = video.to(dtype).permute(0, 3, 1, 2)
        image = functional.crop(image, y0, x0, y1 - y0, x1 - x0)
        resized = [*size[::-1]] if turns % 2 else [*size]
        image = functional.resize(image, resized, antialias=antialias)
        image = torch.rot90(image.flip(-1) if flip else image, turns, (-2, -1))
        error = (clip - image.transpose(0, 1)).abs().max().item()
        worst_error = max(worst_error, error)
    return worst_error


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(
    ("extent", "box", "size"),
    [
        ((1, 1), (0, 0, 1, 1), (1, 1)),
        ((1, 1), (0, 0, 1, 1), (5, 7)),
        ((9, 11), (0, 0, 11, 9), (9, 11)),
        ((9, 11), (3, 2, 4, 9), (6, 3)),
        ((33, 57), (1, 2, 56, 32), (81, 99)),
        ((240, 320), (17, 33, 301, 200), (112, 112)),
        ((1080, 1920), (3, 5, 1917, 1080), (37, 51)),
    ],
)
def test_equals_torchvision(extent, box, size, antialias):
    # torchvision computes positions and weights in the dtype of the image. In float64 it is exact; in
    # float32 it is itself 2e-5 off here, and 1.3e-4 where it halves 1080p without antialias.
    assert torchvision_error(extent, box, size, antialias, torch.float64) <= EXACT
    assert torchvision_error(extent, box, size, antialias) <= (5e-5 if extent[0] < 1000 else 3e-4)


@given(data=st.data(), antialias=st.booleans())
def test_equals_torchvision_for_any_integer_box(data, antialias):
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    y1, x1 = data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width))
    size = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30))
    error = torchvision_error((height, width), (x0, y0, x1, y1), size, antialias, torch.float64)
    assert error <= EXACT


# --- the float64 reference -----------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**31),
    source=st.sampled_from(SOURCES),
    channels=st.integers(1, 4),
    antialias=st.booleans(),
    temporal=st.sampled_from(["nearest", "linear"]),
    pixels=st.booleans(),
    color=st.booleans(),
    normalised=st.booleans(),
    size=st.tuples(st.integers(1, 4), st.integers(1, 13), st.integers(1, 13)),
)
def test_equals_reference(
    seed, source, channels, antialias, temporal, pixels, color, normalised, size
):
    torch.manual_seed(seed)
    extents = torch.randint(1, 24, (3, 3)).tolist()
    videos = [make_video(*extent, channels, dtype=source) for extent in extents]
    views = make_views(4, videos, pixels=pixels)
    options = {"antialias": antialias, "temporal": temporal}
    if color and channels == 3:
        options["color"] = torch.randn(4, 3, 4) / 4
    if normalised:
        options |= {"mean": [0.3, 0.4, 0.5, 0.6][:channels], "std": [0.5, 1.0, 2.0, 1.5][:channels]}
    assert worst(videos, views, size, **options) <= 2 * EXACT


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("source", SOURCES)
def test_output_dtypes_lose_no_more_than_the_rounding(source, dtype):
    videos = [make_video(5, 17, 12, 3, dtype=source), make_video(3, 6, 9, 3, dtype=source)]
    views, size = make_views(12, videos), (4, 7, 5)
    options = {"mean": [0.4, 0.5, 0.6], "std": [0.25, 0.3, 0.2], "color": torch.randn(12, 3, 4)}
    exact = reference.crop_resize(videos, views, size, **options)
    actual = crop_resize(videos, views, size, dtype=dtype, **options)
    assert actual.dtype == dtype
    error, rounding = (actual - exact).abs(), (exact.to(dtype) - exact).abs()
    assert (error - rounding).max() <= 1e-5  # values reach 30: 2 ulp of float32


@pytest.mark.parametrize("source", SOURCES)
def test_uint8_output_is_rounded_and_clamped(source):
    videos = [make_video(5, 17, 12, 3, dtype=source), make_video(3, 6, 9, 3, dtype=source)]
    views, size = make_views(24, videos), (4, 7, 5)
    color = torch.randn(24, 3, 4)
    exact = reference.crop_resize(videos, views, size, color=color) * 255
    assert exact.min() < -50
    assert exact.max() > 300
    actual = crop_resize(videos, views, size, color=color, dtype=torch.uint8)
    error = (actual.double() - exact.clamp(0, 255)).abs()
    assert error.max() <= 0.5 + 3e-4
    assert (actual == exact.round().clamp(0, 255)).double().mean() > 0.999


def test_uint8_ties_go_to_even():
    dark = torch.arange(255)
    video = torch.stack([dark, dark + 1], dim=1).byte().view(1, 255, 2, 1)
    views = Views.from_boxes(torch.tensor([[0.0, 0, 2, 255]]))
    clip = crop_resize([video], views, (1, 255, 1), dtype=torch.uint8).flatten()
    assert torch.equal(clip, (dark + 0.5).round().byte())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("antialias", [False, True])
def test_a_whole_frame_at_its_own_size_keeps_its_bits(dtype, antialias):
    video = make_video(3, 9, 11, 4, dtype=dtype)
    views = Views.from_boxes(torch.tensor([[0.0, 0, 11, 9]]))
    clip = crop_resize([video], views, (3, 9, 11), antialias=antialias, dtype=dtype)[0]
    assert torch.equal(clip, video.permute(3, 0, 1, 2))


@pytest.mark.parametrize("temporal", ["nearest", "linear"])
@pytest.mark.parametrize(("start", "stride"), [(0, 1), (-2.5, 1), (1.25, 0.5), (3.5, 2), (9, 4)])
def test_frames(temporal, start, stride):
    video = torch.arange(6.0).view(6, 1, 1, 1)
    views = Views.from_boxes(torch.tensor([[0.0, 0, 1, 1]]), start=start, stride=stride)
    clip = crop_resize([video], views, (5, 1, 1), temporal=temporal).flatten()
    position = start + stride * torch.arange(5)
    if temporal == "nearest":
        position = torch.floor(position + 0.5)
    assert torch.equal(clip, position.clamp(0, 5))


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("flip", [False, True])
def test_flip_precedes_rotation(flip, turns):
    video = make_video(2, 5, 7, 3)
    size = (7, 5) if turns % 2 else (5, 7)
    views = Views.from_boxes(torch.tensor([[0.0, 0, 7, 5]]), flip=flip, rotation=turns)
    clip = crop_resize([video], views, (2, *size), dtype=torch.uint8)[0]
    expected = video.permute(3, 0, 1, 2)
    assert torch.equal(clip, (expected.flip(-1) if flip else expected).rot90(turns, (-2, -1)))


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(
    "box",
    [
        (-9.0, -7, 22, 31),  # partly outside, on each side
        (-30.5, -40, -20, -11.5),  # outside: the corner pixel alone
        (50.0, 3, 60, 4),
        (3.2, 4.4, 3.3, 4.5),  # narrower than a pixel
        (3.9, 4.9, 4.1, 5.1),  # narrow, over an edge
        (-0.5, -0.5, 0.5, 0.5),
        (12.999, 10.5, 13.5, 11.001),
    ],
)
def test_unusual_boxes(box, antialias):
    video = make_video(1, 11, 13, 2)
    views = Views.from_boxes(torch.tensor([box]))
    for size in [(1, 1, 1), (1, 4, 9), (1, 23, 2)]:
        assert worst([video], views, size, antialias=antialias) <= EXACT
    if box[0] == 50:
        clip = crop_resize([video], views, (1, 2, 2), antialias=antialias, dtype=torch.uint8)
        assert torch.equal(clip[0, :, 0], video[0, 3, 12].view(2, 1, 1).expand(2, 2, 2))


# --- pairs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("colors", ["none", "one", "two", "second"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_a_pair_equals_two_calls_and_their_overlap(colors, memory_format):
    videos = [make_video(4, 9, 8, 3), make_video(2, 5, 6, 3)]
    first, second = make_views(9, videos), make_views(9, videos)
    a, b = torch.randn(2, 9, 3, 4)
    color, each = {
        "none": (None, (None, None)),
        "one": (a, (a, a)),
        "two": ((a, b), (a, b)),
        "second": ((None, b), (None, b)),
    }[colors]
    options = {
        "mean": [0.1, 0.2, 0.3],
        "std": [1.0, 2.0, 3.0],
        "antialias": False,
        "temporal": "linear",
        "dtype": torch.bfloat16,
        "memory_format": memory_format,
    }
    size = (3, 4, 5)
    *clips, overlap = crop_resize_pair(videos, first, second, size, color=color, **options)
    for clip, views, matrix in zip(clips, (first, second), each, strict=True):
        single = crop_resize(videos, views, size, color=matrix, **options)
        assert torch.equal(clip, single)
        assert clip.stride() == single.stride()
    rates = stor_ops.overlap_rate(first, second, clip_frames=3)
    assert isinstance(overlap, stor_ops.OverlapRate)
    assert (rates.joint > 0).any()
    assert all(torch.equal(x, y) for x, y in zip(overlap, rates, strict=True))
    oracle = reference.crop_resize_pair(videos, first, second, size, color=color)[:2]
    plain = crop_resize_pair(videos, first, second, size, color=color)[:2]
    assert max((x - y).abs().max() for x, y in zip(plain, oracle, strict=True)) <= 1e-5
