"""The main job as its user meets it: outputs, settings, interruption, resuming."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from barcode import write_barcode
from pretrain_runs import ROOT, STEPS, command, lines, run, state, write_videos

from training.checkpoint import NAME as CHECKPOINT
from training.model import make_backbone


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("pretrain") / "videos")


@pytest.fixture(scope="module")
def finished(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("pretrain-out") / "run"
    result = run(command(videos, out))
    assert result.returncode == 0, result.stderr
    return out, result.stdout


def assert_same_run(out: Path, reference: Path, steps: int = STEPS) -> None:
    """The same weights, momentum and losses to the bit."""
    left, right = state(out), state(reference)
    assert left["step"] == right["step"] == steps
    for name, value in right["model"].items():
        assert torch.equal(left["model"][name], value), name
    for index, buffers in right["optimizer"]["state"].items():
        momentum = left["optimizer"]["state"][index]["momentum_buffer"]
        assert torch.equal(momentum, buffers["momentum_buffer"]), index
    assert [line["step"] for line in lines(out)] == list(range(1, steps + 1))
    assert [line["loss"] for line in lines(out)] == [line["loss"] for line in lines(reference)]
    assert [line["lr"] for line in lines(out)] == [line["lr"] for line in lines(reference)]


def test_run_leaves_what_it_says(finished: tuple[Path, str]) -> None:
    out, text = finished
    assert f"{STEPS} step(s) in all" in text
    assert "accuracy, rotation" in text
    assert "skipped 0 of 3 video(s)" in text
    for name in (CHECKPOINT, "metrics.jsonl", "backbone.safetensors", "curves.png", "pairs.png"):
        assert f"wrote {out / name}" in text
        assert (out / name).stat().st_size > 0
    for picture in ("curves.png", "pairs.png"):
        assert (out / picture).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert list((out / "tensorboard").glob("events.*"))
    assert json.loads((out / "config.json").read_text())["data"]["clip_frames"] == 4
    records = lines(out)
    assert len(records) == STEPS
    for name in (
        "loss_spatial",
        "loss_contrastive",
        "hits_playback",
        "samples_per_second",
        "wait_share",
    ):
        assert all(name in record for record in records)


def test_exported_backbone_loads(finished: tuple[Path, str]) -> None:
    from safetensors.torch import load_file

    out, _ = finished
    backbone, _ = make_backbone("tiny")
    backbone.load_state_dict(load_file(out / "backbone.safetensors"))
    trained = state(out)["model"]
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, trained[f"backbone.{name}"])


def interrupt(arguments: list[str], out: Path, number: signal.Signals, after: int) -> int:
    """Start a run, signal its process group once ``after`` steps are logged, and return its status."""
    process = subprocess.Popen(
        arguments,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(json.JSONDecodeError):
                if len(lines(out)) >= after:
                    os.killpg(process.pid, number)
                    break
            time.sleep(0.005)
        return process.wait(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130), (signal.SIGTERM, 130)],
)
def test_interrupted_run_resumes_to_the_same_bits(
    videos: Path,
    finished: tuple[Path, str],
    tmp_path: Path,
    number: signal.Signals,
    status: int,
) -> None:
    out = tmp_path / "run"
    assert interrupt(command(videos, out), out, number, after=7) == status
    done = state(out)["step"]
    assert 5 <= done < STEPS
    if number == signal.SIGINT:
        assert done == len(lines(out)), "Ctrl-C leaves a checkpoint of where it stopped"
    # Neither the place of the videos nor the number of workers matters to the bits.
    moved = tmp_path / "elsewhere" / videos.name
    shutil.copytree(videos, moved)
    result = run(command(moved, out, "--resume", "--data.workers", "1"))
    assert result.returncode == 0, result.stderr
    assert f"{done} done" in result.stdout
    assert_same_run(out, finished[0])
    assert not list(out.glob("*.tmp"))


def test_four_views_with_soft_positives_resume_to_the_same_bits(
    videos: Path, tmp_path: Path
) -> None:
    extra = ("--views", "4", "--objective.positives", "overlap", "--optim.epochs", "1")
    whole, out = tmp_path / "whole", tmp_path / "run"
    result = run(command(videos, whole, *extra))
    assert result.returncode == 0, result.stderr
    assert "3 video(s), 96 pair(s) and 12 step(s) an epoch" in result.stdout
    assert all(sum(record["labels_spatial"]) == 8 for record in lines(whole)), "2 pairs of 4 videos"
    assert (whole / "pairs.png").stat().st_size > 0

    assert interrupt(command(videos, out, *extra), out, signal.SIGKILL, after=6) == -signal.SIGKILL
    assert 5 <= state(out)["step"] < 12
    result = run(command(videos, out, *extra, "--resume", "--data.workers", "1"))
    assert result.returncode == 0, result.stderr
    assert_same_run(out, whole, steps=12)


def test_finished_run_resumes_to_its_summary(videos: Path, finished: tuple[Path, str]) -> None:
    out, _ = finished
    before = state(out)["step"], len(lines(out))
    result = run(command(videos, out, "--resume"))
    assert result.returncode == 0, result.stderr
    assert "accuracy, rotation" in result.stdout
    assert (state(out)["step"], len(lines(out))) == before


def test_settings_that_cannot_be_used_are_errors(
    videos: Path, finished: tuple[Path, str], tmp_path: Path
) -> None:
    out, _ = finished
    more = tmp_path / "videos"
    shutil.copytree(videos, more)
    write_barcode(more / "new.mp4", frames=40)
    for folder, extra, expected in (
        (videos, ("--data.workers", "0"), "continue it with --resume"),
        (videos, ("--resume", "--optim.lr", "0.5"), "optim.lr: 0.02 in the checkpoint, 0.5 now"),
        (videos, ("--resume", "--run.seed", "1"), "run.seed"),
        (more, ("--resume",), "videos: 3 video(s), "),
        (
            videos,
            ("--data.batch-size", "0", "--data.rates", "1.5"),
            "data.batch-size: expected at least 2, got 0",
        ),
        (videos, ("--run.device", "cuda"), "run.device: cuda cannot be used"),
    ):
        result = run(command(folder, out, *extra))
        assert result.returncode == 2
        assert expected in result.stderr
        assert "Traceback" not in result.stderr
    (tmp_path / "spoilt").mkdir()
    (tmp_path / "spoilt" / CHECKPOINT).write_bytes(b"not a checkpoint")
    result = run(command(videos, tmp_path / "spoilt", "--resume"))
    assert result.returncode == 2
    assert "not a readable checkpoint" in result.stderr
    result = run(command(tmp_path / "nowhere", tmp_path / "out"))
    assert result.returncode == 2
    assert "nowhere does not exist" in result.stderr


def test_help_explains_the_settings() -> None:
    result = run([sys.executable, "-m", "training.pretrain", "--help"])
    assert result.returncode == 0
    assert "tiny" in result.stdout
    assert "cstp" in result.stdout
    result = run([sys.executable, "-m", "training.pretrain", "tiny", "--help"])
    assert result.returncode == 0
    assert "Steps between checkpoints" in result.stdout
    assert "--objective.contrastive" in result.stdout
