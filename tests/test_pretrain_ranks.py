"""The main job on two ranks."""

from pathlib import Path

import pytest
import torch
from pretrain_runs import ROOT, command, lines, run, state, write_videos


def torchrun(arguments: list[str], script: Path) -> list[str]:
    """Turn the command of one process into one of two ranks that run ``script``."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    return [arguments[0], *launcher, *arguments[3:]]


# A rank that leaves its weights behind and, if told so, cannot read a video that the other rank can.
RANK_SCRIPT = f"""
import os, sys, torch
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
import training.data, training.pretrain as pretrain
made = []
class Spy(pretrain.PairModel):
    def __init__(self, config):
        super().__init__(config)
        made.append(self)
pretrain.PairModel = Spy
rank = os.environ["RANK"]
if os.environ.get("SPY_BLIND") == rank:
    opened = training.data.open_video
    def open_video(path, **options):
        if path.endswith("2.mp4"):
            raise training.decode_scan.VideoError(path, "only rank 1 cannot read it")
        return opened(path, **options)
    training.data.open_video = open_video
status = pretrain.main()
weights = dict(made[0].named_parameters())
torch.save({{name: value.detach() for name, value in weights.items()}}, os.environ["SPY_OUT"] + rank)
sys.exit(status)
"""


def test_two_ranks_stay_one_model_and_tell_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A fault of the public code: the scheduler stepped on rank 0 only, so ranks drifted apart.
    videos = write_videos(tmp_path / "videos")
    script, out = tmp_path / "spy.py", tmp_path / "run"
    script.write_text(RANK_SCRIPT)
    monkeypatch.setenv("SPY_OUT", str(tmp_path / "rank"))
    monkeypatch.setenv("SPY_BLIND", "1")
    four = ("--views", "4", "--objective.positives", "overlap", "--optim.epochs", "1")
    result = run(torchrun(command(videos, out, *four), script))
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("step(s) in all") == 1, "only one rank talks"
    assert "6 step(s) in all; 2 x cpu" in result.stdout
    assert "2.mp4: only rank 1 cannot read it" in result.stdout, "and for all of them"
    assert state(out)["broken"] == {"videos/2.mp4": "only rank 1 cannot read it"}
    assert all(sum(record["labels_spatial"]) == 2 * 4 * 2 for record in lines(out))
    first, second = (torch.load(tmp_path / f"rank{rank}", weights_only=True) for rank in (0, 1))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name

    alone = run(command(videos, out, "--resume", *four))
    assert alone.returncode == 2
    assert "ranks: 2 in the checkpoint, 1 now" in alone.stderr
