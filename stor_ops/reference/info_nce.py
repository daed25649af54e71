"""`multi_positive_info_nce` in plain torch, with the whole N x M matrix."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def multi_positive_info_nce(
    query: Tensor,
    key: Tensor | None = None,
    *,
    query_id: Tensor | None = None,
    key_id: Tensor | None = None,
    positive_index: Tensor | None = None,
    positive_weight: Tensor | None = None,
    temperature: float | Tensor = 0.1,
    form: str = "out",
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Contrast each query with every key; see `stor_ops.multi_positive_info_nce`."""
    against_itself = key is None
    keys = query if key is None else key
    if normalize:
        query, keys = F.normalize(query, dim=-1), F.normalize(keys, dim=-1)
    logits = query @ keys.t() / temperature
    own = torch.eye(len(query), len(keys), dtype=torch.bool, device=query.device) & against_itself
    logits = logits.masked_fill(own, -torch.inf)

    if positive_index is None:
        assert query_id is not None
        other_id = query_id if key_id is None else key_id
        weight = ((query_id[:, None] == other_id) & (query_id[:, None] >= 0)).to(logits.dtype)
    else:
        given = torch.ones(positive_index.shape) if positive_weight is None else positive_weight
        given = torch.where(positive_index >= 0, given.to(logits), 0.0)
        weight = torch.zeros_like(logits).scatter_add(1, positive_index.clamp(min=0), given)
    weight = weight.masked_fill(own, 0.0)

    has_positive = weight.sum(1) > 0
    logits, weight = logits[has_positive], weight[has_positive]
    lse = logits.logsumexp(1)
    if form == "out":
        finite = logits.masked_fill(weight == 0, 0.0)
        rows = lse - (weight * finite).sum(1) / weight.sum(1)
    else:
        rows = lse - (logits + weight.log()).logsumexp(1)
    if reduction == "none":
        return torch.zeros(len(query), dtype=rows.dtype).index_put(
            (has_positive.nonzero()[:, 0],), rows
        )
    return rows.sum() if reduction == "sum" or not len(rows) else rows.mean()
