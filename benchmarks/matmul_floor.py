"""The matrix products of InfoNCE alone: the time below which no exact method on this processor comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .suite import Case, Outputs, Work

if TYPE_CHECKING:
    from .bench_info_nce import Features

BLOCK = 256  # a tile of 256 KiB and its two blocks of features stay in a core's second-level cache

Pairs = Sequence[tuple[int, int]]


class _Share:
    """Some block pairs (i, j), i <= j, with buffers of their own."""

    def __init__(self, features: Tensor, pairs: Pairs) -> None:
        self._blocks = features.split(BLOCK)
        self._tile = torch.empty(BLOCK * BLOCK)
        self._sums = torch.zeros_like(features).split(BLOCK)
        self._pairs = pairs

    def multiply(self) -> None:
        """4 N^2 D operations over all pairs."""
        for i, j in self._pairs:
            left, right = self._blocks[i], self._blocks[j]
            tile = self._tile[: len(left) * len(right)].view(len(left), len(right))
            for _ in ("forward", "backward"):
                torch.mm(left, right.t(), out=tile)
            torch.addmm(self._sums[i], tile, right, out=self._sums[i])
            if i != j:
                torch.addmm(self._sums[j], tile.t(), left, out=self._sums[j])


def matmul_floor(case: Case, data: Features) -> Mapping[str, Work]:
    """Both ways to use the cores; values grow without meaning from call to call."""
    features = data.features
    count = -(-len(features) // BLOCK)
    pairs = [(i, j) for i in range(count) for j in range(i, count)]
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    shares = [_Share(features, pairs[part::threads]) for part in range(threads)]
    whole = _Share(features, pairs)

    def one_block_per_core() -> Outputs:
        list(pool.map(_Share.multiply, shares))
        return ()

    def all_cores_on_each_block() -> Outputs:
        whole.multiply()
        return ()

    return {
        "a block per core": one_block_per_core,
        "all cores on each block": all_cores_on_each_block,
    }
