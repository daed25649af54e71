"""The CUDA library on a machine that need not have a GPU: what it registers and what it refuses.

What its kernels compute is tested through the emulator (test_cuda_views.py, test_cuda_crop_resize.py) and
on a GPU, where there is one, by test_cuda_device.py.
"""

import dataclasses

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import stor_ops
from stor_ops import Views, _load, info

pytestmark = pytest.mark.skipif(
    _load.CUDA_ERROR is not None, reason=f"no CUDA library: {_load.CUDA_ERROR}"
)

OPS = (
    "sample_view_pairs",
    "overlap_rate",
    "pairwise_overlap_rate",
    "crop_resize",
    "crop_resize_pair",
)


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_a_cuda_kernel(op: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"stor_ops::{op}", "CUDA")


def test_cuda_is_among_the_devices() -> None:
    assert "cuda" in info.device_types()


def fake_views(rows: int, device: str) -> Views:
    return Views(
        torch.zeros(rows, dtype=torch.int64, device=device),
        torch.zeros(rows, device=device),
        torch.ones(rows, device=device),
        torch.zeros(rows, 4, device=device),
        torch.zeros(rows, dtype=torch.bool, device=device),
        torch.zeros(rows, dtype=torch.uint8, device=device),
    )


def test_wrappers_accept_cuda_tensors() -> None:
    # Fake tensors pass every check of wrapper and fake, and reach no kernel.
    with FakeTensorMode():
        column = torch.full((3,), 100, dtype=torch.int64, device="cuda")
        pairs = stor_ops.sample_view_pairs(column, column, column, column)
        assert pairs.first.box.device.type == "cuda"
        rates = stor_ops.overlap_rate(pairs.first, pairs.second, clip_frames=4)
        assert rates.joint.device.type == "cuda"
        videos = [torch.empty(9, 30, 40, 3, dtype=torch.uint8, device="cuda") for _ in range(3)]
        first, _, overlap = stor_ops.crop_resize_pair(
            videos, pairs.first, pairs.second, (4, 8, 8), dtype=torch.bfloat16
        )
        assert (first.shape, first.dtype, first.device.type) == (
            (3, 3, 4, 8, 8),
            torch.bfloat16,
            "cuda",
        )
        assert overlap.spatial.device.type == "cuda"


def test_mixed_devices_are_refused_by_name() -> None:
    with FakeTensorMode():
        videos = torch.empty(2, 9, 30, 40, 3, dtype=torch.uint8, device="cuda")
        with pytest.raises(ValueError, match=r"^crop_resize: views\.video: .* on cuda:0, got cpu"):
            stor_ops.crop_resize(videos, fake_views(2, "cpu"), (4, 8, 8))
        views = dataclasses.replace(fake_views(2, "cuda"), box=torch.zeros(2, 4))
        with pytest.raises(ValueError, match=r"^crop_resize: views\.box: .* on cuda:0, got cpu"):
            stor_ops.crop_resize(videos, views, (4, 8, 8))
