"""The CUDA kernels on a GPU, against the CPU's. FAIL_WITHOUT_CUDA=1 turns their skipping into a failure."""

import os

import pytest
import torch

import stor_ops
from stor_ops import Views


@pytest.fixture(scope="module", autouse=True)
def _gpu() -> None:
    if not torch.cuda.is_available():
        if os.environ.get("FAIL_WITHOUT_CUDA"):
            pytest.fail("FAIL_WITHOUT_CUDA is set and torch sees no GPU")
        pytest.skip("torch sees no GPU")


def columns(rows: int, device: str) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    ranges = ((1, 400), (1, 700), (1, 700), (-(2**62), 2**62))
    return [
        torch.randint(low, high, (rows,), generator=generator).to(device) for low, high in ranges
    ]


@pytest.mark.parametrize(
    "options", [{}, {"seed": -5, "epoch": 7, "rates": (0.5, 0.0), "strides": (0.5, 3)}]
)
def test_sampled_views_have_the_same_bits(options: dict[str, object]) -> None:
    here = stor_ops.sample_view_pairs(*columns(5000, "cpu"), **options)  # type: ignore[arg-type]
    there = stor_ops.sample_view_pairs(*columns(5000, "cuda"), **options)  # type: ignore[arg-type]
    for one, other in zip(
        torch.utils._pytree.tree_leaves(here), torch.utils._pytree.tree_leaves(there), strict=True
    ):
        assert torch.equal(one, other.cpu())


def test_overlap_rates() -> None:
    pairs = stor_ops.sample_view_pairs(*columns(700, "cpu"))
    views = Views.cat([pairs.first, pairs.second])
    for op in (stor_ops.overlap_rate, stor_ops.pairwise_overlap_rate):
        here = op(views, views[torch.arange(1400) - 1], clip_frames=16)
        there = op(views.to("cuda"), views[torch.arange(1400) - 1].to("cuda"), clip_frames=16)
        for one, other in zip(here, there, strict=True):
            torch.testing.assert_close(other.cpu(), one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_clips(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    videos = [
        torch.randint(0, 256, (40, height, width, 3), dtype=torch.uint8)
        for height, width in ((240, 320), (256, 340), (61, 77), (720, 1280))
    ]
    sizes = [torch.tensor([video.shape[dim] for video in videos]) for dim in range(3)]
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.uint8: 1}[
        dtype
    ]
    for antialias in (True, False):
        pairs = stor_ops.sample_view_pairs(*sizes, torch.arange(4), strides=(1, 2))
        options = {"antialias": antialias, "dtype": dtype, "memory_format": memory_format}
        here = stor_ops.crop_resize_pair(
            videos, pairs.first, pairs.second, (16, 112, 112), **options
        )
        there = stor_ops.crop_resize_pair(
            [video.cuda() for video in videos],
            pairs.first.to("cuda"),
            pairs.second.to("cuda"),
            (16, 112, 112),
            **options,
        )
        for one, other in zip([*here[:2], *here[2]], [*there[:2], *there[2]], strict=True):
            assert other.stride() == one.stride()
            torch.testing.assert_close(other.cpu().float(), one.float(), atol=tolerance, rtol=1e-5)


def test_bad_views_are_nan_and_leave_the_others_alone() -> None:
    videos = torch.randint(0, 256, (2, 4, 30, 40, 3), dtype=torch.uint8, device="cuda")
    box = torch.tensor([[0.0, 0, 9, 9], [5, 5, 5, 9], [0, 0, 9, 9], [0, float("nan"), 9, 9]])
    views = Views.from_boxes(box, video=torch.tensor([0, 1, 2, 0])).to("cuda")
    clips = stor_ops.crop_resize(videos, views, (4, 8, 8))
    assert clips[0].isfinite().all()
    assert clips[1:].isnan().all()
    assert not stor_ops.crop_resize(videos, views, (4, 8, 8), dtype=torch.uint8)[1:].any()


def test_a_video_beyond_two_gigabytes() -> None:
    frames = 2**31 // (512 * 512 * 3) + 10
    video = torch.zeros(1, frames, 512, 512, 3, dtype=torch.uint8, device="cuda")
    video[0, -1] = 255
    views = Views.from_boxes(torch.tensor([[0.0, 0, 512, 512]], device="cuda"), start=frames - 2)
    clip = stor_ops.crop_resize(video, views, (2, 16, 16))
    assert not clip[0, :, 0].any()
    assert (clip[0, :, 1] == 1).all()


def test_runs_on_the_stream_and_device_of_its_tensors() -> None:
    last = torch.cuda.device_count() - 1
    with torch.cuda.stream(torch.cuda.Stream(last)):
        videos = torch.full((1, 2, 64, 64, 3), 255, dtype=torch.uint8, device=f"cuda:{last}")
        views = Views.from_boxes(torch.tensor([[0.0, 0, 64, 64]], device=f"cuda:{last}"))
        clip = stor_ops.crop_resize(videos, views, (2, 16, 16))
        assert (clip == 1).all()


def test_no_op_waits_for_the_device() -> None:
    arguments = columns(8, "cuda")
    videos = [torch.zeros(30, 40, 50, 3, dtype=torch.uint8, device="cuda") for _ in range(8)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        pairs = stor_ops.sample_view_pairs(*arguments)
        stor_ops.crop_resize_pair(videos, pairs.first, pairs.second, (4, 8, 8))
        stor_ops.overlap_rate(pairs.first, pairs.second, clip_frames=4)
    finally:
        torch.cuda.set_sync_debug_mode("default")
