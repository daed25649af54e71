"""The joint objective, and how often each head is right."""

from __future__ import annotations

from typing import NamedTuple

import torch
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


def _class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the labels that are not -100; 0 where all are."""
    counted = (labels >= 0).sum().clamp(min=1)
    return F.cross_entropy(logits.float(), labels, reduction="sum") / counted


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

    Args:
        predictions: of N pairs.
        pairs: their classes.
        video: int64 (N,), which video each pair shows.
        weights: of the terms.
        group: ranks whose views are contrasted with these.

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
    for head in HEADS:
        views = zip(logits[head], labels[head], strict=True)
        terms[head] = torch.stack([_class_loss(guess, label) for guess, label in views]).sum()
    total = torch.stack([getattr(weights, term) * terms[term] for term in TERMS]).sum()
    guesses = {
        head: (torch.cat(logits[head]).detach().argmax(1), torch.cat(labels[head]))
        for head in HEADS
    }
    return Outcome(total, {term: loss.detach() for term, loss in terms.items()}, guesses)
