"""crop_resize given what no caller should give it: wrong arguments, broken views, huge numbers."""

import math
import struct
from dataclasses import replace

import pytest
import torch
from crops import poisoned_outputs  # noqa: F401
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stor_ops import Views, crop_resize, crop_resize_pair, reference

SIZE = (2, 3, 4)


def u8(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.uint8)


def good_videos() -> list[torch.Tensor]:
    return [torch.full((2, 4, 5, 3), 9, dtype=torch.uint8), torch.ones(3, 6, 7, 3).byte()]


def good_views(rows: int = 2) -> Views:
    return Views.from_boxes(
        torch.tensor([[1.0, 1, 4, 3]]).repeat(rows, 1), video=torch.arange(rows) % 2
    )


def views(**fields):
    return {"views": replace(good_views(), **fields)}


FIRST = good_videos()[0]
COLOR, GREY = torch.zeros(2, 3, 4), [video[..., :1] for video in good_videos()]
NAN_COLOR = COLOR.index_fill(0, torch.tensor(1), math.nan)
WITH_GRADIENT = torch.zeros(2, 4, 5, 3, requires_grad=True)
WRONG = {
    # name: (changed arguments, exception, what its text must match after the op's name)
    "videos type": ({"videos": "video.mp4"}, TypeError, r"videos: .*got str"),
    "videos empty": ({"videos": []}, ValueError, r"videos: .*at least one video"),
    "videos dim": ({"videos": u8(2, 4, 5, 3)}, ValueError, r"videos: .*\(2, 4, 5, 3\)"),
    "video dim": ({"videos": [u8(4, 5, 3)]}, ValueError, r"videos\[0\]: .*shape"),
    "batch in a list": ({"videos": [u8(1, 2, 4, 5, 3)]}, ValueError, r"videos\[0\]"),
    "video type": ({"videos": [FIRST, None]}, TypeError, r"videos\[1\]: .*NoneType"),
    "video dtype": ({"videos": [torch.zeros(2, 4, 5, 3).int()]}, TypeError, r"videos\[0\]: .*int32"),
    "float64": ({"videos": torch.zeros(1, 2, 4, 5, 3).double()}, TypeError, r"videos: .*float64"),
    "mixed dtypes": ({"videos": [FIRST, torch.zeros(2, 4, 5, 3)]}, TypeError, r"videos\[1\]: .*float32"),
    "mixed channels": ({"videos": [FIRST, u8(2, 4, 5, 1)]}, ValueError, r"videos\[1\]: .*3\)"),
    "mixed devices": ({"videos": [FIRST, u8(2, 4, 5, 3).to("meta")]}, ValueError, r"videos\[1\]: .*meta"),
    "no channels": ({"videos": [u8(2, 4, 5, 0)]}, ValueError, r"videos: .*1 to 4 channels"),
    "5 channels": ({"videos": u8(1, 2, 4, 5, 5)}, ValueError, r"videos: .*1 to 4 channels"),
    "no frames": ({"videos": [u8(0, 4, 5, 3)]}, ValueError, r"videos: .*at least one frame"),
    "no columns": ({"videos": u8(2, 2, 4, 0, 3)}, ValueError, r"videos: .*column"),
    "videos gradient": ({"videos": [WITH_GRADIENT]}, ValueError, r"videos\[0\]: .*requires_grad"),
    "views type": ({"views": torch.zeros(2, 4)}, TypeError, r"views: .*Views.*Tensor"),
    "views device": ({"views": good_views().to("meta")}, ValueError, r"views\.video: .*cpu.*meta"),
    "view dtype": (views(start=torch.zeros(2).double()), TypeError, r"views\.start: .*float64"),
    "view index dtype": (views(video=torch.zeros(2).int()), TypeError, r"views\.video: .*int32"),
    "view rows": (views(flip=torch.zeros(3).bool()), ValueError, r"views\.flip: .*\(2\).*\(3,\)"),
    "box shape": (views(box=torch.zeros(2, 5)), ValueError, r"views\.box: .*\(2, 4\).*\(2, 5\)"),
    "view dim": (views(video=torch.tensor(0)), ValueError, r"views\.video"),
    "view gradient": (views(box=WITH_GRADIENT[:, :, 0, 0]), ValueError, r"views\.box: .*requires_grad"),
    "size type": ({"size": 7}, ValueError, r"size: .*\(T, H, W\).*7"),
    "size length": ({"size": (3, 4)}, ValueError, r"size: .*\(3, 4\)"),
    "size zero": ({"size": (2, 0, 4)}, ValueError, r"size\[1\]: .*at least 1, got 0"),
    "size float": ({"size": (2, 3, 4.0)}, TypeError, r"size\[2\]: .*integer, got float"),
    "mean length": ({"mean": [0.5] * 2}, ValueError, r"mean: expected 3 .*got 2"),
    "mean type": ({"mean": 0.5}, TypeError, r"mean: .*got float"),
    "mean NaN": ({"mean": [0.5, math.nan, 0.5]}, ValueError, r"mean\[1\]: .*finite.*nan"),
    "mean beyond float32": ({"mean": [0.5, 1e300, 0.5]}, ValueError, r"mean\[1\]: .*1e\+300"),
    "std length": ({"std": [1.0] * 4}, ValueError, r"std: expected 3 .*got 4"),
    "std zero": ({"std": [1.0, 1.0, 0.0]}, ValueError, r"std\[2\]: .*got 0"),
    "std negative": ({"std": [-1.0, 1.0, 1.0]}, ValueError, r"std\[0\]: .*got -1"),
    "std beyond float32": ({"std": [1.0, 1e-60, 1.0]}, ValueError, r"std\[1\]: .*1e-60"),
    "std infinite": ({"std": [1.0, math.inf, 1.0]}, ValueError, r"std\[1\]: .*inf"),
    "mean as uint8": ({"mean": [0.5] * 3, "dtype": torch.uint8}, ValueError, r"dtype: .*mean or std"),
    "std as uint8": ({"std": [0.5] * 3, "dtype": torch.uint8}, ValueError, r"dtype: .*mean or std"),
    "output dtype": ({"dtype": torch.float64}, TypeError, r"dtype: .*float64"),
    "temporal": ({"temporal": "cubic"}, ValueError, r"temporal: .*'cubic'"),
    "memory format": ({"memory_format": torch.channels_last}, ValueError, r"memory_format: "),
    "color type": ({"color": [1.0]}, TypeError, r"color: .*got list"),
    "color dtype": ({"color": COLOR.double()}, TypeError, r"color: .*float64"),
    "color shape": ({"color": COLOR[:, :, :3]}, ValueError, r"color: .*\(2, 3, 4\).*\(2, 3, 3\)"),
    "color rows": ({"color": torch.zeros(3, 3, 4)}, ValueError, r"color: .*\(2, 3, 4\).*\(3, 3, 4\)"),
    "color device": ({"color": COLOR.to("meta")}, ValueError, r"color: .*cpu.*meta"),
    "color gradient": ({"color": COLOR + WITH_GRADIENT[0, 0, 0, 0]}, ValueError, r"color: .*requires_grad"),
    "color of grey": ({"videos": GREY, "color": COLOR}, ValueError, r"color: .*3 channels, got 1"),
    "color NaN": ({"color": NAN_COLOR}, ValueError, r"color row 1: .*finite.*nan"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    changes, exception, text = WRONG[name]
    arguments = {"videos": good_videos(), "views": good_views(), "size": SIZE, **changes}
    with pytest.raises(exception, match=f"^crop_resize: {text}"):
        crop_resize(**arguments)
    second = arguments.pop("views")
    with pytest.raises(exception, match="^crop_resize_pair: " + text.replace("views", "second")):
        crop_resize_pair(**{**arguments, "first": good_views(), "second": second})
    with pytest.raises(exception, match="^crop_resize_pair: " + text.replace("views", "first")):
        crop_resize_pair(**{**arguments, "first": second, "second": good_views()})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"second": good_views(3)}, r"second: expected 2 views, got 3"),
        ({"color": (None,)}, r"color: .*tuple of 2, got 1"),
        ({"color": (None, COLOR[:1])}, r"color: .*\(2, 3, 4\).*\(1, 3, 4\)"),
        ({"color": (COLOR * math.inf, None)}, r"color row 0: .*finite"),
    ],
)
def test_wrong_pairs(changes, text):
    arguments = {"videos": good_videos(), "first": good_views(), "second": good_views()}
    with pytest.raises(ValueError, match=f"^crop_resize_pair: {text}"):
        crop_resize_pair(**{**arguments, **changes}, size=SIZE)


# --- views ---------------------------------------------------------------------------------------

NAN, INF = math.nan, math.inf
BROKEN = [
    ("video", -1, "index into the batch of 2 video"),
    ("video", 2, "index into the batch of 2 video"),
    ("video", 2**63 - 1, "index into the batch of 2 video"),
    ("video", -(2**63), "index into the batch of 2 video"),
    *(("start", value, "finite") for value in (NAN, INF, -INF)),
    *(("stride", value, "above 0") for value in (NAN, INF, -INF, 0.0, -0.0, -1.0)),
    *(
        ("box", [value if i == edge else good for i, good in enumerate((1.0, 1.0, 4.0, 3.0))], "finite")
        for edge in range(4)
        for value in (NAN, INF, -INF)
    ),
    ("box", [1.0, 1, 1, 3], "x0 < x1"),
    ("box", [4.0, 1, 1, 3], "x0 < x1"),
    ("box", [1.0, 3, 4, 3], "y0 < y1"),
    ("box", [1.0, 3, 4, 2], "y0 < y1"),
    ("box", [0.0, 0, 0, 0], "x0 < x1"),
    ("rotation", 4, "0, 1, 2 or 3"),
    ("rotation", 255, "0, 1, 2 or 3"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value", "text"), BROKEN)
def test_a_broken_view_is_named(field, value, text):
    broken = good_views(5)
    getattr(broken, field)[3] = torch.tensor(value)
    with pytest.raises(ValueError, match=f"^crop_resize: views row 3: {field}: .*{text}"):
        crop_resize(good_videos(), broken, SIZE)
    with pytest.raises(ValueError, match=f"^crop_resize_pair: second row 3: {field}: .*{text}"):
        crop_resize_pair(good_videos(), good_views(5), broken, SIZE)
    with pytest.raises(ValueError, match=f"^crop_resize_pair: first row 3: {field}: .*{text}"):
        crop_resize_pair(good_videos(), broken, good_views(5), SIZE)


def from_bits(bits: int) -> float:
    return struct.unpack("<f", struct.pack("<I", bits))[0]


ANY_FLOAT = st.one_of(
    st.integers(0, 2**32 - 1).map(from_bits), st.floats(width=32), st.floats(-20, 20, width=32)
)


@settings(max_examples=400)
@given(
    edges=st.tuples(ANY_FLOAT, ANY_FLOAT, ANY_FLOAT, ANY_FLOAT),
    ordered=st.booleans(),
    start=ANY_FLOAT,
    stride=ANY_FLOAT.map(abs) | ANY_FLOAT,
    video=st.integers(0, 1) | st.integers(-(2**63), 2**63 - 1),
    rotation=st.integers(0, 3) | st.integers(0, 255),
    antialias=st.booleans(),
    temporal=st.sampled_from(["nearest", "linear"]),
    size=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)),
)
def test_any_bits_are_refused_or_shown(
    edges, ordered, start, stride, video, rotation, antialias, temporal, size
):
    x0, y0, x1, y1 = edges
    if ordered:
        x0, x1, y0, y1 = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
    view = Views(
        torch.tensor([video]),
        torch.tensor([start]),
        torch.tensor([stride]),
        torch.tensor([[x0, y0, x1, y1]]),
        torch.tensor([False]),
        torch.tensor([rotation], dtype=torch.uint8),
    )
    valid = 0 <= video < 2 and rotation < 4 and stride > 0 and x0 < x1 and y0 < y1
    valid = valid and all(map(math.isfinite, (x0, y0, x1, y1, start, stride)))
    videos = [torch.rand(3, 7, 5, 2) + 0.5, torch.rand(1, 1, 1, 2) + 0.5]

    def clip() -> torch.Tensor:
        return crop_resize(videos, view, size, antialias=antialias, temporal=temporal)

    if not valid:
        with pytest.raises(ValueError, match="views row 0"):
            clip()
        return
    shown = videos[video]
    assert (clip() >= shown.min() - 1e-6).all()  # NaN is not
    assert (clip() <= shown.max() + 1e-6).all()


@settings(max_examples=60)
@given(
    x0=st.floats(-3e4, 3e4, width=32),
    length=st.floats(2**-10, 6e4, width=32),
    antialias=st.booleans(),
    size=st.integers(1, 5),
)
def test_boxes_far_beyond_the_frame(x0, length, antialias, size):
    x1 = torch.tensor(x0) + torch.tensor(length)
    assume(x1 > x0)
    view = Views.from_boxes(torch.tensor([[x0, 0, x1, 4]]))
    video = torch.rand(1, 4, 19, 1)
    exact = reference.crop_resize([video], view, (1, 3, size), antialias=antialias)
    assert (
        crop_resize([video], view, (1, 3, size), antialias=antialias) - exact
    ).abs().max() < 1e-6


@pytest.mark.parametrize("reach", [1e9, 1e16, 1e30, 3.4e38])
def test_a_box_of_any_size_averages_the_edges(reach):
    video = torch.rand(2, 6, 7, 3)
    view = Views.from_boxes(torch.tensor([[-reach, -reach, reach, reach]]), start=reach)
    clip = crop_resize([video], view, (2, 1, 1))[0, :, :, 0, 0]
    corners = video[1, [0, 0, -1, -1], [0, -1, 0, -1]].mean(0)
    torch.testing.assert_close(clip, corners[:, None].expand(3, 2), rtol=0, atol=1e-6)
    sides = crop_resize([video], view, (1, 2, 2), antialias=False)[0, :, 0]
    expected = video[1, [0, 0, -1, -1], [0, -1, 0, -1]].view(2, 2, 3).permute(2, 0, 1)
    assert torch.equal(sides, expected)


# --- source values -------------------------------------------------------------------------------


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("value", [NAN, INF])
def test_a_broken_pixel_stays_where_it_is(value, antialias):
    video = torch.rand(1, 6, 7, 3)
    video[0, 2, 3, 1] = value
    view = Views.from_boxes(torch.tensor([[0.0, 0, 7, 6]]))
    same = crop_resize([video], view, (1, 6, 7), antialias=antialias)[0, :, 0]
    assert torch.equal(same.nan_to_num(7, 8), video[0].permute(2, 0, 1).nan_to_num(7, 8))
    halved = crop_resize([video], view, (1, 3, 7), antialias=False)[0, :, 0]
    assert halved.isfinite().sum() == halved.numel() - 1
    rounded = crop_resize([video], view, (1, 6, 7), dtype=torch.uint8)[0, :, 0]
    assert rounded[1, 2, 3] == (0 if math.isnan(value) else 255)
