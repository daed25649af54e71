"""The joint objective, and how often each head is right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup

import stor_ops
from stor_ops import ViewPairs

from .config import Objective
from .model import Predictions

TERMS = ("contrastive", "spatial", "temporal", "playback", "rotation")
HEADS = ("spatial", "temporal", "playback", "rotation")


class Outcome(NamedTuple):
    """Loss of a batch, its parts, and what each head guessed."""

    total: Tensor  # scalar with gradient
    terms: dict[str, Tensor]  # unweighted scalars, by TERMS
    guesses: dict[str, tuple[Tensor, Tensor]]  # predicted and true classes, by HEADS


def _label_counts(labels: Sequence[Tensor], group: ProcessGroup | None) -> Tensor:
    """How many labels of each tensor are not -100: the mean over ranks, at least one in all.

    DDP averages gradients over ranks; sums divided by this are then means over all labels of all ranks.
    """
    counts = torch.stack([(label >= 0).sum() for label in labels]).float()
    if group is None:
        return counts.clamp(min=1)
    dist.all_reduce(counts, group=group)
    return counts.clamp(min=1) / dist.get_world_size(group)


def joint_objective(
    predictions: Predictions,
    pairs: ViewPairs,
    video: Tensor,
    weights: Objective,
    group: ProcessGroup | None = None,
) -> Outcome:
    """Weigh the contrastive term and the four predictions (CSTP, arXiv 2112.08913, section 3.4).

    The contrastive term is multi-positive InfoNCE over the views of the batch: views of one video are
    positives. Playback and rotation are summed over both views.

    A label of -100 does not count; a term without any label is 0.

    Args:
        predictions: of N pairs.
        pairs: their classes.
        video: int64 (N,), which video each pair shows.
        weights: of the terms.
        group: ranks whose batches make one with this; gradients are as DDP averages them.

    """
    labels = {
        "spatial": [pairs.spatial_class],
        "temporal": [pairs.temporal_class],
        "playback": [pairs.playback_class] * 2,
        "rotation": list(pairs.rotation_class.unbind(1)),
    }
    logits = {
        "spatial": [predictions.spatial],
        "temporal": [predictions.temporal],
        "playback": list(predictions.playback),
        "rotation": list(predictions.rotation),
    }
    terms = {
        "contrastive": stor_ops.multi_positive_info_nce(
            torch.cat(predictions.projection),
            query_id=torch.cat([video, video]),
            temperature=weights.temperature,
            form=weights.form,
            normalize=True,
            group=group,
        )
    }
    counts = iter(_label_counts([label for head in HEADS for label in labels[head]], group))
    for head in HEADS:
        views = zip(logits[head], labels[head], strict=True)
        sums = [F.cross_entropy(guess.float(), label, reduction="sum") for guess, label in views]
        terms[head] = torch.stack([total / next(counts) for total in sums]).sum()
    total = torch.stack([getattr(weights, term) * terms[term] for term in TERMS]).sum()
    guesses = {
        head: (torch.cat(logits[head]).detach().argmax(1), torch.cat(labels[head]))
        for head in HEADS
    }
    return Outcome(total, {term: loss.detach() for term, loss in terms.items()}, guesses)
