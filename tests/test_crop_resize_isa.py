"""crop_resize on the CPU under each instruction set: STOR_OPS_ISA picks one of those compiled in."""

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from crops import SOURCES, make_video, make_views, poisoned_outputs  # noqa: F401

from stor_ops import Views, crop_resize, crop_resize_pair, reference

EXACT = 2e-6
"""As in test_crop_resize.py, with mean and std."""
NORM = {"mean": [0.3, 0.4, 0.5, 0.6], "std": [0.5, 1.0, 2.0, 1.5]}


def is_supported(name: str) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STOR_OPS_ISA", name)
        try:
            crop_resize(make_video(1, 1, 1, 1, 1), Views.from_boxes(torch.ones(0, 4)), (1, 1, 1))
        except ValueError as error:
            assert str(error) == f"crop_resize: STOR_OPS_ISA: this processor has no {name}"  # noqa: PT017
            return False
    return True


@pytest.fixture(autouse=True, params=["baseline", "avx2", "avx512"])
def isa(request, monkeypatch) -> str:
    if not is_supported(request.param):
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setenv("STOR_OPS_ISA", request.param)
    return request.param


@pytest.fixture(params=[1, 2, 5])
def threads(request) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def excess(videos, views: Views, size, *dtypes: torch.dtype, **options) -> float:
    """Largest error beyond the rounding to each of ``dtypes``, of values in [0, 1] or near."""
    exact = reference.crop_resize(videos, views, size, **options)
    worst = 0.0
    for dtype in dtypes or (torch.float32,):
        clip = crop_resize(videos, views, size, dtype=dtype, **options)
        rounding = 0.0 if dtype == torch.float32 else (exact.to(dtype) - exact).abs()
        error = ((clip - exact).abs() - rounding).max().item()
        assert error == error, "an output element is NaN"
        worst = max(worst, error)
    return worst


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("source", SOURCES)
def test_every_option_equals_the_reference(source, channels):
    torch.manual_seed(channels)
    extents = (3, 19, 53), (2, 33, 7)
    videos = [make_video(*extent, channels, dtype=source) for extent in extents]
    each = torch.arange(8)
    views = replace(make_views(8, videos), flip=each < 4, rotation=(each % 4).byte())
    options = {name: values[:channels] for name, values in NORM.items()}
    if channels == 3:
        options["color"] = torch.randn(8, 3, 4) / 4
    for antialias in (False, True):
        for temporal in ("nearest", "linear"):
            options |= {"antialias": antialias, "temporal": temporal}
            dtypes = torch.float32, torch.float16, torch.bfloat16
            assert excess(videos, views, (2, 21, 35), *dtypes, **options) <= EXACT
    options = {"antialias": antialias, "temporal": temporal, "color": options.get("color")}
    exact = reference.crop_resize(videos, views, (2, 21, 35), **options).clamp(0, 1) * 255
    clip = crop_resize(videos, views, (2, 21, 35), dtype=torch.uint8, **options)
    assert (clip - exact).abs().max() <= 0.5 + 3e-4


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 70])
def test_rows_of_any_length(width):
    """Blocks that overlap, rows shorter than a vector, bands that are not full."""
    video = make_video(2, 23, 101, 3)
    views = make_views(6, [video])
    for size in ((1, 3, width), (1, width, 18)):
        assert excess([video], views, size) <= EXACT


@pytest.mark.parametrize(
    "scale", [0.1, 0.5, 0.9, 1.0, 1.2, 1.9, 2.0, 2.1, 2.9, 3.1, 3.9, 4.2, 9.0, 28]
)
def test_scales_that_permute_and_that_gather(scale):
    columns = int(scale * 36) + 3
    for source in (torch.uint8, torch.float32):
        video = make_video(1, 9, columns, 3, dtype=source)
        box = [0.7, 0.4, 0.7 + scale * 36, 8.3]
        views = Views.from_boxes(torch.tensor([box] * 4), video=0, flip=torch.arange(4) % 2 == 1)
        for antialias in (False, True):
            assert excess([video], views, (1, 5, 36), antialias=antialias) <= EXACT


@pytest.mark.parametrize("columns", range(1, 19))
def test_crops_narrower_than_a_vector(columns):
    for channels in (1, 3):
        video = make_video(1, 4, columns, channels)
        views = Views.from_boxes(
            torch.tensor([[0.0, 0, columns, 4], [columns - 1, 1, columns, 3]]), video=0
        )
        assert excess([video], views, (1, 5, 19)) <= EXACT


def test_large_and_distant_boxes():
    video = make_video(1, 70, 1000, 3)
    boxes = torch.tensor([[0.0, 0, 1000, 70], [-3e3, -3e3, 4e3, 3e3], [998.5, 69.5, 5000, 900]])
    for antialias in (False, True):
        assert (
            excess([video], Views.from_boxes(boxes, video=0), (1, 4, 20), antialias=antialias)
            <= EXACT
        )


@pytest.mark.parametrize("antialias", [False, True])
def test_a_broken_pixel_does_not_leak_into_other_lanes(antialias):
    """Taps that fill a vector up weigh 0, which makes NaN of an infinite pixel."""
    impulse = torch.zeros(90, 8, 90, 2)
    each = torch.arange(90)
    impulse[each, 5, each, 1] = 1
    boxes = torch.tensor([[0.0, 0, 90, 8], [7.3, 2.1, 83.9, 7], [0, 0, 46, 8]])
    views, size = Views.from_boxes(boxes, video=0), (90, 4, 41)
    reached = crop_resize([impulse], views, size, antialias=antialias) > 0
    broken = impulse.masked_fill(impulse > 0, torch.inf)
    clip = crop_resize([broken], views, size, antialias=antialias)
    assert reached.any()
    assert torch.equal(clip == torch.inf, reached)
    assert torch.equal(clip == 0, ~reached)


@pytest.mark.parametrize("source", [torch.float16, torch.bfloat16])
def test_every_16_bit_float(source):
    bits = torch.arange(2**16).to(torch.uint16).view(1, 256, 256, 1)
    video = bits.view(source)
    views = Views.from_boxes(torch.tensor([[0.0, 0, 256, 256]]))
    wide = crop_resize([video], views, (1, 256, 256)).flatten()
    expected = video.float().flatten()
    assert torch.equal(wide.isnan(), expected.isnan())
    assert torch.equal(wide.nan_to_num(7, 8, 9), expected.nan_to_num(7, 8, 9))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8])
def test_rounding_is_that_of_torch(dtype):
    exponent = torch.randint(-40, 20, (64, 999)).float()
    values = torch.cat([torch.randn(64, 999) * 2**exponent, torch.full((64, 5), torch.nan)], dim=1)
    limits = [65503.9, 65504, 65519.9, 65520, 65536, 1e30, torch.inf, -torch.inf]
    values[:, 0] = torch.tensor(limits * 8)
    values[:, 1] = torch.arange(64) * 2.0**-25  # ties among the subnormal halves
    if dtype == torch.uint8:
        values = values / 255
    views = Views.from_boxes(torch.tensor([[0.0, 0, 1004, 64]]))
    clip = crop_resize([values.view(1, 64, 1004, 1)], views, (1, 64, 1004), dtype=dtype)[0, 0, 0]
    if dtype == torch.uint8:
        assert torch.equal(clip, (values * 255).nan_to_num(0).round().clamp(0, 255).byte())
        return
    expected = values.to(dtype)
    assert torch.equal(clip.isnan(), expected.isnan())
    assert torch.equal(clip.nan_to_num(7, 8, 9), expected.nan_to_num(7, 8, 9))


# --- layouts, threads, processes -----------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_layouts_do_not_change_a_bit(channels):
    base = make_video(3, 30, 90, 6)
    views = make_views(8, [base[..., :channels]])
    sources = [
        base[..., :channels],
        base[..., :channels].permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
        base[..., 1 : channels + 1].flip(2)[:, :, ::3],
    ]
    for video in sources:
        packed = video.contiguous()
        for dtype in (torch.float32, torch.bfloat16):
            clips = [
                crop_resize([source], views, (2, 20, 19), dtype=dtype, memory_format=layout)
                for source in (video, packed)
                for layout in (torch.contiguous_format, torch.channels_last_3d)
            ]
            assert all(torch.equal(clip, clips[0]) for clip in clips)


def test_threads_do_not_change_a_bit(threads):
    videos = [make_video(5, 31, 90, 3), make_video(9, 50, 37, 3)]
    large = Views.from_boxes(torch.tensor([[1.0, 2, 88, 30]]), rotation=1)
    for views in (make_views(11, videos), large):
        clips = crop_resize_pair(
            videos, views, views[torch.arange(len(views)).flip(0)], (5, 40, 37)
        )
        torch.set_num_threads(1)
        alone = crop_resize(videos, views, (5, 40, 37))
        torch.set_num_threads(threads)
        assert torch.equal(clips[0], alone)
        assert torch.equal(clips[1], alone.flip(0))


class Clips(torch.utils.data.Dataset):
    def __init__(self, videos, views):
        self.videos, self.views = videos, views

    def __len__(self):
        return len(self.views)

    def __getitem__(self, row):
        return crop_resize(self.videos, self.views[row], (3, 18, 20))[0]


def test_a_row_of_too_many_elements_is_refused():
    video = make_video(1, 1, 1, 1).expand(1, 1, 2**31, 1)
    views = Views.from_boxes(torch.tensor([[0.0, 0, 4, 1], [0, 0, 2.0**31, 1]]), video=0)
    with pytest.raises(ValueError, match=r"^crop_resize: views row 1: box: .* got 2.*e\+09"):
        crop_resize([video], views, (1, 1, 3))
    assert crop_resize([video], views[:1], (1, 1, 3)).shape == (1, 1, 1, 1, 3)


def test_after_a_fork():
    videos = [make_video(5, 31, 40, 3)]
    views = make_views(6, videos)
    expected = crop_resize(videos, views, (3, 18, 20))
    loader = torch.utils.data.DataLoader(
        Clips(videos, views), 3, num_workers=2, multiprocessing_context="fork", timeout=60
    )
    assert torch.equal(torch.cat([*loader]), expected)


def test_an_unknown_instruction_set_is_named(monkeypatch):
    monkeypatch.setenv("STOR_OPS_ISA", "mmx")
    video, views = make_video(1, 1, 2, 2, 1), Views.from_boxes(torch.tensor([[0.0, 0, 2, 2]]))
    with pytest.raises(ValueError, match=r"^crop_resize: STOR_OPS_ISA: expected .*, got mmx$"):
        crop_resize(video, views, (1, 1, 1))
    with pytest.raises(ValueError, match=r"^crop_resize_pair: STOR_OPS_ISA: expected .*, got mmx$"):
        crop_resize_pair(video, views, views, (1, 1, 1))


# --- memory that must not be read ----------------------------------------------------------------


def fenced(video: torch.Tensor, *, at_end: bool) -> torch.Tensor:
    """The video in memory of exactly its size, next to a page that nobody may touch."""
    count = video.numel() * video.element_size()
    pages = -(-count // mmap.PAGESIZE)
    region = mmap.mmap(-1, (pages + 2) * mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(region))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    for page in (0, pages + 1):
        place = ctypes.c_void_p(address + page * mmap.PAGESIZE)
        assert protect(place, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    offset = mmap.PAGESIZE * (pages + 1) - count if at_end else mmap.PAGESIZE
    inside = torch.frombuffer(region, dtype=torch.uint8, count=count, offset=offset)
    return inside.view(video.dtype).view(video.shape).copy_(video)


def read_fenced_videos() -> None:
    """For a process of its own, which a read beyond the video ends."""
    torch.manual_seed(0)
    for source in SOURCES:
        for shape in ((2, 5, 9, 3), (1, 4, 3, 1), (1, 3, 40, 4), (2, 6, 33, 2), (1, 70, 171, 3)):
            video = make_video(*shape, dtype=source)
            height, width = shape[1:3]
            boxes = [
                [0.0, 0, width, height],
                [-width, -height, 2 * width, 2 * height],
                [width / 2, height / 2, width, height],
                [width - 1, height - 1, width, height],
            ]
            views = Views.from_boxes(torch.tensor(boxes), video=0, start=shape[0] - 1)
            for at_end in (False, True):
                fence = fenced(video, at_end=at_end)
                planes = fenced(video.permute(0, 3, 1, 2).contiguous(), at_end=at_end)
                for layout in (fence, planes.permute(0, 2, 3, 1), fence.flip(0)[:, :, ::2]):
                    for antialias in (False, True):
                        clip, copied = (
                            crop_resize([video], views, (2, 7, 20), antialias=antialias)
                            for video in (layout, layout.clone())
                        )
                        assert torch.equal(clip, copied)
    print("read no more than the videos")


def test_nothing_beyond_a_video_is_read(isa):
    here = Path(__file__)
    script = f"from {here.stem} import read_fenced_videos as read; read()"
    path = os.pathsep.join([str(here.parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "read no more than the videos\n"
