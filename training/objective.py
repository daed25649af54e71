"""The joint objective, and how often each head is right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup

import stor_ops
from stor_ops import ViewPairs, Views

from .config import Config
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


def _gather(views: Views, group: ProcessGroup) -> Views:
    """Return what matters to the overlap of all ranks' views, in rank order; shards are of one size."""
    fields = (views.video, views.start, views.stride, views.box)
    shards = [
        [torch.empty_like(field) for _ in range(dist.get_world_size(group))] for field in fields
    ]
    for field, parts in zip(fields, shards, strict=True):
        dist.all_gather(parts, field.contiguous(), group=group)
    video, start, stride, box = (torch.cat(parts) for parts in shards)
    return Views.from_boxes(box, video=video, start=start, stride=stride)


class JointObjective(nn.Module):
    """The contrastive term and the four predictions, weighed (CSTP, arXiv 2112.08913, section 3.4).

    The contrastive term is multi-positive InfoNCE over all views of the batch. Positives are "hard",
    all other views of the same video, or "overlap", the same weighted by the joint overlap rate; views
    of one video that share nothing then repel each other as those of two videos do. Each prediction is
    of one pair; playback and rotation are summed over its views.

    A label of -100 does not count; a term without any label is 0.

    Args:
        config: of the run.
        group: ranks whose batches, of one size, make one; gradients are as DDP averages them.

    """

    def __init__(self, config: Config, group: ProcessGroup | None = None) -> None:
        super().__init__()
        self.data, self.weights, self.group = config.data, config.objective, group
        self.contrast = stor_ops.nn.MultiPositiveInfoNCE(
            self.weights.temperature, form=self.weights.form, normalize=True, group=group
        )

    def forward(self, predictions: Predictions, pairs: ViewPairs) -> Outcome:
        """Return the loss of N pairs.

        Args:
            predictions: of the pairs.
            pairs: their classes and views, in units of whole videos; ``video`` is an id that holds on
                all ranks.

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
        positives = self._positives(Views.cat([pairs.first, pairs.second]))
        terms = {"contrastive": self.contrast(torch.cat(predictions.projection), **positives)}
        counts = iter(
            _label_counts([label for head in HEADS for label in labels[head]], self.group)
        )
        for head in HEADS:
            views = zip(logits[head], labels[head], strict=True)
            sums = [
                F.cross_entropy(guess.float(), label, reduction="sum") for guess, label in views
            ]
            terms[head] = torch.stack([total / next(counts) for total in sums]).sum()
        total = torch.stack([getattr(self.weights, term) * terms[term] for term in TERMS]).sum()
        guesses = {
            head: (torch.cat(logits[head]).detach().argmax(1), torch.cat(labels[head]))
            for head in HEADS
        }
        return Outcome(total, {term: loss.detach() for term, loss in terms.items()}, guesses)

    def _positives(self, views: Views) -> dict[str, Tensor]:
        """Say which keys attract each view, as the contrastive loss takes it."""
        if self.weights.positives == "hard":
            return {"query_id": views.video}
        everyone, first = views, 0
        if self.group is not None:
            # Another rank may show the same video: who overlaps whom is a matter of all ranks.
            everyone = _gather(views, self.group)
            first = dist.get_rank(self.group) * len(views)
        # Counting the views of a video would wait for the device. More than `draws` times a video shows
        # up only in place of one that cannot be read; what is too many then is no positive.
        most = min(self.data.views * self.data.draws, len(everyone)) - 1
        index, weight = stor_ops.overlap_positives(
            everyone, clip_frames=self.data.clip_frames, max_positives=most
        )
        own = slice(first, first + len(views))
        return {"positive_index": index[own], "positive_weight": weight[own]}
