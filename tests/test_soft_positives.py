"""V views of a video as soft positives of each other, and a queue of keys that nothing flows back to."""

import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

import stor_ops
from stor_ops import Views, multi_positive_info_nce, overlap_positives, reference
from stor_ops.nn import MultiPositiveInfoNCE

CLIP, VIDEOS, DIM = 8, 5, 6


def views_of(count: int) -> Views:
    """`count` views of each video in a shuffled order: count / 2 draws of a pair."""
    columns = [torch.full((VIDEOS,), size) for size in (90, 48, 64)]
    parts = []
    for draw in range(count // 2):
        pairs = stor_ops.sample_view_pairs(
            *columns, torch.arange(VIDEOS), clip_frames=CLIP, draw=draw, strides=(1, 2, 4)
        )
        parts += [pairs.first, pairs.second]
    return Views.cat(parts)[torch.randperm(count * VIDEOS)]


def all_pairs(views: Views) -> dict[str, torch.Tensor]:
    """Every row a candidate of every row, weighted by the reference: N x N, and plain to see."""
    joint = reference.pairwise_overlap_rate(views, views, clip_frames=CLIP).joint
    index = torch.arange(len(views)).expand(len(views), -1)
    return {"positive_index": index, "positive_weight": joint.float().fill_diagonal_(0)}


def soft_loss(features: torch.Tensor, views: Views, most: int, form: str) -> torch.Tensor:
    index, weight = overlap_positives(views, clip_frames=CLIP, max_positives=most)
    return multi_positive_info_nce(
        features, positive_index=index, positive_weight=weight, form=form, normalize=True
    )


@pytest.mark.parametrize("form", ["out", "in"])
@pytest.mark.parametrize("count", [2, 4, 8])
def test_views_attract_each_other_as_far_as_they_overlap(count, form):
    views = views_of(count)
    features = torch.randn(len(views), DIM, dtype=torch.float64, requires_grad=True)
    expected = reference.multi_positive_info_nce(
        features, **all_pairs(views), form=form, normalize=True
    )
    truth = torch.autograd.grad(expected, features)
    torch.compiler.reset()
    compiled = torch.compile(soft_loss, fullgraph=True, backend="aot_eager")
    for function in (soft_loss, compiled):
        loss = function(features, views, count - 1, form)
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
        gradient = torch.autograd.grad(loss, features)
        torch.testing.assert_close(gradient, truth, rtol=1e-5, atol=1e-6)


def test_the_weights_are_not_all_alike():
    # What the tests of this file would be worth nothing without.
    weight = overlap_positives(views_of(8), clip_frames=CLIP, max_positives=7)[1]
    assert (weight == 0).any()
    assert (weight > 0.5).any()
    assert weight[weight > 0].unique().numel() > 20
    assert (weight > 0).sum(1).max() > 2, "a view has several soft positives"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("count", [2, 4, 8])
def test_nothing_looks_at_a_value(count, device, monkeypatch):
    # Fake tensors have no values: an op that waits for one is an error.
    monkeypatch.setattr(stor_ops._load, "DEVICE_TYPES", {"cpu", "cuda"})
    rows = count * VIDEOS
    with FakeTensorMode(), torch.device(device):
        views = Views.from_boxes(torch.empty(rows, 4))
        index, weight = overlap_positives(views, clip_frames=CLIP, max_positives=count - 1)
        assert index.shape == weight.shape == (rows, count - 1)
        assert index.device.type == weight.device.type == device
        features = torch.empty(rows, DIM, requires_grad=True)
        module = MultiPositiveInfoNCE(learnable=True)
        loss = module(features, positive_index=index, positive_weight=weight)
        assert loss.shape == ()
        if device == "cpu" or torch.cuda.is_available():  # autograd's engine wants a real device
            loss.backward()
            assert features.grad.shape == features.shape
        with pytest.raises(DynamicOutputShapeException):
            overlap_positives(views, clip_frames=CLIP)[1].shape[1]  # counts on the device


QUEUES = {
    "negatives": lambda rows, queue: {
        "query_id": torch.arange(rows),
        "key_id": torch.cat([torch.arange(rows), torch.full((queue,), -1)]),
    },
    "videos": lambda rows, queue: {
        "query_id": torch.arange(rows),
        "key_id": torch.cat([torch.arange(rows), torch.randint(0, 2 * rows, (queue,))]),
    },
    "soft": lambda rows, queue: {
        "positive_index": torch.cat(
            [torch.arange(rows)[:, None], torch.randint(-1, rows + queue, (rows, 3))], 1
        ),
        "positive_weight": torch.rand(rows, 4),
    },
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("form", ["out", "in"])
@pytest.mark.parametrize("kind", QUEUES)
def test_queue_changes_the_loss_and_gets_no_gradient(kind, form, compiled):
    rows, queued = 6, 20
    query, key = (torch.randn(rows, DIM, dtype=torch.float64) for _ in range(2))
    queue = torch.randn(queued, DIM, dtype=torch.float64)
    options = QUEUES[kind](rows, queued)

    def solve(function, key_learns: bool):
        leaves = [query.clone().requires_grad_(), key.clone().requires_grad_(key_learns)]
        memory = queue.clone().requires_grad_()
        loss = function(leaves[0], torch.cat([leaves[1], memory.detach()]), **options)
        loss.backward()
        assert memory.grad is None
        return loss, [leaf.grad for leaf in leaves if leaf.requires_grad]

    def truth(query, key, **lists):
        choices = {"temperature": 0.2, "form": form, "normalize": True}
        return reference.multi_positive_info_nce(query, key, **lists, **choices)

    module = MultiPositiveInfoNCE(0.2, form=form)
    if compiled:
        torch.compiler.reset()  # each kind is compiled anew, and dynamo counts
        module = torch.compile(module, fullgraph=True, backend="aot_eager")
    for key_learns in (False, True):  # keys of an EMA network, and of the network itself
        loss, gradients = solve(module, key_learns)
        expected, true_gradients = solve(truth, key_learns)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(gradients, true_gradients)
    if kind != "soft":
        short = {name: ids[:rows] for name, ids in options.items()}
        assert not torch.allclose(truth(query, key, **short), expected), "the queue says nothing"
