"""Loss and gradient of InfoNCE over pairs in float64, at any N: where the reference's matrices do not fit.

Written down from the loss, with nothing of stor_ops in it; a test holds it and the reference together.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 1024


def loss_and_some_gradient(
    features: Tensor, temperature: float, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Loss of all rows, of which i and i + N / 2 are a pair, and its gradient for some of them.

    With s = x x^T / temperature and p_ij = exp(s_ij - lse_i), j not i, the loss is the mean of
    lse_i - s_i,partner, and its gradient sum_j (p_ij + p_ji) x_j - 2 x_partner over N temperature.
    """
    count = len(features)
    own = torch.arange(count)
    partner = own.roll(count // 2)
    lse = torch.cat(
        [_logits(features, temperature, some).logsumexp(1) for some in own.split(BLOCK)]
    )
    loss = (lse - (features * features[partner]).sum(1) / temperature).mean()
    gradient = []
    for some in rows.split(BLOCK):
        logits = _logits(features, temperature, some)
        both = (logits - lse[some, None]).exp() + (logits - lse).exp()
        gradient.append(both @ features - 2 * features[partner[some]])
    return loss, torch.cat(gradient) / (count * temperature)


def _logits(features: Tensor, temperature: float, rows: Tensor) -> Tensor:
    logits = features[rows] @ features.t() / temperature
    return logits.scatter_(1, rows[:, None], -torch.inf)
