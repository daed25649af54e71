"""Runs of the main job on three small videos, as its user starts them, and what they leave."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from barcode import write_barcode

from training.checkpoint import NAME as CHECKPOINT

ROOT = Path(__file__).resolve().parents[1]
STEPS = 24  # 2 epochs of 3 videos x 16 draws in batches of 4


def write_videos(folder: Path) -> Path:
    folder.mkdir()
    for number in range(3):
        write_barcode(folder / f"{number}.mp4", frames=40, first=50 * number)
    return folder


def command(videos: Path, out: Path, *extra: str) -> list[str]:
    arguments = {
        "--data.videos": videos,
        "--data.clip-frames": 4,
        "--data.size": 32,
        "--data.batch-size": 4,
        "--data.draws": 16,
        "--optim.epochs": 2,
        "--optim.warmup-epochs": 0.5,
        "--run.out": out,
        "--run.checkpoint-every": 5,
        "--run.sheet-pairs": 2,
    }
    flags = [str(part) for pair in arguments.items() for part in pair]
    return [
        sys.executable,
        "-m",
        "training.pretrain",
        "tiny",
        *flags,
        "--data.strides",
        "1",
        "2",
        *extra,
    ]


def run(arguments: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    return subprocess.run(
        arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, **options
    )


def state(out: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(out / CHECKPOINT, weights_only=True)
    return loaded


def lines(out: Path) -> list[dict[str, Any]]:
    path = out / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
