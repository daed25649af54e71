"""The info_nce ops in torch, a few query rows at a time: for devices that have no kernel of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ._info_nce_arguments import Arguments, accumulator

if TYPE_CHECKING:
    from typing import Unpack

_TILE_ELEMENTS = 2**20  # logits held at a time: 4 MiB in float32, which a CPU's cache still likes


class _Tile(NamedTuple):
    """Some rows of the logits and of the positives."""

    rows: slice
    logits: Tensor  # (R, M), -inf where a query meets itself
    weight: Tensor  # (R, M) for ids, (R, P) for an index; 0 is no positive
    column: Tensor | None  # (R, P), clamped into range; None: the positives are columns of logits

    def positive_logits(self) -> Tensor:
        """Logits of the positives, -inf elsewhere, in the shape of ``weight``."""
        logits = self.logits if self.column is None else self.logits.gather(1, self.column)
        return logits.masked_fill(self.weight == 0, -torch.inf)

    def add_positives(self, gradient: Tensor, parts: Tensor) -> None:
        """Add ``parts``, which has the shape of ``weight``, to the gradient of the logits."""
        if self.column is None:
            gradient += parts
        else:
            gradient.scatter_add_(1, self.column, parts)


def _tiles(problem: Arguments) -> Iterator[_Tile]:
    num_keys = problem.keys.shape[0]
    height = max(1, _TILE_ELEMENTS // max(num_keys, 1))
    scaled_key = problem.keys.t() / problem.temperature
    for begin in range(0, problem.query.shape[0], height):
        rows = slice(begin, min(begin + height, problem.query.shape[0]))
        logits = problem.query[rows] @ scaled_key
        own = None
        if problem.key is None:
            own = torch.arange(rows.start, rows.stop, device=logits.device)[:, None]
            logits.scatter_(1, own, -torch.inf)
        yield _Tile(rows, logits, *_positives(problem, rows, own))


def _positives(problem: Arguments, rows: slice, own: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Weights of the positives of some rows and, if they are listed by index, their columns."""
    dtype, num_keys = problem.query.dtype, problem.keys.shape[0]
    if problem.positive_index is None:
        assert problem.query_id is not None
        assert problem.key_ids is not None
        identity = problem.query_id[rows, None]
        weight = ((identity == problem.key_ids) & (identity >= 0)).to(dtype)
        return (weight if own is None else weight.scatter_(1, own, 0.0)), None
    index = problem.positive_index[rows]
    if num_keys == 0:  # there is no column that a padded index could be clamped to
        return problem.query.new_zeros((index.shape[0], 0)), None
    present = (index >= 0) & (index < num_keys)
    if own is not None:
        present &= index != own
    if problem.positive_weight is None:
        weight = present.to(dtype)
    else:
        weight = torch.where(present, problem.positive_weight[rows].to(dtype), 0.0)
    return weight, index.clamp(0, max(num_keys - 1, 0))


def _in_dtype_of_sums(given: Arguments) -> Arguments:
    dtype = accumulator(given.query, given.key)
    return given._replace(
        query=given.query.to(dtype),
        key=None if given.key is None else given.key.to(dtype),
        temperature=given.temperature.to(device=given.query.device, dtype=dtype),
    )


def forward(*arguments: Unpack[Arguments]) -> tuple[Tensor, Tensor, Tensor]:
    """Return per row the lse over keys, the (log-)sum over positives and the sum of their weights."""
    given = Arguments(*arguments)
    with torch.autocast(given.query.device.type, enabled=False):
        problem = _in_dtype_of_sums(given)
        lse, positive, total = (problem.query.new_empty(given.query.shape[0]) for _ in range(3))
        for tile in _tiles(problem):
            rows, logits = tile.rows, tile.positive_logits()
            lse[rows] = tile.logits.logsumexp(1)
            total[rows] = tile.weight.sum(1)
            if given.inside:
                positive[rows] = (logits + tile.weight.log()).logsumexp(1)
            else:
                positive[rows] = (tile.weight * logits.masked_fill(tile.weight == 0, 0.0)).sum(1)
        return lse, positive, total


def backward(
    grad_lse: Tensor,
    grad_positive: Tensor,
    lse: Tensor,
    positive: Tensor,
    *rest: Unpack[tuple[Unpack[Arguments], bool]],  # with need_key
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and temperature, recomputing the logits tile by tile."""
    given, need_key = Arguments(*rest[:-1]), rest[-1]
    with torch.autocast(given.query.device.type, enabled=False):
        problem = _in_dtype_of_sums(given)
        keys = problem.keys
        grad_query = torch.empty_like(problem.query, memory_format=torch.contiguous_format)
        grad_key = grad_query.new_zeros(keys.shape if given.key is None or need_key else (0,))
        grad_scale = problem.query.new_zeros(())
        for tile in _tiles(problem):
            rows = tile.rows
            outer, inner = grad_lse[rows, None], grad_positive[rows, None]
            # Where nothing flows back nothing is added, though the statistics may be infinite there.
            gradient = (tile.logits - lse[rows, None]).exp_().mul_(outer)
            gradient.masked_fill_(outer == 0, 0.0)
            parts = tile.weight * inner
            if given.inside:
                parts = parts * (tile.positive_logits() - positive[rows, None]).exp()
            tile.add_positives(gradient, parts.masked_fill_((tile.weight == 0) | (inner == 0), 0.0))
            grad_query[rows] = gradient @ keys
            if grad_key.dim() == 2:
                grad_key.addmm_(gradient.t(), problem.query[rows])
            grad_scale += (gradient * tile.logits.masked_fill(tile.logits == -torch.inf, 0.0)).sum()
        if given.key is None:
            grad_query, grad_key = grad_query.add_(grad_key), grad_query.new_empty(0)
        return (
            (grad_query / problem.temperature).to(given.query.dtype),
            (grad_key / problem.temperature).to(given.keys.dtype),
            (-grad_scale / problem.temperature).to(given.temperature),
        )
