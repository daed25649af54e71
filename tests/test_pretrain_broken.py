"""The main job on videos that cannot be read: skipped and named, or an error where none is left."""

import os
from pathlib import Path

import pytest
from pretrain_runs import command, run, write_videos


@pytest.mark.parametrize("workers", ["0", "1"])
def test_broken_videos_are_skipped_and_named(tmp_path: Path, workers: str) -> None:
    videos = write_videos(tmp_path / "videos")
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "good.mp4").write_bytes((videos / "0.mp4").read_bytes())
    (mixed / "empty.mp4").touch()
    (mixed / "noise.mkv").write_bytes(os.urandom(5000))
    extra = ("--data.draws", "4", "--optim.epochs", "1", "--data.workers", workers)
    result = run(command(mixed, tmp_path / "run", *extra))
    assert result.returncode == 0, result.stderr
    assert "skipped 2 of 3 video(s):" in result.stdout
    assert result.stdout.count("mixed/empty.mp4: ") == 2, "when it is met, and in the summary"
    assert "mixed/noise.mkv: " in result.stdout

    (mixed / "good.mp4").unlink()
    result = run(command(mixed, tmp_path / "none", *extra))
    assert result.returncode == 2
    assert "not one video could be read" in result.stderr
    assert "mixed/empty.mp4: " in result.stderr
    assert "Traceback" not in result.stderr
