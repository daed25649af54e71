"""The joint objective over two ranks equals that of one process on both batches."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import stor_ops
from training.config import Config, Data, Objective
from training.model import Predictions
from training.objective import TERMS, JointObjective, Outcome

FEATURES, PAIRS = 6, 4
POSITIVES: tuple[Literal["hard", "overlap"], ...] = ("hard", "overlap")


class Heads(nn.Module):
    """Linear in its input, so that gradients are easy to compare; no batch statistics."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.all = nn.Linear(FEATURES, 5 + 5 + 4 + 4 + 4 + 4 + 3 + 3)

    def forward(self, inputs: torch.Tensor) -> Predictions:
        parts = self.all(inputs).split([5, 5, 4, 4, 4, 4, 3, 3], dim=1)
        spatial, temporal, *views = parts
        return Predictions(spatial, temporal, *(tuple(views[i : i + 2]) for i in (0, 2, 4)))  # type: ignore[arg-type]


def problem() -> tuple[torch.Tensor, stor_ops.ViewPairs]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(2 * PAIRS, FEATURES, generator=generator)
    # Short videos: their pairs overlap, also those of one video on two ranks.
    pairs = stor_ops.sample_view_pairs(
        *(torch.full((2 * PAIRS,), size) for size in (40, 60, 80)), torch.arange(2 * PAIRS)
    )
    # Three labels on one rank and one on the other: a mean of means would be wrong.
    temporal = torch.tensor([-100, 1, 2, 3, -100, -100, 4, -100])
    video = torch.tensor([0, 1, 1, 0, 1, 2, 2, 0])
    first, second = (replace(views, video=video) for views in (pairs.first, pairs.second))
    return inputs, replace(pairs, temporal_class=temporal, first=first, second=second)


def solve(
    model: nn.Module,
    rows: slice,
    positives: Literal["hard", "overlap"],
    group: dist.ProcessGroup | None,
) -> Outcome:
    inputs, pairs = problem()
    # A video is shown three times in all, with two views each time.
    config = Config(data=Data(draws=3), objective=Objective(positives=positives, contrastive=1.0))
    outcome: Outcome = JointObjective(config, group)(model(inputs[rows]), pairs[rows])
    outcome.total.backward()
    return outcome


def on_rank(rank: int, store: str, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    rows = slice(rank * PAIRS, (rank + 1) * PAIRS)
    for positives in POSITIVES:
        heads = Heads()
        outcome = solve(DistributedDataParallel(heads), rows, positives, dist.group.WORLD)
        terms = torch.stack([outcome.total.detach(), *(outcome.terms[term] for term in TERMS)])
        dist.all_reduce(terms)
        gradients = {name: value.grad for name, value in heads.named_parameters()}
        torch.save({"gradients": gradients, "terms": terms / 2}, f"{out}{rank}{positives}")
    dist.destroy_process_group()


def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    mp.spawn(on_rank, args=(str(tmp_path / "store"), str(tmp_path / "rank")), nprocs=2)
    for positives in POSITIVES:
        heads = Heads()
        outcome = solve(heads, slice(None), positives, None)
        alone = torch.stack([outcome.total.detach(), *(outcome.terms[term] for term in TERMS)])
        for rank in (0, 1):
            result = torch.load(tmp_path / f"rank{rank}{positives}", weights_only=True)
            torch.testing.assert_close(result["terms"], alone)
            for name, value in heads.named_parameters():
                torch.testing.assert_close(result["gradients"][name], value.grad)


def test_views_of_one_video_overlap_across_the_ranks() -> None:
    # What the test above would be worth nothing without.
    _, pairs = problem()
    views = stor_ops.Views.cat([pairs.first, pairs.second])
    joint = stor_ops.pairwise_overlap_rate(views, views, clip_frames=Data().clip_frames).joint
    rank = (torch.arange(len(views)) % (2 * PAIRS)) // PAIRS
    across = joint[rank[:, None] != rank]
    assert (across > 0).sum() >= 4
