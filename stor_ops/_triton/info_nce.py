"""Launchers of the Triton kernels of info_nce: the CUDA side of both ops. DESIGN.md has the reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import _info_nce_chunked as chunked
from .._info_nce_arguments import Arguments
from . import configs
from .configs import Precision, Tiles

if TYPE_CHECKING:
    from typing import Unpack


def forward(*arguments: Unpack[Arguments]) -> tuple[Tensor, Tensor, Tensor]:
    """Return per row the lse over keys, the (log-)sum over positives and the sum of their weights.

    Float64, rows of more than `configs.MAX_DIM` components, GPUs without tensor cores that Triton can
    use, and empty problems go the way of any other device.
    """
    problem = _prepare(*arguments)
    if problem is None:
        return chunked.forward(*arguments)
    with torch.cuda.device_of(problem.query):
        lse, positive, weight = _statistics(problem)
        if problem.positive_index is not None:
            positive, weight = _listed_positives(problem)
        return lse, positive, weight


def backward(
    grad_lse: Tensor,
    grad_positive: Tensor,
    lse: Tensor,
    positive: Tensor,
    *rest: Unpack[tuple[Unpack[Arguments], bool]],  # with need_key
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and temperature, recomputing the logits tile by tile."""
    given, need_key = Arguments(*rest[:-1]), rest[-1]
    problem = _prepare(*given)
    if problem is None:
        return chunked.backward(grad_lse, grad_positive, lse, positive, *rest)
    with torch.cuda.device_of(given.query):
        unit = _unit(problem, grad_lse, grad_positive)
        outer, inner = (grad.float() * unit for grad in (grad_lse, grad_positive))
        statistics = (outer, lse.float().contiguous(), inner, positive.float().contiguous())
        factor = 1.0 / (problem.temperature * unit)
        need_key = need_key and given.key is not None
        of_query, of_key, slope = _listed_gradients(problem, inner, statistics[3], need_key)

        dtype = given.query.dtype
        grad_query, slopes = _dense_gradient(problem, statistics, factor, of_query, dtype)
        grad_key = given.keys.new_empty(0)
        if need_key:
            grad_key, _ = _dense_gradient(
                problem, statistics, factor, of_key, grad_key.dtype, for_key=True
            )
        # Against itself every logit was met twice.
        total = slopes.sum() * (0.5 if given.key is None else 1.0)
        if slope is not None:
            total += slope.sum()
        return grad_query, grad_key, (-total * factor).to(given.temperature)


def _prepare(*arguments: Unpack[Arguments]) -> Arguments | None:
    """Bring the arguments into the form that the kernels take; None if they cannot take them."""
    given = Arguments(*arguments)
    architecture = configs.architecture(given.query.device)
    dtype = torch.promote_types(given.query.dtype, given.keys.dtype)
    if architecture is None or dtype == torch.float64 or given.query.shape[1] > configs.MAX_DIM:
        return None
    if given.query.numel() == 0 or given.keys.numel() == 0:
        return None
    if architecture == 0 and dtype == torch.bfloat16:
        dtype = torch.float32  # Triton's interpreter multiplies bfloat16 wrongly
    return given._replace(
        query=given.query.to(dtype).contiguous(),
        key=None if given.key is None else given.key.to(dtype).contiguous(),
        temperature=given.temperature.to(device=given.query.device, dtype=torch.float32),
        query_id=_contiguous(given.query_id),
        key_id=_contiguous(given.key_id),
        positive_index=_contiguous(given.positive_index),
        positive_weight=_contiguous(given.positive_weight),
    )


def _contiguous(rows: Tensor | None) -> Tensor | None:
    return None if rows is None else rows.contiguous()


def _unit(problem: Arguments, grad_lse: Tensor, grad_positive: Tensor) -> Tensor:
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


def _precision(problem: Arguments) -> Precision:
    if problem.query.dtype != torch.float32:
        return "half"
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def _dot_precision(problem: Arguments) -> str:
    return "ieee" if _precision(problem) == "ieee" else "tf32"  # of float32; halves have but one


def _static_tiles(problem: Arguments, *, backward: bool) -> Tiles:
    architecture = configs.architecture(problem.query.device)
    assert architecture is not None  # or else the torch version would be at work
    dim = problem.query.shape[1]
    return configs.tiles(architecture, _precision(problem), dim, backward=backward)


def _splits(programs: int, columns: int, problem: Arguments, chosen: Tiles) -> tuple[int, int]:
    """Into how many parts to cut the columns so that all multiprocessors work, and how long each is."""
    steps = -(-columns // chosen.columns)
    wanted = max(1, min(steps, configs.multiprocessors(problem.query.device) // programs))
    length = -(-steps // wanted) * chosen.columns
    return -(-columns // length), length


def _statistics(problem: Arguments) -> tuple[Tensor, Tensor, Tensor]:
    """Lse and, for ids, positive and weight of every query."""
    from . import dense

    (num_queries, dim), num_keys = problem.query.shape, problem.keys.shape[0]
    has_ids = problem.query_id is not None

    def launch(chosen: Tiles) -> list[Tensor]:
        blocks = -(-num_queries // chosen.rows)
        splits, length = _splits(blocks, num_keys, problem, chosen)
        results = [problem.temperature.new_empty(splits, num_queries) for _ in range(3)]
        dense.statistics_kernel[(blocks, splits)](
            *(problem.query, problem.keys, problem.temperature, problem.query_id, problem.key_ids),
            *(*results, num_queries, num_keys, dim, length),
            AGAINST_ITSELF=problem.key is None,
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

    static = _static_tiles(problem, backward=False)
    case = (problem.query.device, problem.query.dtype, _precision(problem), dim, "statistics")
    lse, positive, weight = launch(configs.choose(case, static, launch))
    if lse.shape[0] == 1:
        return lse[0], positive[0], weight[0]
    if not has_ids:
        return lse.logsumexp(0), positive[0], weight[0]
    whole = positive.logsumexp(0) if problem.inside else positive.sum(0)
    return lse.logsumexp(0), whole, weight.sum(0)


def _dense_gradient(
    problem: Arguments,
    statistics: tuple[Tensor, Tensor, Tensor, Tensor],
    factor: Tensor,
    listed: Tensor | None,
    dtype: torch.dtype,
    for_key: bool = False,
) -> tuple[Tensor, Tensor]:
    """Gradient of the queries (or keys), with the share of listed positives, and the queries' slope."""
    from . import dense

    owner, other = problem.query, problem.keys
    owner_id, other_id = problem.query_id, problem.key_ids
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
            OF_OTHER=for_key or problem.key is None,
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

    static = _static_tiles(problem, backward=True)
    case = (owner.device, owner.dtype, _precision(problem), dim, for_key, problem.key is None)
    gradient, slope = launch(configs.choose(case, static, launch))
    total = gradient[0] if gradient.shape[0] == 1 else gradient.sum(0)
    if listed is not None:
        total.addcmul_(listed, factor)
    return total.to(dtype), slope


def _row_launch(dim: int) -> dict[str, int]:
    """Shape of the kernels that have a program per row."""
    width = max(16, 1 << (dim - 1).bit_length())
    return {"BLOCK_D": width, "num_warps": 1 if width <= 256 else 4}


def _listed_positives(problem: Arguments) -> tuple[Tensor, Tensor]:
    """Positive and weight of every query, of the positives listed by index."""
    from . import sparse

    listed, listed_weight = problem.positive_index, problem.positive_weight
    assert listed is not None
    (num_queries, dim), num_listed = problem.query.shape, listed.shape[1]
    positive, weight = (problem.temperature.new_empty(num_queries) for _ in range(2))
    sparse.positive_kernel[(num_queries,)](
        *(problem.query, problem.keys, problem.temperature, listed, listed_weight),
        *(positive, weight, problem.keys.shape[0], dim, num_listed),
        AGAINST_ITSELF=problem.key is None,
        HAS_WEIGHT=listed_weight is not None,
        INSIDE=problem.inside,
        **_row_launch(dim),
    )
    return positive, weight


def _listed_gradients(
    problem: Arguments, inner: Tensor, positive: Tensor, need_key: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """What queries, keys and the slope get of the positives listed by index, before the factor."""
    from . import sparse

    listed, listed_weight = problem.positive_index, problem.positive_weight
    if listed is None or listed.shape[1] == 0:
        return None, None, None
    (num_queries, dim), (num_keys, _) = problem.query.shape, problem.keys.shape
    num_listed = listed.shape[1]
    entries = inner.new_empty(num_queries, num_listed)
    of_query, slope = inner.new_empty(num_queries, dim), inner.new_empty(num_queries)
    row_launch = _row_launch(dim)
    sparse.entry_kernel[(num_queries,)](
        *(inner, positive, problem.query, problem.keys, problem.temperature, listed),
        *(listed_weight, entries, of_query, slope, num_keys, dim, num_listed),
        AGAINST_ITSELF=problem.key is None,
        HAS_WEIGHT=listed_weight is not None,
        INSIDE=problem.inside,
        **row_launch,
    )
    if not (need_key or problem.key is None):
        return of_query, None, slope
    of_key = of_query if problem.key is None else inner.new_empty(num_keys, dim)
    in_range = (listed >= 0) & (listed < num_keys)
    # Columns out of range are sorted behind all keys, where no key looks.
    columns, order = listed.masked_fill(~in_range, num_keys).flatten().sort(stable=True)
    offsets = torch.searchsorted(columns, torch.arange(num_keys + 1, device=columns.device))
    sparse.segment_kernel[(num_keys,)](
        *(entries, order, offsets, problem.query, of_key, dim, num_listed),
        ADD=problem.key is None,
        BLOCK_E=max(1, 2048 // row_launch["BLOCK_D"]),
        **row_launch,
    )
    return of_query, of_key, slope
