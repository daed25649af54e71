"""Model, objective, learning rate and metrics."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

import stor_ops
from stor_ops import ViewPairs
from training.config import Config, Data, Model, Objective, Optim
from training.metrics import head_scores, statistics, step_record
from training.model import PairModel, Predictions, TinyR2Plus1D, make_backbone
from training.objective import HEADS, TERMS, JointObjective, Outcome
from training.pretrain import lr_factor
from training.ranks import Ranks

TINY = Config(model=Model(backbone="tiny", projection=16), data=Data(strides=(1, 2, 4, 8)))


def _pairs(count: int, num_frames: int = 300) -> ViewPairs:
    return stor_ops.sample_view_pairs(
        *(torch.full((count,), value) for value in (num_frames, 60, 80)), torch.arange(count)
    )


def _outcome(
    out: Predictions, pairs: ViewPairs, video: torch.Tensor, weights: Objective | None = None
) -> Outcome:
    config = replace(TINY, objective=weights or Objective())
    first, second = (replace(views, video=video) for views in (pairs.first, pairs.second))
    outcome: Outcome = JointObjective(config)(out, replace(pairs, first=first, second=second))
    return outcome


def _predictions(count: int, config: Config = TINY) -> Predictions:
    clips = torch.randn(2, count, 3, 8, 32, 32)
    predictions: Predictions = PairModel(config)(clips[0], clips[1])
    return predictions


@pytest.mark.parametrize(
    ("name", "features", "clip"),
    [
        ("tiny", TinyR2Plus1D.features, (8, 32, 32)),
        ("r2plus1d_10", 512, (4, 32, 32)),
        ("r2plus1d_18", 512, (4, 32, 32)),
        ("r3d_18", 512, (4, 32, 32)),
        ("s3d", 1024, (8, 32, 32)),
    ],
)
def test_backbones_give_the_features_that_they_say(
    name: str, features: int, clip: tuple[int, int, int]
) -> None:
    backbone, width = make_backbone(name)
    with torch.no_grad():
        assert backbone.eval()(torch.randn(2, 3, *clip)).shape == (2, features)
    assert width == features


def test_r2plus1d_10_has_one_block_a_stage() -> None:
    backbone, _ = make_backbone("r2plus1d_10")
    assert [len(getattr(backbone, f"layer{stage}")) for stage in (1, 2, 3, 4)] == [1, 1, 1, 1]


def test_unknown_backbone_is_named() -> None:
    with pytest.raises(ValueError, match="lenet"):
        make_backbone("lenet")


@pytest.mark.parametrize(("rates", "strides"), [(5, 4), (3, 2), (2, 6)])
def test_every_head_has_as_many_logits_as_classes(rates: int, strides: int) -> None:
    # A fault of the public code: five logits for four classes.
    data = Data(
        rates=tuple(torch.linspace(1, 0.2, rates).tolist()), strides=tuple(range(1, strides + 1))
    )
    out = _predictions(2, replace(TINY, data=data))
    assert out.spatial.shape == out.temporal.shape == (2, rates)
    assert out.playback[0].shape == out.playback[1].shape == (2, strides)
    assert out.rotation[0].shape == out.rotation[1].shape == (2, 4)


def test_views_meet_only_in_the_overlap_heads() -> None:
    model = PairModel(TINY).eval()
    first, second, other = torch.randn(3, 2, 3, 8, 32, 32)
    before, after = model(first, second), model(first, other)
    assert torch.equal(before.playback[0], after.playback[0])
    assert torch.equal(before.projection[0], after.projection[0])
    assert not torch.equal(before.playback[1], after.playback[1])
    for head in ("spatial", "temporal"):
        assert not torch.equal(getattr(before, head), getattr(after, head))


@pytest.mark.parametrize(
    ("world", "device", "expected"), [(1, "cuda", 0), (2, "cpu", 0), (2, "cuda", 9)]
)
def test_batch_norm_is_synchronised_over_ranks_on_gpus_alone(
    monkeypatch: pytest.MonkeyPatch, world: int, device: str, expected: int
) -> None:
    # A fault of the public code: SyncBatchNorm over one rank.
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, _: self)  # there may be no GPU
    ranks = Ranks(0, world, None, torch.device(device))
    network = ranks.prepare(PairModel(TINY))
    kinds = [type(part) for part in network.modules()]
    assert kinds.count(torch.nn.SyncBatchNorm) == expected


def test_objective_is_the_weighted_sum_of_its_terms() -> None:
    pairs, video = _pairs(6), torch.tensor([0, 1, 2, 2, 4, 5])
    out = _predictions(6)
    weights = Objective(contrastive=0.3, spatial=2.0, temporal=0.5, playback=1.5, rotation=0.7)
    outcome = _outcome(out, pairs, video, weights)

    expected = {
        "spatial": F.cross_entropy(out.spatial, pairs.spatial_class),
        "temporal": F.cross_entropy(out.temporal, pairs.temporal_class),
        "playback": sum(F.cross_entropy(logits, pairs.playback_class) for logits in out.playback),
        "rotation": sum(
            F.cross_entropy(logits, pairs.rotation_class[:, view])
            for view, logits in enumerate(out.rotation)
        ),
        "contrastive": stor_ops.reference.multi_positive_info_nce(
            torch.cat(out.projection), query_id=torch.cat([video, video]), normalize=True
        ),
    }
    for term in TERMS:
        torch.testing.assert_close(outcome.terms[term], torch.as_tensor(expected[term]).detach())
    total = sum(getattr(weights, term) * expected[term] for term in TERMS)
    torch.testing.assert_close(outcome.total, total)
    assert outcome.total.requires_grad


def test_published_weights_are_the_default() -> None:
    weights = Objective()
    assert (weights.contrastive, weights.spatial, weights.temporal) == (0.1, 1.0, 1.0)
    assert (weights.playback, weights.rotation) == (1.0, 1.0)


def test_ignored_labels_do_not_count() -> None:
    pairs, out, video = _pairs(4), _predictions(4), torch.arange(4)
    some = replace(pairs, temporal_class=torch.tensor([1, -100, 3, -100]))
    outcome = _outcome(out, some, video)
    expected = F.cross_entropy(out.temporal[[0, 2]], torch.tensor([1, 3]))
    torch.testing.assert_close(outcome.terms["temporal"], expected.detach())

    none = replace(pairs, temporal_class=torch.full((4,), -100))
    outcome = _outcome(out, none, video)
    assert outcome.terms["temporal"] == 0
    assert outcome.total.isfinite()
    outcome.total.backward()


def test_every_parameter_learns() -> None:
    model = PairModel(TINY)
    out = model(*torch.randn(2, 4, 3, 8, 32, 32))
    _outcome(out, _pairs(4), torch.arange(4)).total.backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


def test_learning_rate_warms_up_then_falls_to_zero() -> None:
    optim = Optim(epochs=10, warmup_epochs=2.0)
    rates = [lr_factor(step, 5, 50, optim) for step in range(50)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a > b for a, b in pairwise(rates[11:]))
    assert rates[30] == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))
    assert 0 <= rates[-1] < 0.01
    assert lr_factor(0, 5, 50, Optim(warmup_epochs=0.0)) == 1.0


def test_head_scores_count_hits_and_name_both_baselines() -> None:
    pairs = replace(
        _pairs(4),
        spatial_class=torch.tensor([0, 0, 0, 1]),
        temporal_class=torch.full((4,), -100),
    )
    out = _predictions(4)
    hit = F.one_hot(torch.tensor([0, 0, 2, 1]), 5).float()
    outcome = _outcome(out._replace(spatial=hit), pairs, torch.arange(4))
    classes = dict(zip(HEADS, (5, 5, 4, 4), strict=True))
    record = step_record(statistics(outcome, classes).tolist(), 1, classes)
    assert record["loss"] == pytest.approx(outcome.total.item())
    assert record["loss_rotation"] == pytest.approx(outcome.terms["rotation"].item())
    assert record["labels_spatial"] == [3, 1, 0, 0, 0]
    assert sum(record["labels_rotation"]) == 8
    scores = head_scores([record, record], classes)
    assert scores["spatial"] == (0.75, 0.2, 0.75)
    assert "temporal" not in scores, "a head without a label has no accuracy"
