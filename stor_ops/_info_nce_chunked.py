"""The info_nce ops in torch, a few query rows at a time: no N x M matrix, forward or backward."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

_TILE_ELEMENTS = 2**20  # logits held at a time: 4 MiB in float32, which a CPU's cache still likes


def accumulator(query: Tensor, key: Tensor) -> torch.dtype:
    """Dtype of sums and statistics: float64 for float64, else float32."""
    return torch.float64 if torch.float64 in (query.dtype, key.dtype) else torch.float32


class _Problem(NamedTuple):
    """The arguments that forward and backward share, in the dtype of the sums."""

    query: Tensor
    key: Tensor
    temperature: Tensor
    query_id: Tensor | None
    key_id: Tensor | None
    positive_index: Tensor | None
    positive_weight: Tensor | None
    inside: bool
    self_offset: int


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

    def subtract_target(self, gradient: Tensor, target: Tensor) -> None:
        """Subtract ``target``, which has the shape of ``weight``, from the gradient of the logits."""
        if self.column is None:
            gradient -= target
        else:
            gradient.scatter_add_(1, self.column, -target)


def _tiles(problem: _Problem) -> Iterator[_Tile]:
    num_keys = problem.key.shape[0]
    height = max(1, _TILE_ELEMENTS // max(num_keys, 1))
    scaled_key = problem.key.t() / problem.temperature
    for begin in range(0, problem.query.shape[0], height):
        rows = slice(begin, min(begin + height, problem.query.shape[0]))
        logits = problem.query[rows] @ scaled_key
        own = None
        if problem.self_offset >= 0:
            own = torch.arange(rows.start, rows.stop, device=logits.device)[:, None]
            own = own + problem.self_offset
            logits.scatter_(1, own, -torch.inf)
        yield _Tile(rows, logits, *_positives(problem, rows, own))


def _positives(problem: _Problem, rows: slice, own: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Weights of the positives of some rows and, if they are listed by index, their columns."""
    dtype, num_keys = problem.query.dtype, problem.key.shape[0]
    if problem.positive_index is None:
        assert problem.query_id is not None
        assert problem.key_id is not None
        identity = problem.query_id[rows, None]
        weight = ((identity == problem.key_id) & (identity >= 0)).to(dtype)
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


def _prepare(
    query: Tensor, key: Tensor, temperature: Tensor, *rest: Tensor | bool | int | None
) -> _Problem:
    dtype = accumulator(query, key)
    return _Problem(
        query.to(dtype),
        key.to(dtype),
        temperature.to(device=query.device, dtype=dtype),
        *rest,  # type: ignore[arg-type]
    )


def _check_values(problem: _Problem) -> None:
    """Name the first bad row; only on the CPU, where looking costs no synchronisation."""
    if problem.query.device.type != "cpu":
        return
    op = "multi_positive_info_nce"
    temperature = problem.temperature.item()
    if not 0 < temperature < float("inf"):
        raise ValueError(f"{op}: temperature: expected a finite number above 0, got {temperature}")
    index, weight, num_keys = problem.positive_index, problem.positive_weight, problem.key.shape[0]
    if index is not None:
        bad = ((index < -1) | (index >= num_keys)).nonzero()
        if len(bad):
            row, column = bad[0].tolist()
            raise ValueError(
                f"{op}: positive_index row {row}: expected -1 to {num_keys - 1}, "
                f"got {index[row, column].item()}"
            )
    if weight is not None:
        bad = (~((weight >= 0) & weight.isfinite())).nonzero()
        if len(bad):
            row, column = bad[0].tolist()
            raise ValueError(
                f"{op}: positive_weight row {row}: expected finite and not negative, "
                f"got {weight[row, column].item()}"
            )


def forward(
    query: Tensor,
    key: Tensor,
    temperature: Tensor,
    query_id: Tensor | None,
    key_id: Tensor | None,
    positive_index: Tensor | None,
    positive_weight: Tensor | None,
    inside: bool,
    self_offset: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return per row the loss, the lse over keys, the lse over positives and whether there is one.

    The lse over positives is of s_p + log w_p for the form "in"; for "out" it is log sum_p w_p.
    """
    with torch.autocast(query.device.type, enabled=False):
        problem = _prepare(
            query,
            key,
            temperature,
            query_id,
            key_id,
            positive_index,
            positive_weight,
            inside,
            self_offset,
        )
        _check_values(problem)
        loss, lse, positive_lse = (problem.query.new_zeros(query.shape[0]) for _ in range(3))
        has_positive = torch.zeros(query.shape[0], dtype=torch.bool, device=query.device)
        for tile in _tiles(problem):
            rows, logits = tile.rows, tile.positive_logits()
            present = (tile.weight > 0).any(1)
            lse[rows] = tile.logits.logsumexp(1)
            total = tile.weight.sum(1)
            if inside:
                positive_lse[rows] = (logits + tile.weight.log()).logsumexp(1)
                row_loss = lse[rows] - positive_lse[rows]
            else:
                positive_lse[rows] = total.log()
                mean = (tile.weight * logits.masked_fill(tile.weight == 0, 0.0)).sum(1) / total
                row_loss = lse[rows] - mean
            loss[rows] = row_loss.masked_fill(~present, 0.0)
            has_positive[rows] = present
        return loss, lse, positive_lse, has_positive


def backward(
    grad_loss: Tensor,
    lse: Tensor,
    positive_lse: Tensor,
    query: Tensor,
    key: Tensor,
    temperature: Tensor,
    query_id: Tensor | None,
    key_id: Tensor | None,
    positive_index: Tensor | None,
    positive_weight: Tensor | None,
    inside: bool,
    self_offset: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and temperature, recomputing the logits tile by tile."""
    with torch.autocast(query.device.type, enabled=False):
        problem = _prepare(
            query,
            key,
            temperature,
            query_id,
            key_id,
            positive_index,
            positive_weight,
            inside,
            self_offset,
        )
        grad_query = torch.empty_like(problem.query, memory_format=torch.contiguous_format)
        grad_key = torch.zeros_like(problem.key, memory_format=torch.contiguous_format)
        grad_scale = problem.query.new_zeros(())
        for tile in _tiles(problem):
            rows, logits = tile.rows, tile.positive_logits()
            target_logits = logits if inside else torch.zeros_like(logits)
            target = tile.weight * (target_logits - positive_lse[rows, None]).exp()
            gradient = (tile.logits - lse[rows, None]).exp_()
            tile.subtract_target(gradient, target.masked_fill_(tile.weight == 0, 0.0))
            # A row without positives has no loss; its statistics may be infinite.
            present = (tile.weight > 0).any(1, keepdim=True)
            gradient = (gradient * grad_loss[rows, None]).masked_fill_(~present, 0.0)
            grad_query[rows] = gradient @ problem.key
            grad_key.addmm_(gradient.t(), problem.query[rows])
            grad_scale += (gradient * tile.logits.masked_fill(tile.logits == -torch.inf, 0.0)).sum()
        return (
            (grad_query / problem.temperature).to(query.dtype),
            (grad_key / problem.temperature).to(key.dtype),
            (-grad_scale / problem.temperature).to(temperature),
        )
