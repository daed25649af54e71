"""Launchers of the Triton kernels of info_nce: the CUDA side of both ops. DESIGN.md has the reasons."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import _info_nce_chunked as chunked
from . import configs
from .configs import Precision, Tiles


class _Problem(NamedTuple):
    """The arguments that forward and backward share, as the kernels take them."""

    query: Tensor
    key: Tensor
    temperature: Tensor
    query_id: Tensor | None
    key_id: Tensor | None
    listed: Tensor | None
    listed_weight: Tensor | None
    inside: bool
    against_itself: bool
    architecture: int
    precision: Precision


def forward(
    query: Tensor,
    key: Tensor | None,
    temperature: Tensor,
    query_id: Tensor | None,
    key_id: Tensor | None,
    positive_index: Tensor | None,
    positive_weight: Tensor | None,
    inside: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return per row the lse over keys, the (log-)sum over positives and the sum of their weights.

    Float64, rows of more than `configs.MAX_DIM` components, GPUs without tensor cores that Triton can
    use, and empty problems go the way of any other device.
    """
    lists = (query_id, key_id, positive_index, positive_weight)
    problem = _prepare(query, key, temperature, *lists, inside)
    if problem is None:
        return chunked.forward(query, key, temperature, *lists, inside)
    with torch.cuda.device_of(query):
        lse, positive, weight = _statistics(problem)
        if problem.listed is not None:
            positive, weight = _listed_positives(problem)
        return lse, positive, weight


def backward(
    grad_lse: Tensor,
    grad_positive: Tensor,
    lse: Tensor,
    positive: Tensor,
    query: Tensor,
    key: Tensor | None,
    temperature: Tensor,
    query_id: Tensor | None,
    key_id: Tensor | None,
    positive_index: Tensor | None,
    positive_weight: Tensor | None,
    inside: bool,
    need_key: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and temperature, recomputing the logits tile by tile."""
    lists = (query_id, key_id, positive_index, positive_weight)
    problem = _prepare(query, key, temperature, *lists, inside)
    if problem is None:
        statistics = (grad_lse, grad_positive, lse, positive)
        return chunked.backward(*statistics, query, key, temperature, *lists, inside, need_key)
    with torch.cuda.device_of(query):
        unit = _unit(problem, grad_lse, grad_positive)
        outer, inner = (grad.float() * unit for grad in (grad_lse, grad_positive))
        statistics = (outer, lse.float().contiguous(), inner, positive.float().contiguous())
        factor = 1.0 / (problem.temperature * unit)
        need_key = need_key and key is not None
        of_query, of_key, slope = _listed_gradients(problem, inner, statistics[3], need_key)

        grad_query, slopes = _dense_gradient(problem, statistics, factor, of_query, query.dtype)
        grad_key = query.new_empty(0, dtype=(query if key is None else key).dtype)
        if need_key:
            grad_key, _ = _dense_gradient(
                problem, statistics, factor, of_key, grad_key.dtype, for_key=True
            )
        # Against itself every logit was met twice.
        total = slopes.sum() * (0.5 if problem.against_itself else 1.0)
        if slope is not None:
            total += slope.sum()
        return grad_query, grad_key, (-total * factor).to(temperature)


def _prepare(
    query: Tensor,
    key: Tensor | None,
    temperature: Tensor,
    query_id: Tensor | None,
    key_id: Tensor | None,
    positive_index: Tensor | None,
    positive_weight: Tensor | None,
    inside: bool,
) -> _Problem | None:
    """Bring the arguments into the form that the kernels take; None if they cannot take them."""
    architecture = configs.architecture(query.device)
    keys = query if key is None else key
    dtype = torch.promote_types(query.dtype, keys.dtype)
    if architecture is None or dtype == torch.float64 or query.shape[1] > configs.MAX_DIM:
        return None
    if query.numel() == 0 or keys.numel() == 0:
        return None
    if architecture == 0 and dtype == torch.bfloat16:
        dtype = torch.float32  # Triton's interpreter multiplies bfloat16 wrongly
    precision: Precision = "half"
    if dtype == torch.float32:
        precision = "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    queries = query.to(dtype).contiguous()
    if key is None:
        key_id = query_id
    return _Problem(
        queries,
        queries if key is None else key.to(dtype).contiguous(),
        temperature.to(device=query.device, dtype=torch.float32),
        None if query_id is None else query_id.contiguous(),
        None if key_id is None else key_id.contiguous(),
        None if positive_index is None else positive_index.contiguous(),
        None if positive_weight is None else positive_weight.contiguous(),
        inside,
        key is None,
        architecture,
        precision,
    )


def _unit(problem: _Problem, grad_lse: Tensor, grad_positive: Tensor) -> Tensor:
    """Power of two by which gradients are multiplied before a tile of them becomes float16.

    A gradient of 1 / N^2 would vanish in float16. The largest incoming one is brought to 2^12, so that
    a sum of four stays below 2^16 and what is 2^26 times smaller is still exact to float16's 11 bits.
    """
    one = problem.temperature.new_ones(())
    if problem.query.dtype != torch.float16:
        return one
    both = torch.stack([grad_lse.float(), grad_positive.float()])
    largest = both.abs().nan_to_num(nan=0.0, posinf=0.0).amax()
    return torch.ldexp(one, (12 - torch.frexp(largest).exponent).clamp(-100, 100))


def _dot_precision(problem: _Problem) -> str:
    return "ieee" if problem.precision == "ieee" else "tf32"  # of float32; halves have but one


def _splits(programs: int, columns: int, problem: _Problem, chosen: Tiles) -> tuple[int, int]:
    """Into how many parts to cut the columns so that all multiprocessors work, and how long each is."""
    steps = -(-columns // chosen.columns)
    wanted = max(1, min(steps, configs.multiprocessors(problem.query.device) // programs))
    length = -(-steps // wanted) * chosen.columns
    return -(-columns // length), length


def _statistics(problem: _Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Lse and, for ids, positive and weight of every query."""
    from . import dense

    (num_queries, dim), num_keys = problem.query.shape, problem.key.shape[0]
    has_ids = problem.query_id is not None

    def launch(chosen: Tiles) -> list[Tensor]:
        blocks = -(-num_queries // chosen.rows)
        splits, length = _splits(blocks, num_keys, problem, chosen)
        results = [problem.temperature.new_empty(splits, num_queries) for _ in range(3)]
        dense.statistics_kernel[(blocks, splits)](
            *(problem.query, problem.key, problem.temperature, problem.query_id, problem.key_id),
            *(*results, num_queries, num_keys, dim, length),
            AGAINST_ITSELF=problem.against_itself,
            HAS_IDS=has_ids,
            INSIDE=problem.inside,
            WHOLE=chosen.whole,
            PRECISION=_dot_precision(problem),
            BLOCK_M=chosen.rows,
            BLOCK_N=chosen.columns,
            BLOCK_D=chosen.depth,
            num_warps=configs.WARPS,
            num_stages=chosen.stages,
        )
        return results

    static = configs.tiles(problem.architecture, problem.precision, dim, backward=False)
    case = (problem.query.device, problem.query.dtype, problem.precision, dim, "statistics")
    lse, positive, weight = launch(configs.choose(case, static, launch))
    if lse.shape[0] == 1:
        return lse[0], positive[0], weight[0]
    if not has_ids:
        return lse.logsumexp(0), positive[0], weight[0]
    whole = positive.logsumexp(0) if problem.inside else positive.sum(0)
    return lse.logsumexp(0), whole, weight.sum(0)


def _dense_gradient(
    problem: _Problem,
    statistics: tuple[Tensor, Tensor, Tensor, Tensor],
    factor: Tensor,
    listed: Tensor | None,
    dtype: torch.dtype,
    for_key: bool = False,
) -> tuple[Tensor, Tensor]:
    """Gradient of the queries (or keys), with the share of listed positives, and the queries' slope."""
    from . import dense

    owner, other, owner_id, other_id = problem.query, problem.key, problem.query_id, problem.key_id
    if for_key:
        owner, other, owner_id, other_id = other, owner, other_id, owner_id
    (num_owners, dim), num_others = owner.shape, other.shape[0]

    def launch(chosen: Tiles) -> tuple[Tensor, Tensor]:
        blocks, parts = -(-num_owners // chosen.rows), -(-dim // chosen.width)
        splits, length = _splits(blocks * parts, num_others, problem, chosen)
        final = splits == 1 and listed is None
        gradient = owner.new_empty(
            (splits, num_owners, dim), dtype=dtype if final else torch.float32
        )
        slope = factor.new_empty(splits, num_owners)
        dense.gradient_kernel[(blocks, parts, splits)](
            *(owner, other, problem.temperature, factor, owner_id, other_id, *statistics),
            *(gradient, slope, num_owners, num_others, dim, length),
            OF_OWNER=not for_key,
            OF_OTHER=for_key or problem.against_itself,
            HAS_IDS=owner_id is not None,
            INSIDE=problem.inside,
            WHOLE=chosen.whole,
            PRECISION=_dot_precision(problem),
            BLOCK_M=chosen.rows,
            BLOCK_N=chosen.columns,
            BLOCK_D=chosen.depth,
            BLOCK_OUT=chosen.width,
            num_warps=configs.WARPS,
            num_stages=chosen.stages,
        )
        return gradient, slope

    static = configs.tiles(problem.architecture, problem.precision, dim, backward=True)
    case = (owner.device, owner.dtype, problem.precision, dim, for_key, problem.against_itself)
    gradient, slope = launch(configs.choose(case, static, launch))
    total = gradient[0] if gradient.shape[0] == 1 else gradient.sum(0)
    if listed is not None:
        total.addcmul_(listed, factor)
    return total.to(dtype), slope


def _row_launch(dim: int) -> dict[str, int]:
    """Shape of the kernels that have a program per row."""
    width = max(16, 1 << (dim - 1).bit_length())
    return {"BLOCK_D": width, "num_warps": 1 if width <= 256 else 4}


def _listed_positives(problem: _Problem) -> tuple[Tensor, Tensor]:
    """Positive and weight of every query, of the positives listed by index."""
    from . import sparse

    assert problem.listed is not None
    (num_queries, dim), num_listed = problem.query.shape, problem.listed.shape[1]
    positive, weight = (problem.temperature.new_empty(num_queries) for _ in range(2))
    sparse.positive_kernel[(num_queries,)](
        *(problem.query, problem.key, problem.temperature, problem.listed, problem.listed_weight),
        *(positive, weight, problem.key.shape[0], dim, num_listed),
        AGAINST_ITSELF=problem.against_itself,
        HAS_WEIGHT=problem.listed_weight is not None,
        INSIDE=problem.inside,
        **_row_launch(dim),
    )
    return positive, weight


def _listed_gradients(
    problem: _Problem, inner: Tensor, positive: Tensor, need_key: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """What queries, keys and the slope get of the positives listed by index, before the factor."""
    from . import sparse

    if problem.listed is None or problem.listed.shape[1] == 0:
        return None, None, None
    (num_queries, dim), (num_keys, _) = problem.query.shape, problem.key.shape
    num_listed = problem.listed.shape[1]
    entries = inner.new_empty(num_queries, num_listed)
    of_query, slope = inner.new_empty(num_queries, dim), inner.new_empty(num_queries)
    row_launch = _row_launch(dim)
    sparse.entry_kernel[(num_queries,)](
        *(inner, positive, problem.query, problem.key, problem.temperature, problem.listed),
        *(problem.listed_weight, entries, of_query, slope, num_keys, dim, num_listed),
        AGAINST_ITSELF=problem.against_itself,
        HAS_WEIGHT=problem.listed_weight is not None,
        INSIDE=problem.inside,
        **row_launch,
    )
    if not (need_key or problem.against_itself):
        return of_query, None, slope
    of_key = of_query if problem.against_itself else inner.new_empty(num_keys, dim)
    in_range = (problem.listed >= 0) & (problem.listed < num_keys)
    # Columns out of range are sorted behind all keys, where no key looks.
    columns, order = problem.listed.masked_fill(~in_range, num_keys).flatten().sort(stable=True)
    offsets = torch.searchsorted(columns, torch.arange(num_keys + 1, device=columns.device))
    sparse.segment_kernel[(num_keys,)](
        *(entries, order, offsets, problem.query, of_key, dim, num_listed),
        ADD=problem.against_itself,
        BLOCK_E=max(1, 2048 // row_launch["BLOCK_D"]),
        **row_launch,
    )
    return of_query, of_key, slope
