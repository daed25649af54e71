"""The GPU check on a machine without a GPU: it says so, and its contenders do the same job as ours."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_check

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: run make gpu-check")
def test_says_that_there_is_no_gpu() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 2
    assert "torch sees no GPU" in run.stderr


@pytest.mark.parametrize(
    ("peer", "antialias", "bound"),
    [
        ("torchvision", True, 0.05),
        ("torchvision", False, 0.05),
        ("grid_sample", False, 0.01),
        ("kornia", False, 0.05),
    ],
)
def test_contenders_do_our_job(
    monkeypatch: pytest.MonkeyPatch, peer: str, antialias: bool, bound: float
) -> None:
    monkeypatch.setattr(gpu_check, "DEVICE", "cpu")
    monkeypatch.setattr(gpu_check, "FRAMES", 40)
    if peer == "kornia":
        pytest.importorskip("kornia")
    videos, pairs = gpu_check.standard_job(2)
    # Smooth pictures: torchvision has no fractional boxes, and half a pixel of noise is no likeness.
    coarse = torch.rand(2, 3, 40, 9, 12)
    smooth = torch.nn.functional.interpolate(coarse, (40, 256, 340), mode="trilinear")
    videos = (smooth * 255).byte().permute(0, 2, 3, 4, 1).contiguous()
    expected = gpu_check.ours(antialias)(videos, pairs)
    contender = {
        "torchvision": gpu_check.torchvision_peer(antialias),
        "grid_sample": gpu_check.grid_sample_peer,
        "kornia": gpu_check.kornia_peer,
    }[peer]
    difference = (contender(videos, pairs) - expected).abs().mean()
    assert difference < bound * expected.std()
