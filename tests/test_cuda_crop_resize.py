"""The CUDA kernel of crop_resize, emulated on the CPU, against the CPU op and the float64 reference."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from crops import SOURCES, make_video, make_views
from emulated_clips import TOLERANCE, assert_close, check, emulate
from emulator import build
from hypothesis import given, settings
from hypothesis import strategies as st

import stor_ops
from stor_ops import Views, reference

SOURCE = Path(__file__).parent / "emulator" / "kernels_module.cpp"
ORDERS = ["forward", "reverse", "random:1"]
MEAN, STD = (0.4, 0.5, 0.6, 0.3), (0.8, 0.9, 1.1, 1.3)

pytestmark = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    return build.load(SOURCE)


@pytest.fixture(params=ORDERS)
def ordered(kernels: ModuleType, request: pytest.FixtureRequest) -> ModuleType:
    kernels.set_order(request.param)
    return kernels


def one_view(*box: float, **others: object) -> Views:
    return Views.from_boxes(torch.tensor([box], dtype=torch.float32), **others)


def turned_all_ways(*box: float) -> Views:
    return Views.from_boxes(
        torch.tensor([box] * 8, dtype=torch.float32),
        video=torch.zeros(8, dtype=torch.int64),
        flip=torch.arange(8) >= 4,
        rotation=torch.arange(8) % 4,
    )


# ---- Dtypes, layouts, options


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("source", SOURCES)
def test_dtypes(ordered: ModuleType, source: torch.dtype, dtype: torch.dtype) -> None:
    for channels in (1, 2, 3, 4):
        videos = [make_video(3, h, w, channels, dtype=source) for h, w in ((21, 34), (9, 13))]
        views = make_views(5, videos)
        options = {"dtype": dtype}
        if dtype != torch.uint8:
            options |= {"mean": MEAN[:channels], "std": STD[:channels]}
        for antialias, temporal, last in itertools.product(
            (False, True), ("nearest", "linear"), (False, True)
        ):
            options |= {"antialias": antialias, "temporal": temporal}
            check(ordered, videos, views, (2, 5, 11), last, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("size", [(19, 34), (34, 19), (1, 40), (40, 1)])
def test_orientations(ordered: ModuleType, size: tuple[int, int], dtype: torch.dtype) -> None:
    videos = [make_video(2, 40, 31, 3)]
    for last, antialias in itertools.product((False, True), repeat=2):
        views = turned_all_ways(2.25, 3.5, 30.5, 38)
        check(ordered, videos, views, (1, *size), last, antialias=antialias, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8])
def test_colours(ordered: ModuleType, dtype: torch.dtype) -> None:
    videos = [make_video(4, 20, 30, 3), make_video(2, 11, 7, 3)]
    options = {"color": torch.randn(6, 3, 4) / 2, "dtype": dtype}
    if dtype != torch.uint8:
        options |= {"mean": MEAN[:3], "std": STD[:3]}
    for last in (False, True):
        check(ordered, videos, make_views(6, videos), (2, 9, 14), last, **options)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("temporal", ["nearest", "linear"])
def test_strided_sources(ordered: ModuleType, source: torch.dtype, temporal: str) -> None:
    base = make_video(4, 18, 22, 6, dtype=source)
    flat = make_video(1 + 4 * 15 * 17 * 3, dtype=source)
    sources = {
        "TCHW": base[..., :3].permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
        "CTHW": base[..., :3].permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0),
        "transposed": base[..., :3].transpose(1, 2),
        "steps": base[1::2, ::3, 1::2, ::2],
        "channel slice": base[..., 2:5],
        "cropped": base.flatten(2).narrow(2, 3, 99).unflatten(2, (33, 3)),
        "misaligned": flat[1:].view(4, 15, 17, 3),
        "expanded": base[:1, :, :, :1].expand(5, -1, -1, 3),
    }
    for video in sources.values():
        check(ordered, [video], make_views(4, [video]), (3, 5, 9), temporal=temporal)


@pytest.mark.parametrize("offset", range(8))
def test_base_addresses_of_any_alignment(kernels: ModuleType, offset: int) -> None:
    for channels, width in ((1, 30), (3, 29), (4, 31)):
        count = 12 * width * channels
        video = make_video(8 + count)[offset : offset + count].view(1, 12, width, channels)
        check(kernels, [video], make_views(4, [video]), (1, 7, 12))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_pairs(ordered: ModuleType, dtype: torch.dtype) -> None:
    videos = [make_video(9, 33, 40, 3), make_video(5, 24, 17, 3)]
    first, second = make_views(9, videos), make_views(9, videos)
    second.video[3:], second.start[3:] = first.video[3:], first.start[3:] + 1
    second.box[5:] = first.box[5:] + 0.5
    colors = {"color": torch.randn(9, 3, 4) / 2}
    size = (3, 17, 20)
    clips, rates = emulate(ordered, videos, [first, second], size, dtype=dtype, **colors)
    *exact, overlap = stor_ops.crop_resize_pair(videos, first, second, size, **colors)
    for got, expected in zip(clips, exact, strict=True):
        assert_close(got, expected)
    for got, expected in zip(rates, overlap, strict=True):
        np.testing.assert_array_equal(got, expected.numpy())
    assert float(overlap.joint.max()) > 0


# ---- Boxes and sizes

BOXES = [
    (-9.0, -7, 22, 31),  # partly outside, on each side
    (-30.5, -40, -20, -11.5),  # outside: the corner pixel alone
    (50.0, 3, 60, 4),
    (3.2, 4.4, 3.3, 4.5),  # narrower than a pixel
    (3.9, 4.9, 4.1, 5.1),  # narrow, over an edge
    (-0.5, -0.5, 0.5, 0.5),
    (12.999, 10.5, 13.5, 11.001),
    (-1e30, -1e30, 1e30, 1e30),
    (-3.4e38, 2, 3.4e38, 3),
    (1e30, -1e30, 2e30, 5),
    (5.0, 6, 1e30, 3e38),
    (0.0, 0, 1e-45, 1e-45),
]


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("box", BOXES)
def test_unusual_boxes(ordered: ModuleType, box: tuple[float, ...], antialias: bool) -> None:
    for channels, size in itertools.product((1, 2, 3), ((1, 1), (5, 7), (1, 20))):
        video = make_video(2, 11, 13, channels)
        check(ordered, [video], turned_all_ways(*box), (1, *size), antialias=antialias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    "size",
    [
        *((1, 1), (15, 8), (16, 127), (17, 128), (16, 129), (33, 17), (7, 257), (2, 136)),
        *((97, 3), (18, 96), (32, 64), (130, 18)),
    ],
)
def test_tile_tails(
    kernels: ModuleType, size: tuple[int, int], last: bool, dtype: torch.dtype
) -> None:
    for channels, order in ((1, "forward"), (3, "reverse"), (4, "random:2")):
        kernels.set_order(order)
        videos = [make_video(2, 23, 31, channels)]
        views = turned_all_ways(1.5, 2, 29.5, 22)[torch.tensor([0, 3, 5, 6])]
        check(kernels, videos, views, (2, *size), last, dtype=dtype)


@pytest.mark.parametrize(
    ("channels", "extent", "size", "path"),
    [
        (1, (1, 900), (1, 3), "whole"),
        (3, (1, 700), (1, 7), "whole"),
        (1, (1, 5000), (1, 4), "chunks"),  # 2502 weights for each column, and 3750 pixels
        (2, (1, 2500), (1, 4), "chunks"),
        (3, (1, 2900), (1, 4), "chunks"),
        (4, (1, 3300), (1, 16), "chunks"),
        (1, (1, 8000), (1, 4), "gather"),
        (3, (1, 4000), (1, 4), "gather"),
        (1, (2, 4100), (1, 1), "gather"),
        (3, (3, 4400), (2, 2), "gather"),
        (2, (2, 5000), (1, 3), "gather"),
        (1, (9000, 2), (16, 2), "gather"),  # the weights of the rows alone are too many
        (3, (4000, 5), (16, 2), "rows"),
        (3, (33, 900), (32, 128), "rows"),
        (1, (20, 1100), (17, 5), "rows"),
    ],
)
def test_wide_crops(
    ordered: ModuleType,
    channels: int,
    extent: tuple[int, int],
    size: tuple[int, int],
    path: str,
) -> None:
    height, width = extent
    for source in (torch.uint8, torch.float16):
        video = make_video(2, *extent, channels, dtype=source)
        # Outside edges on both sides: they must not count for more than their frame's pixels.
        for box in ((0, 0, width, height), (-20.5, -0.25, width + 10, height)):
            check(ordered, [video], one_view(*box, flip=True), (1, *size))
            planar = video.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
            blended = one_view(*box, start=0.25)
            check(ordered, [planar], blended, (2, *size), temporal="linear")
    # A gather reads byte by byte, and never words. Chunks of columns read anew what they share.
    ordered.start_traffic()
    video = make_video(1, *extent, channels)
    check(ordered, [video], one_view(0, 0, width, height), (1, *size))
    reads = ordered.stop_traffic()["reads"]
    words = reads["bytes_requested"] > reads["accesses"]
    assert words == (path != "gather")
    if height == 1 and words:
        assert (reads["bytes_requested"] > 1.1 * reads["unique_bytes"]) == (path == "chunks")


# ---- Values that must not spread


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_broken_pixel_stays_where_it_is(
    kernels: ModuleType, value: float, antialias: bool, dtype: torch.dtype
) -> None:
    video = make_video(2, 9, 14, 3, dtype=dtype)
    video[0, 4, 6, 1] = value
    options = {"antialias": antialias, "temporal": "linear"}
    for box, start in (((0, 0, 14, 9), 0.0), ((1.5, 2, 10, 9), 0.5), ((0, 0, 7, 5), 1.0)):
        view = one_view(*box, start=start)
        (clip,), _ = emulate(kernels, [video], [view], (1, 9, 14), **options)
        expected = stor_ops.crop_resize([video], view, (1, 9, 14), **options)
        torch.testing.assert_close(clip, expected, rtol=0, atol=TOLERANCE, equal_nan=True)


NAN, INF = float("nan"), float("inf")
BROKEN = [
    *(("video", value) for value in (-1, 2, 2**63 - 1, -(2**63))),
    *(("start", value) for value in (NAN, INF, -INF)),
    *(("stride", value) for value in (NAN, INF, 0.0, -0.0, -1.0)),
    *(("box", [value if i == edge else good for i, good in enumerate((1.0, 1.0, 4.0, 3.0))])
      for edge in range(4) for value in (NAN, INF, -INF)),
    *(("box", edges) for edges in ([1.0, 1, 1, 3], [4.0, 1, 1, 3], [1.0, 3, 4, 3], [1.0, 3, 4, 2])),
    *(("rotation", value) for value in (4, 5, 255)),
]  # fmt: skip


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8])
def test_broken_views_give_no_picture(ordered: ModuleType, dtype: torch.dtype, last: bool) -> None:
    videos = [make_video(3, 12, 15, 3), make_video(2, 9, 20, 3)]
    rows, size = 2 * len(BROKEN) + 1, (2, 18, 5)
    good, other = make_views(rows, videos), make_views(rows, videos)
    broken = good[torch.arange(rows)]
    for i, (field, value) in enumerate(BROKEN):
        getattr(broken, field)[2 * i + 1] = torch.tensor(value)
    bad = torch.arange(rows) % 2 == 1
    for targets in ([broken], [broken, other], [other, broken]):
        options = {"dtype": dtype, "channels_last": last}
        clips, rates = emulate(ordered, videos, targets, size, **options)
        for views, clip in zip(targets, clips, strict=True):
            exact = stor_ops.crop_resize(videos, good if views is broken else views, size)
            faulty = bad if views is broken else torch.zeros_like(bad)
            assert_close(clip[~faulty], exact[~faulty])
            nothing = clip[faulty] == 0 if dtype == torch.uint8 else clip[faulty].isnan()
            assert nothing.all()
        for rate in rates:
            np.testing.assert_array_equal(np.isnan(rate), bad.numpy())


# ---- Anything


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    order=st.sampled_from(["forward", "reverse"]) | st.integers(0, 99).map("random:{}".format),
    source=st.sampled_from(SOURCES),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    channels=st.integers(1, 4),
    antialias=st.booleans(),
    temporal=st.sampled_from(["nearest", "linear"]),
    last=st.booleans(),
    planar=st.booleans(),
    color=st.booleans(),
    normalised=st.booleans(),
    size=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)),
)
def test_equals_reference(
    kernels, seed, order, source, dtype, channels, antialias, temporal, last, planar, color,
    normalised, size,
):  # fmt: skip
    torch.manual_seed(seed)
    kernels.set_order(order)
    videos = [
        make_video(*torch.randint(1, 50, (3,)).tolist(), channels, dtype=source) for _ in "12"
    ]
    if planar:
        videos = [v.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1) for v in videos]
    views = make_views(3, videos)
    options = {"antialias": antialias, "temporal": temporal}
    if color and channels == 3:
        options["color"] = torch.randn(3, 3, 4) / 4
    if normalised:
        options |= {"mean": MEAN[:channels], "std": STD[:channels]}
    (clips,), _ = emulate(
        kernels, videos, [views], size, channels_last=last, dtype=dtype, **options
    )
    assert_close(clips, reference.crop_resize(videos, views, size, **options))
