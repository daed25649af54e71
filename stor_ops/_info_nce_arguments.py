"""The arguments of the op info_nce, which all its versions in Python pass on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Arguments(NamedTuple):
    """Arguments of the op ``info_nce`` in the order of its schema: a call is ``info_nce(*arguments)``.

    What torch calls, kernels and autograd functions, gets them one by one, which is
    ``*arguments: Unpack[Arguments]`` to the type checker.
    """

    query: Tensor  # (N, D)
    key: Tensor | None  # (M, D); None: the queries meet each other, each without itself
    temperature: Tensor  # (), perhaps of another dtype and on another device
    query_id: Tensor | None  # (N,), or else positive_index
    key_id: Tensor | None  # (M,), with query_id and key
    positive_index: Tensor | None  # (N, P)
    positive_weight: Tensor | None  # (N, P), with positive_index
    inside: bool  # the sum over positives stands inside of the logarithm

    @property
    def keys(self) -> Tensor:
        """What the queries meet."""
        return self.query if self.key is None else self.key

    @property
    def key_ids(self) -> Tensor | None:
        """Ids of ``keys``."""
        return self.query_id if self.key is None else self.key_id


def accumulator(query: Tensor, key: Tensor | None) -> torch.dtype:
    """Dtype of sums and statistics: float64 for float64, else float32."""
    double = query.dtype == torch.float64 or (key is not None and key.dtype == torch.float64)
    return torch.float64 if double else torch.float32
